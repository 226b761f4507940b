"""The ledger: device time and its price by day, endpoint, key, checkpoint, run and evaluation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from backend.db.tables import (
    ApiKey,
    Checkpoint,
    Dataset,
    DatasetVersion,
    DeviceUse,
    Endpoint,
    EvaluatedEndpoint,
    Evaluation,
    Job,
    Run,
    TrafficRollup,
    Usage,
)
from backend.domain.attributes import attributes_of
from backend.domain.jobs.states import JobKind
from backend.domain.serving.costs import seconds_by_day
from backend.domain.serving.request_log import LOAD_TEST, NO_ENDPOINT
from backend.services.context import Context
from backend.services.serving.costs.prices import current_prices, use_hour_usd
from backend.services.serving.costs.requests import price_differences

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
