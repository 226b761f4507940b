"""Costs: the ledger of device time and its price by day, endpoint, key, checkpoint, run and evaluation; and the report
of a period, the month's forecast and the standing costs, as pages, CSV and the command line show them.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    ApiKey,
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
    TrafficRollup,
    Usage,
)
from backend.domain.attributes import attributes_of
from backend.domain.csv_text import safe_cell
from backend.domain.jobs.states import JobKind
from backend.domain.serving.costs import HOURS_PER_MONTH, PriceForecast, forecast_month, seconds_by_day
from backend.domain.serving.request_log import LOAD_TEST, NO_ENDPOINT
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.serving.prices import current_prices, price_differences, use_hour_usd

Category = Literal["training", "evaluation", "requests", "idle", "other"]
CATEGORIES: tuple[Category, ...] = ("training", "evaluation", "requests", "idle", "other")
TRAINING = {JobKind.TRAIN}
EVALUATION = {JobKind.EVALUATE, JobKind.GENERATE, JobKind.LOGLIKELIHOOD, JobKind.CLASSIFY, JobKind.JUDGE}
DELETED = "(deleted)"
NOT_ANSWERED = "(refused or failed)"
"""Name of the line of requests that no checkpoint answered."""


@dataclass
class LedgerLine:
    """A row of the ledger. `usd` is the price of `device_hours`; for a key or a checkpoint, of the shares of its
    requests. `load_tests` are requests of load tests beside `requests`; an endpoint's devices worked for both.
    `through_usd` is the cost of the requests that an evaluation made to endpoints; for a run,
    `evaluation_usd` that of evaluations of its checkpoints, their requests included, and `through_usd` that of requests
    that its checkpoints answered. Both are in other rows too, so they are not in `usd`, and only `sum_usd` adds them
    up.
    """

    name: str
    usd: float = 0.0
    device_hours: float = 0.0
    requests: int = 0
    tokens: int = 0
    load_tests: int = 0
    idle_usd: float = 0.0
    id: str = ""
    through_usd: float = 0.0
    evaluation_usd: float = 0.0

    @property
    def sum_usd(self) -> float:
        """Dollars of the row, and of what was done for it elsewhere."""
        return self.usd + self.through_usd + self.evaluation_usd

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Dollars for a million tokens; None without tokens."""
        return self.usd / self.tokens * 1e6 if self.tokens else None

    @property
    def busy_share(self) -> float | None:
        """Share of an endpoint's cost that its requests took; None without a cost."""
        return (self.usd - self.idle_usd) / self.usd if self.usd > 0 else None


@dataclass(frozen=True)
class PriceLedger:
    """Costs of a period. `unpriced_hours` are device-hours without a price, which count as nothing."""

    since: datetime
    until: datetime
    by_day: Mapping[date, Mapping[Category, float]]
    endpoints: tuple[LedgerLine, ...]
    keys: tuple[LedgerLine, ...]
    checkpoints: tuple[LedgerLine, ...]
    runs: tuple[LedgerLine, ...]
    evaluations: tuple[LedgerLine, ...]
    unpriced_hours: float = 0.0
    totals: Mapping[Category, float] = field(default_factory=dict)

    @property
    def usd(self) -> float:
        """The whole period."""
        return sum(self.totals.values())


@dataclass
class _Sums:
    by_day: dict[date, dict[Category, float]]
    lines: dict[str, dict[str, LedgerLine]]
    unpriced_s: float = 0.0
    bought: dict[date, float] = field(default_factory=lambda: defaultdict(float))  # tokens of other servers

    def line(self, kind: str, key: str, name: str) -> LedgerLine:
        return self.lines.setdefault(kind, {}).setdefault(key, LedgerLine(name=name, id=key))


