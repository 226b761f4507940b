"""HTTP for servers that strangers may connect to: a client that is slow to send or to read loses its own connection,
and no other's.

uvicorn limits neither the time of a head, of a body and of a reader, nor what one address may open, so that a thousand
half heads end all accepting where a process may open 1,024 files.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_FILES = 65_536
OTHER_FILES = 256
"""Files of a server beside its clients' and their replicas' connections."""
MAX_CONNECTIONS = 8192
SWEEP_S = 1.0


@dataclass(frozen=True)
class ClientTimeouts:
    """Seconds that a client may take: for the head of a request, for its body, and without reading what is sent."""

    head_s: float = 15.0
    body_s: float = 60.0
    send_s: float = 60.0


def raise_file_limit() -> int:
    """Raise the number of files that this process may open as far as the system lets it, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return MAX_FILES if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    except (ValueError, OSError):  # macOS names a hard limit beyond what it grants
        return soft
    return most


def connections_for(files: int) -> int:
    """Return how many clients' connections fit this many files, each with one of its own to a replica."""
    return max(16, min(MAX_CONNECTIONS, (files - OTHER_FILES) // 2))


@dataclass
class Guard:
    """The connections of one server: in all, and of one address, at most this many.

    Where one more would be too many, the oldest one without a complete request is closed, of the address that has the
    most such ones; the new one is where all are being answered.
    """

    most: int
    most_per_client: int
    patience: ClientTimeouts = ClientTimeouts()
    _by_client: dict[str, dict[GuardedProtocol, None]] = field(default_factory=lambda: defaultdict(dict))
    _count: int = 0
    _sweep: asyncio.TimerHandle | None = None

    def add(self, protocol: GuardedProtocol) -> None:
        """Take a new connection, or close it or another one."""
        own = self._by_client[protocol.address]
        own[protocol] = None
        self._count += 1
        if len(own) > self.most_per_client:
            self._close_one(own, otherwise=protocol)
        elif self._count > self.most:
            self._close_one(max(self._by_client.values(), key=_num_waiting), otherwise=protocol)
        if self._sweep is None:
            self._sweep = protocol.loop.call_later(SWEEP_S, self._look, protocol.loop)

    def remove(self, protocol: GuardedProtocol) -> None:
        """Forget a connection."""
        own = self._by_client.get(protocol.address, {})
        if protocol in own:
            del own[protocol]
            self._count -= 1
        if not own:
            self._by_client.pop(protocol.address, None)

    def _close_one(self, own: dict[GuardedProtocol, None], *, otherwise: GuardedProtocol) -> None:
        victim = next((protocol for protocol in own if protocol.is_waiting and protocol is not otherwise), otherwise)
        self.remove(victim)
        victim.transport.abort()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for protocol in [protocol for own in self._by_client.values() for protocol in own]:
            if protocol.is_late(now, self.patience):
                protocol.transport.abort()
        self._sweep = loop.call_later(SWEEP_S, self._look, loop) if self._count else None


def _num_waiting(own: dict[GuardedProtocol, None]) -> int:
    return sum(protocol.is_waiting for protocol in own)


class GuardedProtocol(H11Protocol):
    """uvicorn's protocol with a guard over its clients."""

    def __init__(self, *arguments: Any, guard: Guard, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._guard = guard
        self.address = ""
        self._stage: object = None
        self._stage_since = self._sent_at = time.monotonic()
        self._has_served = False

    @property
    def is_waiting(self) -> bool:
        """Return whether the client has yet to send a complete request."""
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def is_late(self, now: float, patience: ClientTimeouts) -> bool:
        """Return whether the client takes longer than it may to send its request or to read its answer."""
        stage: object = self.conn.their_state
        is_idle = stage is h11.IDLE and self._has_served and not self.conn.trailing_data[0]
        if is_idle or not self.is_waiting:
            stage = None
        if stage is not self._stage:
            self._stage, self._stage_since = stage, now
        if not self.transport.get_write_buffer_size():
            self._sent_at = now
        if now - self._sent_at > patience.send_s:
            return True
        limit_s = patience.body_s if stage is h11.SEND_BODY else patience.head_s
        return stage is not None and now - self._stage_since > limit_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._stage, self._stage_since = self.conn.their_state, time.monotonic()
        self._guard.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._guard.remove(self)
        super().connection_lost(exc)

    def resume_writing(self) -> None:
        """Note that the client reads."""
        self._sent_at = time.monotonic()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """Note that the connection has served."""
        self._has_served = True
        super().on_response_complete()


def guarded(guard: Guard) -> Any:
    """Return the protocol class for `uvicorn.Config(http=...)`."""
    return partial(GuardedProtocol, guard=guard)
