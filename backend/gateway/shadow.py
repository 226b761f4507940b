"""Copies of requests to a shadow: after their answer, from a bounded queue, so that no request waits for one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

from backend.domain.serving.protocol import FinishEvent, GenerateRequest, GenerationErrorEvent, TokenEvent
from backend.domain.serving.shadow import AnsweredTwice
from backend.errors import RoundhouseError
from backend.gateway.directory import Directory, ReplicaAddress, ShadowRoute
from backend.infra.replicas import ReplicaClient, ReplicaLost, ReplicaRefused
from backend.services.serving.shadows import ComparedRequest

logger = logging.getLogger(__name__)
MAX_WAITING = 64
AT_ONCE = 2
COPY_S = 300.0


@dataclass
class Copy:
    """A request that is to be answered a second time, with what its answer holds so far."""

    route: ShadowRoute
    request: GenerateRequest
    text: list[str] = field(default_factory=list)
    tokens: int = 0
    ttft_ms: float | None = None
    total_ms: float = 0.0

    def add(self, event: TokenEvent) -> None:
        """Note a part of the answer."""
        self.text.append(
            event.text + (event.reasoning or "") + "".join(call.arguments for call in event.tool_calls or ())
        )
        self.tokens += len(event.token_ids)


class Shadows:
    """Answers copies and stores how they compare. Copies that find the queue full are dropped."""

    def __init__(self, directory: Directory, client: ReplicaClient, *, rng: random.Random | None = None) -> None:
        self._directory, self._client = directory, client
        self._rng = rng or random.Random()
        self._queue: asyncio.Queue[Copy] = asyncio.Queue(MAX_WAITING)
        self._turn = itertools.count()
        self._rows: list[ComparedRequest] = []
        self.num_dropped = 0

    def draw(self, endpoint: str, request: GenerateRequest) -> Copy | None:
        """Return a copy of a request for the endpoint's shadow, for its share of the requests that have one answer;
        else None.

        Nothing is copied while the shadow has no replica, because it starts, or is an endpoint that sleeps.
        """
        route = self._directory.shadow_for(endpoint)
        if (
            route is None
            or not route.replicas
            or not request.can_be_resumed
            or self._rng.uniform(0, 100) >= route.percent
        ):
            return None
        return Copy(route, request)

    def offer(self, copy: Copy) -> None:
        """Queue a copy whose request has been answered."""
        try:
            self._queue.put_nowait(copy)
        except asyncio.QueueFull:
            self.num_dropped += 1

    async def work(self) -> None:
        """Answer copies, two at a time. Copies that wait are dropped at the end."""
        await asyncio.gather(*(self._work() for _ in range(AT_ONCE)))

    async def _work(self) -> None:
        while True:
            copy = await self._queue.get()
            try:
                self._rows.append(await self._compare(copy))
            except Exception:  # an edge: the next copy must not depend on this one
                logger.exception("A copy of a request failed.")

    async def store(self) -> None:
        """Store how answers compare; comparisons are dropped while the database is away."""
        rows, self._rows = self._rows, []
        if rows:
            await asyncio.to_thread(self._directory.record_comparisons, rows)

    async def _compare(self, copy: Copy) -> ComparedRequest:
        began, answer, error = time.perf_counter(), Copy(copy.route, copy.request), ""
        try:
            async with asyncio.timeout(COPY_S):
                await self._answer(answer, began)
        except TimeoutError:
            error = "timeout"
        except ReplicaLost as lost:
            error = lost.reason
        except ReplicaRefused as refused:
            error = refused.code
        except RoundhouseError as other:
            error = type(other).__name__
        is_greedy = copy.request.params.temperature == 0
        comparison = AnsweredTwice(
            is_equal="".join(copy.text) == "".join(answer.text) if is_greedy and not error else None,
            primary_tokens=copy.tokens,
            shadow_tokens=answer.tokens,
            primary_ttft_ms=copy.ttft_ms,
            shadow_ttft_ms=answer.ttft_ms,
            primary_total_ms=copy.total_ms,
            shadow_total_ms=round((time.perf_counter() - began) * 1000, 2),
            error=error,
        )
        return ComparedRequest(uuid4().hex[:12], copy.route.id, datetime.now(UTC), comparison)

    async def _answer(self, copy: Copy, began: float) -> None:
        replica = self._choose(copy.route)
        request = (
            copy.request if replica.adapter is None else copy.request.model_copy(update={"adapter": replica.adapter})
        )
        stream = self._client.stream(replica.url, token=replica.token, request=request)
        async with aclosing(stream) as events:
            async for event in events:
                if isinstance(event, GenerationErrorEvent):
                    raise ReplicaLost(event.message, reason=event.code)
                if isinstance(event, TokenEvent):
                    if copy.ttft_ms is None:
                        copy.ttft_ms = round((time.perf_counter() - began) * 1000, 2)
                    copy.add(event)
                if isinstance(event, FinishEvent):
                    return

    def _choose(self, route: ShadowRoute) -> ReplicaAddress:
        return route.replicas[next(self._turn) % len(route.replicas)]
