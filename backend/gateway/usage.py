"""Usage rows, written in batches in the background, so that no client waits for the database."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4

from backend.gateway.directory import Directory
from backend.services.serving.failures import LostRequest
from backend.services.serving.usage import UsageRow

logger = logging.getLogger(__name__)
FLUSH_S = 0.5
MAX_KEPT = 50_000
STOP_S = 5.0
BATCH = 500
R = TypeVar("R")


class UsageWriter:
    """Collects rows and writes them through the directory twice a second; keeps them while the database is unavailable."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._waiting: deque[UsageRow] = deque(maxlen=MAX_KEPT)
        self._lost: deque[LostRequest] = deque(maxlen=MAX_KEPT)
        self._task: asyncio.Task[None] | None = None

    def add(self, row: UsageRow) -> None:
        """Queue a row."""
        if len(self._waiting) == MAX_KEPT:
            logger.error("Usage of request %s is lost: %d rows wait for the database.", self._waiting[0].id, MAX_KEPT)
        self._waiting.append(row)

    def add_lost(self, replica_id: str, reason: str) -> None:
        """Queue a request that a replica lost."""
        self._lost.append(LostRequest(uuid4().hex[:12], replica_id, reason, datetime.now(UTC)))

    def start(self) -> None:
        """Begin writing, on the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write the remaining rows."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_S):
                await self._flush()
        except TimeoutError:
            logger.error("Usage of %d requests is lost: the database does not answer.", len(self._waiting))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await asyncio.shield(self._flush())

    async def _flush(self) -> None:
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
