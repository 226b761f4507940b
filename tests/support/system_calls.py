"""System calls that the kernel refuses to a thread, as a file system does that lacks what they ask for."""

from __future__ import annotations

import ctypes
import errno
import struct

NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2
LINK, LINKAT = 86, 265
"""Numbers on x86-64."""


def refuse_links() -> None:
    """Refuse hard links to the thread that calls this, until it ends, with the error of SMB."""
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    refuse, allow = 0x00050000 | errno.EPERM, 0x7FFF0000
    steps = [
        (load, 0, 0, 0),
        (jump_if_equal, 1, 0, LINK),
        (jump_if_equal, 0, 1, LINKAT),
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    library = ctypes.CDLL(None, use_errno=True)
    for option in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SET_SECCOMP, FILTER, program, 0, 0)):
        if library.prctl(*option):
            raise OSError(ctypes.get_errno(), "prctl")
