"""The load generator against a real gateway and a scripted replica."""

from __future__ import annotations

from backend.domain.serving.load import LoadConfig, summarise
from backend.gateway.directory import ReplicaAddress
from backend.infra.load_generator import LoadTarget, run_level
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway, scripted


def test_gateway_and_replica_are_measured_in_a_closed_and_an_open_loop_and_errors_are_counted() -> None:
    with scripted() as (replica, replica_url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t")]})
        with gateway(directory) as url:
            replica.delay_s = 0.01
            for target in (LoadTarget("gateway", url, "small", KEY), LoadTarget("replica", replica_url, "small", "t")):
                closed = run_level(LoadConfig(requests=6, warmup=1), [target], users=3)
                summary = summarise(closed, slo_ttft_ms=1e4, slo_itl_ms=1e4)
                assert (summary.requests, summary.errors, summary.good_share) == (6, 0, 1.0)
                assert (summary.prompt_tokens, summary.completion_tokens) == (30, 18)
                assert sum(len(record.gaps_s) for record in closed) == 12  # two between three tokens
                assert summary.e2e is not None
                assert summary.e2e.p50_ms >= 20
                assert len(run_level(LoadConfig(rate=200.0, requests=5, warmup=0), [target], users=1)) == 5
            replica.script = "refuse:429:queue_full"
            refused = summarise(run_level(LoadConfig(requests=2, warmup=0), [target], users=1), slo_ttft_ms=1, slo_itl_ms=1)
            assert (refused.errors, refused.ttft) == (2, None)
            assert refused.first_error.startswith("429")
            replica.script = "break"
            broken = run_level(LoadConfig(requests=1, warmup=0), [LoadTarget("gateway", url, "small", KEY)], users=1)
            assert "replica_lost" in broken[0].error
