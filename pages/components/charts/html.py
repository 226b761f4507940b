"""Figures as HTML, drawn without plotly.js, whose 4.7 MB delay the page by a second.

Pure: plain data in, HTML out. Every text is escaped here. Text takes its colour and font from the page.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from backend.domain.training.report_curves import ticks
from backend.domain.wording import percent
from pages.components.charts.style import TOOLTIP, TOOLTIP_TEXT

HEIGHT_PX = 300
HOVER_POINTS = 32
"""Points of a curve that show their values under the pointer."""
SMALL = "font-size:0.8rem;line-height:1.35"
HOVER_STYLE = (
    "<style>.rh-hover{position:absolute;transform:translate(-50%,-50%);z-index:1}"
    ".rh-hover:hover{z-index:2}"
    ".rh-hover:hover::after{content:attr(data-text);position:absolute;bottom:100%;left:50%;transform:translateX(-50%);"
    f"white-space:pre;padding:.15rem .45rem;border-radius:.3rem;background:{TOOLTIP};color:{TOOLTIP_TEXT};"
    "font-size:.78rem;pointer-events:none}"
    ".rh-hover.rh-left:hover::after{left:auto;right:0;transform:none}"
    ".rh-hover.rh-right:hover::after{left:0;transform:none}</style>"
)


@dataclass(frozen=True)
class Share:
    """A part of a whole: `text` is its value as it is written."""

    label: str
    value: float
    text: str
    color: str


@dataclass(frozen=True)
class Curve:
    """A line through points in data coordinates. `dash` is SVG's stroke-dasharray; a nameless curve has no entry in the
    legend.
    """

    x: Sequence[float]
    y: Sequence[float]
    color: str
    name: str = ""
    width: float = 2
    dash: str = ""
    write: Callable[[float, float], str] | None = None


@dataclass(frozen=True)
class Band:
    """The area between two lines over the same x."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str
    name: str


@dataclass(frozen=True)
class Mark:
    """A point with a symbol and the text that shows under the pointer."""

    x: float
    y: float
    color: str
    text: str
    symbol: str = "●"
    size_px: int = 14


@dataclass(frozen=True)
class Axis:
    """The range of an axis, its ticks and how they are written. `log` for powers of ten."""

    low: float
    high: float
    ticks: Sequence[float]
    write: Callable[[float], str]
    title: str
    log: bool = False

    def place(self, value: float) -> float:
        """Return the position of a value on the axis: 0 at the low end, 1 at the high end."""
        scale = math.log10 if self.log else float
        low, high = scale(self.low), scale(self.high)
        return (scale(value) - low) / (high - low) if high > low else 0.5


def figure(body: str, *, alt: str) -> str:
    """Wrap a figure with its alternative text."""
    return f'<figure role="img" aria-label="{escape(alt)}" style="margin:0">{body}</figure>'


def stacked_bar(shares: Iterable[Share], *, height_px: int = 34) -> str:
    """Return one bar of shares with a legend below that names and counts them."""
    shown = [share for share in shares if share.value > 0]
    total = sum(share.value for share in shown) or 1.0
    parts = "".join(
        f'<div title="{escape(f"{share.label}: {share.text} ({percent(share.value / total, digits=1)})")}" '
        f'style="flex:{share.value / total:.6f} 0 0;background:{share.color}"></div>'
        for share in shown
    )
    bar = f'<div style="display:flex;gap:1px;height:{height_px}px;border-radius:.3rem;overflow:hidden">{parts}</div>'
    return bar + legend((f"{share.label}: {share.text}", swatch(share.color)) for share in shown)


def bars(values: Sequence[float | None], *, write: Callable[[float], str], color: str) -> str:
    """Return a bar for each step of time, with its value under the pointer; one without a value has none."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    parts = "".join(
        '<div style="flex:1"></div>'
        if value is None
        else f'<div title="{escape(write(value))}"'
        f' style="flex:1;height:{max(0.0, value) / top:.1%};background:{color}"></div>'
        for value in values
    )
    return f'<div style="display:flex;gap:1px;align-items:flex-end;height:44px">{parts}</div>'


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """Return names with their samples, side by side as far as there is room."""
    items = "".join(
        f'<span style="display:inline-flex;align-items:center;gap:.4rem">{sample}<span>{escape(name)}</span></span>'
        for name, sample in entries
    )
    return f'<div style="display:flex;flex-wrap:wrap;gap:.15rem 1rem;margin-top:.5rem;{SMALL}">{items}</div>'


def swatch(color: str) -> str:
    """Return a filled square for a legend."""
    return f'<span style="width:.75rem;height:.75rem;border-radius:.15rem;background:{color}"></span>'


def plot(
    *,
    x: Axis,
    y: Axis,
    curves: Sequence[Curve] = (),
    bands: Sequence[Band] = (),
    marks: Sequence[Mark] = (),
    notes: str = "",
) -> str:
    """Return curves, bands and marks over two axes. `notes` is HTML inside the frame, such as `label_html`'s."""
    area = (
        f'<div style="position:relative;height:{HEIGHT_PX}px;margin:.4rem .6rem 2.9rem 3.4rem">'
        f"{_lines(x, y, curves, bands)}{_ticks(x, y)}{notes}"
        f"{''.join(_hover(x, y, curve) for curve in curves)}{''.join(_mark(x, y, mark) for mark in marks)}</div>"
    )
    return HOVER_STYLE + area


