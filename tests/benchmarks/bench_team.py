"""A team's day on one machine: raters, people who watch runs, chats, a long queue and two runs that train, all at once.

    python -m tests.benchmarks.bench_team [MINUTES]      (30, unless told otherwise)

50 raters cast a vote each 15 s, 25 people watch the curves of a run, 20 people chat by streams of 64 tokens, two runs
train at the product's own low priority, and 100 more are queued behind them; a browser opens one page after the other.
PostgreSQL and Valkey are real, clients and servers share the machine. Prints one line of JSON: answers by kind with
their times, what was answered with an error, votes lost and doubled, seconds until pages are drawn, and each server's
memory at the end beside that of its first five minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import psutil

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.states import Status
from backend.services.context import LOCAL
from backend.services.training.live import token_for_runs
from backend.services.training.runs import stop_run
from backend.services.training.views import get_run
from tests.benchmarks.battles.bench_ballots import compare, fill, measure, rater_token
from tests.benchmarks.bench_faults import PARTS, World, world
from tests.support.browser import DRAWN, open_tab, running_browser
from tests.support.installation import wait_until

RATERS, VIEWERS, CHATS, QUEUED = 50, 25, 20, 100
VOTE_EVERY_S, POLL_S, THINK_S, OPEN_EVERY_S, SAMPLE_S = 15.0, 0.5, 8.0, 5.0, 10.0
PAGES = (
    "/",
    "/runs",
    "/run?run={run}",
    "/launch",
    "/datasets",
    "/battles?campaign={campaign}",
    "/endpoints",
    "/monitor",
)
NETWORK = ArchitectureConfig(
    num_layers=4, width=128, num_heads=4, num_kv_heads=4, context=128, vocab_size=320, feed_forward=384
)
"""About ten steps a second: a run that is watched, not one of a test."""


class Answers:
    """What one kind of request was answered with, and after how long."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def report(self) -> dict[str, object]:
        """The figures, times in milliseconds."""
        times = sorted(self.seconds)
        if not times:
            return {"answers": 0, "errors": len(self.errors), "first_errors": self.errors[:3]}
        return {
            "answers": len(self.seconds),
            "median_ms": round(1000 * statistics.median(times)),
            "p95_ms": round(1000 * times[int(0.95 * (len(times) - 1))]),
            "greatest_ms": round(1000 * times[-1]),
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
        }


async def get_again(client: httpx2.AsyncClient, url: str, *, params: dict[str, str]) -> httpx2.Response:
    """Ask, and again if the server closed the idle connection at that moment, as a browser does."""
    try:
        return await client.get(url, params=params)
    except (httpx2.ReadError, httpx2.RemoteProtocolError):
        return await client.get(url, params=params)


async def watch(client: httpx2.AsyncClient, url: str, *, token: str, run: str, ends_at: float, seen: Answers) -> None:
    """Ask for new points of a run as its page does: what came after the last step of each curve."""
    after: dict[str, Any] = {}
    await asyncio.sleep(POLL_S * Random(len(seen.seconds)).random())
    while time.monotonic() < ends_at:
        began = time.perf_counter()
        try:
            answer = await get_again(client, url, params={"token": token, "after": json.dumps(after)})
            seen.seconds.append(time.perf_counter() - began)
            if answer.status_code != 200:
                seen.errors.append(f"{answer.status_code} {answer.text[:200]}")
                continue
            curves = answer.json()["runs"][run]["curves"]
            last = after.get(run, {"metrics": {}})["metrics"]
            last |= {name: curve["steps"][-1] for name, curve in curves["metrics"].items() if curve["steps"]}
            after[run] = {"resets": curves["resets"], "metrics": last}
        except httpx2.TransportError as error:
            seen.errors.append(repr(error))
        finally:
            await asyncio.sleep(POLL_S)


async def chat(client: httpx2.AsyncClient, number: int, url: str, *, ends_at: float, seen: Answers) -> None:
    """Ask, read the whole stream, think."""
    rng = Random(number)
    while time.monotonic() < ends_at:
        await asyncio.sleep(THINK_S * rng.uniform(0.5, 1.5))
        body = {"model": "m", "prompt": f"Person {number}: ", "max_tokens": 64, "stream": True}
        began = time.perf_counter()
        try:
            answer = await client.post(f"{url}/completions", json=body)
            seen.seconds.append(time.perf_counter() - began)
            if answer.status_code != 200 or b"[DONE]" not in answer.content:
                seen.errors.append(f"{answer.status_code} {answer.text[-200:]}")
        except httpx2.TransportError as error:
            seen.errors.append(repr(error))


