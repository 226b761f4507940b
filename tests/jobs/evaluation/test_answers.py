"""When a written answer counts as right."""

from __future__ import annotations

import pytest

from jobs.evaluation.answers import contains, exact_match, normalise, numeric_match


@pytest.mark.parametrize(
    ("said", "answers", "exact", "inside"),
    [
        ("The Old Mill.", ["old mill"], 1, 1),
        ("She lives in the old mill, I think.", ["old mill"], 0, 1),
        ("millstone", ["mill"], 0, 0),
        ("Paris!", ["London", "paris"], 1, 1),
        ("It is 1,000.", ["1000"], 0, 1),
        ("3.5", ["35"], 0, 0),
        ("-4", ["4"], 0, 0),
        ("", ["mill"], 0, 0),
        ("+", ["+"], 1, 1),
        ("-", ["+"], 0, 0),
        ("well-known", ["well known"], 1, 1),
    ],
)
def test_answers_are_compared_without_case_punctuation_and_articles(said: str, answers: list[str], exact: int, inside: int) -> None:
    assert exact_match(said, answers) == exact
    assert contains(said, answers) == inside


@pytest.mark.parametrize(
    ("said", "answers", "right"),
    [("So 3 + 4 = 7.", ["7"], 1), ("The answer is 1,234.50 dollars", ["1234.5"], 1), ("seven", ["7"], 0), ("7 of 8", ["#### 7"], 0)],
)
def test_numbers_are_compared_by_the_last_one(said: str, answers: list[str], right: int) -> None:
    assert numeric_match(said, answers) == right


def test_normalising_twice_changes_nothing() -> None:
    text = "The -5 cats, a.b 1,000,000 — Étude!"
    assert normalise(normalise(text)) == normalise(text)
