"""Figures of the monitor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pages.components.serving.monitor_charts import break_at_gaps, lines_figure, stacked_figure

START = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.mark.parametrize(("value", "step"), [(0.0, 1), (3.0, 1), (40.0, None)])
def test_few_replicas_or_requests_have_whole_ticks(value: float, step: int | None) -> None:
    end = START + timedelta(hours=1)
    figure = lines_figure(
        [("ready", [(START, value), (end, value)])], title="Replicas ready", is_count=True, start=START, end=end
    )
    assert figure.layout.yaxis.dtick == step


def test_no_line_is_drawn_over_a_time_without_readings() -> None:
    minutes = [(START + timedelta(minutes=minute), 1.0) for minute in (0, 1, 2, 4, 30, 31)]
    points = break_at_gaps(minutes, step_s=60)
    assert [at.minute for at, value in points if value is None] == [3, 5], "a missing minute is a gap, too"
    assert [point for point in points if point[1] is not None] == minutes


def test_the_newest_and_the_oldest_point_are_inside_the_axis() -> None:
    """Half of the newest bar, and of a line's last marker, was cut off."""
    end = START + timedelta(hours=1)
    points = [(START + timedelta(minutes=minute), 1.0) for minute in range(61)]
    for figure in (
        stacked_figure([("finished", points)], title="Requests per minute", start=START, end=end),
        lines_figure([("p50", points)], title="Time to first token", start=START, end=end),
    ):
        low, high = figure.layout.xaxis.range
        half_a_bar = timedelta(seconds=30)
        assert low <= START - half_a_bar
        assert high >= end + half_a_bar
        assert all(trace.cliponaxis is not True for trace in figure.data)


def test_a_value_between_missing_ones_has_a_marker_since_no_line_shows_it() -> None:
    values = (1.0, None, 2.0, None, 3.0, 4.0, 5.0)
    points = [(START + timedelta(minutes=minute), value) for minute, value in enumerate(values)]
    figure = lines_figure([("p50", points)], title="x", start=START, end=START + timedelta(hours=1))
    (trace,) = figure.data
    assert list(trace.marker.size) == [5, 0, 5, 0, 0, 0, 0]
    assert not trace.connectgaps


@pytest.mark.parametrize(("num_bytes", "shown", "unit"), [(70.7e9, 70.7, "GB"), (256e6, 256.0, "MB")])
def test_memory_has_the_unit_of_the_numbers_beside_it(num_bytes: float, shown: float, unit: str) -> None:
    """The table said MB and GB, the chart GiB."""
    end = START + timedelta(hours=1)
    figure = lines_figure([("memory", [(START, num_bytes)])], title="Memory", is_bytes=True, start=START, end=end)
    (trace,) = figure.data
    assert trace.y[0] == pytest.approx(shown)
    assert f" {unit} memory" in trace.hovertemplate
    assert figure.layout.yaxis.ticksuffix in (None, f" {unit}") or unit in str(figure.layout.title.text)


def test_a_figure_of_nothing_keeps_its_time_axis_and_has_no_scale() -> None:
    end = START + timedelta(hours=1)
    empty = [
        stacked_figure([("finished", [(START, 0)])], title="Requests per minute", start=START, end=end),
        lines_figure([("p50", [(START, None)])], title="Time to first token", start=START, end=end),
    ]
    for figure in empty:
        assert figure.layout.xaxis.type == "date"
        assert figure.layout.yaxis.visible is False
        assert [note.text for note in figure.layout.annotations] == ["Nothing in this window"]
    idle = lines_figure([("tokens/s", [(START, 0.0)])], title="Tokens", start=START, end=end)
    assert not idle.layout.annotations
