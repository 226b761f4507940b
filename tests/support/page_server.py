"""The pages' server of an installation, alone: no broker, no workers.

`python -m tests.support.page_server` imports what the pages need once and forks a server for each line on its stdin, as
fresh as one that is started by hand: nothing of Streamlit has run in it.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx2
import psutil

from backend.services.context import Context
from backend.web.server import warm_up
from tests.support.installation import PROJECT, free_port, is_alive, wait_until
from tests.support.settings import database_of


class FreshServer:
    """A server that nobody has visited, on loopback. Without other settings it asks for a sign-in, as one that listens
    everywhere does.
    """

    def __init__(self, home: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            **os.environ,
            "ROUNDHOUSE_HOME": str(home),
            "DATABASE_URL": database_of(home),
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "ROUNDHOUSE_HOST": "0.0.0.0",
            "FORWARDED_ALLOW_IPS": "",
            **settings,
        }
        arguments = ["run", "app.py", "--server.port", str(self.port), "--server.address", "127.0.0.1"]
        forks = _forks()
        assert forks.stdin is not None
        assert forks.stdout is not None
        forks.stdin.write(json.dumps([arguments, environment, str(home / "pages.log")]) + "\n")
        forks.stdin.flush()
        self.process = psutil.Process(int(forks.stdout.readline()))

    def is_up(self) -> bool:
        """Whether it answers."""
        assert is_alive(self.process), "the server ended"
        try:
            return httpx2.get(f"{self.url}/healthz", timeout=10).status_code == 200
        except httpx2.TransportError:
            return False

    def stop(self) -> None:
        """End it, unless a test has."""
        with suppress(psutil.NoSuchProcess):
            self.process.terminate()
            self.process.wait(300)


@dataclass(frozen=True)
class Pages:
    """The pages' server over an installation without workers."""

    url: str
    ctx: Context


@contextmanager
def page_server(home: Path, **settings: str) -> Iterator[FreshServer]:
    """Run a pages' server and wait until it answers."""
    server = FreshServer(home, **settings)
    try:
        wait_until(server.is_up, what="the server")
        yield server
    finally:
        server.stop()


@cache
def _forks() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.support.page_server"]
    process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.communicate)  # it ends with its stdin
    return process


def _serve(arguments: list[str], environment: dict[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for descriptor in (1, 2):
        os.dup2(file, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from streamlit.web.cli import main

    main(arguments, prog_name="streamlit")


def main() -> None:
    """Fork servers until stdin ends."""
    importlib.import_module("streamlit.web.cli")
    importlib.import_module("backend.web.live")
    warm_up("pages.components").join()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends leaves no zombie
    servers = []
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _serve(*json.loads(line))
            os._exit(0)
        servers.append(child)
        print(child, flush=True)
    for child in servers:
        if psutil.pid_exists(child):
            os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
