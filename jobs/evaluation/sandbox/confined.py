"""Runs in the child process: take every right away, then execute a program that is not trusted.

Started as `python -I -S confined.py CONTROL_FD` with the order as JSON on stdin; imports the standard library alone.
Layers, in this order: resource limits, another user where possible, namespaces where possible, no new privileges,
Landlock for files, seccomp for system calls. Limits, Landlock and seccomp are required: without one of them the program
is not run. Reports on the control pipe: a line when the layers hold, a line at the end, each with the nonce that the
parent chose.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Mapping
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 24, 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000  # user, network, System V IPC, host name
READ_FILE, READ_DIR, IOCTL_DEV = 1 << 2, 1 << 3, 1 << 15
DEVICES = 1 << 6 | 1 << 9 | 1 << 11  # make device files and sockets
LOAD, JUMP_EQUAL, JUMP_GREATER, JUMP_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
ALLOW, REFUSE, UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # allow; error EPERM; error ENOSYS
CLONE_THREAD, CLONE_FILES = 0x00010000, 0x00000400
IOCTLS = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)  # terminal settings and size, non-blocking, close on exec
FCNTLS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # duplicate, flags, locks; none that directs signals


class NotConfined(Exception):
    """A required layer can't be applied."""


def call(name: str, result: int) -> int:
    """Return a system call's result. Raises NotConfined if it failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise NotConfined(f"{name}: {os.strerror(number)}")
    return result


def limit_resources(limits: dict[str, int]) -> None:
    """Bound address space, CPU seconds, file size, open files and core dumps."""
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def leave_rights(user: int | None) -> list[str]:
    """Become another user, enter own namespaces and drop capabilities, where the kernel allows; return what worked."""
    layers = []
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        layers.append("unprivileged user")
    if LIBC.unshare(NAMESPACES) == 0:
        layers.append("namespaces")
    for capability in range(64):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("<Ii", 0x20080522, 0)
    if LIBC.capset(header, bytes(24)) == 0:
        layers.append("no capabilities")
    return layers


def _counts_by_namespace(release: str) -> bool:
    """Return whether a kernel counts a user's processes in each user namespace: before 5.14 others' would count."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    return (major, minor) >= (5, 14)


def restrict_files(read: list[str], write: str) -> str:
    """Allow reading below `read` and everything below `write`, and no more (Landlock). Return the layer's name."""
    version = call("Landlock", LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    files = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | (IOCTL_DEV if version >= 5 else 0)
    fields = [files]
    if version >= 4:
        fields.append(0b11)  # no TCP connection
    if version >= 6:
        fields.append(0b11)  # no signal and no abstract socket outside
    attributes = struct.pack(f"<{len(fields)}Q", *fields)
    ruleset = call(
        "landlock_create_ruleset", LIBC.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    )
    for path, rights in [(write, files & ~DEVICES), *((path, READ_FILE | READ_DIR) for path in read)]:
        try:
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = rights if os.path.isdir(path) else READ_FILE
        rule = struct.pack("<Qi", allowed, beneath)
        call("landlock_add_rule", LIBC.syscall(ADD_RULE, ruleset, 1, rule, 0))
        os.close(beneath)
    call("landlock_restrict_self", LIBC.syscall(RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)
    return f"Landlock {version}"


def filter_calls(audit: int, allowed: list[int], checked: dict[str, int]) -> str:
    """Allow the listed system calls, checked ones with some arguments, no other (seccomp). Returns the layer's name."""
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, audit), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, 0)]
    program += [(JUMP_GREATER, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE)]  # the x32 table
    for number in allowed:
        program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    # the flags of clone3 lie in memory, where no filter sees them: libc then calls clone
    program += [(JUMP_EQUAL, 0, 1, checked["clone3"]), (RETURN, 0, 0, UNKNOWN)]
    for name, offset, values in (("ioctl", 24, IOCTLS), ("fcntl", 24, FCNTLS), ("prlimit64", 16, (0,))):
        tests = [step for value in values for step in ((JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, ALLOW))]
        block = [(LOAD, 0, 0, offset), *tests, (RETURN, 0, 0, REFUSE)]
        program += [(JUMP_EQUAL, 0, len(block), checked[name]), *block]
    # threads that share their open files alone: the parent counts those of the first one
    program += [
        (JUMP_EQUAL, 0, 5, checked["clone"]),
        (LOAD, 0, 0, 16),
        (JUMP_SET, 0, 2, CLONE_THREAD),
        (JUMP_SET, 0, 1, CLONE_FILES),
    ]
    program += [(RETURN, 0, 0, ALLOW)]
    program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, REFUSE)]
    code = b"".join(struct.pack("<HBBI", *step) for step in program)
    steps = ctypes.create_string_buffer(code, len(code))
    filter_ = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(steps))
    call("seccomp", LIBC.prctl(PR_SET_SECCOMP, 2, filter_, 0, 0))
    return "seccomp"


def confine(order: dict[str, Any]) -> list[str]:
    """Apply every layer; return their names. Raises NotConfined, or OSError, if a required one fails."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:
        raise NotConfined("the parent is gone")
    os.chdir(order["folder"])
    layers = leave_rights(order["user"])
    limits = dict(order["limits"])
    if "namespaces" in layers and _counts_by_namespace(os.uname().release):
        limits["NPROC"] = order["threads"]
    limit_resources(limits)
    LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)  # so that the parent sees open files and threads
    call("no_new_privs", LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    layers.append(restrict_files(order["read"], order["folder"]))
    layers.append(filter_calls(order["audit"], order["allowed"], order["checked"]))
    return layers


def run(program: str) -> dict[str, str]:
    """Execute a program as `__main__`; return its outcome."""
    try:
        exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})  # noqa: S102 - what this process is for
    except SystemExit:
        return {"outcome": "exited", "error": "The program ended before its tests did."}
    except BaseException as error:
        return {
            "outcome": "memory" if isinstance(error, MemoryError) else "failed",
            "error": f"{type(error).__name__}: {error}"[:500],
        }
    return {"outcome": "passed", "error": ""}


def main() -> None:
    """Confine the process and run the program of the order."""
    control = int(sys.argv[1])
    order = json.loads(sys.stdin.buffer.read())
    nonce = order["nonce"]

    def report(record: Mapping[str, object], write: Any = os.write, dumps: Any = json.dumps) -> None:
        write(control, (dumps({**record, "nonce": nonce}) + "\n").encode())

    try:
        layers = confine(order)
    except (NotConfined, OSError, ValueError, AttributeError) as error:
        report({"refused": str(error)})
        os._exit(97)
    report({"layers": layers})
    program = order.pop("program")
    outcome = run(program)
    sys.stdout.flush()
    report(outcome)
    os._exit(0)


if __name__ == "__main__":
    main()
