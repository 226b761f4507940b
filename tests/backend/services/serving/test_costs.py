"""The ledger against figures worked by hand."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from backend.db.tables import (
    Checkpoint,
    Dataset,
    DatasetVersion,
    Deployment,
    DeviceUse,
    Endpoint,
    EvaluatedEndpoint,
    Evaluation,
    Job,
    Replica,
    Run,
    Usage,
)
from backend.domain.estimates.prices import DevicePrices
from backend.domain.serving.request_log import LOAD_TEST
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import claim_job, give_back
from backend.services.people.keys import check_key, create_key, key_spending
from backend.services.serving.costs import (
    cost_report,
    forecast_this_month,
    price_report,
    read_price_ledger,
    report_csv,
    standing_costs,
)
from backend.services.serving.monitoring.traffic import compare_revisions, find_window
from backend.services.serving.prices import replica_prices, set_price
from backend.services.serving.request_log.browse import RequestFilter, browse_requests, get_request
from backend.services.serving.usage import UsageRow, add_usage
from tests.support.scenario import Scenario, add_row

NOON = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)


@pytest.fixture
def priced(any_ctx: Context) -> Context:
    prices = DevicePrices(default=2.0, named={"cpu": 0.5})
    policy = replace(any_ctx.policy, prices=prices, disk_gb_month_usd=0.1)
    return replace(any_ctx, policy=policy, now=lambda: NOON)


def add_job(ctx: Context, job_id: str, kind: str, **payload: object) -> None:
    add_row(ctx, Job(id=job_id, kind=kind, queue="serve", status="queued", payload=payload, title=f"{kind} {job_id}"))


def use(
    ctx: Context,
    job_id: str,
    *,
    start: datetime,
    end: datetime | None,
    kind: str = "cpu",
    count: int = 1,
    price: float | None = None,
) -> None:
    add_row(ctx, DeviceUse(job_id=job_id, kind=kind, num_devices=count, hour_usd=price, started_at=start, ended_at=end))


def add_endpoint(ctx: Context) -> str:
    deployment = Scenario(ctx).endpoint()
    add_job(ctx, "replica", "replica", name="tales", internal_token="t", checkpoint="c")
    add_row(ctx, Replica(id="r", deployment_id=deployment, job_id="replica", internal_token="t", status="ready"))
    return Scenario(ctx).checkpoint("small")


def test_an_evaluation_sums_its_device_and_the_requests_that_it_made_and_a_run_what_its_checkpoints_cost(
    priced: Context,
) -> None:
    """A run trained for an hour at $0.50. Its checkpoint is evaluated for half an hour, $0.25, which asks an endpoint
    for $0.04, and answers a request for $0.10: $0.89 in all. A request that names a job which is none counts nowhere
    else.
    """
    add_endpoint(priced)
    add_job(priced, "jobtrain0001", "train", run_folder="runs/x")
    add_job(priced, "jobeval00001", "evaluate")
    with priced.db.write() as session:
        session.add(Run(id="run1", name="oak", objective="pretrain", config={}, job_id="jobtrain0001"))
        session.add(Dataset(id="d", name="facts", kind="benchmark"))
        session.flush()
        session.add(DatasetVersion(id="v", dataset_id="d", number=1))
        session.add(Checkpoint(id="own", name="oak step 1", origin="run", run_id="run1", step=1))
        session.flush()
        session.add(
            Evaluation(
                id="e", checkpoint_id="own", dataset_version_id="v", kind="multiple_choice", job_id="jobeval00001"
            )
        )
        deployment = session.query(Deployment).one()
        session.add(Replica(id="s", deployment_id=deployment.id, internal_token="t", status="ready"))
    use(priced, "jobtrain0001", start=NOON - timedelta(hours=1), end=NOON)
    use(priced, "jobeval00001", start=NOON - timedelta(minutes=30), end=NOON)
    at = NOON - timedelta(minutes=5)
    add_usage(
        priced,
        [UsageRow("a", "tales", None, "r", 5, 5, 9.0, 9.0, "finished", at, cost_usd=0.04, job_id="jobeval00001")],
    )
    add_usage(
        priced,
        [UsageRow("b", "tales", None, "r", 5, 5, 9.0, 9.0, "finished", at, cost_usd=0.02, job_id="nojob0000001")],
    )
    add_usage(priced, [UsageRow("c", "tales", None, None, 5, 5, 9.0, 9.0, "finished", at, cost_usd=0.10)])
    with priced.db.write() as session:
        session.get_one(Usage, "c").checkpoint_id = "own"
    ledger = read_price_ledger(priced, since=NOON - timedelta(hours=12), until=NOON)
    (evaluation,), (run,) = ledger.evaluations, ledger.runs
    assert (evaluation.usd, evaluation.through_usd, evaluation.sum_usd, evaluation.requests) == pytest.approx(
        (0.25, 0.04, 0.29, 1)
    )
    assert (run.usd, run.evaluation_usd, run.through_usd, run.sum_usd) == pytest.approx((0.5, 0.29, 0.1, 0.89))
    assert ledger.usd == pytest.approx(0.5 + 0.25 + 0.16), "each dollar once"


def test_an_evaluation_of_an_endpoint_has_its_name(priced: Context) -> None:
    add_job(priced, "jobeval00001", "evaluate")
    with priced.db.write() as session:
        session.add(Dataset(id="d", name="facts", kind="benchmark"))
        session.add(EvaluatedEndpoint(id="far", name="Far", url="", model="m"))
        session.flush()
        session.add(DatasetVersion(id="v", dataset_id="d", number=1))
        session.flush()
        session.add(
            Evaluation(id="e", endpoint_id="far", dataset_version_id="v", kind="generation", job_id="jobeval00001")
        )
    use(priced, "jobeval00001", start=NOON - timedelta(minutes=30), end=NOON)
    (line,) = read_price_ledger(priced, since=NOON - timedelta(hours=12), until=NOON).evaluations
    assert line.name == "Far · facts@1, generation"


def test_a_day_by_hand(priced: Context) -> None:
    """A replica on the CPU ran from 10 to 12 at $0.50: $1. Two requests took 720 s and 360 s of it: $0.10 and $0.05, so
    $0.85 is idle. A run held two GPUs at $3 for half an hour: $3. An evaluation had no price of its own and a GPU for
    six minutes: $0.20.
    """
    add_endpoint(priced)
    use(priced, "replica", start=NOON - timedelta(hours=2), end=None)
    add_job(priced, "run", "train", run_folder="runs/x")
    use(priced, "run", start=NOON - timedelta(minutes=30), end=NOON, kind="gpu", count=2, price=3.0)
    add_job(priced, "evaluation", "evaluate")
    use(priced, "evaluation", start=NOON - timedelta(minutes=6), end=NOON, kind="gpu")
    grant = check_key(priced, create_key(priced, "bot", person=LOCAL))
    assert grant is not None
    times = (NOON - timedelta(hours=1), NOON - timedelta(minutes=1))
    add_usage(
        priced,
        [
            UsageRow(
                "a", "tales", grant.id, "r", 600, 400, 9.0, 10.0, "finished", times[0], device_s=720.0, cost_usd=0.10
            ),
            UsageRow("b", "tales", None, "r", 500, 0, None, 10.0, "aborted", times[1], device_s=360.0, cost_usd=0.05),
        ],
    )
    ledger = read_price_ledger(priced, since=NOON - timedelta(hours=12), until=NOON)
    assert dict(ledger.totals) == pytest.approx(
        {"training": 3.0, "evaluation": 0.2, "requests": 0.15, "idle": 0.85, "other": 0.0}
    )
    assert ledger.usd == pytest.approx(4.2)
    assert ledger.unpriced_hours == 0
    (endpoint,) = ledger.endpoints
    assert (endpoint.name, endpoint.requests, endpoint.tokens) == ("tales", 2, 1500)
    assert (endpoint.usd, endpoint.idle_usd, endpoint.busy_share) == pytest.approx((1.0, 0.85, 0.15))
    assert {line.name: line.usd for line in ledger.keys} == pytest.approx({"bot": 0.10, "(without a key)": 0.05})
    assert {line.name: line.usd for line in ledger.checkpoints} == pytest.approx({"small": 0.15})
    assert ledger.keys[0].usd_per_million_tokens == pytest.approx(100.0)
    assert [(line.name, line.usd, line.device_hours) for line in ledger.runs] == [
        ("train run", pytest.approx(3.0), pytest.approx(1.0))
    ]
    (standing,) = standing_costs(priced)
    assert (standing.revision, standing.role) == (1, "stable")
    assert (standing.endpoint, standing.hour_usd, standing.month_usd) == ("tales", 0.5, pytest.approx(365.25))


def test_only_the_part_of_a_job_inside_the_period_counts_by_its_day(priced: Context) -> None:
    add_job(priced, "run", "train")
    use(priced, "run", start=NOON - timedelta(days=2), end=NOON - timedelta(hours=6), price=1.0)
    ledger = read_price_ledger(priced, since=NOON - timedelta(days=1), until=NOON)
    assert {day: costs["training"] for day, costs in ledger.by_day.items()} == pytest.approx(
        {date(2026, 11, 26): 12.0, date(2026, 11, 27): 6.0}
    )


def test_device_hours_without_a_price_are_counted_and_said(any_ctx: Context) -> None:
    ctx = replace(any_ctx, now=lambda: NOON)
    add_job(ctx, "run", "train")
    use(ctx, "run", start=NOON - timedelta(hours=3), end=NOON)
    report = cost_report(ctx, days=1)
    assert (report.is_priced, report.ledger.usd, report.ledger.unpriced_hours) == (False, 0.0, 3.0)
    add_endpoint(ctx)
    add_usage(
        ctx, [UsageRow("a", "tales", None, None, 5, 5, 9.0, 9.0, "finished", NOON - timedelta(hours=1), cost_usd=0.25)]
    )
    report = cost_report(ctx, days=1)
    assert (report.is_priced, report.ledger.usd) == (True, 0.25), "tokens of another server have a price of their own"


def test_requests_of_before_the_first_price_are_counted_as_the_hours_of_their_replica(any_ctx: Context) -> None:
    """A replica runs since 10:00, without a price. A request took 720 s of it, a load test 360 s, one of an evaluation
    180 s. At $2 an hour set at noon the hours are $4, of which the requests are $0.40, $0.20 and $0.10.
    """
    ctx = replace(any_ctx, now=lambda: NOON)
    add_endpoint(ctx)
    add_job(ctx, "jobeval00001", "evaluate")
    use(ctx, "replica", start=NOON - timedelta(hours=2), end=None)
    grant = check_key(ctx, create_key(ctx, "bot", person=LOCAL))
    assert grant is not None
    at = NOON - timedelta(hours=1)
    asked = UsageRow("a", "tales", grant.id, "r", 5, 5, 9.0, 9.0, "finished", at, device_s=720.0)
    add_usage(
        ctx,
        [
            asked,
            replace(asked, id="b", device_s=360.0, variant=LOAD_TEST),
            replace(asked, id="c", device_s=180.0, key_id=None, job_id="jobeval00001"),
        ],
    )

    def requests_and_idle() -> tuple[float, float]:
        ledger = read_price_ledger(ctx, since=NOON - timedelta(hours=12), until=NOON)
        (endpoint,) = ledger.endpoints
        assert endpoint.usd == pytest.approx(ledger.usd)
        assert endpoint.idle_usd == pytest.approx(ledger.totals["idle"])
        assert sum(line.usd for line in ledger.keys) == pytest.approx(ledger.totals["requests"])
        assert sum(ledger.by_day[NOON.date()].values()) == pytest.approx(ledger.usd)
        return ledger.totals["requests"], ledger.totals["idle"]

    assert requests_and_idle() == (0, 0)
    assert get_request(ctx, "a", person=LOCAL).row.cost_usd is None
    set_price(ctx, "", 2.0, person=LOCAL)
    assert requests_and_idle() == pytest.approx((0.7, 3.3))
    ledger = read_price_ledger(ctx, since=NOON - timedelta(hours=12), until=NOON)
    assert {line.name: line.usd for line in ledger.keys} == pytest.approx(
        {"bot": 0.4, "(load tests)": 0.2, "(without a key)": 0.1}
    )
    assert {line.name: line.usd for line in ledger.checkpoints} == pytest.approx({"small": 0.5})
    assert [line.through_usd for line in ledger.evaluations] == pytest.approx([0.1])
    assert key_spending(ctx, grant.id, "day").usd == pytest.approx(0.6), "a budget counts load tests of its key, too"
    listed = browse_requests(ctx, RequestFilter(), person=LOCAL).rows
    assert {row.id: row.cost_usd for row in listed} == pytest.approx({"a": 0.4, "c": 0.1})
    assert get_request(ctx, "b", person=LOCAL).row.cost_usd == pytest.approx(0.2)
    (stable,) = compare_revisions(ctx, find_window("6 h"), endpoint="tales")
    assert stable.cost_usd == pytest.approx(0.5)
    add_usage(ctx, [replace(asked, id="d", cost_usd=0.4)])  # stored at that price
    assert requests_and_idle() == pytest.approx((1.1, 2.9))
    set_price(ctx, "", 1.0, person=LOCAL)
    assert requests_and_idle() == pytest.approx((0.55, 1.45)), "the hours are at the new price, and so are they all"


def test_a_request_answered_before_the_price_of_its_replica_was_read_has_that_of_its_hours(priced: Context) -> None:
    add_endpoint(priced)
    use(priced, "replica", start=NOON - timedelta(hours=2), end=NOON - timedelta(hours=1), price=3.0)
    use(priced, "replica", start=NOON - timedelta(hours=1), end=None, price=1.0)
    asked = UsageRow("a", "tales", None, "r", 5, 5, 9.0, 9.0, "finished", NOON - timedelta(minutes=90), device_s=600.0)
    add_usage(priced, [asked, replace(asked, id="b", created_at=NOON - timedelta(minutes=30), cost_usd=0.125)])
    ledger = read_price_ledger(priced, since=NOON - timedelta(hours=12), until=NOON)
    assert ledger.totals["requests"] == pytest.approx(0.5 + 0.125), "what has a price keeps it"
    assert ledger.usd == pytest.approx(4.0)


def test_a_request_that_woke_its_replica_counts_in_the_hours_that_answered_it(priced: Context) -> None:
    """It came seconds before they began, so it cost nothing, and its key's budget was not charged."""
    add_endpoint(priced)
    for hours, price in ((2, 3.0), (1, 1.0)):
        begin = NOON - timedelta(hours=hours)
        use(priced, "replica", start=begin, end=begin + timedelta(minutes=30), price=price)
    asked = UsageRow("a", "tales", None, "r", 5, 5, 9.0, 9.0, "finished", NOON - timedelta(hours=2.1), device_s=600.0)
    add_usage(priced, [asked, replace(asked, id="b", created_at=NOON - timedelta(hours=1.1), device_s=360.0)])
    ledger = read_price_ledger(priced, since=NOON - timedelta(hours=12), until=NOON)
    assert ledger.totals["requests"] == pytest.approx(0.5 + 0.1), "each in the hours that followed it"


