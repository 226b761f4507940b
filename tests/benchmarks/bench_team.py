"""A team's day on one machine: raters, people who watch runs, chats, a long queue and two runs that train, all at once.

    python -m tests.benchmarks.bench_team [MINUTES]      (30, unless told otherwise)

50 raters cast a vote each 15 s, 25 people watch the curves of a run, 20 people chat by streams of 64 tokens, two runs
train at the product's own low priority, and 100 more are queued behind them; a browser opens one page after the other.
So does a visitor without a browser, who asks for a page and reads until the server's last message about it, which is
the server's part of a page. PostgreSQL and Valkey are real, clients and servers share the machine. Prints one line of
JSON: answers by kind with their times, what was answered with an error, votes lost and doubled, seconds until pages are
drawn, processor time by part, and each server's memory at the end beside that of its first five minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import psutil
from playwright.sync_api import Error as PlaywrightError
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

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
STREAMLIT = Subprotocol("streamlit")
VOTE_EVERY_S, POLL_S, THINK_S, OPEN_EVERY_S, SAMPLE_S = 15.0, 0.5, 8.0, 5.0, 10.0
PATIENCE_S = 120.0
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
    """What one kind of request was answered with, and after how long; of pages also which page it was."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.errors: list[str] = []
        self.by_page: dict[str, list[float]] = defaultdict(list)

    def add(self, page: str, seconds: float) -> None:
        """Note a page."""
        self.seconds.append(seconds)
        self.by_page[page].append(seconds)

    def report(self) -> dict[str, object]:
        """The figures, times in milliseconds."""
        times = sorted(self.seconds)
        pages = {
            page.partition("?")[0]: [round(1000 * statistics.median(each)), round(1000 * max(each))]
            for page, each in self.by_page.items()
        }
        if not times:
            return {"answers": 0, "errors": len(self.errors), "first_errors": self.errors[:3]}
        return {
            "answers": len(self.seconds),
            "median_ms": round(1000 * statistics.median(times)),
            "p95_ms": round(1000 * times[int(0.95 * (len(times) - 1))]),
            "greatest_ms": round(1000 * times[-1]),
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
            **({"median_and_greatest_ms": pages} if pages else {}),
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


async def read_page(client: httpx2.AsyncClient, url: str, page: str) -> None:
    """Ask for a page as a browser does, and read what comes until the server has said all. Raises OSError and errors of
    the libraries.
    """
    path, _, query = page.partition("?")
    (await get_again(client, url + path, params={})).raise_for_status()
    state = ClientState(query_string=query, page_name=path.lstrip("/"))
    async with connect(
        f"{url.replace('http', 'ws')}/_stcore/stream", subprotocols=[STREAMLIT], max_size=None
    ) as socket:
        await socket.send(BackMsg(rerun_script=state).SerializeToString())
        async for data in socket:
            message = ForwardMsg.FromString(data if isinstance(data, bytes) else data.encode())
            if message.WhichOneof("type") == "script_finished":
                if message.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                    continue
                if message.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
                    raise OSError(f"the script of {page} ended with {message.script_finished}")
                return
        raise OSError(f"the server closed the connection before {page} was whole")


async def read_pages(
    client: httpx2.AsyncClient, url: str, pages: Sequence[str], *, ends_at: float, seen: Answers
) -> None:
    """Read one page after the other."""
    for visit, page in enumerate(cycle(pages)):
        await asyncio.sleep(OPEN_EVERY_S)
        if time.monotonic() > ends_at:
            return
        began = time.perf_counter()
        try:
            await asyncio.wait_for(read_page(client, url, page), PATIENCE_S)
            if visit >= len(pages):
                seen.add(page, time.perf_counter() - began)
        except (OSError, httpx2.HTTPError, WebSocketException) as error:
            seen.errors.append(f"{page} {error!r}"[:200])


async def crowd(
    w: World, *, run: str, pages: Sequence[str], tokens: list[str], seconds: float, seen: dict[str, Answers]
) -> tuple[dict[str, object], Any]:
    """Let everybody work until the time is over."""
    ends_at = time.monotonic() + seconds
    url, token = f"{w.up.url}/live/points", token_for_runs(w.ctx, [run], person=LOCAL)
    async with httpx2.AsyncClient(limits=httpx2.Limits(max_connections=VIEWERS + CHATS + 1), timeout=60) as client:
        votes, *_ = await asyncio.gather(
            measure(w.up.url, tokens, rate=RATERS / VOTE_EVERY_S, seconds=seconds),
            *(
                watch(client, url, token=token, run=run, ends_at=ends_at, seen=seen["watched points"])
                for _ in range(VIEWERS)
            ),
            *(chat(client, number, w.up.gateway_url, ends_at=ends_at, seen=seen["chats"]) for number in range(CHATS)),
            read_pages(client, w.up.url, pages, ends_at=ends_at, seen=seen["pages, the server's part"]),
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


class ProcessorTime:
    """Seconds of processor time since the start, by part of the machine: a thread looks at each process once a second,
    so what begins and ends between two looks is missed.
    """

    def __init__(self, w: World) -> None:
        self._w, self._over = w, threading.Event()
        self._first, self._last = dict[tuple[int, float], float](), dict[tuple[int, float], tuple[str, float]]()
        self._look(is_first=True)
        self._began = time.monotonic()
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def _repeat(self) -> None:
        while not self._over.wait(1.0):
            self._look()

    def _look(self, *, is_first: bool = False) -> None:
        own = os.getpid()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                key, times = (process.pid, process.create_time()), process.cpu_times()
                spent = times.user + times.system
                if is_first:
                    self._first[key] = spent
                part = self._last[key][0] if key in self._last else self._part_of(process, own)
                self._last[key] = part, spent

    def _part_of(self, process: psutil.Process, own: int) -> str:
        command = " ".join(process.cmdline())
        if process.pid == own:
            return "clients"
        if "chromium" in command or "playwright" in command:
            return "browser"
        if "postgres" in command:
            return "PostgreSQL"
        if self._w.broker.process is not None and process.pid == self._w.broker.process.pid:
            return "Valkey"
        if f"{self._w.up.home}" in command and "--child" in command:
            with contextlib.suppress(OSError, ValueError):
                words = process.cmdline()
                kind = json.loads((Path(words[words.index("--child") + 1]) / "job.json").read_text())["kind"]
                return "replicas" if kind == "replica" else "runs"
        if process in self._w.up.processes("--child"):
            return "runs"
        named = (name for name, words in PARTS.items() if words in command)
        return next(named, "others")

    def report(self) -> dict[str, float]:
        """End, and return the share of one core that each part took."""
        self._over.set()
        self._thread.join()
        seconds, spent = time.monotonic() - self._began, defaultdict[str, float](float)
        for key, (part, last) in self._last.items():
            spent[part] += last - self._first.get(key, 0.0)
        return {part: round(each / seconds, 2) for part, each in sorted(spent.items(), key=lambda one: -one[1])}


def open_pages(w: World, *, pages: Sequence[str], until: float, seen: Answers) -> None:
    """Open one page after the other, in a browser that has seen them all."""
    with running_browser() as browser:
        tab = open_tab(browser)
        refused: list[str] = []
        tab.on("response", lambda one: refused.append(f"{one.status} {one.url}") if one.status >= 500 else None)
        for visit, page in enumerate(cycle(pages)):
            if time.monotonic() > until:
                break
            began = time.perf_counter()
            try:
                tab.goto(w.up.url + page)
                tab.wait_for_function(DRAWN, timeout=1000 * PATIENCE_S)
                if visit >= len(pages):
                    seen.add(page, time.perf_counter() - began)
            except PlaywrightError as error:
                seen.errors.append(f"{page} {error}"[:200])
            tab.wait_for_timeout(1000 * OPEN_EVERY_S)
        seen.errors.extend(refused)


def compare_memory(series: list[tuple[float, float]], seconds: float) -> dict[str, float]:
    """Return the mean of the first five minutes and of the last ones (thirds, of a shorter time), in MB, and how much
    greater this is.
    """
    span = min(300.0, seconds / 3)
    first = statistics.mean(own for at, own in series if at < span)
    last = statistics.mean(own for at, own in series if seconds - span < at < seconds)
    minutes = [round(own) for at, own in series if at % 60 < SAMPLE_S]
    return {
        "first": round(first),
        "last": round(last),
        "percent": round(100 * (last / first - 1), 1),
        "each_minute": minutes,
    }


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
        pages = [page.format(run=runs[0], campaign=campaign) for page in PAGES]
        people = threading.Thread(
            target=lambda: votes.extend(
                asyncio.run(crowd(w, run=runs[0], pages=pages, tokens=tokens, seconds=seconds, seen=seen))
            )
        )
        spent = ProcessorTime(w)
        sampler = threading.Thread(target=sample_memory, args=(w, over, memory))
        people.start()
        sampler.start()
        open_pages(w, pages=pages, until=began + seconds, seen=seen["pages drawn"])
        people.join()
        cores = spent.report()
        over.set()
        sampler.join()
        steps = (w.last_step(runs[0]) - first_step) / (time.monotonic() - began)
        states = [get_run(w.ctx, run).status for run in (*runs, *queued)]
        for run in queued:
            stop_run(w.ctx, run, person=LOCAL)
        report, result = votes
        print(
            json.dumps(
                {
                    "minutes": minutes,
                    **{name: answers.report() for name, answers in seen.items()},
                    "votes": {**report, **compare(w.ctx, campaign, result)},
                    "cores": cores,
                    "steps_per_s": round(steps, 1),
                    "running": states.count(Status.RUNNING),
                    "queued": states.count(Status.QUEUED),
                    "memory_mb": {name: compare_memory(series, seconds) for name, series in memory.items()},
                }
            )
        )


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 30.0)
