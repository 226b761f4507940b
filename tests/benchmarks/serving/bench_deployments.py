"""Faults of serving under load, on a whole installation with PostgreSQL: who is cut off, who succeeds, what errors
clients see.

    python -m tests.benchmarks.serving.bench_deployments [NAME ...]

Starts `roundhouse up` in a temporary folder with a tiny network of a long context, so that an answer lasts as long as
it is told to. Prints one line of JSON for each experiment. `redeploy` and `scale` hold 20 streams of 30 seconds each.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from sqlalchemy import select

from backend.bootstrap import build_context
from backend.db.tables import Checkpoint, Replica
from backend.domain.serving.canary import CanaryRules
from backend.services.context import LOCAL, Context
from backend.services.serving.canaries import start_canary
from backend.services.serving.deployments import deploy, scale_endpoint
from backend.services.serving.endpoints import get_endpoint, list_revisions
from tests.support.installation import Installation, mark_starter_content, wait_until
from tests.support.networks.serving_networks import make_llama, save_checkpoint
from tests.support.postgres import run_postgres

STREAMS = 20
CONTEXT = 32_768


@dataclass
class Outcome:
    """One request: how it ended, its tokens, its seconds, and when its first and last byte came."""

    end: str = "hung"
    tokens: int = 0
    seconds: float = 0.0
    began: bool = False
    replica: str = ""
    text: str = ""
    times: list[float] = field(default_factory=list)


async def ask(
    session: aiohttp.ClientSession, url: str, *, number: int, max_tokens: int, until_s: float | None = None
) -> Outcome:
    """Stream one answer; `end` is done, closed (after `until_s`), an error's code, a status or an exception's name."""
    outcome, started = Outcome(), time.monotonic()
    body = {"model": "m", "messages": [{"role": "user", "content": f"number {number}"}], "max_tokens": max_tokens}
    body |= {"temperature": 0, "stream": True}
    try:
        async with session.post(f"{url}/chat/completions", json=body) as response:
            if response.status != 200:
                outcome.end = f"{response.status} {json.loads(await response.read())['error']['code']}"
                return outcome
            async for line in response.content:
                if b'"content"' in line:
                    outcome.began, outcome.tokens = True, outcome.tokens + 1
                    outcome.text += json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]["content"]
                if b'"error"' in line:
                    outcome.end = json.loads(line.removeprefix(b"data: "))["error"]["code"]
                if b"[DONE]" in line:
                    outcome.end = "done"
                if until_s is not None and time.monotonic() - started > until_s:
                    outcome.end = "closed"
                    return outcome
        if outcome.end == "hung":
            outcome.end = "broken"
    except TimeoutError:
        outcome.end = "hung"
    except aiohttp.ClientError as error:
        outcome.end = type(error).__name__
    finally:
        outcome.seconds = time.monotonic() - started
    return outcome


def client() -> aiohttp.ClientSession:
    """Return a session without limits of its own; a silence of 90 s counts as hung."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None, sock_read=90)
    )


def count(outcomes: list[Outcome]) -> dict[str, int]:
    """Count how requests ended."""
    return dict(Counter(outcome.end for outcome in outcomes))


def replica_processes(up: Installation) -> list[psutil.Process]:
    """Return the processes that hold weights."""
    found = [p for p in up.processes("jobs.run") if "--child" in p.cmdline()]
    return [p for p in found if '"replica"' in (Path(p.cmdline()[-1]) / "job.json").read_text()]


def serve(up: Installation, replicas: int, **config: Any) -> None:
    """Deploy the checkpoint and wait until all replicas are ready and no other revision answers."""
    ctx = up.ctx
    with ctx.db.read() as session:
        checkpoint = session.query(Checkpoint).filter_by(name="tiny").one()
    deploy(ctx, checkpoint_id=checkpoint.id, name="m", num_replicas=replicas, config=config, person=LOCAL)
    wait_settled(ctx, replicas)


def wait_settled(ctx: Context, replicas: int) -> None:
    """Wait until an endpoint has this number of ready replicas of one revision, and nothing drains."""

    def is_settled() -> bool:
        view = get_endpoint(ctx, "m")
        return view.rollout is None and view.num_ready == replicas == len(view.replicas)

    wait_until(is_settled, timeout_s=300, what="the rollout")


