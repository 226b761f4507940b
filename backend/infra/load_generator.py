"""Sends the requests of a load test over HTTP and times their streams: closed loop or open loop, on one event loop."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import aiohttp

from backend.domain.jobs.load_test import LoadTarget
from backend.domain.json_values import JsonObject
from backend.domain.serving.load import (
    MAX_REQUESTS,
    LevelRun,
    LoadConfig,
    LoadSummary,
    PlannedRequest,
    RequestTiming,
    iterate_asks,
    overhead,
    summarise_load,
)
from backend.domain.serving.request_log import SYNTHETIC
from backend.infra.openai_api.streams import DONE, data_of
from backend.infra.replicas import open_session

POLL_S = 0.25
ROUNDS = ("gateway", "replica", "replica", "gateway")
"""Targets in turn, each twice, so that a slow drift of the machine meets both alike."""


@dataclass(frozen=True)
class LoadProgress:
    """Progress of a load test: share done, and the part that runs now. `users` is 0 in an open loop."""

    share: float
    target: str
    users: int
    done: int
    errors: int
    tokens: int
    elapsed_s: float


class Stopped(Exception):
    """A load test was asked to stop; its current level is dropped."""


def run_load(
    config: LoadConfig,
    targets: Sequence[LoadTarget],
    *,
    on_progress: Callable[[LoadProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, object]]:
    """Run all levels and return one entry per number of users: a summary per target, and what the gateway adds. A
    stopped test returns the levels that it finished.
    """
    kinds = [kind for kind in ROUNDS if kind in config.targets]
    if len(config.targets) == 1:
        kinds = kinds[:1]
    entries: list[dict[str, object]] = []
    began, count = time.perf_counter(), len(config.levels) * len(kinds)
    for level, users in enumerate(config.levels):
        runs: dict[str, list[LevelRun]] = {kind: [] for kind in kinds}
        for number, kind in enumerate(kinds):
            position = level * len(kinds) + number

            def report(progress: LoadProgress, position: int = position) -> None:
                on_progress(replace(progress, share=(position + progress.share) / count))

            chosen = [target for target in targets if target.kind == kind]
            part = config.part(1 / kinds.count(kind))
            try:
                runs[kind].append(
                    run_level(
                        part, chosen, users=max(1, users), phase=position, on_progress=report, should_stop=should_stop
                    )
                )
            except Stopped:
                return entries
        entries.append(_entry(config, users, runs, began))
    return entries


def _entry(config: LoadConfig, users: int, runs: dict[str, list[LevelRun]], began: float) -> dict[str, object]:
    summaries: dict[str, LoadSummary | None] = {"gateway": None, "replica": None}
    for kind, of_kind in runs.items():
        summaries[kind] = summarise_load(
            of_kind, slo_ttft_ms=config.slo_ttft_ms, slo_itl_ms=config.slo_itl_ms, origin_s=began
        )
    added = overhead(runs["gateway"], runs["replica"]) if len(runs) == 2 else None
    values = {kind: None if summary is None else asdict(summary) for kind, summary in summaries.items()}
    return {"users": users or None, **values, "gateway_overhead": added}


def run_level(
    config: LoadConfig,
    targets: Sequence[LoadTarget],
    *,
    users: int,
    phase: int = 0,
    on_progress: Callable[[LoadProgress], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> LevelRun:
    """Send a level's requests, to several targets in turn, and return their records. Raises Stopped."""
    return asyncio.run(
        _Level(config, targets, users=users, phase=phase, on_progress=on_progress, should_stop=should_stop).run()
    )


