"""Figures of the monitor."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pages.components.serving.monitoring.charts import lines_figure

START = datetime(2026, 11, 27, tzinfo=UTC)


@pytest.mark.parametrize(("value", "step"), [(0.0, 1), (3.0, 1), (40.0, None)])
def test_few_replicas_or_requests_have_whole_ticks(value: float, step: int | None) -> None:
    end = START + timedelta(hours=1)
    figure = lines_figure(
        [("ready", [(START, value), (end, value)])], title="Replicas ready", is_count=True, start=START, end=end
    )
    assert figure.layout.yaxis.dtick == step