async def under_streams(up: Installation, act: Any, *, seconds: float) -> dict[str, Any]:
    """Hold 20 streams for this long and until the act is over, and count how they end. One that ends by its network
    begins again.
    """
    outcomes: list[Outcome] = []
    is_over = asyncio.Event()
    began = time.monotonic()

    async def hold(session: aiohttp.ClientSession, number: int) -> None:
        while not is_over.is_set() or time.monotonic() - began < seconds:
            outcomes.append(
                await ask(session, up.gateway_url, number=number, max_tokens=CONTEXT - 200, until_s=seconds)
            )
            number += 1000

    async with client() as session:
        streams = [asyncio.create_task(hold(session, n)) for n in range(STREAMS)]
        await asyncio.sleep(3)
        await asyncio.to_thread(act)
        acted_s = time.monotonic() - began - 3
        is_over.set()
        await asyncio.gather(*streams)
    return {
        "streams": count(outcomes),
        "held_s": sorted(round(o.seconds) for o in outcomes),
        "acted_s": round(acted_s, 1),
    }


async def kill(up: Installation) -> dict[str, Any]:
    """Kill one of three replicas under 20 streams, with 20 more requests on their way."""
    serve(up, 3)
    victim = replica_processes(up)[0]
    async with client() as session:
        first = [asyncio.create_task(ask(session, up.gateway_url, number=n, max_tokens=1500)) for n in range(STREAMS)]
        await asyncio.sleep(2)
        late = [
            asyncio.create_task(ask(session, up.gateway_url, number=100 + n, max_tokens=8)) for n in range(STREAMS // 2)
        ]
        victim.send_signal(signal.SIGKILL)
        late += [
            asyncio.create_task(ask(session, up.gateway_url, number=200 + n, max_tokens=8)) for n in range(STREAMS // 2)
        ]
        outcomes, after = await asyncio.gather(*first), await asyncio.gather(*late)
        await asyncio.to_thread(wait_settled, up.ctx, 3)
        again = await asyncio.gather(*[ask(session, up.gateway_url, number=n, max_tokens=1500) for n in range(STREAMS)])
        async with session.get(up.gateway_url.removesuffix("/v1") + "/metrics") as response:
            retries = [
                line
                for line in (await response.text()).splitlines()
                if line.startswith("roundhouse_upstream_retries_total")
            ]
    return {
        "open": count(outcomes),
        "equal_to_an_undisturbed_answer": sum(
            a.text == b.text and a.end == "done" for a, b in zip(outcomes, again, strict=True)
        ),
        "undisturbed": count(again),
        "started_meanwhile": count(after),
        "tries_on_another_replica": retries,
        "longest_s": round(max(o.seconds for o in outcomes), 1),
    }


async def redeploy(up: Installation) -> dict[str, Any]:
    """Deploy again under 20 streams of 30 seconds."""
    serve(up, 2)
    result = await under_streams(up, lambda: deploy_only(up, 2), seconds=30)
    wait_settled(up.ctx, 2)
    return result


async def scale(up: Installation) -> dict[str, Any]:
    """Go from two replicas to three and to one under 20 streams of 30 seconds."""
    serve(up, 2)

    def act() -> None:
        scale_endpoint(up.ctx, "m", 3, person=LOCAL)
        wait_until(lambda: get_endpoint(up.ctx, "m").num_ready == 3, timeout_s=120, what="a third replica")
        scale_endpoint(up.ctx, "m", 1, person=LOCAL)

    result = await under_streams(up, act, seconds=30)
    wait_settled(up.ctx, 1)
    return result


def deploy_only(up: Installation, replicas: int) -> None:
    """Deploy the checkpoint again and wait until only the new revision gets requests."""
    with up.ctx.db.read() as session:
        checkpoint = session.query(Checkpoint).filter_by(name="tiny").one()
    deploy(up.ctx, checkpoint_id=checkpoint.id, name="m", num_replicas=replicas, person=LOCAL)
    wait_until(lambda: get_endpoint(up.ctx, "m").rollout is None, timeout_s=120, what="the rollout")


async def load(up: Installation, *, seconds: float, concurrency: int, max_tokens: int = 8) -> list[Outcome]:
    """Send short requests in closed loops for this long."""
    until = time.monotonic() + seconds
    outcomes: list[Outcome] = []

    async def loop(session: aiohttp.ClientSession, number: int) -> None:
        while time.monotonic() < until:
            outcomes.append(await ask(session, up.gateway_url, number=number, max_tokens=max_tokens))
            if not outcomes[-1].began:
                await asyncio.sleep(0.1)

    async with client() as session:
        await asyncio.gather(*(loop(session, number) for number in range(concurrency)))
    return outcomes


async def database(up: Installation, seconds: float = 60) -> dict[str, Any]:
    """Freeze every process of the database server for a minute under load."""
    serve(up, 2)
    port = up.environment["DATABASE_URL"].rpartition(":")[2].partition("/")[0]
    (server,) = [
        p for p in psutil.process_iter(["name", "cmdline"]) if f"-p {port} " in f"{' '.join(p.info['cmdline'] or [])} "
    ]
    running = asyncio.create_task(load(up, seconds=seconds + 20, concurrency=8))
    await asyncio.sleep(5)
    frozen = [server, *server.children(recursive=True)]
    for process in frozen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    await asyncio.sleep(seconds)
    for process in frozen:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    outcomes = await running
    stored = up.ctx.db.engine.connect().exec_driver_sql("select count(*) from usage").scalar()
    return {"requests": count(outcomes), "slowest_s": round(max(o.seconds for o in outcomes), 2), "usage_rows": stored}


async def gateway(up: Installation) -> dict[str, Any]:
    """Restart the gateway under load of short requests."""
    serve(up, 2)
    running = asyncio.create_task(load(up, seconds=20, concurrency=8))
    await asyncio.sleep(3)
    for process in up.processes("backend.gateway.serve"):
        process.terminate()
    return {"requests": count(await running)}


async def share(up: Installation) -> dict[str, Any]:
    """Count the requests of three equal replicas."""
    serve(up, 3)
    before = up.ctx.db.engine.connect().exec_driver_sql("select coalesce(max(created_at), now()) from usage").scalar()
    outcomes = await load(up, seconds=15, concurrency=12)
    await asyncio.sleep(2)
    rows = up.ctx.db.engine.connect().exec_driver_sql(
        "select replica_id, count(*) from usage where created_at > %(since)s group by replica_id", {"since": before}
    )
    return {"requests": count(outcomes), "by_replica": sorted(row[1] for row in rows)}


async def canary(up: Installation) -> dict[str, Any]:
    """Give a canary half of the requests, kill its process twice, and wait until it ends by itself."""
    serve(up, 2)
    with up.ctx.db.read() as session:
        checkpoint = session.query(Checkpoint).filter_by(name="tiny").one()
    stable = {process.pid for process in replica_processes(up)}
    start_canary(up.ctx, "m", checkpoint_id=checkpoint.id, rules=CanaryRules(percent=50), person=LOCAL)
    wait_until(lambda: (view := get_endpoint(up.ctx, "m").canary) and view.num_ready, timeout_s=120, what="the canary")
    running = asyncio.create_task(load(up, seconds=30, concurrency=12, max_tokens=400))
    for _ in range(2):
        await asyncio.sleep(4)
        for process in replica_processes(up):
            if process.pid not in stable:
                process.kill()
        await asyncio.to_thread(lambda: wait_until(lambda: canary_ready(up), timeout_s=60, what="its restart or end"))
    outcomes = await running
    newest = list_revisions(up.ctx, "m")[0]
    return {"requests": count(outcomes), "note": newest.note, "stopped": newest.stopped_at is not None}


def canary_ready(up: Installation) -> bool:
    """Return whether the canary answers, or has ended."""
    view = get_endpoint(up.ctx, "m").canary
    return view is None or view.num_ready > 0


async def machines(up: Installation) -> dict[str, Any]:
    """Serve on two machines, 127.0.0.1 and 127.0.0.2 with a home of its own, and freeze every process of the second
    under load.
    """
    home = up.home.parent / "second"
    home.mkdir()
    (home / "artifacts").symlink_to(up.home / "artifacts")
    environment = {
        **up.environment,
        "ROUNDHOUSE_HOME": str(home),
        "REDIS_URL": f"unix://{up.home / 'broker' / 'valkey.sock'}?db=0",
    }
    environment |= {
        "ROUNDHOUSE_REPLICA_HOST": "127.0.0.2",
        "ROUNDHOUSE_WORKER_HOST": "second",
        "ROUNDHOUSE_REPLICA_SLOTS": "2",
    }
    command = [sys.executable, "-m", "backend.cli.main", "worker", "--queues", "serve"]
    worker = subprocess.Popen(command, env=environment, start_new_session=True)
    second = Installation(home)
    try:
        wait_until(lambda: second.processes("celery"), what="the second machine's worker")
        await asyncio.sleep(6)
        serve(up, 4)
        with up.ctx.db.read() as session:
            hosts = [
                str(url).rsplit(":", 1)[0]
                for url in session.scalars(select(Replica.url).where(Replica.status == "ready"))
            ]
        running = asyncio.create_task(load(up, seconds=60, concurrency=8))
        await asyncio.sleep(5)
        frozen = second.processes()
        for process in frozen:
            process.suspend()
        outcomes = await running
        for process in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
    finally:
        worker.terminate()
        worker.wait(30)
    return {
        "hosts": dict(Counter(hosts)),
        "requests": count(outcomes),
        "slowest_s": round(max(o.seconds for o in outcomes), 1),
    }


async def sleep(up: Installation) -> dict[str, Any]:
    """Let an endpoint fall asleep after six seconds, then send it a stream and a whole answer at once."""
    serve(up, 1, sleep_after_minutes=0.1)
    wait_until(lambda: get_endpoint(up.ctx, "m").state == "asleep", timeout_s=60, what="sleep")
    wait_until(lambda: not replica_processes(up), timeout_s=60, what="the end of the replica's process")
    async with client() as session:
        outcomes = await asyncio.gather(*[ask(session, up.gateway_url, number=n, max_tokens=8) for n in range(2)])
    return {"requests": count(outcomes), "seconds": [round(o.seconds, 1) for o in outcomes], "history": history(up)}


async def autoscale(up: Installation) -> dict[str, Any]:
    """Let six clients wait at a replica that answers one at a time, until a second one answers; then leave it alone."""
    serve(up, 1, max_running=1, max_replicas=2, target_queue_s=0.5, cool_down_s=10.0)
    outcomes = await load(up, seconds=60, concurrency=6, max_tokens=200)
    most = len(replica_processes(up))
    wait_until(lambda: get_endpoint(up.ctx, "m").target == 1, timeout_s=60, what="one replica again")
    return {"requests": count(outcomes), "replicas": most, "history": history(up)}


def history(up: Installation) -> list[str]:
    """Return the changes that the endpoint's newest revision made by itself."""
    return [event.text for event in list_revisions(up.ctx, "m")[0].events]


EXPERIMENTS = {
    f.__name__: f for f in (kill, redeploy, scale, share, canary, gateway, database, machines, sleep, autoscale)
}


def main(names: list[str]) -> None:
    """Start an installation and run the experiments."""
    with run_postgres() as url, tempfile.TemporaryDirectory() as folder:
        up = Installation(Path(folder) / "home", DATABASE_URL=url, ROUNDHOUSE_CANCEL_GRACE_S="5")
        up.home.mkdir()
        build_context_of(up)
        up.start()
        try:
            for name in names:
                print(json.dumps({"experiment": name, **asyncio.run(EXPERIMENTS[name](up))}), flush=True)
        finally:
            up.stop()


def build_context_of(up: Installation) -> None:
    """Migrate the database, and add the checkpoint."""
    from tests.support.settings import make_settings

    settings = make_settings(up.home).model_copy(update={"database_url": up.environment["DATABASE_URL"]})
    ctx = build_context(settings)
    mark_starter_content(ctx)
    save_checkpoint(ctx.artifacts.root / "bases" / "tiny", network=make_llama(context=CONTEXT))
    with ctx.db.write() as session:
        session.add(Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10))


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(EXPERIMENTS)
    if unknown := set(chosen) - set(EXPERIMENTS):
        sys.exit(f"There is no experiment {', '.join(unknown)}.\n{__doc__}")
    main(chosen)
