"""Work beside the requests, on the gateway's event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

logger = logging.getLogger(__name__)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines for as long as the block runs."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Take a step again and again, with a pause before each. One that fails is logged, and ends none after it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
        except Exception:  # an edge: no request waits for this work, and the next step may succeed
            logger.exception("Work in the background failed; it is tried again.")
