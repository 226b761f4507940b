"""The load generator against a real gateway and a scripted replica."""

from __future__ import annotations

from backend.domain.jobs.load_test import LoadTarget
from backend.domain.serving.load import LoadConfig, summarise_load
from backend.domain.serving.request_log import LOAD_TEST
from backend.gateway.directory import ReplicaAddress
from backend.infra.load_generator import LoadProgress, run_level, run_load
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway, scripted


def test_gateway_and_replica_are_measured_in_a_closed_and_an_open_loop_and_errors_are_counted() -> None:
    with scripted() as (replica, replica_url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t")]})
        with gateway(directory) as url:
            replica.delay_s = 0.01
            through = LoadTarget(kind="gateway", url=url, model="small", token=KEY)
            direct = LoadTarget(kind="replica", url=replica_url, model="small", token="t")
            for target in (through, direct):
                closed = run_level(LoadConfig(requests=6, warmup=1), [target], users=3)
                summary = summarise_load([closed], slo_ttft_ms=1e4, slo_itl_ms=1e4)
                assert (summary.requests, summary.errors, summary.good_share) == (6, 0, 1.0)
                assert (summary.prompt_tokens, summary.completion_tokens) == (30, 18)
                assert sum(len(record.gaps_s) for record in closed.counted) == 12  # two between three tokens
                assert summary.e2e is not None
                assert summary.e2e.p50_ms >= 20
                opened = run_level(LoadConfig(rate=200.0, requests=5, warmup=2), [target], users=1)
                assert (len(opened.records), len(opened.counted)) == (7, 5)
            replica.script = "refuse:429:queue_full"
            refused = summarise_load(
                [run_level(LoadConfig(requests=2, warmup=0), [target], users=1)], slo_ttft_ms=1, slo_itl_ms=1
            )
            assert (refused.errors, refused.ttft) == (2, None)
            assert refused.first_error.startswith("429")
            replica.script = "break"
            broken = run_level(LoadConfig(requests=1, warmup=0), [through], users=1)
            assert "replica_lost" in broken.counted[0].error


def test_the_seconds_of_a_level_begin_after_a_warm_up_that_takes_longer() -> None:
    """The warm-up of one user took the whole time, and the level counted no request."""
    with scripted() as (replica, replica_url):
        replica.delay_s = 0.05
        target = LoadTarget(kind="replica", url=replica_url, model="small", token="t")
        run = run_level(LoadConfig(duration_s=0.1, warmup=4), [target], users=1)
    assert len(run.records) - len(run.counted) == 4
    assert run.counted


def test_a_load_test_alternates_gateway_and_replica_and_stops_at_once_when_asked() -> None:
    with scripted() as (replica, replica_url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t")]})
        with gateway(directory) as url:
            targets = [
                LoadTarget(kind="gateway", url=url, model="small", token=KEY),
                LoadTarget(kind="replica", url=replica_url, model="small", token="t"),
            ]
            progress: list[LoadProgress] = []
            (level,) = run_load(LoadConfig(users=(2,), requests=8, warmup=1), targets, on_progress=progress.append)
            assert (level["gateway"]["requests"], level["replica"]["requests"]) == (8, 8)
            order = [report.target for report in progress]
            assert [kind for kind, before in zip(order, [None, *order], strict=False) if kind != before] == [
                "gateway",
                "replica",
                "gateway",
            ]
            assert progress[-1].share == 1.0
            assert level["gateway_overhead"]["ttft_p50_ms"] is not None
            (alone,) = run_load(LoadConfig(users=(1,), duration_s=0.2, warmup=0, targets=("replica",)), targets)
            assert (alone["gateway"], alone["gateway_overhead"]) == (None, None)
            assert alone["replica"]["duration_s"] >= 0.15
            replica.delay_s = 5.0
            assert run_load(LoadConfig(users=(2,), requests=8), targets, should_stop=lambda: True) == []


def test_a_request_that_is_sent_late_counts_its_delay() -> None:
    """Coordinated omission: an overloaded generator or server must not make latencies smaller."""
    with scripted() as (replica, replica_url):
        replica.delay_s = 0.0
        target = LoadTarget(kind="replica", url=replica_url, model="small", token="t")
        run = run_level(LoadConfig(arrivals=(0.0,) * 40, warmup=4), [target], users=1)
        assert len(run.counted) == 40
        assert {record.start_s for record in run.records} == {run.start_s}
        assert all(record.ttft_s is None or record.ttft_s >= record.late_s >= 0 for record in run.records)


def test_requests_of_a_load_test_are_stored_as_such_and_their_texts_are_not_logged() -> None:
    with scripted() as (_, replica_url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=replica_url, token="t", variant="stable")]})
        directory.log_modes = {"small": "bodies"}
        with gateway(directory) as url:
            target = LoadTarget(kind="gateway", url=url, model="small", token=KEY)
            run_level(LoadConfig(requests=2, warmup=0), [target], users=1)
            row = directory.last(2)
            assert (row.variant, row.logged, row.status) == (LOAD_TEST, None, "finished")
