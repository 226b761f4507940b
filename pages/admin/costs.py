"""Costs: device time and its price by day, endpoint, key, checkpoint, run and evaluation, with the month's forecast."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import streamlit as st

from backend.domain.serving.costs import MIN_DAYS
from backend.domain.wording import format_usd, percent
from backend.services.context import Context, Person
from backend.services.serving.costs import LedgerLine, LedgerReport, cost_report, month_bounds, report_csv
from backend.services.serving.prices import MAX_HOUR_USD, current_prices, list_prices, remove_price, set_price
from pages.components.choices import choose_one
from pages.components.confirm import draw_confirmed
from pages.components.downloads import draw_download
from pages.components.frame import draw_metric, draw_plot, empty_state, page_frame, plain, rerun_after
from pages.components.numbers import draw_number, form_button, number_form
from pages.components.serving.cost_charts import daily_figure, split_figure
from pages.components.tables import draw_table
from pages.components.words import when

MAX_ROWS = 100
OTHER_DEVICES = "Every other device"
PERIODS = ("This month", "Last month", "7 days", "30 days")
SUMS = {
    "Runs": "Evaluations of a run's checkpoints, and the requests that they answered, are in the other tables too.",
    "Evaluations": (
        "Requests that an evaluation made to endpoints of this installation are part of those endpoints' cost too."
    ),
}
SET_PRICE = "An admin sets it under *Prices*."
NO_PRICE = f"No device has a price, so costs are unknown. {SET_PRICE}"


def read_report(ctx: Context, period: str) -> LedgerReport:
    """Return the report of a period of the page."""
    if period.endswith("days"):
        return cost_report(ctx, days=float(period.split()[0]))
    if period == "Last month":
        return cost_report(ctx, month=f"{month_bounds(ctx.now())[0] - timedelta(days=1):%Y-%m}")
    return cost_report(ctx)


def draw_costs(ctx: Context, person: Person) -> None:
    """Draw the period, totals, the figure by day and the tables."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        period = choose_one("Period", PERIODS, key="period", bind="query-params") or PERIODS[0]
        report = read_report(ctx, period)
        st.space("stretch")
        if person.is_admin:
            draw_download("CSV", partial(report_csv, report.ledger), "costs.csv", key="cost_csv")
    if not report.is_priced:
        st.info(NO_PRICE, icon=":material/payments:")
    elif report.ledger.unpriced_hours >= 0.01:
        st.warning(
            f"{report.ledger.unpriced_hours:,.2f} device-hours have no price and count as 0. {SET_PRICE}",
            icon=":material/payments:",
        )
    draw_prices(ctx, person, is_open=not report.is_priced)
    draw_totals(report)
    if not report.ledger.by_day:
        empty_state("No device time in this period.")
        return
    if report.ledger.usd > 0:
        draw_plot(daily_figure(report.ledger.by_day), key="cost_days", alt="Costs by day and category")
    draw_tables(report, person)


@number_form
def draw_prices(ctx: Context, person: Person, *, is_open: bool) -> None:
    """Draw the prices of device-hours, and for admins the form that sets one."""
    prices, stored = current_prices(ctx), {line.name: line for line in list_prices(ctx)}
    with st.expander("Prices", icon=":material/payments:", expanded=is_open, key="cost_prices"):
        known = {**prices.named, **({} if prices.default is None else {"": prices.default})}
        for name, usd in known.items():
            line = stored.get(name)
            words = "set by the operator" if line is None else f"set {when(line.set_at, now=ctx.now())}"
            if line is not None and line.author:
                words = f"{words} by {line.author}"
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(
                    f"**{plain(name or OTHER_DEVICES)}** {plain(format_usd(usd, is_price=True))} an hour",
                    width="content",
                )
                st.caption(plain(words), width="content")
                if line is not None and person.is_admin:
                    draw_confirmed(
                        "Remove",
                        "The operator's price applies again, if there is one.",
                        partial(remove_price, ctx, name, person=person),
                        key=f"remove_price_{name}",
                    )
        if not person.is_admin:
            return
        left, right = st.columns(2)
        name = left.text_input(
            "Device",
            key="price_name",
            max_chars=80,
            placeholder="Every other device",
            help="Part of its name, such as H100; gpu or cpu for all of a kind. On the CPU a job counts as one device.",
        )
        usd = draw_number(
            right, "US dollars an hour", 0, MAX_HOUR_USD, is_whole=False, key="price_usd", placeholder="0.50"
        )
        if form_button("Set price", {"enter a price": usd is None}, key="set_price"):
            with rerun_after():
                set_price(ctx, name, usd, person=person)
        st.caption("Applies to jobs that start from now on, and to earlier ones that had no price.")


def draw_totals(report: LedgerReport) -> None:
    """Draw total, its parts and the forecast."""
    totals, forecast = report.ledger.totals, report.forecast
    grid = st.grid(5, min_column_width=140)
    draw_metric(grid, "Total", cost(report, report.ledger.usd))
    draw_metric(
        grid,
        "Training and jobs",
        cost(report, sum(totals[category] for category in ("training", "evaluation", "other"))),
        help="Runs, evaluations, imports and all other jobs.",
    )
    draw_metric(grid, "Requests", cost(report, totals["requests"]), help="Share of replicas that requests took.")
    draw_metric(grid, "Idle endpoints", cost(report, totals["idle"]), help="Replicas while no request was open.")
    draw_metric(grid, "Forecast, this month", "–" if forecast.usd is None else cost(report, forecast.usd))
    if report.is_priced and forecast.usd != 0:
        st.caption(plain(forecast_text(report)))


