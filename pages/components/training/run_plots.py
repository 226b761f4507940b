"""Charts of many runs by any of their fields: parallel coordinates and scatter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import streamlit as st

from backend.domain.filters import ValueKind
from backend.domain.training.run_table import RunField, RunRow, RunTable, main_metrics, varying_fields
from backend.domain.wording import plural
from pages.components.frame import draw_plot, plain
from pages.components.training.run_charts import Line, RunAxis, Value, axis_of, parallel_figure, scatter_figure
from pages.components.training.run_table import choose_field, choose_fields

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
    draw_plot(scatter_figure(axes[0], axes[1], axes[2] if color else None, lines), key="runs_scatter")
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
