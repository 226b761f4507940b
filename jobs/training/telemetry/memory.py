"""Peak memory of a training process above its baseline before the network was loaded.

On a GPU the caching allocator counts. On the CPU the kernel does: the high-water mark of resident memory, less pages of
files (libraries, the token file), which are not the run's own. Unlike recording every allocation this costs nothing, so
every run is measured, and it includes memory that the C library's allocator retains.
"""

from __future__ import annotations

import contextlib
import gc
import re
import resource
import sys
from pathlib import Path

import torch

from backend.infra.processes import return_freed_memory
from jobs.modeling.devices import is_gpu

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MAPS, SIZES_OF_MAPS = Path("/proc/self/maps"), Path("/proc/self/smaps")


class MemoryMeter:
    """Peak memory of this process since `begin`, in bytes. Call `sample` regularly, so that file pages read later do
    not count.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak: int | None = None
        self._baseline = 0

    def begin(self) -> None:
        """Set the baseline: data and libraries are loaded, the network is not."""
        gc.collect()
        if is_gpu(self._device):
            torch.accelerator.reset_peak_memory_stats(self._device)
        return_freed_memory()  # the network would reuse it, and the peak would miss it
        self._baseline, self._peak = _own_bytes(peak=False), 0
        with contextlib.suppress(OSError):
            CLEAR.write_text(
                "5"
            )  # resets the high-water mark (proc(5)); if that is not permitted the mark may be too high
        self.sample()

    def sample(self) -> None:
        """Record the peak so far."""
        if self._peak is not None and not is_gpu(self._device):
            self._peak = max(self._peak, _own_bytes(peak=True) - self._baseline)

    def peak_bytes(self) -> int | None:
        """Return the peak above the baseline, including weights mapped from their file. None before `begin`."""
        if self._peak is None:
            return None
        if is_gpu(self._device):
            return torch.accelerator.max_memory_reserved(self._device)
        self.sample()
        return max(self._peak + _mapped_weight_bytes(), 0)

    def held_bytes(self) -> int | None:
        """Return the bytes now above the baseline; None before `begin`."""
        if self._peak is None:
            return None
        if is_gpu(self._device):
            return torch.accelerator.memory_reserved(self._device)
        return max(_own_bytes(peak=False) - self._baseline, 0)

    def allocated_bytes(self) -> int | None:
        """Return the peak of tensors alone on a GPU; None on the CPU, whose allocator does not count."""
        return torch.accelerator.max_memory_allocated(self._device) if is_gpu(self._device) else None


def _own_bytes(*, peak: bool) -> int:
    """Return resident memory less pages of files; with `peak` its high-water mark."""
    try:
        text = STATUS.read_text()
    except OSError:  # no /proc: the high-water mark of all resident memory (kilobytes; bytes on macOS)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    fields = {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if peak:
        return fields["VmHWM"] - fields.get("RssFile", 0) - fields.get("RssShmem", 0)
    return fields.get("RssAnon", fields["VmRSS"])


def _mapped_weight_bytes() -> int:
    """Return the bytes of weights that are mapped from a safetensors file: frozen ones, which nothing writes to."""
    total, is_weights = 0, False
    try:
        if ".safetensors" not in MAPS.read_text():  # read at once, unlike what each of thousands holds
            return 0
        with SIZES_OF_MAPS.open() as maps:
            for line in maps:
                if line[0] in "0123456789abcdef" and "-" in line.split(" ", 1)[0]:
                    is_weights = line.rstrip().endswith(".safetensors")
                elif is_weights and line.startswith("Rss:"):
                    total += int(line.split()[1]) * 1024
                elif is_weights and line.startswith("Anonymous:"):
                    total -= int(line.split()[1]) * 1024
    except OSError:
        return 0
    return total
