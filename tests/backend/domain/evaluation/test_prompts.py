"""Prompts of a team: variables, what fills them in, differences between versions, and typed rows."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.prompts import PromptText, prompt_diff, read_typed_rows
from backend.errors import InvalidInput

RETELL = PromptText(system="You write in {{language}}.", text="Retell {{tale}} for {{reader}}.\n\n{{tale}}")


def test_variables_come_in_the_order_in_which_they_are_written() -> None:
    assert RETELL.variables == ("language", "tale", "reader")
    assert PromptText(text="Hello").variables == ()


def test_a_row_is_text_and_never_a_template() -> None:
    row = {"language": "Latin", "tale": "{{ 7 * 7 }} {% raw %}", "reader": "<b>"}
    assert RETELL.fill(row)[1] == "Retell {{ 7 * 7 }} {% raw %} for <b>.\n\n{{ 7 * 7 }} {% raw %}"


def test_a_missing_variable_is_named_with_the_nearest_column() -> None:
    with pytest.raises(InvalidInput, match="reads the column `tale`") as caught:
        RETELL.fill({"language": "Latin", "tales": "x", "reader": "y"})
    assert "tales" in caught.value.remedy


@pytest.mark.parametrize("text", ["Retell {{tale", "{% for %}", "{{ 'x' * 10 ** 9 }}"])
def test_a_text_that_is_no_template_or_costs_too_much_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        PromptText(text=text).fill({"tale": "x"})


def test_the_difference_marks_lines_and_equal_prompts_have_none() -> None:
    after = RETELL.model_copy(update={"text": "Retell {{tale}}."})
    difference = prompt_diff(RETELL, after).splitlines()
    assert "-Retell {{tale}} for {{reader}}." in difference
    assert "+Retell {{tale}}." in difference
    assert " You write in {{language}}." in difference
    assert prompt_diff(RETELL, RETELL) == ""


def test_lines_that_begin_like_the_head_of_a_difference_stay() -> None:
    before, after = PromptText(text="-- one\nsame"), PromptText(text="++ two\nsame")
    assert "--- one" in prompt_diff(before, after)
    assert "+++ two" in prompt_diff(before, after)


def test_of_long_prompts_all_from_the_first_to_the_last_difference_is_removed_and_added() -> None:
    lines = ["same", "again"] * 1_000
    changed = [*lines[:700], "new", *lines[701:710], "newer", *lines[711:]]
    before, after = (PromptText(text="\n".join(each)) for each in (lines, changed))
    difference = prompt_diff(before, after).splitlines()
    assert [line[1:] for line in difference if line[0] != "+"] == lines[500:911]
    assert [line[1:] for line in difference if line[0] != "-"] == changed[500:911]
    assert sum(line[0] == "-" for line in difference) == 11
    assert prompt_diff(after, after) == ""


def test_typed_rows_are_values_or_objects_a_line() -> None:
    assert read_typed_rows("one\n\n two ", ("x",)) == [{"x": "one"}, {"x": "two"}]
    assert read_typed_rows('{"x": "{one}"}', ("x",)) == [{"x": "{one}"}]
    assert read_typed_rows('{"x": 1, "y": "b\u2028c"}\r\n', ("x", "y")) == [{"x": 1, "y": "b\u2028c"}]
    assert read_typed_rows("", ()) == [{}]


@pytest.mark.parametrize(
    ("text", "variables", "named"),
    [
        ("one", ("x", "y"), "Line 1 is not JSON: 'one'"),
        ('{"x": 1, "y": 2}\n[1]', ("x", "y"), r"Line 2 is not a JSON object: '\[1\]'"),
        ('{"x": 1}', ("x", "y"), "Line 1 has no y"),
        ("  \n", ("x",), "no row"),
        ("[" * 100_000, ("x", "y"), "Line 1 is not JSON"),
        ('{"x": NaN}', ("x",), "Line 1 is not JSON"),
        ('{"x": [1e999]}', ("x",), "Line 1 is not JSON"),
        (r'{"x": "\ud800"}', ("x",), "Line 1 is not JSON"),
    ],
)
def test_a_row_that_can_not_be_read_is_named_with_its_line(text: str, variables: tuple[str, ...], named: str) -> None:
    with pytest.raises(InvalidInput, match=named) as caught:
        read_typed_rows(text, variables)
    assert caught.value.remedy
