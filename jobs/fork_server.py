"""A process that has imported torch and transformers, and forks for each job that needs them: starting Python and
importing both takes three seconds of a core, a fork a few milliseconds. A worker starts one when its first such job
arrives; it ends with the worker, or after minutes without a job. A job ends with its supervisor and outlives its
server, else one process that is killed would take all replicas of an endpoint with it. Jobs on a GPU start a Python of
their own, since CUDA does not survive a fork.

This module is both sides: `fork_server` for the supervisor, which imports no torch, and
`python -m jobs.fork_server SOCKET KIND`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import runpy
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.domain.jobs.states import JobKind
from backend.infra.processes import set_command_line
from jobs.environment import shared_environment
from jobs.rooms import import_room

log = logging.getLogger(__name__)

FORKED = frozenset(
    {
        *(JobKind.TRAIN, JobKind.PROBE, JobKind.EVALUATE, JobKind.GENERATE, JobKind.LOGLIKELIHOOD, JobKind.CLASSIFY),
        *(JobKind.REPLICA, JobKind.SERVING_PROBE, JobKind.ADD_BASE, JobKind.EXPORT, JobKind.INSPECT),
        *(JobKind.DATA_REPORT, JobKind.TOKENIZER_REPORT),
    }
)
"""Kinds of jobs that import torch."""
ROOT = Path(__file__).resolve().parent.parent
IDLE_S = 300.0
"""A server without a job for this long ends, which returns some 300 MB."""
IMPORTS_S, ANSWER_S, REPORT_S = 120.0, 10.0, 5.0
MAX_REQUEST_BYTES = 2**20
MAX_DESCRIPTORS = 8
TITLE_BYTES = 1000
"""Room for the command line of a job, by which `ps` and the supervisor tell it from others."""
MAX_SERVERS = 2
"""One for runs, whose allocator is tuned, and one for the rest. While both live, other jobs start a Python."""


class ForkedChild:
    """A process that a fork server started: what a supervisor uses of `subprocess.Popen`."""

    def __init__(self, pid: int, status: socket.socket, tie: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.is_lost = False
        """True once it has ended without a report, since its server ended before it or is frozen."""
        self._status, self._tie, self._pidfd = status, tie, -1
        self._end = select.poll()
        self._end.register(status, select.POLLIN)
        with contextlib.suppress(OSError):  # it has ended already, and its report is there
            self._pidfd = os.pidfd_open(pid)
            self._end.register(self._pidfd, select.POLLIN)  # a server that is frozen reports nothing
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises `subprocess.TimeoutExpired`."""
        with self._lock:
            if self.returncode is None:
                report = self._await_report(timeout)
                self.is_lost = not report
                self.returncode = int(report) if report else -signal.SIGKILL
                self._status.close()
                os.close(self._tie)
                if self._pidfd >= 0:
                    os.close(self._pidfd)
            return self.returncode

    def _await_report(self, timeout: float | None) -> bytes:
        """Return the server's report of the end, empty if there is none: it is frozen, or has ended before the job."""
        while events := self._end.poll(None if timeout is None else 1000 * timeout):
            has_ended = self._pidfd in {descriptor for descriptor, _ in events} or self._pidfd < 0
            report = b""
            if self._status.fileno() >= 0:
                self._status.settimeout(REPORT_S)
                with contextlib.suppress(OSError):
                    report = self._status.recv(64)
            if report or has_ended:
                return report
            self._end.unregister(self._status)  # the server has ended, and the job runs on
            self._status.close()
        raise subprocess.TimeoutExpired(["jobs.run"], timeout or 0)


class ForkServer:
    """The supervisor's side of a server."""

    def __init__(self, kind: JobKind, environment: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", __name__, str(theirs.fileno()), kind, " " * TITLE_BYTES]
        with theirs:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
                env=environment,
                cwd=ROOT,
                pass_fds=(theirs.fileno(),),
            )
        threading.Thread(target=self.process.wait, daemon=True).start()  # so that it leaves no zombie
        self.is_ready = False
        self._lock = threading.Lock()

    def await_imports(self, check: Callable[[], None]) -> None:
        """Wait until the server has imported what it needs, or can't. `check` raises to give up."""
        gives_up_at = time.monotonic() + IMPORTS_S
        with self._lock:
            while not self.is_ready and time.monotonic() < gives_up_at:
                check()
                try:
                    self._socket.settimeout(0.2)
                    if not self._socket.recv(16):
                        return
                    self.is_ready = True
                except TimeoutError:
                    continue
                except OSError:  # it has ended, and another job has closed it
                    return

    def start(
        self,
        module: str,
        arguments: list[str],
        environment: Mapping[str, str],
        output: int,
        passed: Sequence[int] = (),
    ) -> ForkedChild:
        """Run a module as `python -m` would, its output to a file descriptor, with `passed` descriptors, whose numbers
        there are its last arguments. Raises OSError if the server does not answer.
        """
        status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reading, tie = os.pipe()  # closed by the kernel when this process ends, which ends the job
        request = {"module": module, "arguments": arguments, "environment": dict(environment), "passed": len(passed)}
        try:
            with theirs, self._lock:
                socket.send_fds(
                    self._socket, [json.dumps(request).encode()], [output, theirs.fileno(), reading, *passed]
                )
            status.settimeout(ANSWER_S)
            answer = status.recv(64)
            if not answer:
                raise OSError("it could not fork, or has ended")
            return ForkedChild(int(answer), status, tie)
        except OSError:
            status.close()
            os.close(tie)
            raise
        finally:
            os.close(reading)

    def close(self) -> None:
        """End the server; its jobs run on."""
        self._socket.close()
        self.process.wait()