def read_price_ledger(ctx: Context, *, since: datetime, until: datetime) -> PriceLedger:
    """Return the costs between two moments."""
    sums = _Sums(defaultdict(lambda: dict.fromkeys(CATEGORIES, 0.0)), {})
    with ctx.db.read() as session:
        _add_device_time(session, ctx, sums, since=since, until=until)
        _add_requests(session, sums, since=since, until=until)
        _add_shares(session, sums, since=since, until=until)
        _add_made_requests(session, sums, since=since, until=until)
        _price_again(session, ctx, sums, since=since, until=until)
        _add_to_runs(session, sums)
    for date_, day in sums.by_day.items():
        day["idle"] = max(0.0, day["idle"] - (day["requests"] - sums.bought[date_]))
    for line in sums.lines.get("endpoints", {}).values():
        line.idle_usd = max(0.0, line.idle_usd)
    totals = {category: sum(day[category] for day in sums.by_day.values()) for category in CATEGORIES}
    tables = {
        kind: tuple(sorted(lines.values(), key=lambda line: (-line.sum_usd, line.name)))
        for kind, lines in sums.lines.items()
    }
    return PriceLedger(
        since=since,
        until=until,
        by_day=dict(sorted(sums.by_day.items())),
        unpriced_hours=sums.unpriced_s / 3600,
        totals=totals,
        **{kind: tables.get(kind, ()) for kind in ("endpoints", "keys", "checkpoints", "runs", "evaluations")},
    )


def _add_device_time(session: Session, ctx: Context, sums: _Sums, *, since: datetime, until: datetime) -> None:
    """Add every job's devices. The whole price of a replica is first counted as idle; the shares of its requests are
    taken off later.
    """
    names, prices = _Names(session), current_prices(ctx, session)
    query = (
        select(DeviceUse, Job)
        .join(Job, Job.id == DeviceUse.job_id)
        .where(DeviceUse.started_at < until, or_(DeviceUse.ended_at.is_(None), DeviceUse.ended_at > since))
    )
    for use, job in session.execute(query):
        price = use_hour_usd(prices, use)
        category = _category(job.kind)
        line = names.line(sums, job)
        for day, seconds in seconds_by_day(max(use.started_at, since), min(use.ended_at or until, until)).items():
            device_s = seconds * use.num_devices
            sums.unpriced_s += device_s if price is None else 0.0
            usd = seconds * (price or 0.0) / 3600
            sums.by_day[day][category] += usd
            if line is not None:
                line.usd += usd
                line.device_hours += device_s / 3600
                line.idle_usd += usd if category == "idle" else 0.0


def _add_requests(session: Session, sums: _Sums, *, since: datetime, until: datetime) -> None:
    """Add requests by endpoint and day, from the rollups of hours. Those without device time were answered by another
    server, at a price per token, which is not a share of a replica's.
    """
    names = dict(session.execute(select(Endpoint.id, Endpoint.name)).all())
    query = select(TrafficRollup).where(
        TrafficRollup.width_s == 3600, TrafficRollup.start >= since, TrafficRollup.start < until
    )
    for row in session.scalars(query):
        name = names.get(row.endpoint_id, DELETED) if row.endpoint_id else NO_ENDPOINT
        line = sums.line("endpoints", name, name)
        if row.variant == LOAD_TEST:
            line.load_tests += row.requests
        else:
            line.requests += row.requests
            line.tokens += row.prompt_tokens + row.completion_tokens
        bought = 0.0 if row.device_s else row.cost_usd
        line.usd += bought
        line.idle_usd -= row.cost_usd - bought
        sums.by_day[row.start.date()]["requests"] += row.cost_usd
        sums.bought[row.start.date()] += bought


def _add_shares(session: Session, sums: _Sums, *, since: datetime, until: datetime) -> None:
    """Add requests by key and by checkpoint; those of load tests, whosever key they used, as one line of the keys."""
    columns = (
        func.sum(Usage.requests),
        func.sum(Usage.prompt_tokens + Usage.completion_tokens),
        func.sum(Usage.cost_usd),
        func.sum(Usage.device_s),
    )
    period = (Usage.created_at >= since, Usage.created_at < until)
    keys = dict(session.execute(select(ApiKey.id, ApiKey.name)).all())
    checkpoints = dict(session.execute(select(Checkpoint.id, Checkpoint.name)).all())
    is_test = Usage.variant == LOAD_TEST
    for kind, column, condition, named, missing in (
        ("keys", Usage.key_id, ~is_test, keys, "(without a key)"),
        ("keys", Usage.variant, is_test, {LOAD_TEST: "(load tests)"}, ""),
        ("checkpoints", Usage.checkpoint_id, ~is_test, checkpoints, NOT_ANSWERED),
    ):
        for key, count, tokens, usd, seconds in session.execute(
            select(column, *columns).where(*period, condition).group_by(column)
        ):
            line = sums.line(kind, key or "", named.get(key, DELETED) if key else missing)
            line.requests += count
            line.tokens += int(tokens or 0)
            line.usd += float(usd or 0.0)
            line.device_hours += float(seconds or 0.0) / 3600


