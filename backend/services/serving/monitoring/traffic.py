"""Traffic and gauges over a window, from rollups: at most a few hundred points whatever the window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, or_, select

from backend.db.tables import Checkpoint, Deployment, Endpoint, GaugeRollup, Replica, TrafficRollup, Usage
from backend.domain.serving.latency import Counts, add_counts, percentile_s
from backend.domain.serving.request_log import LOAD_TEST
from backend.services.context import Context
from backend.services.serving.monitoring.rollups import COUNTS, HISTOGRAMS, interval_start, rollup_variant
from backend.services.serving.prices import price_differences
from backend.services.serving.replicas import CANARY, STABLE

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Window:
    """A span of time, the width of the rollups it is read from, and that of its points."""

    label: str
    span: timedelta
    width_s: int
    step_s: int


WINDOWS = (
    Window("15 min", timedelta(minutes=15), 60, 60),
    Window("1 h", timedelta(hours=1), 60, 60),
    Window("6 h", timedelta(hours=6), 60, 300),
    Window("24 h", timedelta(hours=24), 600, 600),
    Window("7 days", timedelta(days=7), 3600, 3600),
    Window("30 days", timedelta(days=30), 3600, 4 * 3600),
)


@dataclass(frozen=True)
class TrafficPoint:
    """One step of a window; latencies in milliseconds at 0.5, 0.95 and 0.99, None without a request."""

    start: datetime
    step_s: int
    requests: int = 0
    lost: int = 0
    refused: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: tuple[float | None, ...] = (None, None, None)
    itl_ms: tuple[float | None, ...] = (None, None, None)
    total_ms: tuple[float | None, ...] = (None, None, None)
    queue_ms: tuple[float | None, ...] = (None, None, None)

    @property
    def finished(self) -> int:
        """Requests that were answered in full."""
        return self.requests - self.lost - self.refused - self.aborted

    @property
    def error_share(self) -> float | None:
        """Share of failed requests among those that were not refused; None without one."""
        taken = self.requests - self.refused
        return self.lost / taken if taken else None

    @property
    def refused_share(self) -> float | None:
        """Share of refused requests; None without a request."""
        return self.refused / self.requests if self.requests else None

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second."""
        return self.completion_tokens / self.step_s


@dataclass(frozen=True)
class Traffic:
    """A window's points, oldest first, and its total as one point. `load_tests`: requests of load tests beside them."""

    window: Window
    points: tuple[TrafficPoint, ...]
    total: TrafficPoint
    load_tests: int = 0


@dataclass(frozen=True)
class RevisionTraffic:
    """Traffic that a revision answered in its present role, which is stable or canary."""

    role: str
    revision: int
    checkpoint_name: str
    total: TrafficPoint
    cost_usd: float


@dataclass(frozen=True)
class GaugeSeries:
    """Means of a gauge per step; `maximum` is the highest reading of the window."""

    subject: str
    name: str
    points: tuple[tuple[datetime, float], ...]
    maximum: float


def find_window(label: str) -> Window:
    """Return the window of a label."""
    return next(window for window in WINDOWS if window.label == label)


def read_traffic(ctx: Context, window: Window, *, endpoint: str | None = None, variant: str | None = None) -> Traffic:
    """Return the traffic of one endpoint, or of all, in a window that ends now, without load tests unless they are the
    variant. Steps without requests are points of zeros.
    """
    end = interval_start(ctx.now(), window.step_s) + timedelta(seconds=window.step_s)
    begin = interval_start(ctx.now() - window.span, window.step_s)
    query = select(TrafficRollup).where(TrafficRollup.width_s == window.width_s, TrafficRollup.start >= begin)
    with ctx.db.read() as session:
        if endpoint is not None:
            query = query.where(
                TrafficRollup.endpoint_id == session.scalar(select(Endpoint.id).where(Endpoint.name == endpoint))
            )
        stored = session.scalars(query if variant is None else query.where(_is_of(variant))).all()
    rows = [row for row in stored if variant is not None or row.variant != LOAD_TEST]
    steps = int((end - begin).total_seconds() / window.step_s)
    starts = [begin + timedelta(seconds=n * window.step_s) for n in range(steps)]
    groups: dict[datetime, list[TrafficRollup]] = defaultdict(list)
    for row in rows:
        groups[interval_start(row.start, window.step_s)].append(row)
    points = tuple(_point(start, window.step_s, groups.get(start, ())) for start in starts)
    load_tests = sum(row.requests for row in stored) - sum(row.requests for row in rows)
    return Traffic(window, points, _point(begin, steps * window.step_s, rows), load_tests)


def _is_of(variant: str) -> ColumnElement[bool]:
    is_same = TrafficRollup.variant == variant
    return or_(is_same, TrafficRollup.variant.startswith(f"{STABLE}:")) if variant == STABLE else is_same


def endpoint_totals(ctx: Context, window: Window) -> dict[str, TrafficPoint]:
    """Return the whole traffic of each endpoint that had requests in a window, without load tests, by name."""
    begin = interval_start(ctx.now() - window.span, window.step_s)
    query = (
        select(Endpoint.name, TrafficRollup)
        .join(Endpoint, Endpoint.id == TrafficRollup.endpoint_id)
        .where(
            TrafficRollup.width_s == window.width_s,
            TrafficRollup.start >= begin,
            TrafficRollup.variant != LOAD_TEST,
        )
    )
    groups: dict[str, list[TrafficRollup]] = defaultdict(list)
    with ctx.db.read() as session:
        for name, row in session.execute(query):
            groups[name].append(row)
    span_s = int(window.span.total_seconds())
    return {name: _point(begin, span_s, rows) for name, rows in groups.items()}