_servers: dict[frozenset[tuple[str, str]], ForkServer] = {}
_servers_lock = threading.Lock()


def fork_server(kind: JobKind, environment: Mapping[str, str]) -> ForkServer | None:
    """Return this process's server for jobs of a kind, started if there is none; None for jobs that start a Python of
    their own. The variables that libraries read while they are imported are equal for all jobs of a server; secrets are
    given to each job that needs them.
    """
    if sys.platform != "linux" or kind not in FORKED or environment.get("CUDA_VISIBLE_DEVICES"):
        return None
    shared = shared_environment(environment)
    key = frozenset(shared.items())
    with _servers_lock:
        for other, server in list(_servers.items()):
            if server.process.poll() is not None:
                _servers.pop(other).close()
        if key not in _servers and len(_servers) < MAX_SERVERS:
            _servers[key] = ForkServer(kind, shared)
        return _servers.get(key)


def main() -> int:
    """Serve until the supervisor has gone. Returns an exit status; in the process of a job, the job's."""
    server = socket.socket(fileno=int(sys.argv[1]))
    os.close(os.pidfd_open(os.getpid()))  # a kernel without it ends the server before the imports
    import_room(JobKind(sys.argv[2]))
    try:
        server.send(b"ready")
    except OSError:
        return 0
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        return _serve(server, selector)


def _serve(server: socket.socket, selector: selectors.BaseSelector) -> int:
    jobs: dict[int, tuple[int, socket.socket]] = {}
    while ready := selector.select(None if jobs else IDLE_S):
        for key, _ in ready:
            if key.fd in jobs:
                pid, status = jobs.pop(key.fd)
                selector.unregister(key.fd)
                os.close(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with status, contextlib.suppress(OSError):
                    status.send(str(code).encode())
                continue
            try:
                message, descriptors, _, _ = socket.recv_fds(server, MAX_REQUEST_BYTES, MAX_DESCRIPTORS)
            except OSError as error:
                log.warning("a request was not read: %s", error)
                continue
            if not message:
                return 0
            request = json.loads(message)
            if len(descriptors) < 3 + request["passed"]:  # it may open no more files; the supervisor is not answered
                for descriptor in descriptors:
                    os.close(descriptor)
                continue
            (output, _, tie, *passed), status = descriptors, socket.socket(fileno=descriptors[1])
            try:
                pid = os.fork()
            except OSError as error:
                log.warning("a job was not forked: %s", error)
                for descriptor in (output, tie, *passed):
                    os.close(descriptor)
                status.close()
                continue
            if pid == 0:
                selector.close()
                for other in (server, status, *(other for _, other in jobs.values())):
                    other.close()
                for descriptor in jobs:
                    os.close(descriptor)
                return _run(request, output, tie, passed)
            for descriptor in (output, tie, *passed):
                os.close(descriptor)
            try:
                descriptor = os.pidfd_open(pid)
            except OSError as error:
                log.warning("a job can't be watched: %s", error)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                status.close()
                continue
            jobs[descriptor] = (pid, status)
            selector.register(descriptor, selectors.EVENT_READ)
            with contextlib.suppress(OSError):
                status.send(str(pid).encode())
    return 0


def _run(request: dict[str, Any], output: int, tie: int, passed: list[int]) -> int:
    """Run a module in a forked process, with the numbers of passed descriptors as its last arguments."""
    _die_with_writer(tie)
    os.setsid()
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.close(output)
    run_as_command(request["module"], [*request["arguments"], *map(str, passed)], request["environment"])
    return 0


def run_as_command(module: str, arguments: list[str], environment: Mapping[str, str]) -> None:
    """Run a module in a forked process as `python -m` would in a new one."""
    os.environ.clear()
    os.environ.update(environment)
    set_command_line([sys.executable, "-m", module, *arguments])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else all jobs would draw the same; Python reseeds its own generator
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _die_with_writer(pipe: int) -> None:
    """Ask the kernel to kill this process when the last writer of a pipe has closed it, see F_SETSIG in fcntl(2)."""
    fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    end = select.poll()
    end.register(pipe, 0)
    if end.poll(0):  # it has been closed meanwhile
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
