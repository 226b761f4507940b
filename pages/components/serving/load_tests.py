"""Load tests: the form that starts one, the history, the levels of one, charts, and the comparison of two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from backend.domain.json_values import FieldValues
from backend.domain.serving.latency import bucket_middle_s
from backend.domain.serving.load import LoadConfig
from backend.domain.validation import read_values
from backend.domain.wording import format_duration, percent, plural
from backend.services.context import Context, Person
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.load_tests import (
    LoadTestView,
    load_test_csv,
    load_test_json,
    read_arrivals,
    start_load_test,
)
from pages.components.charts.style import COLORS, LEGEND_BELOW, MARGIN, MUTED
from pages.components.choices import choose_from, choose_one
from pages.components.downloads import draw_download
from pages.components.forms import draw_fields
from pages.components.frame import draw_plot, plain, rerun_after
from pages.components.numbers import number_form, wrong_numbers
from pages.components.tables import draw_table
from pages.components.words import date_time, figure_text

CLOSED, POISSON, TRACE = "Users (closed loop)", "Rate (open loop)", "Arrivals from a file (open loop)"
LOADS = {
    CLOSED: "Each user sends a request when the last one has ended.",
    POISSON: "Requests arrive at random (Poisson), whether or not earlier ones have ended.",
    TRACE: "Requests arrive at recorded times.",
}
TARGETS = {"Gateway and replicas": ("gateway", "replica"), "Gateway": ("gateway",), "Replicas": ("replica",)}
NOT_OF = {CLOSED: ("rate",), POISSON: (), TRACE: ("rate", "duration_s")}
"""Fields that a kind of load does not have."""


@number_form
def draw_start(ctx: Context, person: Person, endpoint: str) -> None:
    """Draw the fields, the time that the test takes, and the button."""
    kind = choose_one("Load", list(LOADS), default=CLOSED, key="load_kind") or CLOSED
    st.caption(LOADS[kind])
    values: FieldValues = {}
    arrivals = b""
    if kind == TRACE:
        upload = st.file_uploader(
            "Arrivals", type=["txt", "csv"], key="load_arrivals", help="A number of seconds per line."
        )
        arrivals = b"" if upload is None else upload.getvalue()
    fields = st.grid(3, min_column_width=200)
    has_replicas = get_endpoint(ctx, endpoint).config.upstream is None
    values["targets"] = TARGETS[
        fields.selectbox(
            "Target",
            [name for name in TARGETS if has_replicas or name == "Gateway"],
            key=f"load_targets_{has_replicas}",
            help="Both in turn: the difference of their medians is what the gateway adds.",
        )
    ]
    first = {"duration_s": 20, "rate": None if kind == CLOSED else 2.0}
    values |= draw_fields(LoadConfig, key="load", place=fields, values=first, skip=NOT_OF[kind])
    seconds = values.get("duration_s")
    if seconds and (levels := len(values["users"]) if kind == CLOSED else 1):
        st.caption(f"Takes about {format_duration(levels * seconds * len(values['targets']))}, and the warm-up.")
    if st.button(
        "Start load test",
        type="primary",
        key="load_start",
        icon=":material/speed:",
        disabled=(kind == TRACE and not arrivals) or bool(wrong_numbers()),
    ):
        with rerun_after():
            values["arrivals"] = read_arrivals(arrivals.decode(errors="replace")) if kind == TRACE else ()
            config: LoadConfig = read_values(LoadConfig, values)
            start_load_test(ctx, endpoint, config, person=person)
            st.toast(f"Load test of {plain(endpoint)} queued.", icon=":material/speed:")


SIDES = {"gateway": "Gateway", "replica": "Replica"}
LATE_MS = 10.0
INTERVALS = (
    "In brackets: 95\u00a0% intervals by order statistics for independent requests; absent where a level has too few."
)


def draw_load_results(tests: Sequence[LoadTestView]) -> None:
    """Draw the choice of a test and of one to compare with, their tables and figures, and the downloads."""
    by_id = {test.id: test for test in tests}
    fields = st.grid(2, min_column_width=260)
    chosen = by_id[
        choose_from("Result", by_id, words=lambda id_: test_label(by_id[id_]), key="load_result", place=fields)
    ]
    others = [id_ for id_ in by_id if id_ != chosen.id]
    compared = choose_from(
        "Compare with",
        others,
        words=lambda id_: test_label(by_id[id_]),
        key="load_compared",
        value=None,
        placeholder="None",
        place=fields,
    )
    draw_test(chosen)
    pair = [chosen]
    if compared is not None:
        st.markdown(f"**Compared with {plain(test_label(by_id[compared]))}**")
        draw_test(by_id[compared])
        pair.append(by_id[compared])
        draw_load_differences(chosen, by_id[compared])
    draw_figures(pair)
    with st.container(horizontal=True):
        for name, make in (("CSV", load_test_csv), ("JSON", load_test_json)):
            draw_download(name, partial(make, chosen), f"load-test-{chosen.id}.{name.lower()}", key=f"load_{name}")


def test_label(test: LoadTestView) -> str:
    """Return a test's time, load, revision and id in one line: two of one minute must differ."""
    revision = f"revision {test.revision}" if test.revision else ""
    return " · ".join(filter(None, [date_time(test.created_at), describe_load(test.config), revision, test.id[:5]]))


