"""What a training process needed: its peak memory above where it stood before the network came, and how fast its steps were.

On a GPU the caching allocator keeps the books. On the CPU the kernel does: the high-water mark of resident memory, less what are pages
of files (libraries, the tokens' map), which are not the run's own. Against recording every allocation this costs nothing, so every run
is measured, and it counts what the C library's allocator holds back: what the machine is really out of.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch

STATUS, MAPS, CLEAR = Path("/proc/self/status"), Path("/proc/self/smaps"), Path("/proc/self/clear_refs")


class MemoryMeter:
    """Peak memory of this process from `begin` on, in bytes. Call `sample` now and then, so that file pages read later don't count."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak: int | None = None
        self._baseline = 0

    def begin(self) -> None:
        """Take what is held now as nothing: data and libraries are here, the network is still to come."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        _trim_heap()
        self._baseline, self._peak = _own_bytes(peak=False), 0
        with contextlib.suppress(OSError):
            CLEAR.write_text("5")  # the high-water mark starts anew (proc(5)); where that is not allowed it may stand too high
        self.sample()

    def sample(self) -> None:
        """Take note of the peak up to now."""
        if self._peak is not None and self._device.type == "cpu":
            self._peak = max(self._peak, _own_bytes(peak=True) - self._baseline)

    def peak_bytes(self) -> int | None:
        """Return the peak above the baseline; weights that are read from their file's pages count. None if `begin` was never called."""
        if self._peak is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        self.sample()
        return max(self._peak + _weights_in_files(), 0)

    def held_bytes(self) -> int | None:
        """Return what is held at the moment, above the baseline; None if `begin` was never called."""
        if self._peak is None:
            return None
        if self._device.type == "cuda":
            return torch.cuda.memory_reserved(self._device)
        return max(_own_bytes(peak=False) - self._baseline, 0)

    def allocated_bytes(self) -> int | None:
        """Return the peak of tensors alone, where the allocator keeps the books."""
        return torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else None


def _own_bytes(*, peak: bool) -> int:
    """Return resident memory that is not pages of files; with `peak` its high-water mark."""
    try:
        text = STATUS.read_text()
    except OSError:  # no /proc: the high-water mark of everything, from the system's accounts (kilobytes; bytes on macOS)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if peak:
        return found["VmHWM"] - found.get("RssFile", 0) - found.get("RssShmem", 0)
    return found.get("RssAnon", found["VmRSS"])


def _weights_in_files() -> int:
    """Return the bytes of weights that lie in the pages of their own file: frozen ones, which transformers maps and nothing changes."""
    total, inside = 0, False
    try:
        with MAPS.open() as maps:
            for line in maps:
                if line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
                    inside = line.rstrip().endswith(".safetensors")
                elif inside and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
                elif inside and line.startswith("Anonymous:"):
                    total -= int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total


def _trim_heap() -> None:
    """Give back what earlier work left in the heap: it would be used again, and missing from the peak."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