def _add_made_requests(session: Session, sums: _Sums, *, since: datetime, until: datetime) -> None:
    """Add the requests that evaluations made to endpoints of this installation."""
    columns = (
        func.sum(Usage.requests),
        func.sum(Usage.prompt_tokens + Usage.completion_tokens),
        func.sum(Usage.cost_usd),
    )
    made = select(Usage.job_id, *columns).where(
        Usage.created_at >= since, Usage.created_at < until, Usage.job_id.is_not(None)
    )
    by_job: dict[str | None, Any] = {job_id: values for job_id, *values in session.execute(made.group_by(Usage.job_id))}
    if not by_job:
        return
    names = _Names(session)
    for job in session.scalars(select(Job).where(Job.id.in_(by_job))):
        line = names.line(sums, job) if job.kind in EVALUATION else None
        if line is not None:
            count, tokens, usd = by_job[job.id]
            line.requests += count
            line.tokens += int(tokens or 0)
            line.through_usd += float(usd or 0.0)


def _price_again(session: Session, ctx: Context, sums: _Sums, *, since: datetime, until: datetime) -> None:
    """Count requests at the price of their replica's hours."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    day = func.date(Usage.created_at if is_sqlite else func.timezone("UTC", Usage.created_at))
    is_test = Usage.variant == LOAD_TEST
    by = (day, Usage.endpoint_id, Usage.key_id, Usage.checkpoint_id, Usage.job_id, is_test)
    period = (Usage.created_at >= since, Usage.created_at < until)
    if not (differences := list(price_differences(session, ctx, *period, by=by))):
        return
    endpoints = dict(session.execute(select(Endpoint.id, Endpoint.name)).all())
    jobs = {job.id: job for job in session.scalars(select(Job).where(Job.id.in_({row[5] for row in differences})))}
    names = _Names(session)
    for usd, date_, endpoint_id, key, checkpoint, job_id, of_test in differences:
        name = endpoints.get(endpoint_id, DELETED) if endpoint_id else NO_ENDPOINT
        sums.by_day[date.fromisoformat(str(date_))]["requests"] += usd
        sums.line("endpoints", name, name).idle_usd -= usd
        sums.lines["keys"][LOAD_TEST if of_test else key or ""].usd += usd
        if not of_test:
            sums.lines["checkpoints"][checkpoint or ""].usd += usd
        job = jobs.get(job_id)
        line = names.line(sums, job) if job is not None and job.kind in EVALUATION else None
        if line is not None:
            line.through_usd += usd


def _add_to_runs(session: Session, sums: _Sums) -> None:
    """Add to each run what was spent on its checkpoints: by evaluations, and by requests that they answered."""
    runs = dict(session.execute(select(Checkpoint.id, Checkpoint.run_id).where(Checkpoint.run_id.is_not(None))).all())
    names = dict(session.execute(select(Run.id, Run.name)).all())
    evaluated = dict(session.execute(select(Evaluation.id, Evaluation.checkpoint_id)).all())
    for evaluation in list(sums.lines.get("evaluations", {}).values()):
        run_id = runs.get(evaluated.get(evaluation.id) or "")
        if run_id in names:
            sums.line("runs", run_id, names[run_id]).evaluation_usd += evaluation.sum_usd
    for checkpoint in list(sums.lines.get("checkpoints", {}).values()):
        run_id = runs.get(checkpoint.id)
        if run_id in names:
            sums.line("runs", run_id, names[run_id]).through_usd += checkpoint.usd


class _Names:
    """Names the run, evaluation or endpoint of a job. A run that was resumed has several jobs, all with its folder."""

    def __init__(self, session: Session) -> None:
        runs = session.execute(select(Run.id, Run.name, Job.payload).join(Job, Job.id == Run.job_id))
        self._runs = {str(payload.get("run_folder")): (run_id, name) for run_id, name, payload in runs}
        evaluations = session.execute(
            select(
                Evaluation.job_id,
                Evaluation.id,
                Evaluation.kind,
                func.coalesce(Checkpoint.name, EvaluatedEndpoint.name, DELETED),
                Dataset.name,
                DatasetVersion.number,
            )
            .join(DatasetVersion, DatasetVersion.id == Evaluation.dataset_version_id)
            .join(Dataset, Dataset.id == DatasetVersion.dataset_id)
            .outerjoin(Checkpoint, Checkpoint.id == Evaluation.checkpoint_id)
            .outerjoin(EvaluatedEndpoint, EvaluatedEndpoint.id == Evaluation.endpoint_id)
        )
        self._evaluations = {
            job: (id_, f"{name} · {dataset}@{number}, {kind.replace('_', ' ')}")
            for job, id_, kind, name, dataset, number in evaluations
            if job
        }

    def line(self, sums: _Sums, job: Job) -> LedgerLine | None:
        if job.kind == JobKind.TRAIN:
            run_id, name = self._runs.get(str(job.payload.get("run_folder")), (job.id, job.title or DELETED))
            return sums.line("runs", run_id, name)
        if job.kind == JobKind.REPLICA:
            name = str(job.payload.get("name") or DELETED)
            return sums.line("endpoints", name, name)
        if job.kind in EVALUATION:
            evaluation_id, name = self._evaluations.get(job.id, (job.id, job.title or job.kind.replace("_", " ")))
            return sums.line("evaluations", evaluation_id, name)
        return None


def _category(kind: str) -> Category:
    if kind in TRAINING:
        return "training"
    if kind in EVALUATION:
        return "evaluation"
    return "idle" if kind == JobKind.REPLICA else "other"


def table_rows(lines: Iterable[LedgerLine]) -> list[dict[str, object]]:
    """Return lines as plain values, for JSON and CSV."""
    return [
        {
            **attributes_of(line, "id", "name", "usd"),
            "through_endpoints_usd": line.through_usd,
            **attributes_of(
                line,
                "evaluation_usd",
                "sum_usd",
                "idle_usd",
                "device_hours",
                "requests",
                "tokens",
                "load_tests",
                "usd_per_million_tokens",
            ),
        }
        for line in lines
    ]


def month_bounds(moment: datetime) -> tuple[datetime, datetime]:
    """Return the first moments of a UTC month and of the next."""
    start = moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return start, (start + timedelta(days=32)).replace(day=1)


HISTORY = timedelta(days=28)


@dataclass(frozen=True)
class StandingPrice:
    """Dollars an hour and month of a deployment without requests; `asleep_usd_month`: its disk alone."""

    endpoint: str
    revision: int
    role: str
    replicas: int
    hour_usd: float | None
    month_usd: float | None
    asleep_usd_month: float


def forecast_this_month(ctx: Context) -> PriceForecast:
    """Forecast the running UTC month from its cost so far and the full days of the last four weeks."""
    now = ctx.now()
    start, end = month_bounds(now)
    history = read_price_ledger(ctx, since=start - HISTORY - timedelta(days=31), until=now)
    forecast = _forecast_at(history, now, start=start, end=end)
    last_start, last_end = month_bounds(start - timedelta(days=1))
    same_day = last_start + (now - start)
    if not history.by_day or min(history.by_day) > (last_start - timedelta(days=1)).date() or same_day >= last_end:
        return forecast
    actual = _between(history, last_start, last_end)
    if actual <= 0:
        return forecast
    past = _forecast_at(history, same_day, start=last_start, end=last_end).usd
    return forecast if past is None else replace(forecast, past_error=(past - actual) / actual)


def standing_costs(ctx: Context) -> list[StandingPrice]:
    """Return what each deployed endpoint costs whether or not it is called."""
    with ctx.db.read() as session:
        deployed = session.execute(
            select(Endpoint.name, Deployment, Checkpoint.bytes)
            .join(Deployment, Deployment.endpoint_id == Endpoint.id)
            .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
            .where(Deployment.stopped_at.is_(None))
            .order_by(Endpoint.name, Deployment.revision)
        ).all()
        uses = session.execute(
            select(Replica.deployment_id, DeviceUse)
            .join(DeviceUse, DeviceUse.job_id == Replica.job_id)
            .where(DeviceUse.ended_at.is_(None))
        ).all()
    costs, today = [], current_prices(ctx)
    for name, deployment, size in deployed:
        prices = [use_hour_usd(today, use) for owner, use in uses if owner == deployment.id]
        known = [price for price in prices if price is not None]
        # a replica that starts, or a server of another kind, has no price yet
        hour = sum(known) if deployment.num_replicas <= len(known) == len(prices) else None
        costs.append(
            StandingPrice(
                endpoint=name,
                revision=deployment.revision,
                role=deployment.role,
                replicas=deployment.num_replicas,
                hour_usd=hour,
                month_usd=None if hour is None else hour * HOURS_PER_MONTH,
                asleep_usd_month=(size or 0) / 1e9 * ctx.policy.disk_gb_month_usd,
            )
        )
    return costs


def _forecast_at(history: PriceLedger, now: datetime, *, start: datetime, end: datetime) -> PriceForecast:
    days_left = (end - now) / timedelta(days=1)
    return forecast_month(_between(history, start, now), _full_days(history, now), days_left=days_left)


def _full_days(history: PriceLedger, now: datetime) -> list[float]:
    """Return the costs of the full days before a moment: the last 28, or as many as there are since the first use."""
    today = now.date()
    first = min(history.by_day, default=today)
    begin = max(first, today - HISTORY)
    days = [begin + timedelta(days=n) for n in range((today - begin).days)]
    return [sum(history.by_day[day].values()) if day in history.by_day else 0.0 for day in days]


def _between(history: PriceLedger, start: datetime, end: datetime) -> float:
    """Return the cost of the days from `start` up to `end`; of a day that `end` cuts, its part."""
    total = 0.0
    for day, costs in history.by_day.items():
        if start.date() <= day < end.date():
            total += sum(costs.values())
        elif day == end.date():
            total += sum(costs.values()) * (
                1.0 if end == history.until else (end - _midnight(end)).total_seconds() / 86_400
            )
    return total


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


TABLES = ("endpoints", "keys", "checkpoints", "runs", "evaluations")


@dataclass(frozen=True)
class LedgerReport:
    """All that is known of costs. `is_priced` is False where no device has a price, nor another server's tokens."""

    is_priced: bool
    ledger: PriceLedger
    forecast: PriceForecast
    standing: tuple[StandingPrice, ...]


