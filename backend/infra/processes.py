"""Life and priority of child processes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from pathlib import Path

PR_SET_PDEATHSIG = 1
SUPERVISED_BY = "ROUNDHOUSE_SUPERVISED_BY"
"""Environment variable that names the supervisor of a process by its configuration file."""


def die_with_parent(signum: int = signal.SIGKILL, *, parent: int | None = None) -> None:
    """Ask the kernel to send this process `signum` when its parent dies, so that nothing stays on a device or a port.

    `parent` is the process id of the parent as the parent gave it. If the parent has died in the meantime, this process ends at once.
    On Linux the signal follows the end of the thread that started this process, so that thread has to live as long as its process.
    Does nothing where there is no such call (macOS).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signum)


def lower_priority(nice: int) -> None:
    """Let other processes go first: raise the niceness of this process, and of its autogroup if it leads a session.

    Linux with autogroups (sched(7)) compares the niceness of processes within a session alone. Sessions share the processors equally
    unless the autogroup has a niceness of its own, so a job in a session of its own would take half of them whatever its niceness.
    """
    if nice <= 0:
        return
    os.nice(nice)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))
