"""Machines of a team that share a database, a broker and a store of artifacts, and no folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from backend.bootstrap import build_context
from backend.cli.processes import broker_binary
from backend.services.context import Context
from tests.support.installation import free_port, wait_until
from tests.support.settings import make_settings
from tests.support.stores import Store, folder_store
from tests.support.workers.workers import process

SECRET = "one secret for all the machines of a team"
LEASE_S = 8.0
MAX_ATTEMPTS = 9


class Team:
    """What the machines share, and the machine `pages` as a context in this process."""

    def __init__(self, folder: Path, pages: Path, database_url: str, port: int, store: Store | None) -> None:
        self.folder, self.broker_socket = folder, ""
        folder.mkdir()
        store = store or folder_store(folder / "store")
        self.environment = {
            **os.environ,
            **store.environment(),
            "DATABASE_URL": database_url,
            "REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "ROUNDHOUSE_SECRET_KEY": SECRET,
            "ROUNDHOUSE_LEASE_S": str(LEASE_S),
            "ROUNDHOUSE_SWEEP_S": "1",
            "ROUNDHOUSE_KEEP_FREE_MB": "16",
            "ROUNDHOUSE_DEVICES": "none",
            "ROUNDHOUSE_TRAIN_NICE": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.ctx: Context = build_context(
            make_settings(
                pages,
                database_url=database_url,
                redis_url=self.environment["REDIS_URL"],
                secret_key=SECRET,
                artifacts_url=store.url,
                artifacts_key=store.keys.key,
                artifacts_secret=store.keys.secret,
                artifacts_endpoint=store.keys.endpoint,
                max_attempts=MAX_ATTEMPTS,
                lease_s=LEASE_S,
            ),
            migrate=False,
        )
        wait_until(self.ctx.queue.is_alive, what="the broker")

    @contextmanager
    def machine(
        self, name: str, *, queues: str = "train", within: Sequence[str] = (), **environment: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A machine with a home of its own and a worker, which is started by the command `within`."""
        home = self.folder / name
        home.mkdir(exist_ok=True)
        command = [*within, sys.executable, "-m", "celery", "-A", "jobs.celery_app", "worker", "-Q", queues, "-c", "4"]
        command += ["-n", f"w@{name}", "--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
        own = {"ROUNDHOUSE_HOME": str(home), "ROUNDHOUSE_WORKER_HOST": name}
        with (
            (home / "worker.log").open("ab") as log,
            process(command, env={**self.environment, **own, **environment}, stdout=log, stderr=log) as running,
        ):
            yield running


@contextmanager
def team(folder: Path, *, pages: Path, database_url: str, store: Store | None = None) -> Iterator[Team]:
    """A team with a broker and a folder for the homes of its machines; `pages` is the home of the first one. They share
    a folder as their store unless they are given one.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="broker-") as short:  # a socket's path has at most 108 characters
        command = [str(broker_binary()), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
        with process([*command, "--unixsocket", f"{short}/socket"]):
            started = Team(folder, pages, database_url, port, store)
            started.broker_socket = f"{short}/socket"
            try:
                yield started
            finally:
                started.ctx.artifacts.finish_sending(within_s=0)
                started.ctx.db.engine.dispose()