def describe_load(config: LoadConfig) -> str:
    """Return the load of a config in a few words."""
    if config.arrivals:
        return f"{plural(len(config.arrivals), 'recorded arrival')}"
    if config.rate:
        return f"{config.rate:g} requests/s"
    return f"{', '.join(map(str, config.users))} users"


def draw_test(test: LoadTestView) -> None:
    """Draw a row per level and target, what the gateway adds, and the conditions."""
    config, levels = test.config, test.result.levels
    rows = [row for level in levels for row in _rows(level)]
    formats = {"Requests/s": ",.2f", "Tokens/s": ",.1f"}
    draw_table(rows, key=f"load_levels_{test.id}", alt="Levels of the load test", formats=formats)
    mixes = f"prompts of {_mix(config.prompt_words)} words, answers of at most {_mix(config.max_tokens)} tokens"
    objectives = (
        f"objectives {config.slo_ttft_ms:,.0f} ms to the first token and {config.slo_itl_ms:,.0f} ms between tokens"
    )
    parts = [plural(test.result.replicas, "replica"), plain(test.checkpoint), mixes, objectives]
    st.caption(f"{' · '.join(filter(None, parts))}. {INTERVALS}")
    if test.result.stopped:
        st.caption("Stopped before its last level.")
    if any(not (level.get(side) or {}).get("is_steady", True) for level in levels for side in SIDES):
        st.caption(
            "Rates of a level that is short beside its longest request include the time in which the last requests end."
        )
    late = max(
        (float((level.get(side) or {}).get("late_p99_ms") or 0) for level in levels for side in SIDES), default=0.0
    )
    if late > LATE_MS:
        st.warning(
            f"Requests were sent up to {late:,.0f} ms late (p99): the client's machine was too slow. Latencies count"
            " from the planned arrival, so they hold this delay.",
            icon=":material/schedule:",
        )
    for problem in dict.fromkeys(
        str((level.get(side) or {}).get("first_error") or "") for level in levels for side in SIDES
    ):
        if problem:
            st.warning(f"First error: {plain(problem)}", icon=":material/error:")


