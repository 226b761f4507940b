"""Monitor: traffic, latencies, queues and machines over 15 minutes to 30 days, and alerts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from backend.domain.wording import percent, plural
from backend.services.context import Context, Person
from backend.services.health import HEALTH
from backend.services.serving.endpoints import EndpointView, list_endpoints
from backend.services.serving.monitoring.alerts import AlertView, list_alerts
from backend.services.serving.monitoring.gauges import ReplicaGauges, read_live
from backend.services.serving.monitoring.traffic import (
    WINDOWS,
    GaugeSeries,
    Traffic,
    find_window,
    list_variants,
    read_traffic,
    read_traffic_gauges,
)
from pages.components import routes
from pages.components.choices import choose_from, choose_one
from pages.components.frame import draw_metric, draw_plot, empty_state, live_part, page_frame, plain
from pages.components.links import page_link
from pages.components.serving.monitor_charts import Series, break_at_gaps, lines_figure, stacked_figure
from pages.components.serving.replica_table import draw_replica_table
from pages.components.words import ago, time_zone, two_times

ALL = "All endpoints"
ALL_VARIANTS = "All variants"
HOST_GAUGES = {"cpu_ratio": "CPU", "memory_ratio": "Memory", "gpu_ratio": "GPU", "gpu_memory_ratio": "GPU memory"}
ICONS = {"critical": "error", "warning": "warning", "info": "info"}


@live_part(10)
def draw_monitor(ctx: Context, person: Person) -> None:
    """Draw the choices, alerts, what happens now, and the figures."""
    endpoints = list_endpoints(ctx)
    names = [endpoint.name for endpoint in endpoints]
    with st.container(horizontal=True, vertical_alignment="top"):
        labels = [window.label for window in WINDOWS]
        label = choose_one("Window", labels, default="1 h", key="window", bind="query-params") or "1 h"
        chosen = st.selectbox("Endpoint", [ALL, *names], key="endpoint", bind="query-params", width=260)
        endpoint = None if chosen == ALL else chosen
        window = find_window(label)
        variants = list_variants(ctx, window, endpoint=endpoint) if endpoint else {}
        choices = {"": ALL_VARIANTS} | variants
        variant = choose_from("Variant", choices, key="variant", bind="query-params", width=220) if variants else ""
    live, alerts = read_live(ctx), list_alerts(ctx)
    traffic = read_traffic(ctx, window, endpoint=endpoint, variant=variant or None)
    draw_summary(endpoints, alerts, traffic)
    draw_alerts(alerts, now=ctx.now())
    shown = [r for r in live.replicas if endpoint in (None, r.endpoint) and variant in ("", r.variant)]
    if not traffic.total.requests and not names:
        empty_state(
            "No endpoint yet. Deploy a checkpoint, and its requests appear here.",
            page=routes.ENDPOINTS,
            label="Endpoints",
        )
        return
    draw_now(shown, traffic)
    draw_traffic(traffic)
    draw_machine_gauges(read_traffic_gauges(ctx, window, endpoint=endpoint, variant=variant or None), traffic)
    draw_replica_table(shown, key="monitor_replicas_table", alt="Replicas now", person=person)


def draw_summary(endpoints: Sequence[EndpointView], alerts: Sequence[AlertView], traffic: Traffic) -> None:
    """Draw one sentence: that nothing is wrong, what is, or what is starting."""
    parts = [outage.part.lower() for outage in HEALTH.outages()]
    faults = [f"out of reach: {', '.join(parts)}"] if parts else []
    faults += [plural(count, "open alert")] if (count := sum(one.resolved_at is None for one in alerts)) else []
    faults += [f"{one.name} {one.state}" for one in endpoints if one.state in ("failing", "unreachable")]
    if traffic.total.lost:
        taken = traffic.total.requests - traffic.total.refused
        failed = f"{traffic.total.lost:,} of {plural(taken, 'request')} failed in {traffic.window.label}"
        refused = f", besides {traffic.total.refused:,} refused" if traffic.total.refused else ""
        faults.append(failed + refused)
    if faults:
        st.markdown(f":red[:material/error: **Something is wrong:**] {plain('; '.join(faults))}.")
        return
    if starting := [words for one in endpoints if (words := _describe_start(one))]:
        st.markdown(f":blue[:material/hourglass_top: **Starting:**] {plain('; '.join(starting))}.")
        return
    deployed = [one for one in endpoints if one.stopped_at is None]
    num_ready, num_asleep = sum(one.num_ready > 0 for one in deployed), sum(one.state == "asleep" for one in deployed)
    ready = f"{num_ready} of {plural(len(deployed), 'endpoint')} ready" if deployed else "No endpoint is deployed"
    ready += f" and {num_asleep:,} asleep" if num_asleep else ""
    st.markdown(
        f":green[:material/check_circle: **Nothing is wrong.**] {ready}, no open alert, no failed request in"
        f" {plain(traffic.window.label)}."
    )


def _describe_start(endpoint: EndpointView) -> str:
    """Return how many replicas of an endpoint and its canary are ready; empty where all are, or none is to be."""
    if endpoint.state not in ("starting", "updating", "ready"):
        return ""
    canary = endpoint.canary
    num_ready = endpoint.num_ready + (canary.num_ready if canary else 0)
    target = endpoint.target + (canary.num_replicas if canary else 0)
    return f"{endpoint.name}, {num_ready} of {plural(target, 'replica')} ready" if num_ready < target else ""


def draw_alerts(alerts: Sequence[AlertView], *, now: datetime) -> None:
    """Draw open alerts, and the past ones folded."""
    current = [alert for alert in alerts if alert.resolved_at is None]
    for alert in current:
        words = f"{plain(alert.message)} · began {ago(alert.opened_at, now=now)}"
        (st.error if alert.severity == "critical" else st.warning)(
            words, icon=f":material/{ICONS.get(alert.severity, 'info')}:"
        )
    if any(alert.kind == "replica_down" for alert in current):
        page_link(routes.ENDPOINTS, "Causes by endpoint")
    past = [alert for alert in alerts if alert.resolved_at is not None]
    if past:
        with st.expander(f"Past alerts ({len(past)})", icon=":material/history:", key="past_alerts"):
            for alert in past:
                sent = f" · {alert.problem}" if alert.problem else "" if alert.sent_at is None else " · sent"
                st.caption(f"{plain(alert.message)} · {ago(alert.opened_at, now=now)}{plain(sent)}")


def draw_now(replicas: Sequence[ReplicaGauges], traffic: Traffic) -> None:
    """Draw the current gauges and the totals of the window."""
    ratios = [replica.load.cache_ratio for replica in replicas if replica.load.cache_ratio is not None]
    total, label = traffic.total, traffic.window.label
    running, waiting, speed = (
        sum(getattr(replica.load, name) for replica in replicas) for name in ("running", "waiting", "tokens_per_second")
    )
    p95 = total.ttft_ms[1]
    grid = st.grid(5, min_column_width=140)
    for title, value, meaning in (
        ("Running requests", f"{running:.0f}", "Now."),
        ("Queue", f"{waiting:.0f}", "Requests that wait for a replica, now."),
        ("Tokens per second", f"{speed:,.0f}", "Now, by the replicas."),
        ("Replicas ready", f"{sum(replica.is_ready for replica in replicas)} of {len(replicas)}", None),
        ("KV cache", percent(max(ratios)) if ratios else "–", "Used share, of the fullest replica, now."),
        (f"Requests, {label}", f"{total.requests:,}", f"{total.completion_tokens:,} tokens generated"),
        (
            "Failed",
            _share(total.error_share),
            f"{total.lost:,} requests that no replica completed, as a share of those that were not refused.",
        ),
        (
            "Refused",
            _share(total.refused_share),
            f"{total.refused:,} requests: over a limit, with a wrong key, not allowed to their key, for a model that"
            " does not exist, or invalid. Requests has them with the reason.",
        ),
        ("Queue p50 / p95", two_times(*total.queue_ms[:2]), f"Wait before the first step, over {label}."),
        ("First token, p95", "–" if p95 is None else f"{p95:,.0f} ms", f"Over {label}."),
    ):
        draw_metric(grid, title, value, help=meaning)
    if traffic.load_tests:
        st.caption(f"Not counted: {plural(traffic.load_tests, 'request')} of load tests.")


def draw_traffic(traffic: Traffic) -> None:
    """Draw requests, tokens, and the latencies' percentiles."""
    points = [(point.start.astimezone(time_zone()), point) for point in traffic.points]
    if not points:
        return
    start, end = points[0][0], points[-1][0]
    grid = st.grid(2, min_column_width=330)
    statuses = (
        ("finished", "finished"),
        ("cut off by the client", "aborted"),
        ("refused", "refused"),
        ("failed", "lost"),
    )
    requests: list[Series] = [(name, [(at, getattr(point, field)) for at, point in points]) for name, field in statuses]
    figure = stacked_figure(requests, title=f"Requests per {_step_words(traffic)}", start=start, end=end)
    draw_plot(figure, key="monitor_requests", alt="Requests over time by result", place=grid)
    tokens: Series = ("tokens/s", [(at, point.tokens_per_s) for at, point in points[:-1]])  # the last step is not over
    figure = lines_figure([tokens], title="Generated tokens per second", start=start, end=end)
    draw_plot(figure, key="monitor_tokens", alt="Generated tokens per second over time", place=grid)
    for field, title in (("ttft_ms", "Time to first token"), ("itl_ms", "Time between tokens")):
        draw_plot(latency_figure(traffic, field, title), key=f"monitor_{field}", alt=f"{title} over time", place=grid)
    st.caption("A request counts, with all its tokens, when it began.")


