"""Memory and bookkeeping of serving under lasting load, and the share of a slowed replica, on a whole installation with
PostgreSQL.

    python -m tests.benchmarks.serving.bench_soak soak [MINUTES]     (30 minutes, unless told otherwise)
    python -m tests.benchmarks.serving.bench_soak slow

`soak` measures how many requests a second eight users get answered, then sends 80 % of that in an open loop: streams,
whole answers, streams whose client goes away, and bodies that are refused. It prints each process's memory over time,
and the counts of clients, gateway and replicas. `slow` stops one of three replicas for 40 of every 50 ms, and prints
requests and seconds a request by replica: with equal numbers of open requests, a replica's share is in proportion to
its speed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil
from sqlalchemy import func, select

from backend.db.tables import Replica, Usage
from tests.benchmarks.serving.bench_deployments import (
    build_context_of,
    client,
    count,
    load,
    replica_processes,
    serve,
)
from tests.support.installation import Installation, wait_until
from tests.support.postgres import run_postgres

USERS = 8
LOAD = 0.8
SAMPLE_S = 10.0
KINDS = {"stream": 0.6, "whole": 0.2, "left": 0.15, "refused": 0.05}
STOPPED_S, RUNNING_S = 0.04, 0.01


async def send(session: aiohttp.ClientSession, url: str, kind: str, number: int) -> str:
    """Send one request of a kind and return how it ended."""
    body: dict[str, Any] = {
        "model": "m",
        "messages": [{"role": "user", "content": f"number {number}"}],
        "max_tokens": 5 + number % 60,
    }
    body |= {"stream": kind != "whole", "temperature": "hot" if kind == "refused" else 1}
    try:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            if response.status != 200:
                return f"{kind}: {response.status}"
            if kind == "left":
                await response.content.readline()
                return "left: left"
            text = await response.read()
            return f"{kind}: done" if b"[DONE]" in text or kind == "whole" else f"{kind}: cut"
    except aiohttp.ClientError as error:
        return f"{kind}: {type(error).__name__}"


async def open_loop(up: Installation, *, rate: float, seconds: float) -> Counter[str]:
    """Send requests at Poisson times of this rate, whatever the answers take, and count how they end."""
    draw = random.Random(0)
    ends: Counter[str] = Counter()
    open_requests: set[asyncio.Task[str]] = set()
    began = due = time.monotonic()
    number = 0
    async with client() as session:
        while due < began + seconds:
            due += draw.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
            task = asyncio.create_task(send(session, up.gateway_url, kind, number))
            open_requests.add(task)
            task.add_done_callback(lambda task: (open_requests.discard(task), ends.update([task.result()])))
            number += 1
        await asyncio.gather(*open_requests)
    return ends


def served_processes(up: Installation) -> dict[str, psutil.Process]:
    """Return the processes that serve, by what they are."""
    named = {f"replica {index}": process for index, process in enumerate(replica_processes(up))}
    return named | {f"gateway {index}": process for index, process in enumerate(up.processes("backend.gateway.serve"))}


async def watch(
    processes: dict[str, psutil.Process], samples: list[tuple[float, dict[str, float], dict[str, int]]]
) -> None:
    """Note every process's resident MB and open files, until cancelled."""
    began = time.monotonic()
    while True:
        memory = {name: process.memory_info().rss / 1e6 for name, process in processes.items()}
        files = {name: process.num_fds() for name, process in processes.items()}
        samples.append((time.monotonic() - began, memory, files))
        await asyncio.sleep(SAMPLE_S)


def describe(samples: list[tuple[float, dict[str, float], dict[str, int]]]) -> dict[str, Any]:
    """Return each process's memory after a fifth of the time and at the end, the slope between in MB an hour, and its
    open files.
    """
    later = [sample for sample in samples if sample[0] >= samples[-1][0] / 5] or samples
    hours = np.array([sample[0] for sample in later]) / 3600
    report = {}
    for name in later[0][1]:
        memory = np.array([sample[1][name] for sample in later])
        slope = float(np.polyfit(hours, memory, 1)[0]) if len(later) > 2 else float("nan")
        files = (later[0][2][name], later[-1][2][name])
        report[name] = {
            "mb": [round(memory[0], 1), round(memory[-1], 1)],
            "mb_per_hour": round(slope, 1),
            "files": files,
        }
    return report


def ready_replicas(up: Installation) -> list[Replica]:
    """Return the replicas that answer."""
    with up.ctx.db.read() as session:
        return list(session.scalars(select(Replica).where(Replica.status == "ready")))