@dataclass
class _Level:
    """One level against one kind of target."""

    config: LoadConfig
    targets: Sequence[LoadTarget]
    users: int
    phase: int
    on_progress: Callable[[LoadProgress], None]
    should_stop: Callable[[], bool]
    records: list[RequestTiming] = field(default_factory=list)
    began: float = 0.0
    errors: int = 0
    tokens: int = 0
    counts_from: float | None = None
    """When the first request after the warm-up was due."""
    steady_until: float | None = None
    """When a user of a closed loop first found no further request, or when the last request of an open loop arrived."""

    async def run(self) -> LevelRun:
        async with open_session(total_s=self.config.timeout_s) as session:
            self.began = time.perf_counter()
            work = asyncio.create_task(self._open(session) if self.config.is_open else self._closed(session))
            while not (await asyncio.wait({work}, timeout=POLL_S))[0]:
                self._report()
                if self.should_stop():
                    work.cancel()
                    await asyncio.gather(work, return_exceptions=True)
                    raise Stopped
            await work
        self._report()
        start = self.began if self.counts_from is None else self.counts_from
        return LevelRun(tuple(self.records), start, max(start, self.steady_until or start))

    async def _closed(self, session: aiohttp.ClientSession) -> None:
        """Let each user send its next request when its last has ended; the first of each user are the warm-up."""
        warmup = max(self.config.warmup, self.users) if self.config.warmup else 0
        limit = MAX_REQUESTS if self.config.duration_s is not None else self.config.requests + warmup
        waiting = iter(enumerate(itertools.islice(iterate_asks(self.config, phase=self.phase), limit)))

        async def user() -> None:
            for number, ask in self._in_time(waiting):
                is_warmup = number < warmup
                if not is_warmup and self.counts_from is None:
                    self.counts_from = time.perf_counter()
                await self._measure(session, number, ask, due=time.perf_counter(), is_warmup=is_warmup)
            self.steady_until = self.steady_until or time.perf_counter()

        async with asyncio.TaskGroup() as group:
            for _ in range(self.users):
                group.create_task(user())

    def _in_time(self, waiting: Iterator[tuple[int, PlannedRequest]]) -> Iterator[tuple[int, PlannedRequest]]:
        """Yield requests until the level's seconds are over, which count from the end of the warm-up."""
        lasts_s = self.config.duration_s
        for numbered in waiting:
            since = self.counts_from
            if lasts_s is not None and since is not None and time.perf_counter() - since >= lasts_s:
                return
            yield numbered

    async def _open(self, session: aiohttp.ClientSession) -> None:
        """Send each request when it is due, whatever the earlier ones do. A trace is not preceded by a warm-up of its
        own requests.
        """
        warmup = 0 if self.config.arrivals else self.config.warmup
        async with asyncio.TaskGroup() as group:
            for number, ask in self._arriving(warmup):
                due = self.began + ask.arrival_s
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                if number >= warmup:
                    self.counts_from = due if self.counts_from is None else self.counts_from
                    self.steady_until = due
                group.create_task(self._measure(session, number, ask, due=due, is_warmup=number < warmup))

    def _arriving(self, warmup: int) -> Iterator[tuple[int, PlannedRequest]]:
        asks = iterate_asks(self.config, phase=self.phase)
        counts_from = 0.0
        for number, ask in enumerate(itertools.islice(asks, MAX_REQUESTS)):
            counts_from = ask.arrival_s if number == warmup else counts_from
            if (
                self.config.duration_s is not None
                and number > warmup
                and ask.arrival_s - counts_from > self.config.duration_s
            ):
                return
            if self.config.duration_s is None and not self.config.arrivals and number >= self.config.requests + warmup:
                return
            yield number, ask

    async def _measure(
        self, session: aiohttp.ClientSession, number: int, ask: PlannedRequest, *, due: float, is_warmup: bool
    ) -> None:
        record = await _send(session, self.targets[number % len(self.targets)], ask, due=due, is_warmup=is_warmup)
        self.records.append(record)
        self.errors += bool(record.error)
        self.tokens += record.completion_tokens

    def _report(self) -> None:
        elapsed = time.perf_counter() - self.began
        expected = self.config.duration_s or (self.config.arrivals[-1] if self.config.arrivals else None)
        if expected is None:
            share = len(self.records) / (self.config.requests + self.config.warmup)
        else:
            share = elapsed / expected if expected else 1.0
        users = 0 if self.config.is_open else self.users
        self.on_progress(
            LoadProgress(
                min(1.0, share), self.targets[0].kind, users, len(self.records), self.errors, self.tokens, elapsed
            )
        )


async def _send(
    session: aiohttp.ClientSession, target: LoadTarget, ask: PlannedRequest, *, due: float, is_warmup: bool
) -> RequestTiming:
    """Send one request and time its stream from the moment it was due."""
    stream, late = _Stream(target.kind), time.perf_counter() - due
    headers = {SYNTHETIC: "1"} | ({"Authorization": f"Bearer {target.token}"} if target.token else {})
    path = "/v1/completions" if target.kind == "gateway" else "/generate"

    def failed(problem: str) -> RequestTiming:
        return RequestTiming(due, time.perf_counter(), None, error=problem[:300], is_warmup=is_warmup, late_s=late)

    try:
        async with session.post(f"{target.url}{path}", json=_body(target, ask), headers=headers) as response:
            if response.status != 200:
                text = (await response.content.read(500)).decode(errors="replace")
                return failed(f"{response.status}: {text}")
            async for line in response.content:
                stream.read(line, at=time.perf_counter())
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        return failed(f"{type(error).__name__}: {error}")
    times = stream.times
    return RequestTiming(
        start_s=due,
        end_s=time.perf_counter(),
        ttft_s=times[0] - due if times else None,
        gaps_s=tuple(after - before for before, after in itertools.pairwise(times)),
        prompt_tokens=stream.prompt_tokens,
        completion_tokens=stream.completion_tokens,
        error=stream.error or ("" if stream.has_ended else "The stream broke off."),
        is_warmup=is_warmup,
        late_s=late,
    )


def _body(target: LoadTarget, ask: PlannedRequest) -> dict[str, object]:
    if target.kind == "gateway":
        body = {"model": target.model, "prompt": ask.prompt, "max_tokens": ask.max_tokens, "temperature": 0}
        return body | {"stream": True, "stream_options": {"include_usage": True}}
    return {"prompt": ask.prompt, "params": {"max_tokens": ask.max_tokens, "temperature": 0}, "stream": True}


class _Stream:
    """Reads the lines of a stream: server-sent events of a gateway, or JSON lines of a replica."""

    def __init__(self, kind: str) -> None:
        self.is_gateway = kind == "gateway"
        self.times: list[float] = []
        self.prompt_tokens = self.completion_tokens = 0
        self.has_ended = False
        self.error = ""

    def read(self, line: bytes, *, at: float) -> None:
        text = line.strip()
        if self.is_gateway:
            text = data_of(text) or b""
            if text == DONE:
                self.has_ended = True
                return
        if not text:
            return
        event = json.loads(text)
        if "error" in event or event.get("type") == "error":
            self.error = str(event.get("error") or event.get("message"))[:300]
            return
        if event.get("type") == "token" or (self.is_gateway and _has_text(event)):
            self.times.append(at)
        if usage := event.get("usage"):
            self.prompt_tokens, self.completion_tokens = int(usage["prompt_tokens"]), int(usage["completion_tokens"])
        self.has_ended = self.has_ended or event.get("type") == "finish"


def _has_text(event: JsonObject) -> bool:
    """Return whether a chunk carries tokens: any but the one that only states why the answer ended."""
    return any(choice.get("text") or not choice.get("finish_reason") for choice in event.get("choices") or ())
