"""A queue of many jobs and machines: claims, sweep, heartbeats, positions and pages, on PostgreSQL or SQLite.

    python -m tests.benchmarks.bench_queue [postgresql|sqlite] [JOBS] [MACHINES] [CLAIMS_PER_S]

Makes an installation of its own with queued training jobs, copies of one that was launched as people launch them, and
with machines of eight GPUs. Claims arrive at a steady rate (150 a second) from four processes, whether earlier ones are
answered or not; a claim's time counts from when it was due. Prints one JSON document.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import cache, partial
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sqlalchemy import insert, select, text, update
from streamlit.components.v2 import manifest_scanner
from streamlit.runtime.scriptrunner.script_cache import ScriptCache

from backend.bootstrap import build_context
from backend.db.base import new_id
from backend.db.tables import Job, Worker
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.jobs.claims import claim_next
from backend.services.jobs.queue_position import queue_ahead
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import beat, list_workers, take_duties
from tests.support.opening import open_page
from tests.support.postgres import run_postgres
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

SECONDS = 10
PROCESSES, THREADS = 4, 6
GPUS = tuple(map(str, range(8)))
start: Barrier
Share = tuple[list[tuple[float, bool]], float, float]
"""Time of each claim in ms and whether it got a job; when the last was answered; processor time in s."""
GAUGES: dict[str, Any] = {
    "cpu_percent": 40.0,
    "gpus": [{"index": n, "name": "H100", "memory_used_bytes": 10**9, "memory_total_bytes": 8 * 10**10} for n in GPUS],
}


@contextmanager
def installation(database: str) -> Iterator[Context]:
    """Yield a context on a new database."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if database == "sqlite":
            yield build_context(make_settings(home))
            return
        with run_postgres() as url:
            yield build_context(make_settings(home, database_url=url))


def fill(ctx: Context, jobs: int, machines: int) -> str:
    """Queue jobs and let machines report; return the id of the last job."""
    run = Scenario(ctx).run()
    with ctx.db.read() as session:
        first = session.scalars(select(Job).where(Job.id == run.job_id)).one()
        table = Job.metadata.tables["jobs"]
        columns = {column.key: getattr(first, column.key) for column in table.columns}
    rows = [
        {**columns, "id": new_id(), "created_at": first.created_at + timedelta(milliseconds=n)} for n in range(jobs)
    ]
    for begin in range(0, jobs, 5000):
        with ctx.db.write() as session:
            session.execute(insert(table), rows[begin : begin + 5000])
    with ctx.db.write() as session:
        session.execute(
            insert(Worker),
            [
                {
                    "name": f"gpu-{n}/train",
                    "host": f"gpu-{n}",
                    "pid": 1,
                    "slots": {"train": 8, "eval": 8, "serve": 8, "cpu": 2},
                    "devices": list(GPUS),
                    "gauges": GAUGES,
                    "started_at": ctx.now(),
                    "heartbeat_at": ctx.now(),
                }
                for n in range(machines)
            ],
        )
    with ctx.db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE" if ctx.db.is_sqlite else "VACUUM ANALYZE"))  # as the server does by itself
    return str(rows[-1]["id"])


def claim(ctx: Context, number: int, machines: int) -> bool:
    """Claim as the worker of a machine that a number chooses."""
    host = f"gpu-{number % machines}"
    return claim_next(ctx, "train", owner=f"{host}/train#1", host=host, devices=GPUS) is not None


def server_cpu_s() -> float:
    """Return the CPU time of this process's PostgreSQL server."""
    processes = [one for one in psutil.Process().children(recursive=True) if one.name() == "postgres"]
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def hold(barrier: Barrier) -> None:
    """Keep the barrier at which the processes start together."""
    global start
    start = barrier


def claim_share(url: str, home: Path, first: int, machines: int, per_s: float) -> Share:
    """Claim, as one of `PROCESSES` workers' processes, each of its claims when it is due, counted from the start.

    Each thread has claimed before, as a worker that lives has: a new process's first claim imports and compiles.
    """
    ctx = build_context(make_settings(home, database_url=url), migrate=False)

    has_begun = threading.Event()  # all claims are handed to the threads before: that takes processor time

    def one(number: int) -> tuple[float, bool]:
        has_begun.wait()
        due = begin + number / per_s
        time.sleep(max(0.0, due - time.time()))
        got = claim(ctx, number, machines)
        return 1000 * (time.time() - due), got

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: claim(ctx, number, machines), range(first, PROCESSES * THREADS, PROCESSES)))
        claims = [pool.submit(one, number) for number in range(first, round(per_s * SECONDS), PROCESSES)]
        start.wait()
        begin, own = time.time() + 0.1, time.process_time()
        has_begun.set()
        outcomes = [each.result() for each in claims]
    return outcomes, time.time(), time.process_time() - own


