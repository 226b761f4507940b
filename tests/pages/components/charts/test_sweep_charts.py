"""Digits and axes of a sweep's figures."""

from __future__ import annotations

import pytest

from pages.components.training.run_charts import Line, axis_of, parallel_figure
from pages.components.training.sweep import write_metric


@pytest.mark.parametrize(
    ("values", "written"),
    [
        ([2.0, 1.5], ["2.0000", "1.5000"]),
        ([1.2345, 1.23452], ["1.234500", "1.234520"]),
        ([1.5], ["1.5000"]),
        ([1e-6, 2e-6], ["1e-06", "2e-06"]),
        ([1e-6, 1.0001e-6], ["1e-06", "1.0001e-06"]),
        ([48_000.0, 51_000.0], ["48000.0000", "51000.0000"]),
    ],
)
def test_values_that_differ_are_written_differently(values: list[float], written: list[str]) -> None:
    assert list(map(write_metric(values), values)) == written


@pytest.mark.parametrize("worst", [12.0, 3e5], ids=["diverged", "exploded"])
def test_a_run_that_diverged_does_not_squeeze_the_others(worst: float) -> None:
    """Its loss was the end of the axis, and all other lines lay on each other."""
    losses = [1.5, 1.6, 1.7, worst]
    axis = axis_of("Best loss", losses, time=False, write="{:.1f}".format, is_result=True)
    assert [axis.at(loss) for loss in losses] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    figure = parallel_figure([axis], [Line(str(loss), [loss]) for loss in losses])
    assert f"≥ 1.7, up to {worst:.1f}" in [note.text for note in figure.layout.annotations]
    assert any(f"Best loss: {worst:.1f}" in text for trace in figure.data for text in trace.customdata)


@pytest.mark.parametrize(
    ("values", "is_result"),
    [
        ([1.5, 1.7, 2.0, 4.0, 5.0], True),
        ([2.0, 2.0, 2.0, 3.0], True),
        ([1e-5, 1.1e-5, 1.2e-5, 1e-4], False),
        ([5.554, 5.6196, 6.7351], True),
    ],
    ids=["spread", "equal", "setting", "three runs: the second and the last met in one point"],
)
def test_an_axis_without_an_outlier_of_results_holds_all_values(values: list[float], is_result: bool) -> None:
    axis = axis_of("x", values, time=False, write=str, is_result=is_result)
    assert (axis.low, axis.high) == (min(values), max(values))
    assert [text for _, text in axis.ticks()][::2] == [str(min(values)), str(max(values))]
