"""The cost report: the ledger of a period, the month's forecast and the standing costs, as pages, CSV and the command
line show them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import select

from backend.db.tables import Checkpoint, Deployment, DeviceUse, Endpoint, Replica
from backend.domain.csv_text import safe_cell
from backend.domain.serving.costs import HOURS_PER_MONTH, PriceForecast, forecast_month
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.serving.costs.ledger import CATEGORIES, PriceLedger, month_bounds, read_price_ledger, table_rows
from backend.services.serving.costs.prices import current_prices, use_hour_usd

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
