"""Bind the life of a child process to that of its parent."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

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
