"""The cost report: the ledger of a period, the month's forecast and the standing costs, as pages, CSV and the command
line show them.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from backend.domain.csv_text import safe_cell
from backend.domain.serving.costs import PriceForecast
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.serving.costs.forecasts import StandingPrice, forecast_this_month, standing_costs
from backend.services.serving.costs.ledger import CATEGORIES, PriceLedger, month_bounds, read_price_ledger, table_rows
from backend.services.serving.costs.prices import current_prices

TABLES = ("endpoints", "keys", "checkpoints", "runs", "evaluations")


@dataclass(frozen=True)
class LedgerReport:
    """All that is known of costs. `is_priced` is False where no device has a price, and no other server's tokens
    either.
    """

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
        raise InvalidInput(f"{text!r} is no month.", remedy="Write it as 2026-11.", field="month") from error