def forecast_text(report: LedgerReport) -> str:
    """Return the forecast's interval and its error in the month before, or why there is none."""
    forecast = report.forecast
    if forecast.low is None or forecast.high is None:
        return f"Forecast: too early to say, after {forecast.days} of the {MIN_DAYS} full days that it needs."
    past = (
        ""
        if forecast.past_error is None
        else f" Last month the same forecast was {percent(forecast.past_error, signed=True)} off."
    )
    interval = (
        f"{percent(forecast.level)} prediction interval {format_usd(forecast.low)} to {format_usd(forecast.high)}"
    )
    return f"This month: {interval}, from {forecast.days} full days.{past}"


def draw_tables(report: LedgerReport, person: Person) -> None:
    """Draw a tab per table."""
    ledger = report.ledger
    tabs = ["Endpoints", "Checkpoints", "Runs", "Evaluations", *(["Keys"] if person.is_admin else [])]
    for name, tab in zip(tabs, st.tabs(tabs, key="tab", bind="query-params"), strict=True):
        with tab:
            lines: tuple[LedgerLine, ...] = getattr(ledger, name.lower())
            if not lines and not (name == "Endpoints" and report.standing):
                st.caption("None in this period.")
            elif name == "Endpoints":
                draw_endpoint_costs(report)
            else:
                draw_table(
                    [_row(report, line, table=name) for line in lines[:MAX_ROWS]],
                    key=f"costs_{name}",
                    alt=f"Costs of {name.lower()}",
                )
                if name in SUMS:
                    st.caption(SUMS[name])


def draw_endpoint_costs(report: LedgerReport) -> None:
    """Draw the split of each endpoint's cost, and what the deployed ones cost without requests."""
    lines = report.ledger.endpoints
    priced = [line for line in lines if line.usd > 0][:12]
    if priced:
        figure = split_figure(
            [line.name for line in priced],
            [line.usd - line.idle_usd for line in priced],
            [line.idle_usd for line in priced],
        )
        draw_plot(figure, key="cost_split", alt="Costs of endpoints by requests and idle time")
    rows = [
        {
            "Endpoint": line.name,
            "Cost": cost(report, line.usd),
            "Idle": cost(report, line.idle_usd),
            "Busy": None if line.busy_share is None else percent(line.busy_share),
            "Device-hours": line.device_hours,
            "Requests": line.requests,
            "Tokens": line.tokens,
            "Load test requests": line.load_tests,
            "Per million tokens": (
                None
                if line.usd_per_million_tokens is None or not line.usd
                else format_usd(line.usd_per_million_tokens, is_price=True)
            ),
        }
        for line in lines
    ]
    if not any(line.load_tests for line in lines):
        for row in rows:
            row.pop("Load test requests")
    draw_table(rows, key="costs_endpoints", alt="Costs of endpoints", formats={"Device-hours": ",.2f"})
    if any(line.load_tests for line in lines):
        st.caption("Requests of load tests are part of the cost; *Requests* and *Tokens* leave them out.")
    if report.standing:
        st.markdown("**Deployments while they wait**")
        standing = [
            {
                "Endpoint": line.endpoint,
                "Revision": str(line.revision) if line.role == "stable" else f"{line.revision}, {line.role}",
                "Replicas": str(line.replicas) if line.replicas else "asleep",
                "Per hour": None if line.hour_usd is None else format_usd(line.hour_usd, is_price=True),
                "Per month": None if line.month_usd is None else format_usd(line.month_usd),
                "Per month, asleep": cost(report, line.asleep_usd_month),
            }
            for line in report.standing
        ]
        draw_table(standing, key="costs_standing", alt="Standing costs of endpoints")
        st.caption("What each deployment costs while it waits. Asleep: scaled to zero, the checkpoint's disk alone.")


def _row(report: LedgerReport, line: LedgerLine, *, table: str) -> dict[str, object]:
    row: dict[str, object] = {
        "Name": line.name,
        "Cost": cost(report, line.usd),
        "Device-hours": f"{line.device_hours:,.2f}",
    }
    requests = {"Requests": line.requests, "Tokens": line.tokens}
    through, total = cost(report, line.through_usd), cost(report, line.sum_usd)
    if table == "Evaluations":
        return row | requests | {"Through endpoints": through, "Sum": total}
    if table == "Runs":
        return row | {"Evaluations": cost(report, line.evaluation_usd), "Requests answered": through, "Sum": total}
    return row | requests


def cost(report: LedgerReport, usd: float) -> str:
    """Format a cost; a dash where no device has a price."""
    return format_usd(usd) if report.is_priced else "–"


with page_frame("Costs", "Device time and its price.") as (context_, person_):
    draw_costs(context_, person_)
