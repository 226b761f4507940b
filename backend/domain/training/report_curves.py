"""Draw curves as self-contained SVG: no external script, style sheet or font."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 260, 64, 16, 28, 34
COLOURS = ("#3b6fd4", "#d9822b")
TOGETHER = (("train_loss", "val_loss"),)
"""Metrics that share a drawing."""


@dataclass(frozen=True)
class MetricTrace:
    """Points of one metric, ascending in step, all finite."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def curves_svg(traces: Sequence[MetricTrace]) -> list[str]:
    """Return one drawing per metric with two points or more; losses share one."""
    by_name = {trace.name: trace for trace in traces if len(trace.steps) > 1}
    groups = [[by_name.pop(name) for name in names if name in by_name] for names in TOGETHER]
    groups += [[trace] for trace in by_name.values()]
    return [draw(group) for group in groups if group]


def draw(traces: Sequence[MetricTrace]) -> str:
    """Return one drawing of up to two traces that share their axes."""
    steps = [step for trace in traces for step in trace.steps]
    values = [value for trace in traces for value in trace.values]
    first, last = min(steps), max(steps)
    low, high = _range(values)

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / max(last - first, 1)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">']
    for value in ticks(low, high):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#8884"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    for step in sorted({first, (first + last) // 2, last}):
        anchor = "start" if step == first else "end" if step == last else "middle"
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 12}" text-anchor="{anchor}">{step:,}</text>')
    at = LEFT
    for trace, colour in zip(traces, COLOURS, strict=False):
        points = " ".join(
            f"{x(step):.1f},{y(min(max(value, low), high)):.1f}"
            for step, value in zip(trace.steps, trace.values, strict=True)
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<rect x="{at}" y="10" width="10" height="10" fill="{colour}"/><text x="{at + 15}"'
            f' y="19">{html.escape(trace.name)}</text>'
        )
        at += 40 + 7 * len(trace.name)
    return "".join(parts) + "</svg>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds the middle 98 % of the values, so that a spike does not flatten the curve."""
    ordered = sorted(values)
    cut = len(ordered) // 100
    low, high = ordered[cut], ordered[len(ordered) - 1 - cut]
    if low == high:
        return low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    margin = 0.04 * (high - low)
    return low - margin, high + margin


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Return round numbers within a range: multiples of 1, 2 or 5 times a power of ten, at most `most`."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    start = math.ceil(low / step)
    return [number * step for number in range(start, math.floor(high / step) + 1)]
