"""Usage rows, written in batches in the background, so that no client waits for the database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from backend.gateway.directory import Directory
from backend.gateway.errors import INVALID_KEY
from backend.services.serving.usage import LostRequest, UsageRow

logger = logging.getLogger(__name__)
MAX_KEPT = 50_000
STOP_S = 5.0
RETRY_S = 0.2
BATCH = 500
MAX_REFUSED = 20
"""Requests of one key to one endpoint, refused alike, that get rows of their own within `WINDOW_S`; a client in a loop
would fill the database.
"""
MAX_WITHOUT_KEY = 2
"""The same of requests with a wrong key or none, which anyone who reaches the gateway can send."""
WINDOW_S, COUNTED_S = 60.0, 10.0
"""Seconds after which the next ones have rows of their own again, and for which further ones share a row; those without
a valid key share one for the whole window.
"""
R = TypeVar("R")


@dataclass
class _Alike:
    """Requests that were refused alike within a window: how many, and the row of those beyond `MAX_REFUSED`."""

    since: float
    number: int = 0
    rest: UsageRow | None = None
    rest_since: float = 0.0


def _added(rest: UsageRow, row: UsageRow) -> UsageRow:
    """Return a row that stands for one more request, with what it took of a device."""

    def total(name: str) -> float | None:
        values = [value for one in (rest, row) if (value := getattr(one, name)) is not None]
        return sum(values) if values else None

    return replace(
        rest,
        requests=rest.requests + 1,
        prompt_tokens=rest.prompt_tokens + row.prompt_tokens,
        cached_tokens=rest.cached_tokens + row.cached_tokens,
        device_s=total("device_s"),
        cost_usd=total("cost_usd"),
    )


class UsageWriter:
    """Collects rows and writes them through the directory twice a second; keeps them while the database is away."""

    def __init__(self, directory: Directory, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._clock = directory, clock
        self._alike: dict[tuple[str | None, ...], _Alike] = {}
        self._waiting: deque[UsageRow] = deque(maxlen=MAX_KEPT)
        self._lost: deque[LostRequest] = deque(maxlen=MAX_KEPT)
        self._lock = asyncio.Lock()

    def add(self, row: UsageRow) -> None:
        """Queue a row; beyond `MAX_KEPT` the oldest is lost. Of requests that were refused alike the first ones have
        rows of their own, the others are counted.
        """
        brings_no_tokens = row.status == "refused" and not row.completion_tokens
        if (brings_no_tokens or (row.status == "lost" and row.replica_id is None)) and self._is_counted(row):
            return
        self._queue(row)

    def _is_counted(self, row: UsageRow) -> bool:
        now, name = self._clock(), self._known_name(row.endpoint)
        group = (row.key_id, name, row.variant, row.status, row.finish_reason, row.replica_id)
        alike = self._alike.get(group)
        if alike is None or now - alike.since > WINDOW_S:
            self._queue_rest(alike)
            alike = self._alike[group] = _Alike(since=now)
        alike.number += 1
        if alike.number <= (MAX_WITHOUT_KEY if row.finish_reason == INVALID_KEY else MAX_REFUSED):
            return False
        if alike.rest is None:
            # without the job and the unknown model that its client names: others of the group may name another
            known = row.endpoint if name else ""
            alike.rest, alike.rest_since = replace(row, endpoint=known, logged=None, job_id=None), now
        else:
            alike.rest = _added(alike.rest, row)
        return True

    def _known_name(self, endpoint: str) -> str:
        """Return the endpoint that a name means; "" for the names that a client can think of."""
        for name in (endpoint, endpoint.rpartition(":")[0]):
            if name and self._directory.known_replicas(name) is not None:
                return name
        return ""

    def _queue_counted(self, *, older_than_s: float) -> None:
        """Queue the rows of requests that are counted for so long, and forget windows that have passed."""
        now = self._clock()
        for group, alike in list(self._alike.items()):
            is_keyless = alike.rest is not None and alike.rest.finish_reason == INVALID_KEY
            wait_s = WINDOW_S if older_than_s and is_keyless else older_than_s
            if alike.rest is not None and now - alike.rest_since >= wait_s:
                self._queue_rest(alike)
            if now - alike.since > WINDOW_S and alike.rest is None:
                del self._alike[group]

    def _queue_rest(self, alike: _Alike | None) -> None:
        if alike is not None and alike.rest is not None:
            rest, alike.rest = alike.rest, None
            self._queue(rest)

    def _queue(self, row: UsageRow) -> None:
        if len(self._waiting) == MAX_KEPT:
            logger.error("Usage of request %s is lost: %d rows wait for the database.", self._waiting[0].id, MAX_KEPT)
        self._waiting.append(row)

    def add_lost(self, replica_id: str, reason: str) -> None:
        """Queue a request that a replica lost."""
        self._lost.append(LostRequest(uuid4().hex[:12], replica_id, reason, datetime.now(UTC)))

    async def close(self) -> None:
        """Write the remaining rows, trying again for `STOP_S` seconds; those that the database never took are lost."""
        self._queue_counted(older_than_s=0.0)
        try:
            async with asyncio.timeout(STOP_S):
                await self.flush()
                while self._waiting or self._lost:
                    await asyncio.sleep(RETRY_S)
                    await self.flush()
        except TimeoutError:
            logger.error("Usage of %d requests is lost: the database does not answer.", len(self._waiting))

    async def flush(self) -> None:
        """Write the rows that wait. A batch under way is finished where the caller is cancelled, since its rows may
        have to wait again.
        """
        await asyncio.shield(self._flush())

    async def _flush(self) -> None:
        self._queue_counted(older_than_s=COUNTED_S)
        async with self._lock:
            if await self._write(self._waiting, self._directory.record_usage):
                await self._write(self._lost, self._directory.record_failures)

    async def _write(self, waiting: deque[R], store: Callable[[Sequence[R]], None]) -> bool:
        """Write all rows; return False where the database does not take them, which are tried again later."""
        while waiting:
            batch = [waiting.popleft() for _ in range(min(BATCH, len(waiting)))]
            try:
                await asyncio.to_thread(store, batch)
            except Exception:  # the gateway's edge: answers must not depend on the database
                logger.exception("Usage could not be stored; it is tried again.")
                waiting.extendleft(reversed(batch))
                return False
        return True