def _rows(level: Mapping[str, Any]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    added = level.get("gateway_overhead") or {}
    for side, name in SIDES.items():
        summary = level.get(side)
        if summary is None:
            continue
        is_gateway = side == "gateway"
        rows.append(
            {
                "Users": level["users"] or "open loop",
                "Target": name,
                "Requests": summary["requests"],
                "Errors": summary["errors"],
                "Requests/s": summary["requests_per_s"],
                "Tokens/s": summary["tokens_per_s"],
                "First token p50, ms": _with_interval(summary["ttft"], 50),
                "First token p95, ms": _with_interval(summary["ttft"], 95),
                "Between tokens p50 / p95, ms": _pair(summary["itl"]),
                "Goodput/s": f"{summary['goodput_per_s']:,.2f} ({percent(summary['good_share'])})",
                "Gateway adds to the first token, ms": _added(added, "ttft") if is_gateway else None,
            }
        )
    return rows


def draw_load_differences(first: LoadTestView, second: LoadTestView) -> None:
    """Draw, for levels that both tests have, the change of rates and medians from the compared one to the chosen."""
    past = {(level["users"], side): level[side] for level in second.result.levels for side in SIDES if level.get(side)}
    rows = []
    for level in first.result.levels:
        for side, name in SIDES.items():
            before, now = past.get((level["users"], side)), level.get(side)
            if before is None or now is None:
                continue
            rows.append(
                {
                    "Users": level["users"] or "open loop",
                    "Target": name,
                    "Tokens/s": _change(before["tokens_per_s"], now["tokens_per_s"]),
                    "Requests/s": _change(before["requests_per_s"], now["requests_per_s"]),
                    "Goodput/s": _change(before["goodput_per_s"], now["goodput_per_s"]),
                    "First token p50": _change(*((part["ttft"] or {}).get("p50_ms") for part in (before, now))),
                    "First token p95": _change(*((part["ttft"] or {}).get("p95_ms") for part in (before, now))),
                    "Between tokens p50": _change(*((part["itl"] or {}).get("p50_ms") for part in (before, now))),
                }
            )
    if not rows:
        st.caption("The two tests have no level in common.")
        return
    st.markdown("**Change to the chosen result**")
    draw_table(rows, key="load_changes", alt="Change between two load tests")
    same = {"prompt_words", "max_tokens", "rate", "arrivals", "slo_ttft_ms", "slo_itl_ms"}
    if any(getattr(first.config, name) != getattr(second.config, name) for name in same):
        st.caption(
            "The two tests differ in lengths, arrivals or objectives, so the change is not of the deployment alone."
        )


def draw_figures(tests: Sequence[LoadTestView]) -> None:
    """Draw distributions, rates over time and goodput of one level."""
    levels = list(dict.fromkeys(level["users"] for test in tests for level in test.result.levels))
    if not levels:
        return
    users = levels[-1]
    if len(levels) > 1:
        users = choose_one("Users in the figures", levels, default=users, key="load_level") or users
    curves = [curve for number, test in enumerate(tests) for curve in _curves(test, number, users, many=len(tests) > 1)]
    config = tests[0].config
    grid = st.grid(2, min_column_width=330)
    for field, title, objective in (
        ("ttft", "Time to first token", "slo_ttft_ms"),
        ("itl", "Time between tokens", "slo_itl_ms"),
    ):
        figure = distribution_figure(curves, field=field, title=title, objective_ms=getattr(config, objective))
        draw_plot(figure, key=f"load_{field}_figure", alt=f"Distribution of the {title.lower()}", place=grid)
    figure = course_figure(curves, field="tokens_per_s", title="Throughput", unit="tokens/s")
    draw_plot(figure, key="load_tokens_figure", alt="Tokens per second over the test", place=grid)
    figure = course_figure(curves, field="goodput_per_s", title="Goodput over time", unit="requests/s")
    draw_plot(figure, key="load_good_figure", alt="Requests within the objectives per second over the test", place=grid)
    every = [
        curve
        for number, test in enumerate(tests)
        for level in levels
        for curve in _curves(test, number, level, many=len(tests) > 1)
    ]
    draw_plot(goodput_figure(every), key="load_goodput_figure", alt="Goodput by level and target")


def _curves(test: LoadTestView, number: int, users: int | None, *, many: bool) -> list[LoadCurve]:
    which = ("", " (chosen)", " (compared)")[number + 1 if many else 0]
    load = plural(users, "user") if users else "open loop"
    return [
        LoadCurve(f"{name}, {load}{which}", side, number, level[side])
        for level in test.result.levels
        if level["users"] == users
        for side, name in SIDES.items()
        if level.get(side) is not None
    ]


def _with_interval(spread: Mapping[str, Any] | None, quantile: int) -> str | None:
    if spread is None:
        return None
    interval = spread.get(f"p{quantile}_interval_ms")
    return f"{spread[f'p{quantile}_ms']:,.0f}" + (f" [{interval[0]:,.0f}, {interval[1]:,.0f}]" if interval else "")


def _pair(spread: Mapping[str, Any] | None) -> str | None:
    return None if spread is None else f"{spread['p50_ms']:,.1f} / {spread['p95_ms']:,.1f}"


def _added(overhead: Mapping[str, Any], name: str) -> str | None:
    value, interval = overhead.get(f"{name}_p50_ms"), overhead.get(f"{name}_interval_ms")
    if value is None:
        return None
    return f"{value:+,.1f}" + (f" [{interval[0]:+,.1f}, {interval[1]:+,.1f}]" if interval else "")


def _mix(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)


def _change(before: float | None, now: float | None) -> str | None:
    return None if not before or now is None else percent(now / before - 1, signed=True)


HEIGHT = 290
HUES = {"gateway": COLORS[0], "replica": COLORS[1]}
DASHES = ("solid", "dot")


@dataclass(frozen=True)
class LoadCurve:
    """One level against one target of one load test, as the figures draw it. `number` is 0 for the chosen test, 1 for
    the compared one.
    """

    label: str
    side: str
    number: int
    summary: Mapping[str, Any]


def distribution_figure(curves: Sequence[LoadCurve], *, field: str, title: str, objective_ms: float) -> go.Figure:
    """Return cumulative distributions of a latency on a log axis, with its objective as a line. Steps are 8 %."""
    figure = go.Figure()
    for curve in curves:
        counts = {int(bucket): count for bucket, count in (curve.summary.get(f"{field}_counts") or {}).items()}
        total = sum(counts.values())
        if not total:
            continue
        passed, xs, ys = 0, [], []
        for bucket in sorted(counts):
            passed += counts[bucket]
            xs.append(1000 * bucket_middle_s(bucket))
            ys.append(100 * passed / total)
        figure.add_scatter(
            x=[xs[0], *xs],
            y=[0, *ys],
            name=figure_text(curve.label),
            mode="lines",
            line={"color": HUES[curve.side], "width": 1.9, "shape": "hv", "dash": DASHES[curve.number]},
            hovertemplate=f"%{{y:.1f}} % within %{{x:,.3~g}} ms · {figure_text(curve.label)}<extra></extra>",
        )
    figure.add_vline(x=objective_ms, line={"color": MUTED, "width": 1, "dash": "dash"})
    _lay_out(figure, title=title)
    figure.update_xaxes(type="log", title="ms", tickformat=",~g", dtick="D2" if _decades(figure) < 2 else 1)
    figure.update_yaxes(title="% of requests" if field == "ttft" else "% of gaps", range=[0, 102])
    return figure


def course_figure(curves: Sequence[LoadCurve], *, field: str, title: str, unit: str) -> go.Figure:
    """Return a rate over the time of the test: a line per phase, since a target's phases alternate with the other's."""
    figure = go.Figure()
    for curve in curves:
        xs: list[float | None] = []
        ys: list[float | None] = []
        for point in curve.summary.get("points") or ():
            if xs and xs[-1] is not None and point["at_s"] - xs[-1] > 1.6 * _step(curve):
                xs.append(None)
                ys.append(None)
            xs.append(point["at_s"])
            ys.append(point[field])
        if xs:
            figure.add_scatter(
                x=xs,
                y=ys,
                name=figure_text(curve.label),
                mode="lines+markers" if len(xs) < 20 else "lines",
                line={"color": HUES[curve.side], "width": 1.8, "dash": DASHES[curve.number]},
                marker={"size": 5},
                hovertemplate=f"%{{x:.0f}} s: %{{y:,.3~g}} {unit} · {figure_text(curve.label)}<extra></extra>",
            )
    _lay_out(figure, title=title)
    figure.update_xaxes(title="seconds since the start")
    figure.update_yaxes(title=unit, rangemode="tozero")
    return figure


def goodput_figure(curves: Sequence[LoadCurve]) -> go.Figure:
    """Return requests a second per level and target, split into those within the objectives and the others."""
    labels = [figure_text(curve.label) for curve in curves]
    good = [float(curve.summary["goodput_per_s"]) for curve in curves]
    slow = [max(0.0, float(curve.summary["requests_per_s"]) - value) for curve, value in zip(curves, good, strict=True)]
    figure = go.Figure()
    for name, values, color in (("within the objectives", good, COLORS[2]), ("beyond the objectives", slow, MUTED)):
        figure.add_bar(
            y=labels,
            x=values,
            name=name,
            orientation="h",
            marker_color=color,
            hovertemplate=f"%{{x:,.3~g}} requests/s {name}<extra></extra>",
        )
    _lay_out(figure, title="Goodput, requests/s")
    height = 130 + 34 * len(labels)
    figure.update_layout(barmode="stack", height=height, bargap=0.3, legend={**LEGEND_BELOW, "y": -42 / (height - 96)})
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def _step(curve: LoadCurve) -> float:
    times = [point["at_s"] for point in curve.summary["points"]]
    return min((b - a for a, b in itertools.pairwise(times) if b > a), default=1.0)


def _decades(figure: go.Figure) -> float:
    values = [x for trace in figure.data for x in trace.x if x]
    return math.log10(max(values) / min(values)) if values else 1.0


def _lay_out(figure: go.Figure, *, title: str) -> None:
    figure.update_layout(
        height=HEIGHT,
        margin={**MARGIN, "t": 34},
        title={"text": title, "font": {"size": 14}, "x": 0, "xanchor": "left", "y": 0.98},
        showlegend=True,
        legend={**LEGEND_BELOW, "y": -0.3},
        hovermode="closest",
    )
