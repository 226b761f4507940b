"""Charts of many runs by any of their fields: parallel coordinates and scatter.

Figures are pure: plain data in, a Plotly figure out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median

import plotly.graph_objects as go
import streamlit as st

from backend.domain.filters import ValueKind
from backend.domain.training.run_table import RunField, RunRow, RunTable, main_metrics, varying_fields
from backend.domain.wording import format_number, plural, shorten
from pages.components.charts.style import ACCENT, BLUE, COLORS, LEGEND_BELOW, MUTED, fade, mix_colours
from pages.components.frame import draw_plot, plain
from pages.components.training.run_table import choose_field, choose_fields
from pages.components.words import figure_text

MAX_LINES = 2_000
MAX_AXES = 12


def draw_parallel(table: RunTable, rows: Sequence[RunRow]) -> None:
    """Draw parallel coordinates over chosen fields; the last axis ranks the runs."""
    rows = _first(rows)
    options = _axes_of(table)
    metrics = main_metrics(table.fields, _usual_objective(rows))[:1]
    usual = [name for name in varying_fields(table, rows) if name in options][:5] + metrics
    chosen = choose_fields(
        "Axes, in their order; the last one ranks the runs",
        options,
        name="axes",
        default=usual,
        format_func=lambda name: _title(table.fields[name]),
        most=MAX_AXES,
    )
    if len(chosen) < 2:
        st.caption("Choose two axes or more.")
        return
    values = [[_value(read(row)) for read in map(table.reader, chosen)] for row in rows]
    drawn = [(row, of) for row, of in zip(rows, values, strict=True) if any(value is not None for value in of)]
    last = table.fields[chosen[-1]]
    ranks = _ranks([of[-1] for _, of in drawn], highest=last.better == "highest")
    lines = [Line(row.name, of, rank) for (row, of), rank in zip(drawn, ranks, strict=True)]
    axes = [_axis(table.fields[name], [of[place] for _, of in drawn]) for place, name in enumerate(chosen)]
    draw_plot(parallel_figure(axes, lines), key="runs_parallel")
    missing = sum(rank is None for rank in ranks) + len(rows) - len(drawn)
    if missing:
        st.caption(f"{plural(missing, 'run')} without a value of {plain(last.title)}: gray, or not drawn.")


def draw_scatter(table: RunTable, rows: Sequence[RunRow]) -> None:
    """Draw a point per run over two chosen fields, coloured by a third."""
    rows = _first(rows)
    options = _axes_of(table)
    varying = [name for name in varying_fields(table, rows) if table.fields[name].is_number]
    metrics = main_metrics(table.fields, _usual_objective(rows))
    varying.sort(key=lambda name: name != "learning_rate")
    usual = {"x": (varying or ["tokens"])[0], "y": (metrics or ["duration"])[0]}
    with st.container(horizontal=True):
        x, y, color = (
            choose_field(
                name.upper() if len(name) == 1 else name.title(),
                options,
                name=name,
                default=usual.get(name),
                format_func=lambda name: _title(table.fields[name]),
                width=280,
            )
            for name in ("x", "y", "color")
        )
    if x is None or y is None:
        st.caption("Choose what the axes show.")
        return
    names = [x, y, *([color] if color else [])]
    lines = [Line(row.name, [_value(read(row)) for read in map(table.reader, names)]) for row in rows]
    axes = [_axis(table.fields[name], [line.values[place] for line in lines]) for place, name in enumerate(names)]
    drawn = sum(line.values[0] is not None and line.values[1] is not None for line in lines)
    if not drawn:
        st.caption(f"No run has both {plain(table.fields[x].title)} and {plain(table.fields[y].title)}.")
        return
    draw_plot(_scatter_figure(axes[0], axes[1], axes[2] if color else None, lines), key="runs_scatter")
    if drawn < len(rows):
        st.caption(f"{plural(len(rows) - drawn, 'run')} without one of the values: not drawn.")


def _first(rows: Sequence[RunRow]) -> Sequence[RunRow]:
    if len(rows) > MAX_LINES:
        st.caption(f"The first {MAX_LINES:,} of {len(rows):,} runs are drawn.")
    return rows[:MAX_LINES]


def _axes_of(table: RunTable) -> list[str]:
    return [
        one.name
        for one in table.fields.values()
        if one.name not in ("notes", "tags") and one.kind is not ValueKind.LIST
    ]


def _usual_objective(rows: Sequence[RunRow]) -> list[str]:
    """Return the most frequent objective of runs, if there are any."""
    return [objective for objective, _ in Counter(row.objective for row in rows).most_common(1)]


def _title(known: RunField) -> str:
    return f"{known.title} ({known.name})"


def _value(value: object) -> Value:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.timestamp()
    if value is None or value == "" or value == () or value != value:
        return None
    return value if isinstance(value, int | float | str) else str(value)


def _axis(known: RunField, values: Sequence[Value]) -> RunAxis:
    is_time = known.kind is ValueKind.TIME

    def write(value: float) -> str:
        return known.write(datetime.fromtimestamp(value, UTC) if is_time else value)

    return axis_of(known.title, values, time=is_time, write=write, is_result=bool(known.better))


def _ranks(values: Sequence[Value], *, highest: bool) -> list[float | None]:
    """Return each number's place from 0, the best, to 1; texts and missing values have none."""
    numbers = sorted({value for value in values if isinstance(value, int | float)}, reverse=highest)
    places = {value: place / max(1, len(numbers) - 1) for place, value in enumerate(numbers)}
    return [places.get(value) if isinstance(value, int | float) else None for value in values]


