"""Times in words: they stay true on a page that stands still."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from pages.components.words import when

NOON = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        (timedelta(seconds=2), "11:59 UTC"),
        (timedelta(hours=11), "01:00 UTC"),
        (timedelta(hours=13), "yesterday, 23:00 UTC"),
        (timedelta(days=2), "2 days ago"),
        (timedelta(days=59), "59 days ago"),
        (timedelta(days=60), "27 Sep 2026"),
        (timedelta(seconds=-1), "12:00 UTC"),
    ],
)
def test_a_moment_of_today_is_a_clock_time(before: timedelta, words: str) -> None:
    """Lists said "just now" for as long as the page stood open."""
    assert when(NOON - before, now=NOON) == words
