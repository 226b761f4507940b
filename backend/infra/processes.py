"""Bind the life of a child process to that of its parent."""

from __future__ import annotations

import contextlib
import ctypes
import signal

PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process `signum` when its parent dies; does nothing where there is no such call (macOS).

    Called in the child, as `preexec_fn` of Popen: a killed parent then leaves no process on a device or a port.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum)
