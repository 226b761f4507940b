"""The gateway's own view of replicas: silence pauses one, an answer brings it back."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from backend.gateway.balancing.balancer import Balancer
from backend.gateway.balancing.health import HealthProbe
from backend.gateway.directory import ReplicaAddress
from backend.infra.replicas import ReplicaClient
from backend.infra.upstream.client import UpstreamClient
from tests.support.gateway_fixtures import scripted


def test_a_replica_that_misses_two_probes_gets_no_requests_until_it_answers() -> None:
    balancer = Balancer()
    with scripted() as (_, url):
        here = ReplicaAddress("here", url, "t")
        gone = ReplicaAddress("gone", "http://127.0.0.2:9", "t")
        assert balancer.acquire([here, gone]) is not None

        async def probe(*, times: int) -> None:
            client = ReplicaClient()
            health = HealthProbe(balancer, client, UpstreamClient())
            for _ in range(times):
                await health.probe_all()
            await client.close()

        asyncio.run(probe(times=1))
        assert balancer.num_resting() == 0, "one missed answer is no proof"
        asyncio.run(probe(times=2))
        assert balancer.num_resting() == 1
        chosen = [balancer.acquire([here, gone]) for _ in range(4)]
        assert {lease.replica.id for lease in chosen if lease} == {"here"}
        balancer.recovered(gone)
        assert balancer.acquire([replace(gone)]) is not None
