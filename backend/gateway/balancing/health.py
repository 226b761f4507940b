"""Health of replicas as this gateway sees it: a machine that is cut off answers no probe, whatever the database says of
it.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from backend.gateway.balancing.balancer import Balancer
from backend.gateway.directory import ReplicaAddress
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient

PROBE_S = 2.0
MAX_MISSED = 2
SILENT_S = 3.0
"""Silence of an open request after which it is taken from a replica that misses its probes: where lines still come, it
lives.
"""


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
