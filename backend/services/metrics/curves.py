"""Curves for browsers: one shared cache per process, so that many viewers cost one query.

Each run's points are kept as plain arrays that grow by range reads after the last step held. A viewer sends its last
step of each metric and gets the points after it; a new viewer gets the whole curve, downsampled to at most 1,500 points
that keep its extremes. Constants per run convert its steps into tokens, time and FLOPs.
"""

from __future__ import annotations

import csv
import io
import json
import math
import threading
import time
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import select

from backend.db.tables import Job, Run
from backend.domain.csv_text import safe_cell
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.training.config import RunConfig
from backend.domain.training.summary import RunSummary, mean_tokens_per_step
from backend.services.checkpoints.networks import network_of_payload
from backend.services.context import Context
from backend.services.metrics.points import MAX_POINTS, Points, downsample, read_points, run_metric_names

FRESH_S = 0.2
MAX_RUNS = 64
CLIP = (1, 99)  # percentiles between which a range that outliers do not stretch is drawn
MAX_HELD = 5_000_000  # points of all runs together, at 24 bytes each


@dataclass
class _Trace:
    """All points of one metric of one run, ascending in step."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))
    times: array[float] = field(default_factory=lambda: array("d"))
    snapshot: tuple[int, str] | None = None  # (number of points, JSON of the downsampled curve)

    def extend(self, points: Points) -> None:
        self.steps.frombytes(points.steps.tobytes())
        self.values.frombytes(points.values.tobytes())
        self.times.frombytes(points.times.tobytes())

    def after(self, step: int, started: float) -> str | None:
        """Return the JSON of the points after a step; None without any."""
        first = bisect_right(self.steps, step)
        if first == len(self.steps):
            return None
        if len(self.steps) - first > MAX_POINTS:
            return self.all(started)
        return _to_json(self.steps[first:], self.values[first:], self.times[first:], started, is_whole=first == 0)

    def all(self, started: float) -> str:
        """Return the JSON of the downsampled curve, made once per length."""
        if self.snapshot is None or self.snapshot[0] != len(self.steps):
            steps = np.array(self.steps, dtype=np.int64)
            values = np.array(self.values, dtype=np.float64)
            indices = downsample(steps, values, MAX_POINTS)
            times = np.array(self.times, dtype=np.float64)[indices]
            text = _to_json(
                steps[indices].tolist(),
                values[indices].tolist(),
                times.tolist(),
                started,
                is_whole=True,
                clip=np.percentile(values, CLIP),
            )
            self.snapshot = (len(self.steps), text)
        return self.snapshot[1]


@dataclass
class _RunCurves:
    """The traces of one run, and the time of their last refresh. One viewer reads the database, under `refreshing`;
    what it has read is added under `lock`.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    refreshing: threading.Lock = field(default_factory=threading.Lock)
    resets: int = -1
    refreshed: float = -1e9
    started: float = 0.0
    traces: dict[str, _Trace] = field(default_factory=dict)

    def num_points(self) -> int:
        return sum(len(trace.steps) for trace in list(self.traces.values()))


class CurveCache:
    """Thread-safe LRU cache of the curves of viewed runs, limited by their number of points."""

    def __init__(self, *, max_held: int = MAX_HELD) -> None:
        self._max_held = max_held
        self._runs: OrderedDict[tuple[str, str], _RunCurves] = OrderedDict()
        self._lock = threading.Lock()

    def points_json(self, ctx: Context, run_id: str, *, after: Mapping[str, int], resets: int | None) -> str:
        """Return {"resets", "started", "metrics": {name: {"whole", "clip", "steps", "values", "times"}}} as JSON.

        `after` holds the viewer's last step of each metric, and `resets` its reset count: if points were dropped since
        (a run resumed from an earlier checkpoint), everything is sent again. `times` are seconds since the first point.
        """
        entry = self._entry(ctx, run_id)
        has_points = entry.resets >= 0  # a second caller gets these, and new ones at its next poll
        if time.monotonic() - entry.refreshed >= FRESH_S and entry.refreshing.acquire(blocking=not has_points):
            try:
                began = time.monotonic()
                if began - entry.refreshed >= FRESH_S:
                    _refresh(ctx, run_id, entry)
                    entry.refreshed = began
            finally:
                entry.refreshing.release()
        with entry.lock:
            same = resets == entry.resets
            parts: list[str] = []
            for name, trace in entry.traces.items():
                known = after.get(name) if same else None
                text = trace.all(entry.started) if known is None else trace.after(known, entry.started)
                if text is not None:
                    parts.append(f"{json.dumps(name)}:{text}")
            return f'{{"resets":{entry.resets},"started":{entry.started:.1f},"metrics":{{{",".join(parts)}}}}}'

    def _entry(self, ctx: Context, run_id: str) -> _RunCurves:
        key = (ctx.db.url, run_id)
        with self._lock:
            entry = self._runs.setdefault(key, _RunCurves())
            self._runs.move_to_end(key)
            cached_points = sum(one.num_points() for one in self._runs.values())
            while len(self._runs) > MAX_RUNS or (cached_points > self._max_held and len(self._runs) > 1):
                cached_points -= self._runs.popitem(last=False)[1].num_points()
            return entry


