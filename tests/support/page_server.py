"""The pages' server of an installation, alone: no broker, no workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.installation import PROJECT, free_port, wait_until


class FreshServer:
    """A server that nobody has visited, on loopback. Without other settings it asks for a sign-in, as one that listens everywhere does."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            **os.environ,
            "ROUNDHOUSE_HOME": str(home),
            "DATABASE_URL": f"sqlite:///{home / 'models.db'}",
            "REDIS_URL": "redis://127.0.0.1:1/0",
            "ROUNDHOUSE_HOST": "0.0.0.0",
            "FORWARDED_ALLOW_IPS": "",
            **settings,
        }
        command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(self.port), "--server.address", "127.0.0.1"]
        self.process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def is_up(self) -> bool:
        """Whether it answers."""
        assert self.process.poll() is None, "the server ended"
        try:
            return httpx.get(f"{self.url}/healthz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)


@contextmanager
def page_server(home: Path, **settings: str) -> Iterator[FreshServer]:
    """Run a pages' server and wait until it answers."""
    server = FreshServer(home, **settings)
    try:
        wait_until(server.is_up, timeout_s=90, what="the server")
        yield server
    finally:
        server.stop()