async def read_replicas(up: Installation) -> dict[str, dict[str, Any]]:
    """Return what each replica says of itself, by its id."""
    stats = {}
    async with aiohttp.ClientSession() as session:
        for replica in ready_replicas(up):
            headers = {"Authorization": f"Bearer {replica.internal_token}"}
            async with session.get(f"{replica.url}/stats", headers=headers) as response:
                stats[replica.id] = await response.json()
    return stats


def read_usage(up: Installation) -> Counter[str]:
    """Return the number of stored requests by status."""
    with up.ctx.db.read() as session:
        rows = session.execute(select(Usage.status, func.count()).group_by(Usage.status)).all()
    return Counter(dict(map(tuple, rows)))


def totals(stats: dict[str, dict[str, Any]], name: str) -> int:
    """Return the sum of a counter over replicas."""
    return sum(int(replica[name]) for replica in stats.values())


async def soak(up: Installation, minutes: float = 30) -> dict[str, Any]:
    """Hold 80 % of what eight users get answered, and report memory, open files and counts."""
    serve(up, 2)
    await load(up, seconds=10, concurrency=USERS, max_tokens=32)
    rate = len(await load(up, seconds=20, concurrency=USERS, max_tokens=32)) / 20
    await asyncio.sleep(5)
    usage_before, served_before = read_usage(up), await read_replicas(up)
    samples: list[tuple[float, dict[str, float], dict[str, int]]] = []
    watching = asyncio.create_task(watch(served_processes(up), samples))
    ends = await open_loop(up, rate=LOAD * rate, seconds=minutes * 60)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await asyncio.sleep(10)
    stats, usage = await read_replicas(up), read_usage(up)
    async with aiohttp.ClientSession() as session, session.get(up.gateway_url.replace("/v1", "/metrics")) as response:
        lines = (await response.text()).splitlines()
    return {
        "minutes": minutes,
        "capacity_per_s": round(rate, 1),
        "rate_per_s": round(LOAD * rate, 1),
        "sent": sum(ends.values()),
        "clients": dict(ends),
        "usage_rows": dict(usage - usage_before),
        "replicas_accepted": totals(stats, "served") - totals(served_before, "served"),
        "left_over": {name: totals(stats, name) for name in ("open", "running", "waiting")},
        "gateway_running": [line for line in lines if line.startswith("roundhouse_requests_running{")],
        "processes": describe(samples),
    }


async def slow_down(process: psutil.Process) -> None:
    """Let a process run for a fifth of the time, until cancelled."""
    try:
        while True:
            process.suspend()
            await asyncio.sleep(STOPPED_S)
            process.resume()
            await asyncio.sleep(RUNNING_S)
    finally:
        process.resume()


async def slow(up: Installation) -> dict[str, Any]:
    """Slow one of three replicas five times under six users, and count requests by replica."""
    serve(up, 3)
    await load(up, seconds=5, concurrency=6)
    victim = replica_processes(up)[0]
    ports = {
        connection.laddr.port for connection in victim.net_connections() if connection.status == psutil.CONN_LISTEN
    }
    slowed = [replica.id for replica in ready_replicas(up) if int(str(replica.url).rsplit(":")[-1]) in ports]
    with up.ctx.db.read() as session:
        before = session.scalar(select(func.max(Usage.created_at)))
    slowing = asyncio.create_task(slow_down(victim))
    outcomes = await load(up, seconds=40, concurrency=6, max_tokens=64)
    slowing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await slowing
    await asyncio.sleep(2)
    columns = Usage.replica_id, func.count(), func.avg(Usage.total_ms)
    with up.ctx.db.read() as session:
        rows = session.execute(select(*columns).where(Usage.created_at > before).group_by(Usage.replica_id)).all()
    replicas = sorted(
        ("slowed" if name in slowed else "whole", number, round(ms / 1000, 3)) for name, number, ms in rows
    )
    return {"requests": count(outcomes), "requests_and_seconds": replicas}


def main(name: str, minutes: float) -> None:
    """Start an installation and run one experiment."""
    with run_postgres() as url, tempfile.TemporaryDirectory() as folder:
        up = Installation(Path(folder) / "home", DATABASE_URL=url, ROUNDHOUSE_CANCEL_GRACE_S="5")
        up.home.mkdir()
        build_context_of(up)
        up.start()
        wait_until(lambda: up.processes("backend.gateway.serve"), what="the gateway")
        try:
            result = asyncio.run(soak(up, minutes) if name == "soak" else slow(up))
            print(json.dumps({"experiment": name, **result}), flush=True)
        finally:
            up.stop()


if __name__ == "__main__":
    if sys.argv[1:2] not in (["soak"], ["slow"]):
        sys.exit(__doc__)
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 30.0)