def _refresh(ctx: Context, run_id: str, entry: _RunCurves) -> None:
    """Read new points in one transaction, so that a resume is read atomically, then add them."""
    with ctx.db.read() as session:
        resets = session.scalar(select(Run.curve_resets).where(Run.id == run_id))
        if resets is None:
            return
        held = entry.traces if resets == entry.resets else {}
        new = {
            name: read_points(session, run_id, name_id, after=held[name].steps[-1] if _has_points(held, name) else -1)
            for name_id, name in run_metric_names(session, run_id)
        }
    with entry.lock:
        if resets != entry.resets:
            entry.traces, entry.resets = {}, resets
        for name, points in new.items():
            entry.traces.setdefault(name, _Trace()).extend(points)
        firsts = [trace.times[0] for trace in entry.traces.values() if trace.times]
        entry.started = min(firsts, default=0.0)


def _has_points(traces: Mapping[str, _Trace], name: str) -> bool:
    return name in traces and len(traces[name].steps) > 0


def _to_json(
    steps: Iterable[int],
    values: Iterable[float],
    times: Iterable[float],
    started: float,
    *,
    is_whole: bool,
    clip: Iterable[float] = (),
) -> str:
    """Write points with seven significant digits: legends show four decimals of losses in the hundreds.
    `clip`: the range of the middle 98 % of all values. JSON has no infinity: values that are not finite become null, a
    gap.
    """
    shown = ",".join(_number(value, ".7g") for value in values)
    moments = ",".join(_number(moment - started, ".1f") for moment in times)
    places = ",".join(map(str, steps))
    ends = list(clip)
    middle = f"[{','.join(f'{value:.6g}' for value in ends)}]" if all(map(math.isfinite, ends)) else "null"
    flags = f'true,"clip":{middle}' if is_whole else "false"
    return f'{{"whole":{flags},"steps":[{places}],"values":[{shown}],"times":[{moments}]}}'


def _number(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "null"


COLUMNS = ("run", "name", "metric", "step", "time", "value")


ROWS_AT_ONCE = 5000


def stream_csv(ctx: Context, run_ids: Sequence[str]) -> Iterator[str]:
    """Yield a CSV with one line per point: run id, run name, metric, step, time (Unix seconds), value in full
    precision.

    Names that a spreadsheet would read as a formula are prefixed with an apostrophe.
    """
    yield ",".join(COLUMNS) + "\r\n"
    for run_id in run_ids:
        with ctx.db.read() as session:
            name = session.scalar(select(Run.name).where(Run.id == run_id))
            metrics = run_metric_names(session, run_id)
        if name is None:
            continue
        for metric_id, metric in metrics:
            with ctx.db.read() as session:  # one metric a transaction: the reader may be slow
                points = read_points(session, run_id, metric_id)
            head = _cells(run_id, safe_cell(name), safe_cell(metric))
            for low in range(0, len(points), ROWS_AT_ONCE):
                part = slice(low, low + ROWS_AT_ONCE)
                columns = zip(
                    points.steps[part].tolist(), points.times[part].tolist(), points.values[part].tolist(), strict=True
                )
                yield "".join(f"{head},{step},{moment!r},{value!r}\r\n" for step, moment, value in columns)


def _cells(*texts: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(texts)
    return line.getvalue()


@dataclass(frozen=True)
class RunAxes:
    """Tokens and training FLOPs per step; None if not known."""

    tokens_per_step: float | None
    flops_per_step: float | None
    has_time: bool = True


def axes_of_runs(ctx: Context, run_ids: Sequence[str]) -> dict[str, RunAxes]:
    """Return the axes of runs by id, without deleted runs."""
    with ctx.db.read() as session:
        query = (
            select(Run.id, Run.config, Run.summary, Run.last_step, Job.payload)
            .outerjoin(Job, Job.id == Run.job_id)
            .where(Run.id.in_(run_ids))
        )
        rows = session.execute(query).all()
    return {run_id: _axes(ctx, *rest) for run_id, *rest in rows}


def _axes(
    ctx: Context, config: RunConfig | None, summary: RunSummary, steps: int, payload: Mapping[str, object] | None
) -> RunAxes:
    if (imported := summary.imported) is not None:
        return RunAxes(imported.tokens_per_step, imported.flops_per_step, imported.has_time)
    if config is None:
        return RunAxes(None, None)
    shape = network_of_payload(ctx, TrainPayload.read(payload)) if payload else None
    tokens = mean_tokens_per_step(
        config.tokens_per_step, samples=config.objective.samples, last=summary.last, steps=steps
    )
    if shape is None or tokens is None:
        return RunAxes(tokens, None)
    per_token = setting_of(config, shape, device="cpu").flops_per_token
    return RunAxes(tokens, float(per_token) * tokens)
