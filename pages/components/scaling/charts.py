"""Figures of scaling laws and studies. Pure: plain data in, HTML out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from backend.domain.scaling.curves import CurveLine
from backend.domain.scaling.study import format_budget
from backend.domain.wording import short
from pages.components.charts.html import (
    Axis,
    Band,
    Curve,
    Mark,
    label_html,
    legend,
    line_sample,
    linear_ticks,
    plot,
    swatch,
    symbol_sample,
)
from pages.components.charts.style import ACCENT, COLORS, MUTED, fade

DASHES = ("7 5", "1.5 4", "7 4 1.5 4")
PADDING = 0.06
"""Room above and below the curves, as a share of their range."""


@dataclass(frozen=True)
class Dot:
    """One run, or one planned network, on a figure."""

    x: float
    y: float
    name: str
    hover: str = ""


def frontier_chart(lines: Sequence[CurveLine], runs: Sequence[Dot], *, marked: Dot | None = None) -> str:
    """Return loss against compute: laws as curves (the first with its band and floor E), runs as dots."""
    shown = [line for line in lines if line.x]
    curves = [
        Curve(
            line.x,
            line.y,
            color=ACCENT if line is lines[0] else MUTED,
            name=line.name,
            width=2.4 if line is lines[0] else 1.6,
            dash="" if line is lines[0] else DASHES[place % len(DASHES)],
            write=lambda flops, loss: f"{flops:.2e} FLOPs: {loss:.3f}",
        )
        for place, line in enumerate(shown)
    ]
    first = lines[0] if lines and lines[0].x else None
    bands = [band] if first is not None and (band := _band(first)) else []
    dots = [_mark(dot, color=COLORS[1]) for dot in runs]
    floor = first.floor if first is not None else None
    return _draw(
        curves,
        bands,
        dots,
        marked=marked,
        title="Training FLOPs",
        write=format_budget,
        floor=floor,
        dots_name="Your runs",
    )


def profiles_chart(
    lines: Sequence[CurveLine], groups: Sequence[Sequence[Dot]], *, best: Sequence[Dot] = (), marked: Dot | None = None
) -> str:
    """Return loss against parameters, one colour per budget: its curve, its runs, and a diamond at the minimum.

    `groups` has the runs of each line, in the same order; empty groups for lines that are a law's.
    """
    curves, dots = [], []
    for place, line in enumerate(lines):
        color = COLORS[place % len(COLORS)]
        curves.append(
            Curve(
                line.x,
                line.y,
                color=color,
                name=line.name,
                write=lambda size, loss: f"{short(size)} parameters: {loss:.3f}",
            )
        )
        dots += [_mark(dot, color=color) for dot in (groups[place] if place < len(groups) else ())]
    dots += [_mark(dot, color=MUTED, symbol="◆", size_px=16) for dot in best]
    return _draw(curves, [], dots, marked=marked, title="Parameters", write=short)


def run_dot(x: float, loss: float, name: str, *, parameters: float, tokens: float) -> Dot:
    """Return a finished run as a dot with its hover text."""
    return Dot(x, loss, name, f"{name}: loss {loss:.4f}, {short(parameters)} parameters, {short(tokens)} tokens")


def _band(line: CurveLine) -> Band | None:
    finite = [
        i
        for i, (low, high) in enumerate(zip(line.low, line.high, strict=True))
        if math.isfinite(low) and math.isfinite(high)
    ]
    if not finite:
        return None
    x, low, high = ([values[i] for i in finite] for values in (line.x, line.low, line.high))
    return Band(x, low, high, color=fade(ACCENT, 0.18), name="95 % interval")


def _mark(dot: Dot, *, color: str, symbol: str = "●", size_px: int = 14) -> Mark:
    return Mark(dot.x, dot.y, color=color, text=dot.hover or dot.name, symbol=symbol, size_px=size_px)


def _draw(
    curves: Sequence[Curve],
    bands: Sequence[Band],
    dots: Sequence[Mark],
    *,
    marked: Dot | None,
    title: str,
    write: Callable[[float], str],
    floor: float | None = None,
    dots_name: str = "",
) -> str:
    star = None if marked is None else _mark(marked, color=COLORS[4], symbol="★", size_px=22)
    marks = [*dots, *([star] if star else [])]
    xs = [*(x for curve in curves for x in curve.x), *(mark.x for mark in marks)]
    ys = [
        *(y for curve in curves for y in curve.y),
        *(mark.y for mark in marks),
        *(y for band in bands for y in (*band.low, *band.high)),
    ]
    if floor is not None:
        ys.append(floor)
    x, y = log_axis(xs, title=title, write=write), loss_axis(ys)
    lines, notes = list(curves), ""
    if floor is not None:
        lines.append(Curve((x.low, x.high), (floor, floor), color=ACCENT, width=1.2, dash="1.5 4"))
        notes = label_html(f"E = {floor:.3f}", left=0.01, bottom=y.place(floor), color=ACCENT)
    entries = [(curve.name, line_sample(curve)) for curve in curves if curve.x]
    entries += [(band.name, swatch(band.color)) for band in bands]
    entries += [(dots_name, symbol_sample(dots[0]))] if dots and dots_name else []
    entries += [("Optimal size", symbol_sample(mark)) for mark in dots if mark.symbol == "◆"][:1]
    entries += [(marked.name, symbol_sample(star))] if marked is not None and star is not None else []
    return plot(x=x, y=y, curves=lines, bands=bands, marks=marks, notes=notes) + legend(entries)


def log_axis(values: Sequence[float], *, title: str, write: Callable[[float], str]) -> Axis:
    """Return a logarithmic axis over values, with room around a few similar ones, or it would have no round tick."""
    low, high = (min(values), max(values)) if values else (1.0, 10.0)
    if high < 2 * low:
        low, high = low / 3, high * 3
    return Axis(low, high, log_ticks(low, high), write, title, log=True)


def loss_axis(values: Sequence[float]) -> Axis:
    """Return a linear axis over losses with some room above and below."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    room = PADDING * (high - low) or 0.1
    low, high = low - room, high + room
    ticks = linear_ticks(low, high)
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9)) if len(ticks) > 1 else 2
    return Axis(low, high, ticks, lambda value: f"{value:.{digits}f}", "Loss, nats per token")


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis: powers of ten over a wide range, also 2 and 5 times over a narrow one."""
    decades = math.log10(high / low) if high > low else 0.0
    stride = max(1, round(decades / 6))
    factors = (1,) if decades > 3 else (1, 3) if decades > 1.6 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1, stride)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