HEIGHT = 360
FAINT = fade(MUTED, 0.45)
LOG_FROM = 30
"""Positive values that differ by this factor are spaced by their logarithms."""
OUTLIER_MADS, SQUEEZED = 10, 0.25
"""Results further from the median than so many median absolute deviations are drawn at the end of their axis, where
they would leave less than this share of it to all others: a run that diverged.
"""
MAX_WORDS = 14
SHADES = 12
MAX_HUES = len(COLORS)
Value = float | str | None


@dataclass(frozen=True)
class RunAxis:
    """An axis from `low` to `high`, spaced by logarithms with `log`; or with `words`, a place for each. `time`: the
    numbers are seconds since 1970. `least` and `most` are the values themselves: those beyond an end are drawn there.
    """

    label: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    words: tuple[Value, ...] = ()
    time: bool = False
    least: float | None = None
    most: float | None = None
    write: Callable[[float], str] = field(default=lambda value: f"{value:.3g}")

    def at(self, value: Value) -> float | None:
        """Return a value's place from 0 to 1; None for a missing one."""
        if value is None:
            return None
        if self.words:
            if value not in self.words:
                return None
            return self.words.index(value) / (len(self.words) - 1) if len(self.words) > 1 else 0.5
        number = min(max(float(value), self.low), self.high)
        if self.high <= self.low:
            return 0.5
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places with what stands there; of many words the first ones."""
        if self.words:
            return [(self.at(word) or 0.0, say(word)) for word in self.words[:: math.ceil(len(self.words) / MAX_WORDS)]]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(self.at(value) or 0.0, self.say(value)) for value in dict.fromkeys((self.low, middle, self.high))]

    def say(self, value: float) -> str:
        """Return what stands at a place; at an end that values lie beyond, `≥ 2.10, up to 310`."""
        text = self.write(value)
        if value == self.high and self.most is not None and self.most > self.high:
            return f"≥ {text}, up to {self.write(self.most)}"
        if value == self.low and self.least is not None and self.least < self.low:
            return f"≤ {text}, from {self.write(self.least)}"
        return text


@dataclass(frozen=True)
class Line:
    """A run: its values by axis, and its place from 0, the best, to 1, the worst; None where it has none."""

    name: str
    values: Sequence[Value]
    rank: float | None = None


def axis_of(
    label: str, values: Sequence[Value], *, time: bool, write: Callable[[float], str], is_result: bool = False
) -> RunAxis:
    """Return an axis on which these values fit: numbers by size, outliers of results at its end, texts in their
    order.
    """
    known = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in known):
        return RunAxis(label, words=tuple(sorted(dict.fromkeys(map(say, known)))))
    numbers = [float(value) for value in known]
    if not numbers:
        return RunAxis(label)
    least, most = min(numbers), max(numbers)
    low, high = _robust_ends(numbers) if is_result else (least, most)
    log = not time and low > 0 and high / low >= LOG_FROM
    return RunAxis(label, low, high, log=log, time=time, least=least, most=most, write=write)


def _robust_ends(numbers: Sequence[float]) -> tuple[float, float]:
    """Return the least and the largest number, without outliers that would squeeze three others or more."""
    middle, ends = median(numbers), (min(numbers), max(numbers))
    reach = OUTLIER_MADS * median(abs(number - middle) for number in numbers)
    near = [number for number in numbers if abs(number - middle) <= reach]
    low, high = min(near), max(near)
    return (low, high) if len(near) > 2 and 0 < high - low < SQUEEZED * (ends[1] - ends[0]) else ends


def parallel_figure(axes: Sequence[RunAxis], lines: Sequence[Line]) -> go.Figure:
    """Return parallel coordinates: a line per run, the best in front and in the accent's colour.

    Drawn as SVG lines: Plotly's own trace needs WebGL, ignores the theme, and has no hover. Lines of one shade are one
    trace, so that thousands can be drawn; a missing value leaves a gap.
    """
    figure = go.Figure()
    ranked = sorted(lines, key=lambda line: -1.0 if line.rank is None else 1.0 - line.rank)
    best = next((line for line in reversed(ranked) if line.rank is not None), None)
    shades: dict[int, list[Line]] = {}
    for line in ranked:
        shade = SHADES if line.rank is None else round(line.rank * (SHADES - 1))
        shades.setdefault(-1 if line is best else shade, []).append(line)
    many = len(lines) > 60
    for shade in sorted(shades, reverse=True):
        is_best = shade == -1
        x: list[int | None] = []
        y: list[float | None] = []
        texts: list[str] = []
        for line in shades[shade]:
            text = _hover(axes, line)
            for place, (axis, value) in enumerate(zip(axes, line.values, strict=True)):
                x.append(place)
                y.append(axis.at(value))
                texts.append(text)
            x.append(None)
            y.append(None)
            texts.append("")
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines+markers",
            showlegend=False,
            connectgaps=False,
            line={"color": _color(max(0, shade)), "width": 3.2 if is_best else 1.0 if many else 1.6},
            marker={"size": 7 if is_best else 3 if many else 5},
            opacity=1.0 if is_best else 0.6 if many else 0.85,
            customdata=texts,
            hovertemplate="%{customdata}<extra></extra>",
        )
    for place, axis in enumerate(axes):
        figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": FAINT, "width": 1}, layer="below")
        for at, word in axis.ticks():
            figure.add_annotation(
                x=place,
                y=at,
                text=figure_text(shorten(word, 22)),
                showarrow=False,
                xanchor="left",
                xshift=5,
                yshift=8,
                font={"size": 11, "color": MUTED},
            )
    figure.update_layout(
        height=HEIGHT,
        margin={"l": 20, "r": 60, "t": 20, "b": 0},
        hovermode="closest",
        showlegend=False,
        xaxis={
            "tickmode": "array",
            "tickvals": list(range(len(axes))),
            "ticktext": [figure_text(axis.label).replace(" ", "<br>") for axis in axes],
            "showgrid": False,
            "zeroline": False,
            "range": [-0.15, len(axes) - 0.9],
            "side": "top",
            "tickangle": 0,
        },
        yaxis={"visible": False, "range": [-0.04, 1.08]},
    )
    return figure


def _scatter_figure(x: RunAxis, y: RunAxis, color: RunAxis | None, lines: Sequence[Line]) -> go.Figure:
    """Return one point per run; a line's values are its x, y and, with `color`, what colours it. A run without an x or
    a y has no point.
    """
    figure = go.Figure()
    points = [line for line in lines if line.values[0] is not None and line.values[1] is not None]
    axes = [x, y] if color is None else [x, y, color]
    if color is None or not color.words:
        marker: dict[str, object] = {"size": 8, "color": ACCENT, "opacity": 0.8}
        if color is not None:
            shown = [None if (value := line.values[2]) is None else float(value) for line in points]
            places = [None if value is None else math.log10(value) if color.log else value for value in shown]
            ends = [math.log10(end) if color.log else end for end in (color.low, color.high)]
            marker |= {
                "color": places,
                "cmin": ends[0],
                "cmax": ends[1],
                "colorscale": [[0, ACCENT], [1, BLUE]],
                "showscale": True,
                "colorbar": {
                    "title": {"text": figure_text(color.label)},
                    "tickmode": "array",
                    "tickvals": ends,
                    "ticktext": [color.say(color.low), color.say(color.high)],
                    "thickness": 10,
                },
            }
        figure.add_scatter(**_points(points, axes), marker=marker, showlegend=False)
    else:
        for number, word in enumerate([*color.words[:MAX_HUES], None]):
            mine = [
                line
                for line in points
                if (line.values[2] if line.values[2] in color.words[:MAX_HUES] else None) == word
            ]
            if mine:
                hue = MUTED if word is None else COLORS[number]
                name = "other or missing" if word is None else figure_text(say(word))
                figure.add_scatter(**_points(mine, axes), marker={"size": 8, "color": hue, "opacity": 0.8}, name=name)
    figure.update_layout(
        height=440,
        margin={"l": 0, "r": 10, "t": 10, "b": 0},
        hovermode="closest",
        legend=LEGEND_BELOW,
        xaxis=_scale(x),
        yaxis=_scale(y),
    )
    return figure


def say(value: object) -> str:
    """Format a value of a field."""
    return format_number(value, digits=4) if isinstance(value, float) else str(value)


def _points(lines: Sequence[Line], axes: Sequence[RunAxis]) -> dict[str, object]:
    return {
        "x": [_placed(line.values[0], axes[0]) for line in lines],
        "y": [_placed(line.values[1], axes[1]) for line in lines],
        "mode": "markers",
        "customdata": [_hover(axes, line) for line in lines],
        "hovertemplate": "%{customdata}<extra></extra>",
    }


def _placed(value: Value, axis: RunAxis) -> object:
    if axis.time and value is not None:
        return datetime.fromtimestamp(float(value), UTC).isoformat()
    return say(value) if axis.words else value


def _scale(axis: RunAxis) -> dict[str, object]:
    kind = "category" if axis.words else "date" if axis.time else "log" if axis.log else "linear"
    scale: dict[str, object] = {"title": {"text": figure_text(axis.label)}, "type": kind, "zeroline": False}
    if axis.words:
        scale |= {"categoryorder": "array", "categoryarray": list(axis.words)}
    return scale


def _hover(axes: Sequence[RunAxis], line: Line) -> str:
    parts = [f"<b>{figure_text(line.name)}</b>"]
    for axis, value in zip(axes, line.values, strict=False):
        text = "–" if value is None else say(value) if axis.words else axis.write(float(value))
        parts.append(f"{figure_text(axis.label)}: {figure_text(text)}")
    return "<br>".join(parts)


def _color(shade: int) -> str:
    """Return the colour of a shade: 0 is the best run; beyond the last, a run without a rank."""
    return MUTED if shade >= SHADES else mix_colours(ACCENT, MUTED, shade / (SHADES - 1))