def label_html(text: str, *, left: float, bottom: float, color: str) -> str:
    """Return a text at a position inside a plot, given as shares of width and height."""
    return (
        "<span"
        f' style="position:absolute;left:{left:.2%};bottom:{bottom:.2%};color:{color};{SMALL}">{escape(text)}</span>'
    )


def line_sample(curve: Curve) -> str:
    """Return a piece of a curve for a legend."""
    style = "dotted" if curve.dash.startswith("1") else "dashed" if curve.dash else "solid"
    return f'<span style="width:1.4rem;border-top:{max(2, round(curve.width))}px {style} {curve.color}"></span>'


def symbol_sample(mark: Mark) -> str:
    """Return a mark for a legend."""
    return f'<span style="color:{mark.color}">{mark.symbol}</span>'


def linear_ticks(low: float, high: float) -> list[float]:
    """Return round values between two ends, in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    return [round(value, 12) for value in ticks(low, high, most=5)]


def _lines(x: Axis, y: Axis, curves: Sequence[Curve], bands: Sequence[Band]) -> str:
    """Return bands and curves as an image stretched over the area, with strokes of constant width."""
    shapes = [f'<polygon points="{_points(x, y, *_outline(band))}" fill="{band.color}"/>' for band in bands]
    shapes += [
        f'<polyline points="{_points(x, y, curve.x, curve.y)}" fill="none" stroke="{curve.color}"'
        f' stroke-width="{curve.width}" stroke-dasharray="{curve.dash}" stroke-linejoin="round"'
        ' vector-effect="non-scaling-stroke"/>'
        for curve in curves
    ]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 1000"'
        f' preserveAspectRatio="none">{"".join(shapes)}</svg>'
    )
    data = base64.b64encode(svg.encode()).decode()
    return (
        f'<img alt="" src="data:image/svg+xml;base64,{data}" style="position:absolute;inset:0;width:100%;height:100%">'
    )


def _outline(band: Band) -> tuple[list[float], list[float]]:
    return [*band.x, *reversed(band.x)], [*band.high, *reversed(band.low)]


def _points(x: Axis, y: Axis, xs: Iterable[float], ys: Iterable[float]) -> str:
    return " ".join(
        f"{1000 * x.place(a):.1f},{1000 - 1000 * y.place(b):.1f}"
        for a, b in zip(xs, ys, strict=True)
        if math.isfinite(b)
    )


def _ticks(x: Axis, y: Axis) -> str:
    line = "position:absolute;opacity:.16;"
    parts = []
    for value in x.ticks:
        at = f"left:{x.place(value):.2%}"
        parts.append(f'<span style="{line}{at};top:0;bottom:0;border-left:1px solid currentColor"></span>')
        parts.append(
            f'<span style="position:absolute;{at};top:100%;white-space:nowrap;'
            f'transform:translate(-50%,.25rem);{SMALL}">{escape(x.write(value))}</span>'
        )
    for value in y.ticks:
        at = f"bottom:{y.place(value):.2%}"
        parts.append(f'<span style="{line}{at};left:0;right:0;border-top:1px solid currentColor"></span>')
        parts.append(
            f'<span style="position:absolute;{at};right:100%;transform:translate(-.4rem,50%);{SMALL}">'
            f"{escape(y.write(value))}</span>"
        )
    parts.append(
        f'<span style="position:absolute;left:0;right:0;top:100%;text-align:center;padding-top:1.5rem;{SMALL}">'
        f"{escape(x.title)}</span>"
    )
    parts.append(
        '<span style="position:absolute;left:-3.3rem;top:50%;writing-mode:vertical-rl;transform:translateY(-50%)'
        f' rotate(180deg);{SMALL}">{escape(y.title)}</span>'
    )
    return "".join(parts)


def _hover(x: Axis, y: Axis, curve: Curve) -> str:
    if curve.write is None or not curve.x:
        return ""
    stride = max(1, len(curve.x) // HOVER_POINTS)
    places = zip(curve.x[::stride], curve.y[::stride], strict=True)
    return "".join(
        _spot(x, y, a, b, curve.write(a, b), "width:12px;height:12px", "") for a, b in places if math.isfinite(b)
    )


def _mark(x: Axis, y: Axis, mark: Mark) -> str:
    return _spot(
        x,
        y,
        mark.x,
        mark.y,
        mark.text,
        f"color:{mark.color};font-size:{mark.size_px}px;line-height:1;cursor:default",
        mark.symbol,
    )


def _spot(x: Axis, y: Axis, at_x: float, at_y: float, text: str, style: str, content: str) -> str:
    left, bottom = x.place(at_x), y.place(at_y)
    side = " rh-left" if left > 0.7 else " rh-right" if left < 0.3 else ""
    return (
        f'<span class="rh-hover{side}" data-text="{escape(text)}"'
        f' style="left:{left:.2%};top:{1 - bottom:.2%};{style}">{content}</span>'
    )
