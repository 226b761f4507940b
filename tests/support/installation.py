"""A whole installation, started as a person starts it, on free ports and in a folder of its own."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil

from backend.bootstrap import build_context
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import Context
from backend.services.starter import STARTER_DATASETS, STARTER_TOKENIZER
from backend.settings import Settings
from tests.support.jobs import add_stored_job
from tests.support.settings import database_of, make_settings

PROJECT = Path(__file__).resolve().parents[2]


FIRST_PORT, PORTS_A_PROCESS = 12_000, 2_500
"""Below the ports that the system gives to whoever asks for any, which it may give away before a server of ours has
started.
"""


@cache
def _ports() -> Iterator[int]:
    """Return ports of this test process alone, in an order of its own."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first = FIRST_PORT + number * PORTS_A_PROCESS
    return cycle(random.Random(os.getpid()).sample(range(first, first + PORTS_A_PROCESS), PORTS_A_PROCESS))


def free_port() -> int:
    """Return a port that nobody listens on, and that nobody else takes before it is used."""
    for port in _ports():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("every port is taken")


def wait_until(
    condition: Callable[[], Any], *, timeout_s: float = 300.0, what: str = "the condition", every_s: float = 0.1
) -> Any:
    """Return the first truthy value of `condition`; fail with words when it does not come."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(every_s)
    raise AssertionError(f"{what} did not come true within {timeout_s:.0f} s")


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; one that ends while it is asked does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):
        return False


def mark_starter_content(ctx: Context) -> None:
    """Make an installation one whose starter content was deleted long ago, so that a start queues none."""
    with ctx.db.write() as session:
        for name in (*(dataset.name for dataset in STARTER_DATASETS), STARTER_TOKENIZER):
            job = add_stored_job(
                session, ctx, JobKind.IMPORT_DATASET, title=f"Import {name}", idempotency_key=f"starter:{name}"
            )
            job.status = Status.FINISHED


def make_home(home: Path, migrated_database: Path) -> Path:
    """Make the home folder of an installation without starter content, whose jobs would be work for nothing."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(home), migrate=False)
    mark_starter_content(context)
    context.db.engine.dispose()
    return home


class Installation:
    """`roundhouse up` with short leases, and handles on its processes."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.port, self.gateway_port = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "ROUNDHOUSE_HOME": str(home),
            "DATABASE_URL": database_of(home),
            "ROUNDHOUSE_PORT": str(self.port),
            "ROUNDHOUSE_GATEWAY_PORT": str(self.gateway_port),
            "ROUNDHOUSE_LEASE_S": "12",
            "ROUNDHOUSE_SWEEP_S": "1",
            "ROUNDHOUSE_KEEP_FREE_MB": "16",
            # networks this small gain nothing from a second thread, and wait for it on a busy machine
            "OMP_NUM_THREADS": "1",
            "ROUNDHOUSE_TRAIN_NICE": "0",  # beside other tests a run of low priority would stand still
            **environment,
        }
        self.process: subprocess.Popen[str] | None = None
        self._ctx: Context | None = None

    @property
    def url(self) -> str:
        """Where the pages are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def gateway_url(self) -> str:
        """Where /v1 is."""
        return f"http://127.0.0.1:{self.gateway_port}/v1"

    @property
    def ctx(self) -> Context:
        """The services over this installation, as another process of it would have them."""
        if self._ctx is None:
            settings = Settings(
                _env_file=None,  # type: ignore[call-arg]
                home=self.home,
                database_url=self.environment["DATABASE_URL"],
                port=self.port,
                gateway_port=self.gateway_port,
                keep_free_mb=16,
            )
            self._ctx = build_context(settings, migrate=False)
        return self._ctx

    def start(self) -> Installation:
        """Start everything and wait for the line that says so."""
        if self.process is not None and self.process.stdout is not None:  # of a start that was killed
            self.process.stdout.close()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "backend.cli.main", "up"],
            cwd=PROJECT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if "is ready" in line:
                return self
        raise AssertionError(f"roundhouse up ended with {self.process.wait()}: {''.join(lines)}")

    def stop(self, *, how: signal.Signals = signal.SIGINT, timeout_s: float = 120.0) -> None:
        """Stop as Ctrl-C does."""
        if self._ctx is not None:
            self._ctx.db.engine.dispose()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(timeout_s)
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()

    def processes(self, needle: str = "") -> list[psutil.Process]:
        """Return the processes of this installation whose command line holds a text, found by the environment they were
        given.
        """
        mark = f"{self.home}"
        matching = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                is_alike = needle in " ".join(process.info["cmdline"] or [])
                if is_alike and process.environ().get("ROUNDHOUSE_HOME") == mark:
                    matching.append(process)
            except (psutil.Error, OSError):  # it has ended meanwhile
                continue
        return matching

    def log(self, name: str) -> str:
        """Return a process's log."""
        path = self.home / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""
