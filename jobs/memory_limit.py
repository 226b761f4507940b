"""Protect a machine from jobs that allocate too much memory.

Three limits, since none works everywhere: the child bounds its own private memory (`RLIMIT_DATA`: an allocation beyond
fails inside the job, before the machine notices), the supervisor ends a job whose processes together hold too much, or
that is the largest of a machine that runs out of memory, and the kernel is asked to kill jobs first. `RLIMIT_AS` and
`RLIMIT_RSS` would not do: CUDA reserves hundreds of gigabytes of addresses, and Linux ignores the second.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backend.domain.jobs.records import JobFailure
from backend.domain.wording import format_bytes

GIB = 2**30
LEFT_SHARE, MIN_LEFT_BYTES = 0.1, GIB
"""Memory reserved for the machine: a tenth, at least a gigabyte, at most half."""
EMPTY_SHARE, MIN_EMPTY_BYTES = 0.03, 256 * 2**20
"""Available memory below which the largest job is ended."""
LARGE_SHARE = 0.1
"""Share of the memory below which a job is not ended on a full machine."""
SCAN_S = 1.0
OOM_SCORE = 800
"""Out of 1000: the kernel kills a job before the pages, the database and the broker."""
MEMORY_REMEDY = (
    "Choose a smaller micro-batch, context, model or file, or raise ROUNDHOUSE_JOB_MEMORY_MB if the machine has more."
)
CGROUP = Path("/sys/fs/cgroup")


def total_bytes() -> int:
    """Return the memory that this machine or container may use."""
    return min([psutil.virtual_memory().total, *_cgroup_numbers("memory.max")])


def available_bytes() -> int:
    """Return the memory available without swapping."""
    available = int(psutil.virtual_memory().available)
    for limit in _cgroup_numbers("memory.max"):
        cached = next(
            (int(line.split()[1]) for line in _read("memory.stat").splitlines() if line.startswith("inactive_file ")), 0
        )
        available = min([available, *(limit - used + cached for used in _cgroup_numbers("memory.current"))])
    return available


def job_limit_bytes(setting_mb: int | None = None) -> int:
    """Return the memory limit of one job: the operator's setting, or the machine's memory less a reserve."""
    if setting_mb is not None:
        return setting_mb * 2**20
    total = total_bytes()
    return total - min(total // 2, max(MIN_LEFT_BYTES, int(LEFT_SHARE * total)))


def limit_this_process(limit: int, *, uses_gpu: bool) -> None:
    """Bound the private memory of this process and its children, and let the kernel kill them first. A GPU's driver
    maps much more than it uses, so a process with one is bounded only by its supervisor.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    if not uses_gpu:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


@dataclass
class MemoryWatch:
    """Watches the processes of one job. `check` is cheap unless memory is short."""

    pid: int
    limit: int
    _scanned_at: float = field(default=0.0, repr=False)

    def check(self) -> JobFailure | None:
        """Return the failure that ends the job, or None."""
        total, available = total_bytes(), available_bytes()
        is_short = available < max(MIN_EMPTY_BYTES, int(EMPTY_SHARE * total))
        own = _private_bytes(self.pid)
        if not is_short and own < self.limit // 2 and time.monotonic() - self._scanned_at < SCAN_S:
            return None
        self._scanned_at = time.monotonic()
        used = tree_bytes(self.pid)
        if used > self.limit:
            return JobFailure(
                remedy=MEMORY_REMEDY,
                cause=(
                    f"The job held {format_bytes(used)} of memory; a job may hold {format_bytes(self.limit)} on this"
                    " machine."
                ),
            )
        if is_short and used > LARGE_SHARE * total and used >= max(_other_jobs(self.pid), default=0):
            return JobFailure(
                remedy=MEMORY_REMEDY,
                cause=(
                    f"The machine ran out of memory, and this job held most of it ({format_bytes(used)} of"
                    f" {format_bytes(total)})."
                ),
            )
        return None


def tree_bytes(pid: int) -> int:
    """Return the private memory of a process and all its descendants."""
    return sum(map(_private_bytes, processes_of(pid)))


def processes_of(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    waiting, tree = [pid], list[int]()
    while waiting:
        tree.append(waiting.pop())
        waiting += _children(tree[-1])
    return tree


def _children(pid: int) -> list[int]:
    """Return the children of a process, read from its threads: psutil would scan all processes of the machine."""
    try:
        return [int(child) for task in os.listdir(f"/proc/{pid}/task") for child in _children_of_thread(pid, task)]
    except OSError:
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children()]
        return []


def _children_of_thread(pid: int, thread: str) -> list[str]:
    return Path(f"/proc/{pid}/task/{thread}/children").read_text().split()


def _other_jobs(pid: int) -> list[int]:
    return [
        tree_bytes(process.pid)
        for process in psutil.process_iter(["cmdline"])
        if process.pid != pid and {"--child", "jobs.run"} <= set(process.info["cmdline"] or ())
    ]


def _private_bytes(pid: int) -> int:
    """Return private memory, without file pages: pages of mapped checkpoints can be dropped at any time."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        with contextlib.suppress(psutil.Error):
            return int(psutil.Process(pid).memory_info().rss)  # no /proc, as on macOS
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon:", "RssShmem:", "VmSwap:")))


def _cgroup_numbers(name: str) -> list[int]:
    text = _read(name).strip()
    return [int(text)] if text.isdigit() else []


def _read(name: str) -> str:
    try:
        return (CGROUP / name).read_text()
    except OSError:
        return ""
