"""Filter expressions: what they say, where a wrong one is wrong, and that writing and reading are inverse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.filters import (
    All,
    Any_,
    Expression,
    FieldTest,
    FilterError,
    FilterField,
    Missing,
    Not,
    ValueKind,
    fields_read_by,
    matcher,
    parse_filter,
    quote,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
FIELDS = {
    one.name: one
    for one in (
        FilterField("learning_rate", ValueKind.NUMBER),
        FilterField("lora.rank", ValueKind.NUMBER),
        FilterField("dpo.val_loss", ValueKind.NUMBER),
        FilterField("name", ValueKind.TEXT),
        FilterField("status", ValueKind.TEXT, ("finished", "failed", "cancelled"), {"stopped": "cancelled"}),
        FilterField("tags", ValueKind.LIST),
        FilterField("created", ValueKind.TIME),
        FilterField("duration", ValueKind.DURATION),
        FilterField("packing", ValueKind.FLAG),
    )
}
ALIASES = {"lr": "learning_rate", "tag": "tags"}
AMBIGUOUS = {"val_loss": "Write dpo.val_loss."}


def read(text: str) -> Expression | None:
    """Parse with the fields of these tests."""
    return parse_filter(text, FIELDS, aliases=ALIASES, ambiguous=AMBIGUOUS, now=NOW)


def holds(text: str, **row: Any) -> bool:
    """Whether an expression holds for a row; a dot in a name is written __."""
    named = {name.replace("__", "."): value for name, value in row.items()}
    return matcher(read(text), lambda name: lambda of: of.get(name))(named)


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("lr < 0.01", {"learning_rate": 0.003}, True),
        ("lr<0.01", {"learning_rate": 0.01}, False),
        ("learning_rate = 3e-4", {"learning_rate": 0.0003}, True),
        ("lr >= 1%", {"learning_rate": 0.01}, True),
        ("lr < 0.01", {}, False),
        ("lr != 0.01", {}, True),
        ("not lr < 0.01", {}, True),
        ("lora.rank in (4, 8)", {"lora__rank": 8}, True),
        ("lora.rank not in (4, 8)", {"lora__rank": 8}, False),
        ("lora.rank is missing", {}, True),
        ("lora.rank is not missing", {"lora__rank": 8}, True),
        ('tag = "x"', {"tags": ("x", "y")}, True),
        ("tag != x", {"tags": ("x", "y")}, False),
        ("tag != x", {"tags": ()}, True),
        ("tags contains base", {"tags": ("baseline",)}, True),
        ("tags is missing", {"tags": ()}, True),
        ("name contains STOR", {"name": "Tiny stories"}, True),
        ("name = 'tiny STORIES'", {"name": "Tiny stories"}, True),
        ('name = "say \\"hi\\""', {"name": 'say "hi"'}, True),
        ("status = stopped", {"status": "cancelled"}, True),
        ("status = Failed", {"status": "failed"}, True),
        ("created >= 2026-11-29", {"created": datetime(2026, 11, 29, tzinfo=UTC)}, True),
        ("created <= 2026-11-29", {"created": datetime(2026, 11, 29, 23, tzinfo=UTC)}, True),
        ("created > 2026-11-29", {"created": datetime(2026, 11, 29, 23, tzinfo=UTC)}, False),
        ("created = 2026-11-29", {"created": datetime(2026, 11, 29, 23, tzinfo=UTC)}, True),
        ("created != 2026-11-29", {"created": datetime(2026, 11, 28, tzinfo=UTC)}, True),
        ("created < '2026-11-29 12:30'", {"created": datetime(2026, 11, 29, 12, tzinfo=UTC)}, True),
        ("created > -7d", {"created": NOW - timedelta(days=6)}, True),
        ("created > -7d", {"created": NOW - timedelta(days=8)}, False),
        ("duration > 1h30min", {"duration": 5401}, True),
        ("duration > 1h30min", {"duration": 5399}, False),
        ("duration <= 90", {"duration": 90}, True),
        ("duration = '1.5h .5min'", {"duration": 5430}, True),
        ("packing = yes", {"packing": True}, True),
        ("packing != yes", {"packing": False}, True),
        ("lora.rank > 7B", {"lora__rank": 8e9}, True),
        ("lora.rank < 1.5k", {"lora__rank": 1499}, True),
        ("lr = 1 or lr = 2 and name = x", {"learning_rate": 1, "name": "y"}, True),
        ("(lr = 1 or lr = 2) and name = x", {"learning_rate": 1, "name": "y"}, False),
        ("NOT (lr = 1 AND name = x)", {"learning_rate": 1, "name": "y"}, True),
        ("", {}, True),
        ("   ", {}, True),
    ],
)
def test_a_filter_holds_for_the_rows_it_describes(text: str, row: dict[str, Any], expected: bool) -> None:
    assert holds(text, **row) is expected


@pytest.mark.parametrize(
    ("text", "position", "said"),
    [
        ("lrr < 1", 1, "there is no field “lrr”. Did you mean lr?"),
        ("lr < 1 and lerning_rate < 2", 12, "Did you mean learning_rate?"),
        ("rank > 3", 1, "Did you mean lora.rank?"),
        ("params.learning_rate > 3", 1, "Did you mean learning_rate?"),
        ("val_loss < 2", 1, "could mean several fields. Write dpo.val_loss."),
        ("status = fnished", 10, "status is never “fnished”. Did you mean finished?"),
        ("lr < fast", 6, "“fast” is not a value of learning_rate. Write a number"),
        ("lr < nan", 6, "not a value"),
        ("lr < 1e999", 6, "not a value"),
        ("name < x", 6, "name is text, so < has no meaning"),
        ("tags > x", 6, "tags is a list"),
        ("lr contains 3", 4, "learning_rate is a number, so contains has no meaning"),
        ("packing < yes", 9, "packing is yes or no"),
        ("packing = maybe", 11, "Write yes or no"),
        ("created > soon", 11, "Write a date, such as 2026-11-01"),
        ("created < 9999-12-31", 11, "Write a date, such as 2026-11-01"),
        ("created > '0001-01-01 00:00+05:00'", 11, "Write a date, such as 2026-11-01"),
        (f"duration < {'1' * 1900}x", 12, "is not a value of duration"),
        (f"duration < {'1' * 1900}", 12, "is not a value of duration"),
        (f"lr < {'1' * 1900}x", 6, "is not a value of learning_rate"),
        ("duration > 3 weeks", 14, "“weeks” is not expected here"),
        ("lr <", 5, "a value of learning_rate is expected"),
        ("lr", 3, "a comparison of learning_rate is expected"),
        ("lr is 3", 7, "only `missing` may follow `is`"),
        ("lr in 3", 7, "a list in parentheses"),
        ("lr in (3 4)", 10, "a comma or `)`"),
        ("(lr < 1", 1, "this parenthesis is not closed"),
        ("lr < 1)", 7, "“)” is not expected here. Remove it."),
        ("lr < 1 lr > 2", 8, "Join conditions with `and` or `or`"),
        ("and lr < 1", 1, "the name of a field is expected"),
        ("lr < 1 and", 11, "the name of a field is expected"),
        ('name = "x', 8, "this quotation mark is not closed"),
        ("name ! x", 6, "“!” is not part of a filter"),
        ("name = my books!", 16, 'A value of several words or signs stands in quotes: "my books!".'),
        ("lr < 1 and name = my books or lr > 2", 22, 'stands in quotes: "my books".'),
        ("'name' = x", 1, "the name of a field is expected"),
        ("not " * 41 + "lr < 1", 161, "too many nested parentheses"),
        ("lr < 1 or " * 400 + "lr < 1", 2001, "the filter has 4,006 characters"),
    ],
)
def test_a_wrong_filter_says_where_and_how_to_cure_it(text: str, position: int, said: str) -> None:
    with pytest.raises(FilterError) as caught:
        read(text)
    assert f"At character {position}: " in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.position == position - 1


def test_a_date_is_a_day_of_the_visitors_time_zone() -> None:
    zone = timezone(timedelta(hours=5))
    day = parse_filter("created = 2026-11-29", FIELDS, now=NOW, zone=zone)
    first = datetime(2026, 11, 28, 19, tzinfo=UTC)
    after = first + timedelta(days=1)
    assert day == All((FieldTest("created", ">=", first), FieldTest("created", "<", after)))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64) | st.integers(-(10**9), 10**9).map(float)
TEXTS = st.text(max_size=12)
TIMES = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))
SIGNS = ("=", "!=", "<", "<=", ">", ">=")
COMPARISONS = st.one_of(
    st.builds(FieldTest, st.sampled_from(["learning_rate", "lora.rank"]), st.sampled_from(SIGNS), NUMBERS),
    st.builds(FieldTest, st.just("name"), st.sampled_from(["=", "!=", "contains"]), TEXTS),
    st.builds(FieldTest, st.just("tags"), st.sampled_from(["=", "!=", "contains"]), TEXTS),
    st.builds(FieldTest, st.just("created"), st.sampled_from(SIGNS), TIMES),
    st.builds(FieldTest, st.just("packing"), st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(Missing, st.sampled_from(sorted(FIELDS))),
)
EXPRESSIONS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(lambda parts: All(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda parts: Any_(tuple(parts)), st.lists(inner, min_size=2, max_size=3)),
    ),
    max_leaves=8,
)


def write_filter(expression: Expression | None) -> str:
    """Return the text of an expression, which `parse_filter` reads as the same one."""
    match expression:
        case None:
            return ""
        case FieldTest(name, operator, value):
            return f"{name} {operator} {write_value(value)}"
        case Missing(name):
            return f"{name} is missing"
        case Not(Missing(name)):
            return f"{name} is not missing"
        case Not(part):
            return f"not ({write_filter(part)})"
        case All(parts):
            return " and ".join(
                f"({write_filter(part)})" if isinstance(part, Any_ | All) else write_filter(part) for part in parts
            )
        case Any_(parts):
            return " or ".join(
                f"({write_filter(part)})" if isinstance(part, Any_) else write_filter(part) for part in parts
            )


def write_value(value: float | str | bool | datetime) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    if isinstance(value, str):
        return quote(value)
    return repr(float(value)) if not float(value).is_integer() or abs(value) >= 1e15 else f"{value:.0f}"


@given(EXPRESSIONS)
def test_what_is_written_is_read_as_the_same(expression: Expression) -> None:
    text = write_filter(expression)
    if len(text) <= 2_000:
        assert read(text) == expression


@given(st.text(alphabet="lr name=<>!()\"'\\and or not in is missing 1.5e-3k,“é", max_size=40))
def test_any_text_is_read_or_refused_within_itself(text: str) -> None:
    refused = None
    try:
        expression = read(text)
    except FilterError as error:
        refused = error
    if refused is None:
        assert fields_read_by(expression) <= FIELDS.keys()
        assert matcher(expression, lambda name: lambda row: None)({}) in (True, False)
    else:
        assert 0 <= refused.position <= len(text)
        assert refused.message
        assert refused.remedy


ROWS = st.fixed_dictionaries(
    {}, optional={"learning_rate": NUMBERS, "name": TEXTS, "tags": st.tuples(TEXTS), "packing": st.booleans()}
)


@given(COMPARISONS, COMPARISONS, ROWS)
def test_and_or_and_not_are_those_of_logic(one: Expression, two: Expression, row: dict[str, Any]) -> None:
    def test(expression: Expression) -> bool:
        return matcher(expression, lambda name: lambda of: of.get(name))(row)

    assert test(All((one, two))) == (test(one) and test(two))
    assert test(Any_((one, two))) == (test(one) or test(two))
    assert test(Not(one)) is not test(one)
    assert test(Not(All((one, two)))) == test(Any_((Not(one), Not(two))))
