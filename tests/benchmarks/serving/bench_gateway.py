"""Latency, throughput and CPU that the gateway adds, with a replica that answers at once.

    python -m tests.benchmarks.serving.bench_gateway [--installed]

With `--installed` the gateway reads endpoints, keys and addresses from a SQLite database and stores usage there, and a
further process commits to it ten times a second, as workers do; otherwise its directory is in memory. Gateway and
replica run as processes of their own, each with one event loop; the client is that of `roundhouse endpoint bench`.
Prints one JSON document. Bounded: about a minute.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from sqlalchemy import select

from backend.bootstrap import build_context
from backend.db.tables import Checkpoint, Job, Replica
from backend.domain.jobs.events import ReadyEvent
from backend.domain.jobs.gauges import ReplicaReport
from backend.domain.jobs.load_test import LoadTarget
from backend.domain.serving.load import LoadConfig, LoadSummary, summarise_load
from backend.gateway.app import create_gateway
from backend.gateway.directory import ReplicaAddress
from backend.gateway.installed import InstalledDirectory
from backend.infra.load_generator import run_level
from backend.services.context import LOCAL
from backend.services.jobs.claims import claim_next
from backend.services.people.keys import create_key
from backend.services.serving.deployments import deploy
from backend.services.serving.replicas import record_ready
from tests.benchmarks.serving.instant_replica import create_instant_replica
from tests.support.gateway_fixtures import KEY, MemoryDirectory
from tests.support.installation import free_port, wait_until
from tests.support.settings import make_settings

WARMUP = 50  # requests of a level that are not timed; the gateway's CPU counts them


def serve(app_name: str, port: int, replica_url: str) -> None:
    """Serve the gateway or the replica until the process is ended; a `home` in place of the replica's address is an
    installation's.
    """
    if app_name == "replica":
        app: Any = create_instant_replica()
    elif not replica_url.startswith("http"):
        context = build_context(make_settings(Path(replica_url)))
        app = create_gateway(InstalledDirectory(context))
    else:
        app = create_gateway(MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t")]}))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def start(app_name: str, replica_url: str = "") -> tuple[multiprocessing.Process, str]:
    """Start a server; return its process and address."""
    port = free_port()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(app_name, port, replica_url), daemon=True
    )
    process.start()
    connected = lambda: any(c.laddr.port == port for c in psutil.Process(process.pid).net_connections("tcp"))  # noqa: E731
    wait_until(connected)
    return process, f"http://127.0.0.1:{port}"


def install(home: Path, replica_url: str) -> str:
    """Deploy the instant replica as endpoint `small` in a fresh installation; return a key."""
    ctx = build_context(make_settings(home))
    with ctx.db.write() as session:
        checkpoint = Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10)
        session.add(checkpoint)
        session.flush()
    deploy(ctx, checkpoint_id=checkpoint.id, name="small", person=LOCAL)
    claim: Any = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url=replica_url))
        session.get_one(Job, claim.job_id).lease_until = ctx.now() + timedelta(hours=1)
    return create_key(ctx, "bench", person=LOCAL)


def keep_writing(home: Path) -> None:
    """Commit ten times a second, until the process is ended."""
    ctx = build_context(make_settings(home), migrate=False)
    while True:
        with ctx.db.write() as session:
            for replica in session.scalars(select(Replica)):
                replica.gauges = ReplicaReport(running=0)
        time.sleep(0.1)


def measure(target: LoadTarget, *, users: int, requests: int, tokens: int) -> LoadSummary:
    """Run one level."""
    config = LoadConfig(users=(users,), requests=requests, warmup=WARMUP, max_tokens=(tokens,), prompt_words=(8,))
    return summarise_load([run_level(config, [target], users=users)], slo_ttft_ms=1e4, slo_itl_ms=1e4)


def cpu_s(process: multiprocessing.Process) -> float:
    """Return the CPU time of a process."""
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Measure added latency, short requests a second, and CPU per chunk."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--installed", action="store_true")
    installed = parser.parse_args().installed
    replica, replica_url = start("replica")
    key, home = KEY, Path(tempfile.mkdtemp(prefix="gateway-"))
    if installed:
        key = install(home, replica_url)
        multiprocessing.get_context("spawn").Process(target=keep_writing, args=(home,), daemon=True).start()
    gateway, url = start("gateway", str(home) if installed else replica_url)
    through = LoadTarget(kind="gateway", url=url, model="small", token=key)
    direct = LoadTarget(kind="replica", url=replica_url, model="small", token="t")
    added = []
    for _ in range(5):  # in turn, so that a busy moment of the machine meets both
        pair = [measure(target, users=1, requests=300, tokens=1) for target in (through, direct)]
        added.append((pair[0].ttft.p50_ms - pair[1].ttft.p50_ms, pair[0].e2e.p50_ms - pair[1].e2e.p50_ms))  # type: ignore[union-attr]
    before = cpu_s(gateway)
    short = measure(through, users=16, requests=4000, tokens=1)
    cpu_request = (cpu_s(gateway) - before) / (4000 + WARMUP)
    before = cpu_s(gateway)
    long = measure(through, users=8, requests=64, tokens=500)
    cpu_chunk = (cpu_s(gateway) - before - cpu_request * (64 + WARMUP)) / (500 * (64 + WARMUP))
    print(
        json.dumps(
            {
                "directory": "SQLite" if installed else "memory",
                "added_ttft_p50_ms": round(statistics.median(row[0] for row in added), 2),
                "added_e2e_p50_ms": round(statistics.median(row[1] for row in added), 2),
                "short_requests_per_s": round(short.requests_per_s, 1),
                "gateway_cpu_ms_per_short_request": round(cpu_request * 1000, 3),
                "chunks_per_s": round(long.tokens_per_s, 0),
                "gateway_cpu_us_per_chunk": round(cpu_chunk * 1e6, 1),
                "errors": short.errors + long.errors,
                "load_average": psutil.getloadavg()[0],
                "cores": psutil.cpu_count(),
                "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            }
        )
    )
    gateway.terminate()
    replica.terminate()
    shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