def latency_figure(traffic: Traffic, field: str, title: str) -> go.Figure:
    """Return the percentiles of a latency over time."""
    points = [(point.start.astimezone(time_zone()), point) for point in traffic.points]
    series: list[Series] = [
        (name, [(at, getattr(point, field)[number]) for at, point in points])
        for number, name in enumerate(("p50", "p95", "p99"))
    ]
    return lines_figure(series, title=title, unit="ms", start=points[0][0], end=points[-1][0])


def draw_machine_gauges(gauges: Sequence[GaugeSeries], traffic: Traffic) -> None:
    """Draw running and waiting requests, replicas, cache use, and a figure per machine."""
    zone = time_zone()
    by_name = {
        (series.subject, series.name): break_at_gaps(
            [(at.astimezone(zone), value) for at, value in series.points], step_s=traffic.window.step_s
        )
        for series in gauges
    }
    start, end = traffic.points[0].start.astimezone(zone), traffic.points[-1].start.astimezone(zone)
    grid = st.grid(2, min_column_width=330)
    figure = latency_figure(traffic, "queue_ms", "Time in the queue")
    draw_plot(figure, key="monitor_queue_ms", alt="Time in the queue over time", place=grid)

    def draw(subject: str, names: Mapping[str, str], *, title: str, key: str, alt: str, **unit: Any) -> None:
        series: list[Series] = [
            (label, points) for name, label in names.items() if (points := by_name.get((subject, name)))
        ]
        if series:
            figure = lines_figure(series, title=title, start=start, end=end, **unit)
            draw_plot(figure, key=f"monitor_{key}", alt=f"{alt} over time", place=grid)

    title = "Running and waiting requests"
    draw("endpoint", {"running": "running", "waiting": "waiting"}, title=title, key="load", alt=title, is_count=True)
    ready = {"replicas_ready": "ready"}
    draw("endpoint", ready, title="Replicas ready", key="replicas", alt="Ready replicas", is_count=True)
    title = "KV cache of the fullest replica"
    draw("endpoint", {"cache_ratio": "cache"}, title=title, key="cache", alt="Use of the KV cache", is_share=True)
    alt = "Cores that the replicas keep busy"
    draw("endpoint", {"cpu_cores": "cores"}, title="Cores of the replicas", key="cores", alt=alt)
    labels, title = {"memory_bytes": "memory", "gpu_memory_bytes": "GPU memory"}, "Memory of the replicas"
    draw("endpoint", labels, title=title, key="memory", alt=title, is_bytes=True)
    for number, subject in enumerate(sorted({subject for subject, _ in by_name if subject.startswith("host:")})):
        host = subject.partition(":")[2]
        alt = f"Load of the machine {host}"
        draw(subject, HOST_GAUGES, title=f"Machine {host}", key=f"host_{number}", alt=alt, is_share=True)


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share, digits=2 if 0 < share < 0.1 or 0.9 < share < 1 else 0)


def _step_words(traffic: Traffic) -> str:
    minutes = traffic.window.step_s // 60
    return (
        "minute"
        if minutes == 1
        else f"{minutes} min"
        if minutes < 60
        else "hour"
        if minutes == 60
        else f"{minutes // 60} h"
    )


with page_frame("Monitor", "Traffic, latencies and machines.") as (context_, person_):
    draw_monitor(context_, person_)
