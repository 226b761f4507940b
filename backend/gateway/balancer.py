"""Outstanding work and health of replicas, and the choice between them by the policy of their endpoint.

Counts are per process: a polled count would be stale. A replica that fails five times in a row gets no requests
for ten seconds. Refusals of the client's request (4xx) do not count as failures.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backend.domain.serving.deployment import RoutingPolicy
from backend.domain.serving.protocol import GenerateRequest
from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient

MAX_FAILURES = 5
REST_S = 10.0
FORGET_S = 600.0
KNOWN_S = 60.0


@dataclass
class _Record:
    replica: ReplicaAddress
    outstanding: float = 0.0
    requests: int = 0
    failures: int = 0
    rests_until: float = 0.0
    last_used: float = 0.0
    last_turn: int = 0
    offered: float = 0.0


@dataclass
class Lease:
    """A request's place on a replica, to be released once."""

    replica: ReplicaAddress
    cost: float
    is_open: bool = field(default=True)


class Balancer:
    """Outstanding requests and health of every replica that this process has used."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, rng: random.Random | None = None) -> None:
        self._clock = clock
        self.rng = rng or random.Random()
        self._records: dict[tuple[str, str], _Record] = {}
        self._turn = 0

    def acquire(self, replicas: Sequence[ReplicaAddress], *, cost: float = 1.0, affinity: str = "") -> Lease | None:
        """Choose a replica by the policy of its endpoint and count a request of `cost` tokens on it; None if none is
        available.
        """
        now = self._clock()
        for replica in replicas:
            self._record(replica).offered = now
        ready = {replica.id: replica for replica in replicas if self._record(replica).rests_until <= now}
        if not ready:
            return None
        candidates = [
            Candidate(id, (r := self._record(replica)).outstanding, r.last_turn) for id, replica in ready.items()
        ]
        policy = next(iter(ready.values())).policy
        chosen = ready[choose(policy, candidates, cost=cost, affinity=affinity, rng=self.rng).id]
        record = self._record(chosen)
        self._turn += 1
        record.outstanding, record.requests = record.outstanding + cost, record.requests + 1
        record.last_used, record.last_turn = now, self._turn
        return Lease(chosen, cost)

    def release(self, lease: Lease) -> None:
        """Take a request off its replica's count, the first time alone."""
        if not lease.is_open:
            return
        lease.is_open = False
        record = self._record(lease.replica)
        record.requests -= 1
        # no rounding error is left behind
        record.outstanding = record.outstanding - lease.cost if record.requests else 0.0
        self._forget_old()

    def succeeded(self, replica: ReplicaAddress) -> None:
        """Record a success of a replica."""
        self._record(replica).failures = 0

    def failed(self, replica: ReplicaAddress) -> None:
        """Record a failure of a replica (unreachable, broken, timed out). After a pause one more pauses it again."""
        record = self._record(replica)
        record.failures += 1
        if record.failures >= MAX_FAILURES:
            record.rests_until = self._clock() + REST_S

    def rest(self, replica: ReplicaAddress) -> None:
        """Pause a replica at once: it failed its health checks."""
        record = self._record(replica)
        record.failures = max(record.failures, MAX_FAILURES - 1)
        record.rests_until = self._clock() + REST_S

    def recovered(self, replica: ReplicaAddress) -> None:
        """End a replica's pause: it answers its health checks again."""
        record = self._record(replica)
        record.failures, record.rests_until = 0, 0.0

    def known(self) -> list[ReplicaAddress]:
        """Return the replicas with open requests, and those that were offered requests in the last minute."""
        since = self._clock() - KNOWN_S
        return [record.replica for record in self._records.values() if record.requests or record.offered >= since]

    def outstanding(self, replica: ReplicaAddress) -> int:
        """Return the number of this process's open requests on a replica."""
        return self._record(replica).requests

    def num_resting(self) -> int:
        """Return the number of paused replicas."""
        now = self._clock()
        return sum(record.rests_until > now for record in self._records.values())

    def _record(self, replica: ReplicaAddress) -> _Record:
        # By address too: a restarted replica is a new process, with no history.
        record = self._records.get((replica.id, replica.url))
        if record is None:
            record = self._records[replica.id, replica.url] = _Record(replica, last_used=self._clock())
        return record

    def _forget_old(self) -> None:
        before = self._clock() - FORGET_S
        for key in [k for k, r in self._records.items() if r.requests == 0 and r.last_used < before]:
            del self._records[key]


PROBE_S = 2.0
MAX_MISSED = 2
SILENT_S = 3.0
"""Silence of an open request after which it is taken from a replica that misses probes: where lines come, it lives."""


