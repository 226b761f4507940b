"""Requests of load tests: kept, under their own name, out of what people read of their traffic."""

from __future__ import annotations

from datetime import timedelta

from backend.db.tables import ApiKey
from backend.domain.serving.request_log import LOAD_TEST
from backend.services.context import LOCAL, Context
from backend.services.serving.costs import read_price_ledger
from backend.services.serving.monitoring.traffic import find_window, list_variants, read_traffic
from backend.services.serving.request_log.browse import RequestFilter, browse_requests, get_request
from backend.services.serving.usage import UsageRow, UsageStatus, add_usage
from tests.support.scenario import Scenario, add_row


def test_load_tests_are_left_out_of_requests_traffic_and_costs_by_key_and_can_be_looked_at(any_ctx: Context) -> None:
    ctx = any_ctx
    Scenario(ctx).endpoint()
    add_row(ctx, ApiKey(id="k", name="app", key_hash="h", hint="abcd"))
    at = ctx.now() - timedelta(seconds=1)
    people = [UsageRow(f"p{n}", "tales", "k", None, 10, 5, 4.0, 9.0, "finished", at, cost_usd=0.01) for n in range(3)]
    tests = [
        UsageRow(
            f"t{n}",
            "tales",
            "k",
            None,
            100,
            50,
            900.0,
            990.0,
            "finished",
            at,
            cost_usd=0.1,
            device_s=1.0,
            variant=LOAD_TEST,
        )
        for n in range(7)
    ]
    add_usage(ctx, [*people, *tests])

    listed = browse_requests(ctx, RequestFilter(), person=LOCAL).rows
    assert {row.id for row in listed} == {"p0", "p1", "p2"}
    chosen = browse_requests(ctx, RequestFilter(variant=LOAD_TEST), person=LOCAL).rows
    assert len(chosen) == 7
    assert get_request(ctx, "t0", person=LOCAL).row.variant == LOAD_TEST

    window = find_window("1 h")
    traffic = read_traffic(ctx, window, endpoint="tales")
    total = traffic.total
    assert traffic.load_tests == 7, "Monitor says what it leaves out"
    assert (total.requests, total.completion_tokens) == (3, 15)
    assert total.ttft_ms[1] is not None
    assert total.ttft_ms[1] < 10
    assert list_variants(ctx, window, endpoint="tales") == {LOAD_TEST: LOAD_TEST}
    assert read_traffic(ctx, window, variant=LOAD_TEST).total.requests == 7

    ledger = read_price_ledger(ctx, since=at - timedelta(hours=2), until=at + timedelta(hours=1))
    assert {line.name: (line.requests, round(line.usd, 6)) for line in ledger.keys} == {
        "app": (3, 0.03),
        "(load tests)": (7, 0.7),
    }
    (line,) = ledger.endpoints
    assert (line.requests, line.tokens, line.load_tests) == (3, 45, 7)
    assert sum(key.requests for key in ledger.keys) == line.requests + line.load_tests


def test_refused_requests_are_listed_with_their_reason_and_no_error_of_the_servers(any_ctx: Context) -> None:
    ctx = any_ctx
    Scenario(ctx).endpoint()
    add_row(ctx, ApiKey(id="k", name="app", key_hash="h", hint="abcd"))
    at = ctx.now() - timedelta(seconds=1)

    def row(id_: str, endpoint: str, status: UsageStatus, reason: str) -> UsageRow:
        return UsageRow(id_, endpoint, "k", None, 0, 0, None, 9.0, status, at, finish_reason=reason)

    refused = [row(f"r{n}", "tales", "refused", "invalid_value") for n in range(7)]
    unknown = row("u", "nowhere", "refused", "model_not_found")
    served = [row("f", "tales", "finished", "stop"), row("l", "tales", "lost", "replica_lost")]
    add_usage(ctx, [*refused, unknown, *served])

    listed = browse_requests(ctx, RequestFilter(status="refused"), person=LOCAL).rows
    assert len(listed) == 8
    assert {(one.endpoint, one.finish_reason) for one in listed} == {
        ("tales", "invalid_value"),
        ("nowhere (no such endpoint)", "model_not_found"),
    }
    total = read_traffic(ctx, find_window("1 h"), endpoint="tales").total
    assert (total.error_share, total.refused_share) == (0.5, 7 / 9)
    assert read_traffic(ctx, find_window("1 h")).total.refused == 8
    empty = read_traffic(ctx, find_window("1 h"), variant="none").total
    assert (empty.error_share, empty.refused_share) == (None, None)
