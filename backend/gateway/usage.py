"""Usage rows, written in batches in the background, so that no client waits for the database."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from backend.gateway.directory import Directory
from backend.services.serving.usage import UsageRow

logger = logging.getLogger(__name__)
FLUSH_S = 0.5
MAX_KEPT = 50_000
STOP_S = 5.0
BATCH = 500


class UsageWriter:
    """Collects rows and writes them through the directory twice a second; keeps them while the database is unavailable."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._waiting: deque[UsageRow] = deque(maxlen=MAX_KEPT)
        self._task: asyncio.Task[None] | None = None

    def add(self, row: UsageRow) -> None:
        """Queue a row."""
        if len(self._waiting) == MAX_KEPT:
            logger.error("Usage of request %s is lost: %d rows wait for the database.", self._waiting[0].id, MAX_KEPT)
        self._waiting.append(row)

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
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                await asyncio.to_thread(self._directory.record_usage, batch)
            except Exception:  # the gateway's edge: answers must not depend on the database
                logger.exception("Usage could not be stored; it is tried again.")
                self._waiting.extendleft(reversed(batch))
                return
