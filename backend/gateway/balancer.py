"""Choose the replica with the fewest open requests; break ties at random.

Counts are per process: a polled count would be stale. A replica that fails five times in a row gets no requests
for ten seconds. Refusals of the client's request (4xx) do not count as failures.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.gateway.directory import ReplicaAddress

MAX_FAILURES = 5
REST_S = 10.0
FORGET_S = 600.0


@dataclass
class _Record:
    outstanding: int = 0
    failures: int = 0
    rests_until: float = 0.0
    last_used: float = 0.0


class Balancer:
    """Outstanding requests and health of every replica that this process has used."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._rng = rng or random.Random()
        self._records: dict[tuple[str, str], _Record] = {}

    def acquire(self, replicas: Sequence[ReplicaAddress]) -> ReplicaAddress | None:
        """Choose a replica and count a request on it; None if none is available. Each must be released once."""
        now = self._clock()
        ready = [replica for replica in replicas if self._record(replica).rests_until <= now]
        if not ready:
            return None
        fewest = min(self._record(replica).outstanding for replica in ready)
        chosen = self._rng.choice([replica for replica in ready if self._record(replica).outstanding == fewest])
        record = self._record(chosen)
        record.outstanding += 1
        record.last_used = now
        return chosen

    def release(self, replica: ReplicaAddress) -> None:
        """Decrement a replica's count."""
        record = self._record(replica)
        record.outstanding = max(0, record.outstanding - 1)
        self._forget_old()

    def succeeded(self, replica: ReplicaAddress) -> None:
        """Record a success of a replica."""
        self._record(replica).failures = 0

    def failed(self, replica: ReplicaAddress) -> None:
        """Record a failure of a replica (unreachable, broken off or timed out). After a pause, one more failure pauses it again."""
        record = self._record(replica)
        record.failures += 1
        if record.failures >= MAX_FAILURES:
            record.rests_until = self._clock() + REST_S

    def outstanding(self, replica: ReplicaAddress) -> int:
        """Return the number of this process's open requests on a replica."""
        return self._record(replica).outstanding

    def num_resting(self) -> int:
        """Return the number of paused replicas."""
        now = self._clock()
        return sum(record.rests_until > now for record in self._records.values())

    def _record(self, replica: ReplicaAddress) -> _Record:
        # By address too: a restarted replica is a new process, with no history.
        return self._records.setdefault((replica.id, replica.url), _Record(last_used=self._clock()))

    def _forget_old(self) -> None:
        before = self._clock() - FORGET_S
        for key in [k for k, r in self._records.items() if r.outstanding == 0 and r.last_used < before]:
            del self._records[key]
