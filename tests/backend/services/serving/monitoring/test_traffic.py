"""Rollups give what the requests themselves give, from few rows."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select

from backend.db.tables import Endpoint, TrafficRollup
from backend.domain.serving.latency import GROWTH, bucket_of
from backend.domain.serving.request_log import LOAD_TEST
from backend.services.context import Context
from backend.services.serving.monitoring.rollups import GaugeValue, add_gauges, forget_rollups
from backend.services.serving.monitoring.traffic import (
    WINDOWS,
    endpoint_totals,
    find_window,
    list_variants,
    read_traffic,
    read_traffic_gauges,
)
from backend.services.serving.usage import UsageRow, add_usage
from tests.support.scenario import Scenario

NOON = datetime(2026, 11, 27, 12, 0, 30, tzinfo=UTC)


@pytest.fixture
def ctx(any_ctx: Context) -> Context:
    for name in ("tales", "other"):
        Scenario(any_ctx).endpoint(name)
    return replace(any_ctx, now=lambda: NOON)


def make_requests(count: int) -> list[UsageRow]:
    rng = random.Random(2)
    return [
        UsageRow(
            f"r{n}",
            rng.choice(["tales", "other"]),
            None,
            None,
            10,
            20,
            rng.lognormvariate(5, 1),
            rng.lognormvariate(7, 1),
            rng.choice(["finished", "finished", "lost", "aborted"]),
            NOON - timedelta(seconds=rng.random() * 3000),
            gaps={bucket_of(rng.lognormvariate(-3, 0.5)): 1},
            cost_usd=0.001,
            variant=rng.choice(["", "canary"]),
            queue_ms=8.0 if n % 3 else None,
        )
        for n in range(count)
    ]


def test_a_window_sums_its_requests_and_its_percentiles_are_within_a_bucket(ctx: Context) -> None:
    requests = make_requests(300)
    add_usage(ctx, requests[:150])
    add_usage(ctx, requests[100:])  # some again, as after an error
    for label in ("1 h", "6 h", "24 h", "7 days", "30 days"):
        traffic = read_traffic(ctx, find_window(label), endpoint="tales")
        mine = [request for request in requests if request.endpoint == "tales"]
        assert traffic.total.requests == len(mine) == sum(point.requests for point in traffic.points)
        assert traffic.total.lost == sum(request.status == "lost" for request in mine)
        first = sorted(request.ttft_ms or 0.0 for request in mine)
        for quantile, value in zip((0.5, 0.95, 0.99), traffic.total.ttft_ms, strict=True):
            true = first[-(-int(quantile * 100) * len(first) // 100) - 1]
            assert value is not None
            assert 1 / GROWTH < value / true < GROWTH
        assert len(traffic.points) <= 182
        assert traffic.total.queue_ms == pytest.approx((8.0, 8.0, 8.0), rel=0.08)
    everything = read_traffic(ctx, find_window("1 h"))
    assert everything.total.requests == 300
    assert list_variants(ctx, find_window("1 h"), endpoint="tales") == {"canary": "canary"}
    canary = read_traffic(ctx, find_window("1 h"), endpoint="tales", variant="canary")
    assert canary.total.requests == sum(r.variant == "canary" and r.endpoint == "tales" for r in requests)


def test_totals_by_endpoint_are_those_of_the_requests(ctx: Context) -> None:
    requests = make_requests(200)
    add_usage(ctx, requests)
    add_usage(ctx, [replace(requests[0], id="load", variant=LOAD_TEST)])
    window = find_window("1 h")
    by_endpoint = endpoint_totals(ctx, window)
    assert {name: total.requests for name, total in by_endpoint.items()} == {
        name: sum(request.endpoint == name for request in requests) for name in ("tales", "other")
    }


def test_rollups_of_a_width_are_deleted_past_their_time_and_a_month_stays(ctx: Context) -> None:
    rows = [
        UsageRow(f"d{n}", "tales", None, None, 1, 1, 5.0, 9.0, "finished", NOON - timedelta(days=n)) for n in range(25)
    ]
    add_usage(ctx, rows)
    with ctx.db.write() as session:
        forget_rollups(session, now=NOON)
    with ctx.db.read() as session:
        counts = dict(
            session.execute(select(TrafficRollup.width_s, func.count()).group_by(TrafficRollup.width_s)).all()
        )
    assert counts == {60: 2, 600: 8, 3600: 25}
    assert read_traffic(ctx, WINDOWS[-1]).total.requests == 25


def test_gauges_are_means_per_step_sums_over_endpoints_and_the_highest_ratio(ctx: Context) -> None:
    with ctx.db.write() as session:
        ids = list(session.scalars(select(Endpoint.id)))
        tales = session.scalar(select(Endpoint.id).where(Endpoint.name == "tales"))
        for seconds in (0, 15):
            values = [GaugeValue(f"endpoint:{id_}", "running", float(seconds)) for id_ in ids]
            values += [GaugeValue(f"endpoint:{id_}", "cache_ratio", 0.2 * n) for n, id_ in enumerate(ids, 1)]
            values += [GaugeValue(f"variant:{tales}:stable", "running", 7.0)]
            add_gauges(
                session,
                [*values, GaugeValue("host:lab", "cpu_ratio", 0.5)],
                at=NOON.replace(second=0) + timedelta(seconds=seconds),
            )
    series = {(s.subject, s.name): s for s in read_traffic_gauges(ctx, find_window("15 min"))}
    assert [value for _, value in series["endpoint", "running"].points] == [15.0]
    assert [value for _, value in series["endpoint", "cache_ratio"].points] == [pytest.approx(0.4)]
    assert series["endpoint", "running"].maximum == 15.0
    assert series["host:lab", "cpu_ratio"].points[0][1] == 0.5
    of_variant = {
        s.name: s
        for s in read_traffic_gauges(ctx, find_window("15 min"), endpoint="tales", variant="stable")
        if s.subject == "endpoint"
    }
    assert [value for _, value in of_variant["running"].points] == [7.0]