class HealthProbe:
    """Asks every replica in use for its counters, every second, and other servers for their models. Two missed answers
    pause one, and its silent requests go to another, at most six seconds after it froze; the next answer brings it
    back.
    """

    def __init__(self, balancer: Balancer, client: ReplicaClient, upstreams: UpstreamClient) -> None:
        self._balancer, self._client, self._upstreams = balancer, client, upstreams
        self._missed: Counter[tuple[str, str]] = Counter()

    async def probe_all(self) -> None:
        """Probe the replicas with open requests, and those that requests were offered to in the last minute."""
        replicas = self._balancer.known()
        answers = await asyncio.gather(*(self._probe(replica) for replica in replicas))
        for replica, answers_now in zip(replicas, answers, strict=True):
            key = (replica.id, replica.url)
            if not answers_now:
                self._missed[key] += 1
                if self._missed[key] >= MAX_MISSED:
                    self._balancer.rest(replica)
                    self._client.drop(replica.url, silent_s=SILENT_S)
            elif self._missed.pop(key, 0) >= MAX_MISSED:
                self._balancer.recovered(replica)

    async def _probe(self, replica: ReplicaAddress) -> bool:
        if replica.upstream is not None:
            return await self._upstreams.probe(replica.upstream, timeout_s=PROBE_S)
        return await self._client.probe(replica.url, token=replica.token, timeout_s=PROBE_S)


STABLE = "stable"
MAX_COUNTED = 4096
SHARED_CHARACTERS = 500
SLACK = 2.0
"""Session affinity holds while its replica has this many requests of this size more than the least busy one."""


def order_by_variant(
    replicas: Sequence[ReplicaAddress], *, sticky: str, rng: random.Random
) -> list[list[ReplicaAddress]]:
    """Return the replicas of the variant that a request belongs to, then the others, which take over where the first
    have none left.

    With `sticky` (a user or a key) the same requests go to a canary every time, and stay there as its percentage grows;
    without, chance decides.
    """
    canary = [replica for replica in replicas if replica.variant != STABLE]
    stable = [replica for replica in replicas if replica.variant == STABLE]
    if not canary:
        return [stable]
    drawn = _draw(canary[0].variant, sticky) if sticky else rng.uniform(0, 100)
    return [canary, stable] if drawn < canary[0].percent else [stable, canary]


def _draw(variant: str, sticky: str) -> float:
    """Return a number from 0 to 100 that is always the same for a variant and a user."""
    digest = hashlib.sha256(f"{variant}|{sticky}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100


def weigh(request: GenerateRequest) -> float:
    """Return a request's weight: about the tokens of its prompt, and those that it may generate."""
    return 1.0 + request.estimate_prompt() + min(request.most_new_tokens, MAX_COUNTED * request.num_choices)


def conversation_of(request: GenerateRequest, sticky: str) -> str:
    """Return what the requests of one conversation have in common: who asks, and how the prompt begins."""
    if request.messages:
        begin = "|".join(message.content for message in request.messages[:2] if message.role != "assistant")
    else:
        begin = request.prompt or ",".join(map(str, (request.token_ids or ())[:64]))
    return f"{sticky}|{begin[:SHARED_CHARACTERS]}"


@dataclass(frozen=True)
class Candidate:
    """A replica as a policy sees it: open work in tokens, and the turn at which it last got a request (0: never)."""

    id: str
    outstanding: float
    last_turn: int


def choose(
    policy: str, candidates: Sequence[Candidate], *, cost: float, affinity: str, rng: random.Random
) -> Candidate:
    """Return the replica for a request of `cost` tokens. `affinity` is what requests of one conversation have in
    common, or empty.
    """
    if policy == RoutingPolicy.ROUND_ROBIN:
        return _longest_unused(candidates, rng)
    if policy == RoutingPolicy.POWER_OF_TWO and len(candidates) > 2:
        return _least_busy(rng.sample(list(candidates), 2), rng)
    least = _least_busy(candidates, rng)
    if policy == RoutingPolicy.SESSION_AFFINITY and affinity:
        home = max(candidates, key=lambda candidate: hashlib.sha256(f"{affinity}|{candidate.id}".encode()).digest())
        return home if home.outstanding <= least.outstanding + SLACK * cost else least
    return least


def _least_busy(candidates: Sequence[Candidate], rng: random.Random) -> Candidate:
    fewest = min(candidate.outstanding for candidate in candidates)
    return _longest_unused([candidate for candidate in candidates if candidate.outstanding == fewest], rng)


def _longest_unused(candidates: Sequence[Candidate], rng: random.Random) -> Candidate:
    """Ties go to the replica whose last request is longest ago: without load each gets its exact share."""
    oldest = min(candidate.last_turn for candidate in candidates)
    return rng.choice([candidate for candidate in candidates if candidate.last_turn == oldest])