async def crowd(
    w: World, *, run: str, tokens: list[str], seconds: float, seen: dict[str, Answers]
) -> tuple[dict[str, object], Any]:
    """Let everybody work until the time is over."""
    ends_at = time.monotonic() + seconds
    url, token = f"{w.up.url}/live/points", token_for_runs(w.ctx, [run], person=LOCAL)
    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=VIEWERS + CHATS), timeout=60) as client:
        votes, *_ = await asyncio.gather(
            measure(w.up.url, tokens, rate=RATERS / VOTE_EVERY_S, seconds=seconds),
            *(
                watch(client, url, token=token, run=run, ends_at=ends_at, seen=seen["watched points"])
                for _ in range(VIEWERS)
            ),
            *(chat(client, number, w.up.gateway_url, ends_at=ends_at, seen=seen["chats"]) for number in range(CHATS)),
        )
    return votes.report(), votes


def sample_memory(w: World, over: threading.Event, samples: dict[str, list[tuple[float, float]]]) -> None:
    """Note the memory that is each server's own, in MB, until it is over."""
    began = time.monotonic()
    while not over.wait(SAMPLE_S):
        for name in ("pages", "gateway", "worker"):
            own = 0.0
            for process in w.up.processes(PARTS[name]):
                try:
                    own += process.memory_full_info().uss / 1e6
                except psutil.Error:
                    continue
            samples[name].append((time.monotonic() - began, own))


def open_pages(w: World, *, run: str, campaign: str, until: float, seen: dict[str, Answers]) -> None:
    """Open one page after the other, in a browser that has seen them all."""
    with running_browser() as browser:
        tab = open_tab(browser)
        refused: list[str] = []
        tab.on("response", lambda one: refused.append(f"{one.status} {one.url}") if one.status >= 500 else None)
        addresses = [w.up.url + page.format(run=run, campaign=campaign) for page in PAGES]
        for visit, address in enumerate(cycle(addresses)):
            if time.monotonic() > until:
                break
            began = time.perf_counter()
            tab.goto(address)
            tab.wait_for_function(DRAWN, timeout=120_000)
            if visit >= len(addresses):
                seen["pages drawn"].seconds.append(time.perf_counter() - began)
            tab.wait_for_timeout(1000 * OPEN_EVERY_S)
        seen["pages drawn"].errors.extend(refused)


def main(minutes: float) -> None:
    """Measure and print."""
    os.environ["ROUNDHOUSE_CPU_JOBS"] = "2"
    with tempfile.TemporaryDirectory() as folder, world(Path(folder), ROUNDHOUSE_TRAIN_NICE="10") as w:
        campaign = fill(w.ctx, 20_000)
        tokens = [rater_token(w.ctx, campaign, number) for number in range(RATERS)]
        values = {"steps": 10_000_000, "architecture": NETWORK, "context": 128, "eval_every": 500, "compile": "off"}
        runs = [w.launch("long", checkpoint_every=2000, keep_last=2, **values) for _ in range(2)]
        for run in runs:
            wait_until(lambda run=run: w.last_step(run), timeout_s=900, what="steps of both runs")  # type: ignore[misc]
        queued = [w.launch("queued") for _ in range(QUEUED)]
        seen: dict[str, Answers] = defaultdict(Answers)
        memory: dict[str, list[tuple[float, float]]] = defaultdict(list)
        over, votes = threading.Event(), []
        began, seconds = time.monotonic(), 60 * minutes
        first_step = w.last_step(runs[0])
        people = threading.Thread(
            target=lambda: votes.extend(asyncio.run(crowd(w, run=runs[0], tokens=tokens, seconds=seconds, seen=seen)))
        )
        sampler = threading.Thread(target=sample_memory, args=(w, over, memory))
        people.start()
        sampler.start()
        open_pages(w, run=runs[0], campaign=campaign, until=began + seconds, seen=seen)
        people.join()
        over.set()
        sampler.join()
        steps = (w.last_step(runs[0]) - first_step) / (time.monotonic() - began)
        states = [get_run(w.ctx, run).status for run in (*runs, *queued)]
        for run in queued:
            stop_run(w.ctx, run, person=LOCAL)
        report, result = votes
        early, late = min(300.0, seconds / 3), seconds - min(300.0, seconds / 3)
        print(
            json.dumps(
                {
                    "minutes": minutes,
                    **{name: answers.report() for name, answers in seen.items()},
                    "votes": {**report, **compare(w.ctx, campaign, result)},
                    "steps_per_s": round(steps, 1),
                    "running": states.count(Status.RUNNING),
                    "queued": states.count(Status.QUEUED),
                    "memory_mb": {
                        name: {
                            "first": round(statistics.mean(own for at, own in series if at < early)),
                            "last": round(statistics.mean(own for at, own in series if at > late)),
                        }
                        for name, series in memory.items()
                    },
                }
            )
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