def cost_report(ctx: Context, *, days: float | None = None, month: str = "") -> LedgerReport:
    """Return the report of the last days, of a month such as 2026-11, or of the running month."""
    now = ctx.now()
    if days is not None and month:
        raise InvalidInput("Both days and a month are given.", remedy="Give one of them.", field="month")
    if days is not None:
        since, until = now - timedelta(days=days), now
    else:
        since, until = month_bounds(_month(month) if month else now)
        until = min(until, now)
    ledger = read_price_ledger(ctx, since=since, until=max(since, until))
    return LedgerReport(
        is_priced=current_prices(ctx).are_set or ledger.usd > 0,
        ledger=ledger,
        forecast=forecast_this_month(ctx),
        standing=tuple(standing_costs(ctx)),
    )


def price_report(report: LedgerReport) -> dict[str, object]:
    """Return a report as plain values."""
    ledger = report.ledger
    return {
        "currency": "USD",
        "priced": report.is_priced,
        "since": ledger.since,
        "until": ledger.until,
        "total_usd": ledger.usd,
        "by_category": dict(ledger.totals),
        "unpriced_device_hours": ledger.unpriced_hours,
        "by_day": [{"day": day.isoformat(), **costs} for day, costs in ledger.by_day.items()],
        **{name: table_rows(getattr(ledger, name)) for name in TABLES},
        "standing": [asdict(cost) for cost in report.standing],
        "forecast": asdict(report.forecast),
    }


def report_csv(ledger: PriceLedger) -> str:
    """Return the ledger as one CSV table: a row per day and category, then a row per endpoint, key, checkpoint, run and
    evaluation.
    """
    out = io.StringIO()
    columns = [
        "table",
        "name",
        "id",
        "day",
        "category",
        "usd",
        "through_endpoints_usd",
        "evaluation_usd",
        "sum_usd",
        "idle_usd",
        "device_hours",
        "requests",
        "tokens",
        "load_tests",
    ]
    writer = csv.DictWriter(out, columns, extrasaction="ignore", restval="")
    writer.writeheader()
    for day, costs in ledger.by_day.items():
        writer.writerows(
            {"table": "days", "day": day.isoformat(), "category": name, "usd": costs[name]} for name in CATEGORIES
        )
    for table in TABLES:
        for row in table_rows(getattr(ledger, table)):
            writer.writerow({"table": table, **row, "name": safe_cell(str(row["name"]))})
    return out.getvalue()


def _month(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a month.", remedy="Write it as 2026-11.", field="month") from error
