"""Share of a replica's busy time that each request takes: at any moment the open requests of a replica share it
evenly.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Replica:
    open: int = 0
    clock: float = 0.0  # integral of dt / open
    read_at: float = 0.0


class BusyShares:
    """A clock per replica that runs at 1 / (open requests). A request's share is the clock's advance between its start
    and its end, so the shares of all requests sum to the replica's busy time (processor sharing; Kleinrock, Queueing
    Systems II, 1976, section 4.4).
    """

    def __init__(self, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._replicas: dict[str, _Replica] = {}

    def begin(self, replica_id: str) -> float:
        """Count a request as open; return the reading to give to `end`."""
        replica = self._advance(replica_id)
        replica.open += 1
        return replica.clock

    def end(self, replica_id: str, began: float) -> float:
        """Count a request as ended; return the seconds of the replica that it took."""
        replica = self._advance(replica_id)
        share = replica.clock - began
        replica.open -= 1
        if replica.open == 0:
            del self._replicas[replica_id]
        return share

    def _advance(self, replica_id: str) -> _Replica:
        now = self._now()
        replica = self._replicas.setdefault(replica_id, _Replica(read_at=now))
        if replica.open:
            replica.clock += (now - replica.read_at) / replica.open
        replica.read_at = now
        return replica