def test_the_month_is_forecast_from_full_days_with_the_error_of_last_month(priced: Context) -> None:
    """$24 on every day since 1 October: November has 26.5 days behind it and 3.5 before it, so 720; October's forecast
    was right.
    """
    add_job(priced, "run", "train")
    use(priced, "run", start=datetime(2026, 9, 30, tzinfo=UTC), end=None, price=1.0)
    forecast = forecast_this_month(priced)
    assert (forecast.usd, forecast.low, forecast.high) == pytest.approx((720.0, 720.0, 720.0))
    assert forecast.past_error == pytest.approx(0.0, abs=1e-9)


def test_the_first_day_of_use_forecasts_no_month(priced: Context) -> None:
    add_job(priced, "run", "train")
    use(priced, "run", start=NOON - timedelta(hours=2), end=None, price=1.0)
    forecast = forecast_this_month(priced)
    assert (forecast.usd, forecast.days) == (None, 0)
    assert cost_report(priced).ledger.usd == pytest.approx(2.0)


def test_a_job_that_is_claimed_opens_its_device_and_closes_it_when_it_ends(priced: Context) -> None:
    add_endpoint(priced)
    claim = claim_job(priced, "replica", owner="lab/serve#1", host="lab")
    assert claim is not None
    assert replica_prices(priced) == {"r": 0.5}
    give_back(replace(priced, now=lambda: NOON + timedelta(seconds=5)), claim)
    assert replica_prices(priced) == {}
    later = read_price_ledger(priced, since=NOON, until=NOON + timedelta(hours=1))
    assert later.endpoints[0].device_hours == pytest.approx(5 / 3600)