def claims_arriving(ctx: Context, machines: int, per_s: float) -> dict[str, float]:
    """Claim at a steady rate from several processes; return percentiles of the time from when each was due, in ms, the
    CPU time of a claim, and how many got no job.
    """
    url, home = ctx.db.engine.url.render_as_string(hide_password=False), ctx.artifacts.root.parent
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(PROCESSES + 1)
    with ProcessPoolExecutor(PROCESSES, mp_context=spawn, initializer=hold, initargs=(together,)) as pool:
        shares = [pool.submit(claim_share, url, home, n, machines, per_s) for n in range(PROCESSES)]
        together.wait()
        begin, server = time.time(), server_cpu_s()
        results = [share.result() for share in shares]
        server = server_cpu_s() - server
    times = [elapsed for outcomes, *_ in results for elapsed, _ in outcomes]
    return {
        **{f"p{p}_ms": round(float(np.percentile(times, p)), 1) for p in (50, 99)},
        "per_s": per_s,
        "claims": len(times),
        "answered_per_s": round(len(times) / (max(end for _, end, _ in results) - begin), 1),
        "server_cpu_ms": round(1000 * server / len(times), 1),
        "python_cpu_ms": round(1000 * sum(own for *_, own in results) / len(times), 1),
        "got_none": sum(not got for outcomes, *_ in results for _, got in outcomes),
    }


def claims_at_once(ctx: Context, machines: int, *, number: int = 64) -> dict[str, float]:
    """Let workers of as many machines wake at one instant."""
    gate = threading.Barrier(number + 1)

    def one(n: int) -> bool:
        gate.wait()
        return claim(ctx, machines // 2 + n, machines)

    with ThreadPoolExecutor(number) as pool:
        outcomes = [pool.submit(one, n) for n in range(number)]
        gate.wait()
        began = time.perf_counter()
        got = sum(outcome.result() for outcome in outcomes)
    return {"ms": round(1000 * (time.perf_counter() - began), 1), "workers": number, "got_none": number - got}


def timed(act: Callable[[], object], *, times: int = 5) -> dict[str, float]:
    """Return the first and the median time of calls, in ms."""
    spans = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        spans.append(1000 * (time.perf_counter() - began))
    return {"first_ms": round(spans[0], 1), "median_ms": round(float(np.median(spans)), 1)}


def pages(ctx: Context, home: Path) -> dict[str, dict[str, float]]:
    """Open pages as a server's script runs them, without a browser, while all machines live."""
    os.environ |= {
        "ROUNDHOUSE_HOME": str(home),
        "DATABASE_URL": ctx.db.engine.url.render_as_string(hide_password=False),
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    # Streamlit's test runner reads the metadata of all packages and compiles each page anew, which a server does once
    manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)
    ScriptCache.get_bytecode = ScriptCache().get_bytecode  # type: ignore[method-assign]

    def open_one(path: str) -> None:
        with ctx.db.write() as session:
            session.execute(update(Worker).values(heartbeat_at=ctx.now()))
        open_page(path)

    paths = ("build/launch.py", "admin/workers.py", "home/overview.py", "build/runs.py")
    return {path: timed(partial(open_one, path)) for path in paths}


def main(database: str, jobs: int, machines: int, per_s: float) -> None:
    """Fill, measure, print."""
    with installation(database) as ctx:
        last = fill(ctx, jobs, machines)
        result: dict[str, Any] = {
            "machine": platform.platform(),
            "load": os.getloadavg()[0],
            "database": database,
            "jobs": jobs,
            "machines": machines,
            "sweep": timed(lambda: recover_jobs(ctx)),
            "asking whose turn a sweep is": timed(lambda: take_duties(ctx, ["recovery"], every_s=4)),
            "heartbeat": timed(
                lambda: beat(
                    ctx,
                    name="gpu-1/train",
                    host="gpu-1",
                    pid=1,
                    slots={"train": 8},
                    devices=[*GPUS],
                    gauges=MachineGauges.model_validate(GAUGES),
                )
            ),
            "place of the last job": timed(lambda: queue_ahead(ctx, last)),
            "claims at one instant": claims_at_once(ctx, machines),
            "claims arriving": claims_arriving(ctx, machines, per_s),
            "list of workers": timed(lambda: list_workers(ctx)),
        }
        with ctx.db.read() as session:
            result["running at the end"] = len(
                session.scalars(select(Job.id).where(Job.status == Status.RUNNING)).all()
            )
        result["pages"] = pages(ctx, ctx.artifacts.root.parent)
        result["sweep beside running jobs"] = timed(lambda: recover_jobs(ctx))
        result["place of the last job beside running jobs"] = timed(lambda: queue_ahead(ctx, last))
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    options = sys.argv[1:] + ["postgresql", "100000", "1000", "150"][len(sys.argv) - 1 :]
    main(options[0], int(options[1]), int(options[2]), float(options[3]))
