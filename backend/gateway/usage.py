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
MAX_KEPT = 50_000
STOP_S = 5.0
RETRY_S = 0.2
BATCH = 500
R = TypeVar("R")


class UsageWriter:
    """Collects rows and writes them through the directory twice a second; keeps them while the database is
    unavailable.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._waiting: deque[UsageRow] = deque(maxlen=MAX_KEPT)
        self._lost: deque[LostRequest] = deque(maxlen=MAX_KEPT)
        self._lock = asyncio.Lock()

    def add(self, row: UsageRow) -> None:
        """Queue a row; beyond `MAX_KEPT` the oldest is lost."""
        if len(self._waiting) == MAX_KEPT:
            logger.error("Usage of request %s is lost: %d rows wait for the database.", self._waiting[0].id, MAX_KEPT)
        self._waiting.append(row)

    def add_lost(self, replica_id: str, reason: str) -> None:
        """Queue a request that a replica lost."""
        self._lost.append(LostRequest(uuid4().hex[:12], replica_id, reason, datetime.now(UTC)))

    async def close(self) -> None:
        """Write the remaining rows, trying again for `STOP_S` seconds; those that the database never took are lost."""
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
