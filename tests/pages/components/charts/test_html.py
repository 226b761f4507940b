"""Figures as HTML: values lie where the axis says, and text stays text."""

from __future__ import annotations

import base64
import re

import pytest

from pages.components.charts.html import Axis, Band, Curve, Mark, Share, bars, figure, linear_ticks, plot, stacked_bar
from tests.support.opening import EVIL

X = Axis(1e3, 1e7, [1e4, 1e6], lambda value: f"{value:.0e}", "Parameters", log=True)
Y = Axis(2.0, 4.0, [2.0, 3.0, 4.0], lambda value: f"{value:.1f}", "Loss")


def drawn(html: str) -> str:
    """Return the image inside a plot."""
    (data,) = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", html)
    return base64.b64decode(data).decode()


def test_a_curve_is_drawn_at_its_axis_coordinates() -> None:
    svg = drawn(plot(x=X, y=Y, curves=[Curve([1e3, 1e5, 1e7], [2.0, 3.0, 4.0], color="red")]))
    assert 'points="0.0,1000.0 500.0,500.0 1000.0,0.0"' in svg


def test_a_band_goes_there_and_back_and_values_that_are_no_number_are_left_out() -> None:
    html = plot(x=X, y=Y, bands=[Band([1e3, 1e7], [2.0, 2.0], [3.0, float("nan")], color="red", name="95 %")])
    assert 'points="0.0,500.0 1000.0,1000.0 0.0,1000.0"' in drawn(html)


def test_marks_and_points_of_a_curve_show_their_values_under_the_pointer() -> None:
    curve = Curve([1e3, 1e5], [2.0, 3.0], color="red", write=lambda x, y: f"{x:.0e}: {y:g}")
    html = plot(x=X, y=Y, curves=[curve], marks=[Mark(1e5, 3.0, color="blue", text="a run", symbol="★")])
    assert 'data-text="1e+03: 2"' in html
    assert 'data-text="a run" style="left:50.00%;top:50.00%' in html


def test_names_stay_text() -> None:
    parts = [
        plot(x=X, y=Y, marks=[Mark(1e4, 3.0, color="red", text=EVIL)]),
        stacked_bar([Share(EVIL, 1, EVIL, "red")]),
        figure("", alt=EVIL + '"'),
    ]
    assert all("<script>" not in part for part in parts)
    assert 'evil.example/x.png) &lt;script&gt;alert(1)&lt;/script&gt;&quot;"' in parts[2]


def test_a_bar_gives_each_share_its_width_and_leaves_empty_ones_out() -> None:
    html = stacked_bar([Share("A", 3, "3 MB", "red"), Share("B", 1, "1 MB", "blue"), Share("C", 0, "0 B", "green")])
    assert re.findall(r"flex:([\d.]+) 0 0", html) == ["0.750000", "0.250000"]
    assert "A: 3 MB (75.0 %)" in html
    assert "<span>A: 3 MB</span>" in html, "a name that ends with a number stays apart from the count"
    assert "green" not in html


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), (2.9, 7.6, [3.0, 4.0, 5.0, 6.0, 7.0]), (5.0, 5.0, [5.0])],
)
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high) == pytest.approx(ticks)


def test_bars_are_as_high_as_their_share_of_the_highest_and_a_missing_value_has_none() -> None:
    html = bars([1.0, None, 4.0], write=lambda value: f"{value:g} ms", color="red")
    assert re.findall(r'title="([^"]*)" style="flex:1;height:([^;]*);', html) == [("1 ms", "25.0%"), ("4 ms", "100.0%")]
    assert html.count("flex:1") == 3
    assert "height:0.0%" in bars([0, 0], write=str, color="red")