def test_the_csv_sums_to_the_total_and_holds_no_formula(priced: Context) -> None:
    add_job(priced, "run", "train")
    with priced.db.write() as session:
        session.get_one(Job, "run").title = "=cmd()"
    use(priced, "run", start=NOON - timedelta(hours=1), end=NOON, price=4.0)
    report = cost_report(priced, month="2026-11")
    rows = list(csv.DictReader(io.StringIO(report_csv(report.ledger))))
    assert sum(float(row["usd"]) for row in rows if row["table"] == "days") == pytest.approx(report.ledger.usd) == 4.0
    assert next(row["name"] for row in rows if row["table"] == "runs") == "'=cmd()"
    assert price_report(report)["by_category"]["training"] == 4.0


def test_tokens_of_another_server_are_a_price_of_their_endpoint_and_no_share_of_idle_time(priced: Context) -> None:
    """A replica ran for an hour at $0.50 and answered for $0.20; the other server's tokens cost $0.30: $0.80, of which
    $0.30 idle.
    """
    add_endpoint(priced)
    add_row(priced, Endpoint(name="far"))
    use(priced, "replica", start=NOON - timedelta(hours=1), end=NOON)
    at = NOON - timedelta(minutes=30)
    common = {"key_id": None, "prompt_tokens": 5, "completion_tokens": 5, "ttft_ms": 1.0, "total_ms": 2.0}
    rows = [("own", "tales", "r", 1440.0, 0.2), ("bought", "far", None, 0.0, 0.3)]
    add_usage(
        priced,
        [
            UsageRow(
                id=id_,
                endpoint=name,
                replica_id=replica,
                device_s=seconds,
                cost_usd=usd,
                status="finished",
                created_at=at,
                **common,
            )  # type: ignore[arg-type]
            for id_, name, replica, seconds, usd in rows
        ],
    )
    ledger = read_price_ledger(priced, since=NOON - timedelta(days=1), until=NOON + timedelta(days=1))
    lines = {line.name: line for line in ledger.endpoints}
    assert (lines["far"].usd, lines["far"].idle_usd) == (pytest.approx(0.3), 0)
    assert (lines["tales"].usd, lines["tales"].idle_usd) == (pytest.approx(0.5), pytest.approx(0.3))
    assert ledger.totals["requests"] == pytest.approx(0.5)
    assert ledger.totals["idle"] == pytest.approx(0.3)
    assert ledger.usd == pytest.approx(0.8)


def test_requests_for_no_endpoint_are_not_called_deleted(priced: Context) -> None:
    """Sixty requests for a model that does not exist stood under an endpoint and a checkpoint "(deleted)"."""
    refused = UsageRow("x", "made-up", None, None, 0, 0, None, 1.0, "refused", NOON - timedelta(minutes=5))
    add_usage(priced, [replace(refused, requests=60)])
    ledger = read_price_ledger(priced, since=NOON - timedelta(hours=1), until=NOON + timedelta(hours=1))
    assert [(line.name, line.requests) for line in ledger.endpoints] == [("(no endpoint)", 60)]
    assert [(line.name, line.requests) for line in ledger.checkpoints] == [("(refused or failed)", 60)]
