"""Answers extracted from completions by named filters."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.extraction import FILTERS, Extracted, Pattern, extract_answer
from backend.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "completion", "answer", "by"),
    [
        ("gsm8k", "so 3 + 4 = 7\n#### 7", "7", "strict"),
        ("gsm8k", "The answer is 7 or rather $1,200.", "$1,200.", "flexible"),
        ("gsm8k", "no digits", None, None),
        ("boxed", r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        ("letter", "I take C.\n\nAnswer: B, which is cold.", "B", "answer line"),
        ("letter", 'Therefore, the answer is "C".', "C", "answer is"),
        ("letter", " (B) ", "B", "letter alone"),
        ("letter", "Answer: c", None, None),
        ("first_line", "\n\n 42 \nmore", "42", "first line"),
    ],
)
def test_the_first_filter_that_matches_gives_the_answer(
    name: str, completion: str, answer: str | None, by: str | None
) -> None:
    assert extract_answer(completion, FILTERS[name]) == Extracted(answer, by)


def test_filters_equal_those_of_the_harness() -> None:
    harness = pytest.importorskip("lm_eval.filters.extraction").RegexFilter
    texts = ["#### -1,234.5 x", "1 2 3", "cost $5.", "none", "#### 8\n#### 9"]
    for answer_filter in FILTERS["gsm8k"]:
        theirs = harness(regex_pattern=answer_filter.pattern, group_select=answer_filter.take)
        expected = [answers[0] for answers in theirs.apply([[text] for text in texts], [{}] * len(texts))]
        ours = [extract_answer(text, [answer_filter]).text or "[invalid]" for text in texts]
        assert ours == expected


def test_a_pattern_that_backtracks_endlessly_does_not_match() -> None:
    assert extract_answer("a" * 60, [Pattern(name="slow", pattern=r"(a|aa)+$b")]).text is None


def test_an_invalid_pattern_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a regular expression"):
        extract_answer("x", [Pattern(name="x", pattern="(")])
