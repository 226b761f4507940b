"""Test processes of a parallel run, forked by a process that has imported all tests: each would import them."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from _pytest.config import _prepareconfig, apply_warning_filters
from _pytest.pathlib import import_path

ROOT = Path(__file__).resolve().parents[2]
FEW = 40
"""Files of tests that a process imports faster than another one is started for it."""


def fork_workers(config: pytest.Config) -> None:
    """Let xdist's processes be forked, where a run has many files."""
    from execnet import gateway_io

    if len(files_of(config)) <= FEW or sys.platform != "linux":
        return
    server = Server(config.invocation_params.args)
    config.add_cleanup(server.close)
    if not server.is_ready:  # it has said why
        return

    class ForkedIO(gateway_io.Popen2IO):  # type: ignore[misc]
        """The pipes of a forked process, in place of those of a command."""

        def __init__(self, args: list[str], execmodel: object) -> None:
            self._process, to_worker, from_worker = server.fork(bootstrap=args[-1])
            super().__init__(os.fdopen(to_worker, "wb"), os.fdopen(from_worker, "rb"), execmodel)

        def wait(self) -> None:
            """Wait for the end of the process."""
            select.select([self._process], [], [])

        def kill(self) -> None:
            """End the process."""
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGKILL)

    starting = gateway_io.Popen2IOMaster
    gateway_io.Popen2IOMaster = ForkedIO
    config.add_cleanup(lambda: setattr(gateway_io, "Popen2IOMaster", starting))


def files_of(config: pytest.Config) -> list[Path]:
    """Return the files of tests that a run's arguments name, without those that it ignores."""
    ignored = [Path(name).resolve() for name in config.getoption("ignore") or ()]
    files: list[Path] = []
    for argument in config.args:
        path = Path(argument.partition("::")[0]).resolve()
        files += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
    return [file for file in files if not any(file.is_relative_to(folder) for folder in ignored)]


class Server:
    """The process that has imported the tests of a run with these arguments."""

    def __init__(self, arguments: list[str]) -> None:
        self._socket, its_end = socket.socketpair()
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.support.forked_workers import serve; serve()"
        command = [sys.executable, "-c", code]
        with its_end:
            self._process = subprocess.Popen(
                [*command, str(its_end.fileno()), *arguments], pass_fds=[its_end.fileno()], stdin=subprocess.DEVNULL
            )

        self.is_ready = bool(self._socket.recv(1))

    def fork(self, *, bootstrap: str) -> tuple[int, int, int]:
        """Fork a process that executes a line. Returns descriptors of the process, its input and its output."""
        its_input, to_worker = os.pipe()
        from_worker, its_output = os.pipe()
        socket.send_fds(self._socket, [bootstrap.encode()], [its_input, its_output])
        os.close(its_input)
        os.close(its_output)
        pid = self._socket.recv(20)
        if not pid:
            raise RuntimeError("the process that imports the tests has ended")
        return os.pidfd_open(int(pid)), to_worker, from_worker

    def close(self) -> None:
        """End the process."""
        self._socket.close()
        self._process.wait()


def serve() -> None:
    """Import the tests that the command's arguments name, and fork a process for each line that comes."""
    server = socket.socket(fileno=int(sys.argv[1]))
    arguments = sys.argv[2:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS_PARALLELISM", "false")  # its threads would not be there in a forked process
        import_tests(arguments)
    names = {
        (task / "comm").read_text().strip()
        for task in Path("/proc/self/task").iterdir()
        if task.name != str(os.getpid())
    }
    if started := names - {"jemalloc_bg_thd"}:  # Arrow's allocator starts its own again
        raise RuntimeError(f"a module that tests import starts threads, which a forked process lacks: {started}")
    gc.collect()
    gc.freeze()
    server.send(b"1")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        line, descriptors, _, _ = socket.recv_fds(server, 10_000, 2)
        if not line:
            return
        pid = os.fork()
        if pid:
            server.send(str(pid).encode())
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, interrupted)
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.argv = ["-c"]
        random.seed()
        exec(line, {"__name__": "__main__"})
        return


def import_tests(arguments: list[str]) -> None:
    """Import the tests as pytest does. One that can't be imported is left to the processes, which say why."""
    config = _prepareconfig([*arguments, "--numprocesses", "0", "--capture", "no"])
    settings = {"consider_namespace_packages": config.getini("consider_namespace_packages")}
    with warnings.catch_warnings():
        apply_warning_filters(config.getini("filterwarnings"), config.known_args_namespace.pythonwarnings or [])
        for file in files_of(config):
            try:
                import_path(file, mode=config.getoption("importmode"), root=config.rootpath, **settings)
            except BaseException:  # a module may skip itself
                for name in [
                    name for name, module in sys.modules.items() if getattr(module, "__file__", "") == str(file)
                ]:
                    del sys.modules[name]
