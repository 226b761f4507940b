"""Life, priority and memory of processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
SUPERVISED_BY = "ROUNDHOUSE_SUPERVISED_BY"
"""Environment variable that identifies a process's supervisor by its configuration file."""


def die_with_parent(signum: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Ask the kernel to send this process `signum` when its parent dies, so that it frees its device and port. `parent`
    is the parent's process id, given by the parent. If the parent has died meanwhile, this process exits at once. On
    Linux the signal is sent when the thread that started this process ends, so that thread must outlive it. Does
    nothing on systems without such a call (macOS).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)


def set_command_line(command: list[str]) -> None:
    """Write another command over this process's own, which `ps` and psutil read."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # numbers 48 and 49 of proc(5)
    line = "\0".join(command).encode()[: end - start - 1]
    ctypes.memmove(start, line.ljust(end - start, b"\0"), end - start)


def lower_priority(nice: int) -> None:
    """Lower this process's priority: raise its niceness, and that of its autogroup if it leads a session.

    Linux with autogroups (sched(7)) compares the niceness of processes within a session alone. Sessions share the
    processors equally unless the autogroup has a niceness of its own, so a job in a session of its own would take half
    of them whatever its niceness.
    """
    if nice <= 0:
        return
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, which glibc keeps for later. Needs this C library."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def trim_memory_beside(*, every_s: float = 60.0) -> None:
    """Return freed memory to the system again and again, in a background thread, for servers that run for weeks: glibc
    keeps what lies below the highest block in use.
    """

    def repeat() -> None:
        while True:
            time.sleep(every_s)
            return_freed_memory()

    threading.Thread(target=repeat, daemon=True, name="trim-memory").start()


def peak_memory_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
