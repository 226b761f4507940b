"""Requests to an endpoint that sleeps: the first one wakes it, and all of them wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from backend.gateway.directory import Directory, ReplicaAddress
from backend.gateway.request import Starting
from backend.services.serving.autoscaling import Waking

LOOK_S = 0.25
SAY_S = 5.0  # proxies cut connections that are silent for a minute or less


async def wait_for_replicas(
    directory: Directory, endpoint: str, *, read: Callable[[], Awaitable[Sequence[ReplicaAddress]]], is_streamed: bool
) -> AsyncGenerator[Starting, None]:
    """Wake an endpoint that sleeps and wait until `read` returns a replica, or the request has waited for as long as it
    may.

    Ends at once for an endpoint that does not sleep. Raises what `read` does.
    """
    began = said = time.monotonic()
    waking = await _wake(directory, endpoint)
    if waking is None:
        return
    yield Starting(endpoint)
    until = began + (waking.stream_s if is_streamed else waking.whole_s)
    while not await read():
        if time.monotonic() >= until:
            return
        if time.monotonic() - said >= SAY_S:
            said = time.monotonic()
            yield Starting(endpoint)
            await _wake(directory, endpoint)  # it may have gone to sleep as the request came
        await asyncio.sleep(LOOK_S)


async def _wake(directory: Directory, endpoint: str) -> Waking | None:
    return await asyncio.to_thread(directory.wake, endpoint)
