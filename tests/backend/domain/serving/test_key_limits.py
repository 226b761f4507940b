"""Limits, scopes and expiry as a command line writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from backend.domain.serving.key_limits import (
    KeyLimits,
    KeyScopes,
    parse_expiry,
    parse_limits,
    parse_scopes,
    period_end,
    period_start,
)
from backend.errors import InvalidInput

NOW = datetime(2026, 12, 31, 22, 30, tzinfo=UTC)


def test_limits_are_read_as_they_are_written() -> None:
    text = "requests=60,tokens=100000,concurrency=4,usd_per_month=2.5"
    assert parse_limits(text) == KeyLimits(requests=60, tokens=100_000, concurrency=4, usd_per_month=2.5)
    assert parse_limits(text).describe() == text
    assert parse_limits("tokens = 1_000") == KeyLimits(tokens=1000)
    assert not parse_limits("").is_limited


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request=60", "no limit 'request'"),
        ("requests", "'requests' is no limit"),
        ("requests=0", r"requests: must be at least 1 \(got '0'\)"),
        ("requests=sixty", r"requests: must be a whole number \(got 'sixty'\)"),
        ("usd_per_day=inf", r"usd_per_day: must be a finite number \(got 'inf'\)"),
        ("tokens=5,tokens=6", "given twice"),
    ],
)
def test_a_limit_at_fault_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_limits(text)


def test_a_scope_allows_its_models_patterns_and_their_adapters() -> None:
    scopes = parse_scopes(models="small, support-*", endpoints="chat")
    assert [scopes.allows_model(name) for name in ("small", "support-v2", "small:german", "large", "smaller")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    assert [scopes.allows_endpoint(name) for name in ("chat", "models", "completions")] == [True, True, False]
    assert KeyScopes().allows_model("anything")
    with pytest.raises(InvalidInput, match="no part 'chats'"):
        parse_scopes(endpoints="chats")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("", None),
        ("12h", datetime(2027, 1, 1, 10, 30, tzinfo=UTC)),
        ("30d", datetime(2027, 1, 30, 22, 30, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 2, 1, tzinfo=UTC)),
        ("2027-01-31T12:00:00+02:00", datetime(2027, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_an_expiry_is_a_duration_a_day_or_a_moment(text: str, moment: datetime | None) -> None:
    assert parse_expiry(text, now=NOW) == moment


@pytest.mark.parametrize("text", ["2026-12-30", "soon", "0d"])
def test_an_expiry_in_the_past_or_unreadable_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        parse_expiry(text, now=NOW)


def test_budgets_begin_and_end_with_the_utc_day_and_month() -> None:
    assert period_start("day", now=NOW) == datetime(2026, 12, 31, tzinfo=UTC)
    assert period_end("day", now=NOW) == period_end("month", now=NOW) == datetime(2027, 1, 1, tzinfo=UTC)
    assert period_start("month", now=NOW) == datetime(2026, 12, 1, tzinfo=UTC)
