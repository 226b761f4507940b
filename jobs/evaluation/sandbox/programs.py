"""Run programs that a model wrote, each in a confined child process: no network, no files but its folder, no processes,
bounded resources.

`check_sandbox` runs a program that tries to leave; if it can, or if a required layer is missing, no program is run on
this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Literal

from backend.domain.json_values import JsonObject
from backend.errors import Unavailable
from jobs.evaluation.sandbox.syscalls import ALLOWED, AUDIT, CHECKED

Outcome = Literal["passed", "failed", "exited", "time", "memory", "output", "threads", "killed"]
CONFINED = Path(__file__).with_name("confined.py")
POLL_S = 0.05
UNPRIVILEGED = 65534
REQUIRED = ("Landlock", "seccomp")
SYSTEM_LIBRARIES = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
)


@dataclass(frozen=True)
class ProgramLimits:
    """Bounds of one program. The processor's time counts, so that a busy machine fails no right answer; `wall_s` ends
    what sleeps.

    `folder_bytes` counts files that are deleted and still open or mapped too; a single file has a quarter of it.
    """

    cpu_s: int = 5
    wall_s: float = 30.0
    memory_bytes: int = 512 * 2**20
    output_bytes: int = 2**20
    folder_bytes: int = 16 * 2**20
    open_files: int = 64
    threads: int = 32

    @property
    def file_bytes(self) -> int:
        """Size of one file. With the number of open files it bounds what a program can hold between two looks at it."""
        return self.folder_bytes // 4


@dataclass(frozen=True)
class ProgramResult:
    """The end of a program. `error` is its exception, `output` its first output, `layers` what confined it."""

    outcome: Outcome
    error: str
    output: str
    seconds: float
    layers: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Return whether the program ran to its end without an exception."""
        return self.outcome == "passed"


ESCAPE = """
import os, socket
escapes = []
def attempt(name, action):
    try:
        action()
        escapes.append(name)
    except OSError:
        pass
attempt("network", lambda: socket.socket())
attempt("files outside", lambda: os.listdir("/"))
attempt("written file outside", lambda: open("/tmp/roundhouse-escape", "w"))
attempt("process", lambda: os.fork() or os._exit(0))
attempt("signal", lambda: os.kill(os.getppid(), 0))
assert not escapes, escapes
"""


HOARD = """
import os, time
for number in range(5):
    file = os.open(str(number), os.O_CREAT | os.O_RDWR)
    os.write(file, bytes({file_bytes}))
    os.unlink(str(number))
time.sleep(60)
"""


@lru_cache(maxsize=1)
def check_sandbox() -> tuple[str, ...]:
    """Return the layers that confine a program on this machine. Raises Unavailable if a required one is missing or a
    program gets out.
    """
    result = _run(ESCAPE, ProgramLimits())
    if not result.passed:
        raise Unavailable(
            f"Programs can't be confined on this machine: {result.error or result.outcome}.",
            remedy="Run the worker elsewhere, or leave benchmarks that execute code out.",
        )
    limits = ProgramLimits(folder_bytes=2**20, wall_s=5)
    hoard = _run(HOARD.format(file_bytes=limits.file_bytes), limits)
    if hoard.outcome != "output":
        raise Unavailable(
            f"What a program keeps in deleted files can't be counted on this machine: {hoard.error or hoard.outcome}.",
            remedy=(
                "Give the worker a /proc that shows it its own processes, or leave benchmarks that execute code out."
            ),
        )
    return result.layers


def run_program(program: str, *, limits: ProgramLimits | None = None) -> ProgramResult:
    """Run a Python program, with the standard library alone, until its end or a limit.

    Raises Unavailable if the machine can't confine it; then nothing was run.
    """
    check_sandbox()
    return _run(program, limits or ProgramLimits())


def _run(program: str, limits: ProgramLimits) -> ProgramResult:
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ALLOWED:
        raise Unavailable(
            f"Programs can't be confined on {sys.platform} {machine}.",
            remedy="Code is executed on Linux alone, on x86_64 or aarch64.",
        )
    folder = Path(tempfile.mkdtemp(prefix="roundhouse-program-"))
    try:
        return _Child(program, folder, limits, machine).result()
    finally:
        _remove(folder)