def compare_revisions(ctx: Context, window: Window, *, endpoint: str) -> list[RevisionTraffic]:
    """Return the traffic in a window of each revision that an endpoint has now, stable before canary: the requests that
    it answered in its present role, so none of an earlier stable revision or canary. Without load tests.
    """
    begin = interval_start(ctx.now() - window.span, window.step_s)
    span_s = int(window.span.total_seconds())
    with ctx.db.read() as session:
        revisions = session.execute(
            select(Deployment, Checkpoint.name)
            .join(Endpoint, Endpoint.id == Deployment.endpoint_id)
            .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
            .where(Endpoint.name == endpoint, Deployment.stopped_at.is_(None), Deployment.role.in_((STABLE, CANARY)))
            .order_by(Deployment.role != STABLE, Deployment.revision)
        ).all()
        compared = []
        for deployment, checkpoint in revisions:
            rows = session.scalars(
                select(TrafficRollup).where(
                    TrafficRollup.endpoint_id == deployment.endpoint_id,
                    TrafficRollup.width_s == window.width_s,
                    TrafficRollup.start >= begin,
                    TrafficRollup.variant
                    == rollup_variant(STABLE if deployment.role == STABLE else deployment.id, deployment.id),
                )
            ).all()
            total, usd = _point(begin, span_s, rows), sum(row.cost_usd for row in rows)
            is_its = (
                Usage.replica_id.in_(select(Replica.id).where(Replica.deployment_id == deployment.id)),
                Usage.variant.in_(("", STABLE) if deployment.role == STABLE else (deployment.id,)),
                Usage.created_at >= begin,
            )
            usd += sum(more for more, _ in price_differences(session, ctx, *is_its, by=(Usage.replica_id,)))
            compared.append(RevisionTraffic(deployment.role, deployment.revision, checkpoint, total, usd))
        return compared


def list_variants(ctx: Context, window: Window, *, endpoint: str) -> dict[str, str]:
    """Return the variants of an endpoint's requests in a window, with their names: stable, or a canary's revision."""
    with ctx.db.read() as session:
        query = select(TrafficRollup.variant).join(Endpoint, Endpoint.id == TrafficRollup.endpoint_id)
        query = query.where(TrafficRollup.width_s == window.width_s, TrafficRollup.start >= ctx.now() - window.span)
        stored = session.scalars(query.where(Endpoint.name == endpoint).distinct())
        variants = sorted({variant.partition(":")[0] for variant in stored if variant})
        revisions = dict(
            session.execute(select(Deployment.id, Deployment.revision).where(Deployment.id.in_(variants))).all()
        )
    return {
        variant: f"canary, revision {revisions[variant]}" if variant in revisions else variant for variant in variants
    }


def read_traffic_gauges(
    ctx: Context, window: Window, *, endpoint: str | None = None, variant: str | None = None
) -> list[GaugeSeries]:
    """Return the gauges of machines and of one endpoint or variant, or the sums of all endpoints, in a window that ends
    now. Gauges of variants are kept while an endpoint has several.
    """
    begin = interval_start(ctx.now() - window.span, window.step_s)
    with ctx.db.read() as session:
        names = dict(session.execute(select(Endpoint.id, Endpoint.name)).all())
        rows = session.scalars(
            select(GaugeRollup).where(GaugeRollup.width_s == window.width_s, GaugeRollup.start >= begin)
        ).all()
    series: dict[tuple[str, str], dict[datetime, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    highest: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        kind, _, key = row.subject.partition(":")
        key, _, of_variant = key.partition(":") if kind == "variant" else (key, "", "")
        if kind != "host" and (
            key not in names or (endpoint is not None and names[key] != endpoint) or of_variant != (variant or "")
        ):
            continue
        name = (row.subject if kind == "host" else "endpoint", row.name)
        series[name][interval_start(row.start, window.step_s)][row.subject].append(row.sum / max(1, row.readings))
        highest[name] = max(highest[name], row.maximum)
    return [
        GaugeSeries(
            subject,
            name,
            tuple((start, _combine(name, steps[start])) for start in sorted(steps)),
            highest[subject, name],
        )
        for (subject, name), steps in sorted(series.items())
    ]


def _combine(name: str, subjects: Mapping[str, Sequence[float]]) -> float:
    """Return the mean over a step's rollups, summed over endpoints; of a ratio, the highest."""
    means = [sum(values) / len(values) for values in subjects.values()]
    return max(means) if name.endswith("ratio") else sum(means)


def _point(start: datetime, step_s: int, rows: Sequence[TrafficRollup]) -> TrafficPoint:
    values: dict[str, Any] = {name: sum(getattr(row, name) for row in rows) for name in COUNTS}
    values |= {f"{name}_ms": _percentiles([getattr(row, name) for row in rows]) for name in HISTOGRAMS}
    return TrafficPoint(start, step_s, **values)


def _percentiles(counts: Sequence[Counts]) -> tuple[float | None, ...]:
    total = add_counts(counts)
    values = [percentile_s(total, quantile) for quantile in QUANTILES]
    return tuple(None if value is None else value * 1000 for value in values)
