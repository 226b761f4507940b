"""`roundhouse cost`: what devices, requests, runs and evaluations cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit, note
from backend.domain.serving.costs import MIN_DAYS
from backend.domain.wording import format_usd, percent, plural
from backend.services.context import LOCAL
from backend.services.serving.costs import LedgerLine, LedgerReport, PriceLedger, cost_report, price_report, report_csv
from backend.services.serving.prices import current_prices, remove_price, set_price

app = CommandGroup(no_args_is_help=True)

OTHER = "other"
"""The name of every device without a price of its own."""


@app.command("report")
def report(
    days: Annotated[float | None, typer.Option(min=0.01, help="The last days. Default: the running UTC month.")] = None,
    month: Annotated[str, typer.Option(help="A UTC month, such as 2026-11.")] = "",
    csv: Annotated[Path | None, typer.Option(help="Also write the ledger to this file.")] = None,
) -> None:
    """Show costs by category, endpoint, key, checkpoint, run and evaluation, the month's forecast, and what endpoints
    cost while idle.
    """
    made = cost_report(get_context(), days=days, month=month)
    if csv is not None:
        csv.write_text(report_csv(made.ledger))
        note(f"Wrote {csv}.")
    emit(price_report(made), text="\n".join(_lines(made)))


@app.command("price")
def price(
    name: Annotated[
        str, typer.Argument(help="Part of a device's name, such as H100; gpu or cpu; other: every other device.")
    ] = "",
    hour_usd: Annotated[float | None, typer.Argument(help="US dollars for an hour of one.")] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it: the environment's price applies again.")] = False,
) -> None:
    """List the prices of device-hours, or set or remove one. Attempts that run keep the price of their start."""
    ctx, device = get_context(), "" if name == OTHER else name
    if name and remove:
        remove_price(ctx, device, person=LOCAL)
    elif name:
        set_price(ctx, device, hour_usd, person=LOCAL)
    prices = current_prices(ctx)
    data = {**({} if prices.default is None else {OTHER: prices.default}), **prices.named}
    lines = [f"{device:<20} {format_usd(usd, is_price=True)} an hour" for device, usd in data.items()]
    emit({"currency": "USD", "hour": data}, text="\n".join(lines) or "No device has a price.")


def _lines(made: LedgerReport) -> list[str]:
    ledger, forecast = made.ledger, made.forecast
    period = f"{ledger.since:%Y-%m-%d} to {ledger.until:%Y-%m-%d %H:%M} UTC"
    if not made.is_priced:
        lines = [f"{period}: no device has a price. Set one with `roundhouse cost price`."]
        return [*lines, *_tables(ledger, is_priced=False)]
    lines = [f"{period}: {format_usd(ledger.usd)}"]
    if ledger.unpriced_hours >= 0.01:
        lines.append(f"{ledger.unpriced_hours:,.2f} device-hours have no price and count as nothing.")
    lines += [f"  {name:<12} {format_usd(usd)}" for name, usd in ledger.totals.items()]
    expected = f"too early to say, after {forecast.days} of the {MIN_DAYS} full days that it needs"
    if forecast.usd is not None and forecast.low is not None and forecast.high is not None:
        interval = f"{percent(forecast.level)} interval {format_usd(forecast.low)} to {format_usd(forecast.high)}"
        expected = f"{format_usd(forecast.usd)} ({interval}), from {forecast.days} full days"
    lines.append(f"Forecast of this month: {expected}")
    return [*lines, *_tables(ledger, is_priced=True)]


def _tables(ledger: PriceLedger, *, is_priced: bool) -> list[str]:
    lines = []
    for title, rows in (
        ("Endpoints", ledger.endpoints),
        ("Keys", ledger.keys),
        ("Runs", ledger.runs),
        ("Evaluations", ledger.evaluations),
    ):
        lines += [title, *(_line(row, is_priced=is_priced) for row in rows[:10])] if rows else []
    return lines


def _line(line: LedgerLine, *, is_priced: bool) -> str:
    tokens = f"  {line.requests:,} requests, {line.tokens:,} tokens" if line.requests else ""
    tokens += f"  {plural(line.load_tests, 'request')} of load tests" if line.load_tests else ""
    idle = f" of which idle {format_usd(line.idle_usd)}" if line.idle_usd else ""
    amount = f"{format_usd(line.usd)}{idle}" if is_priced else f"{line.device_hours:,.2f} device-hours"
    return f"  {line.name:<32} {amount}{tokens}"