class _Child:
    """One confined process, from its start to its result."""

    def __init__(self, program: str, folder: Path, limits: ProgramLimits, machine: str) -> None:
        self.folder, self.limits, self.nonce = folder, limits, secrets.token_hex(16)
        self.started = time.monotonic()
        user = _other_user(folder)
        order = {
            "program": program,
            "nonce": self.nonce,
            "parent": os.getpid(),
            "folder": str(folder),
            "read": [*SYSTEM_LIBRARIES, os.path.dirname(os.__file__)],
            "user": user,
            "limits": {
                "CPU": limits.cpu_s,
                "AS": limits.memory_bytes,
                "FSIZE": limits.file_bytes,
                "NOFILE": limits.open_files,
                "CORE": 0,
                "MEMLOCK": 0,
                "MSGQUEUE": 0,
            },
            "threads": limits.threads,
            "audit": AUDIT[machine],
            "allowed": sorted(ALLOWED[machine]),
            "checked": CHECKED[machine],
        }
        self.control, writing = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CONFINED), str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={
                    "PATH": "/usr/bin:/bin",
                    "HOME": str(folder),
                    "TMPDIR": str(folder),
                    "LANG": "C.UTF-8",
                    "OMP_NUM_THREADS": "1",
                },
                pass_fds=(writing,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self.control)
            raise
        finally:
            os.close(writing)
        with contextlib.suppress(BrokenPipeError), _stream(self.process.stdin) as stdin:
            stdin.write(json.dumps(order).encode())

    def result(self) -> ProgramResult:
        """Read reports and output until the process ends or passes a limit; then end it."""
        reports, output = bytearray(), bytearray()
        exceeded: Outcome | None = None
        try:
            exceeded = self._read(reports, output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            os.close(self.control)
            _stream(self.process.stdout).close()
        return self._judge(bytes(reports), bytes(output), exceeded)

    def _read(self, reports: bytearray, output: bytearray) -> Outcome | None:
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ, reports)
            selector.register(_stream(self.process.stdout), selectors.EVENT_READ, output)
            while selector.get_map():
                for key, _ in selector.select(POLL_S):
                    piece = os.read(key.fd, 65536)
                    key.data.extend(piece)
                    if not piece:
                        selector.unregister(key.fileobj)
                if len(output) > self.limits.output_bytes or len(reports) > 2**16:
                    return "output"
                if self._num_threads() > self.limits.threads:
                    return "threads"
                if self._held_bytes() > self.limits.folder_bytes:
                    return "output"
                if time.monotonic() - self.started > self.limits.wall_s:
                    return "time"
        return None

    def _num_threads(self) -> int:
        try:
            return len(os.listdir(f"/proc/{self.process.pid}/task"))
        except OSError:
            return 0  # it has ended

    def _held_bytes(self) -> int:
        """Return the bytes on disk of the folder's files and of deleted ones that are still open or mapped."""
        try:
            sizes = dict(_entries_below(self.folder))
        except (OSError, RecursionError):
            # hidden from this process: too deep, or in a folder that can't be listed
            return self.limits.folder_bytes + 1
        own = os.fspath(self.folder.resolve())
        with contextlib.suppress(OSError), os.scandir(f"/proc/{self.process.pid}/fd") as descriptors:
            for descriptor in descriptors:
                with contextlib.suppress(OSError):
                    if os.readlink(descriptor.path).startswith(own):
                        status = descriptor.stat()
                        sizes[status.st_ino] = status.st_blocks * 512
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.process.pid}/maps").read_text(errors="replace").splitlines():
                if line.endswith(" (deleted)") and own in line:  # of unknown size: the largest is assumed
                    sizes.setdefault(int(line.split()[4]), self.limits.file_bytes)
        return sum(sizes.values())

    def _judge(self, reports: bytes, output: bytes, exceeded: Outcome | None) -> ProgramResult:
        records = list(_own_records(reports, self.nonce))
        refusal = next((record["refused"] for record in records if "refused" in record), None)
        layers = tuple(next((record["layers"] for record in records if "layers" in record), ()))
        confined = all(any(layer.startswith(name) for layer in layers) for name in REQUIRED)
        if refusal is not None or not confined:
            raise Unavailable(
                "The program was not run:"
                f" {refusal or output.decode('utf-8', 'replace')[-200:].strip() or 'its process did not start'}.",
                remedy="Code is executed on Linux 5.13 or later alone, with Landlock and seccomp.",
            )
        end = next((record for record in reversed(records) if "outcome" in record), None)
        code = self.process.returncode
        outcome: Outcome
        if exceeded is not None:
            outcome, error = exceeded, f"It passed the limit of {exceeded}."
        elif end is not None:
            outcome, error = end["outcome"], end["error"]
        elif code in (-signal.SIGXCPU, -signal.SIGKILL):
            outcome, error = "time", f"It used more than {self.limits.cpu_s} s of processor time."
        elif code == 0:
            outcome, error = "exited", "The program ended before its tests did."
        else:
            outcome, error = "killed", f"The process ended with status {code}."
        shown = output[:2000].decode("utf-8", "replace")
        return ProgramResult(outcome, error, shown, time.monotonic() - self.started, layers)


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "the process was started with pipes"
    return stream


def _own_records(reports: bytes, nonce: str) -> Iterator[JsonObject]:
    """Yield the reports that carry the nonce; a program may write to the pipe as well."""
    for line in reports.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and record.get("nonce") == nonce:
            yield record


def _other_user(folder: Path) -> int | None:
    """Give the folder to an unprivileged user and return its id, if possible and that user can read the library."""
    library = Path(os.__file__)
    if (
        os.geteuid() != 0
        or not all(parent.stat().st_mode & 0o001 for parent in library.parents)
        or not library.stat().st_mode & 0o004
    ):
        return None
    os.chown(folder, UNPRIVILEGED, UNPRIVILEGED)
    return UNPRIVILEGED


def _entries_below(folder: Path) -> Iterator[tuple[int, int]]:
    """Yield inode and bytes on disk of each file and folder, half a kilobyte for its name included. Raises OSError for
    what is hidden.
    """
    for place, folders, files in os.walk(folder, onerror=_unless_gone, followlinks=False):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                status = os.lstat(os.path.join(place, name))
                yield status.st_ino, status.st_blocks * 512 + 512


def _unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _remove(folder: Path) -> None:
    """Remove a program's folder, whatever its depth and the rights in it."""
    with contextlib.suppress(OSError, RecursionError):
        shutil.rmtree(folder)
    if folder.exists():
        for command in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
            subprocess.run(
                [*command, os.fspath(folder)], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
