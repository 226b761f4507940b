"""A real broker and real workers, without the rest of an installation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from backend.bootstrap import build_context
from backend.cli.processes import broker_binary
from backend.services.context import Context
from tests.support.installation import PROJECT, free_port, wait_until
from tests.support.settings import database_of, make_settings


@contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed with everything it started."""
    running = subprocess.Popen(
        command, cwd=PROJECT, **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **options}
    )
    try:
        yield running
    finally:
        family = [running, *psutil.Process(running.pid).children(recursive=True)] if running.poll() is None else []
        for member in family:
            member.send_signal(signal.SIGKILL)
        running.wait()


class Site:
    """The home folder of an installation of which only a broker runs."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            "ROUNDHOUSE_HOME": str(home),
            "DATABASE_URL": database_of(home),
            "REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "ROUNDHOUSE_SWEEP_S": "0.3",
            "ROUNDHOUSE_DEVICES": "none",
        }
        self.ctx: Context = build_context(make_settings(home, redis_url=self.environment["REDIS_URL"]), migrate=False)
        wait_until(self.ctx.queue.is_alive, what="the broker")

    @contextmanager
    def worker(
        self, module: str, *, queues: str = "train", threads: int = 1, name: str = "one", **environment: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A worker whose Celery application is in `module`."""
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            module,
            "worker",
            "-Q",
            queues,
            "-c",
            str(threads),
            "-n",
            f"{name}@here",
        ]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR"]
        with (
            (self.home / f"{name}.log").open("ab") as log,
            process(
                command, env={**self.environment, "ROUNDHOUSE_WORKER_HOST": name, **environment}, stdout=log, stderr=log
            ) as running,
        ):
            yield running


@contextmanager
def site(home: Path) -> Iterator[Site]:
    """A home folder with a database, and a broker beside it."""
    port = free_port()
    with process([broker_binary(), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]):
        running = Site(home, port)
        try:
            yield running
        finally:
            running.ctx.db.engine.dispose()
