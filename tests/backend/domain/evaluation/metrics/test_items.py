"""Scores from items' values equal the scores of the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from backend.domain.evaluation.extraction import Pattern, named_filters
from backend.domain.evaluation.metrics.items import estimate_answers, score_answers
from backend.domain.evaluation.metrics.registry import get_metric
from backend.domain.evaluation.metrics.score import AnswerRow, score_rows
from backend.errors import InvalidInput


@dataclass(frozen=True)
class Choice:
    name: str
    options: dict[str, Any] = field(default_factory=dict)


ANSWERS = [
    ("the cat sat on the mat", ["the cat sat on a mat", "a cat is on the mat"]),
    ("dogs bark loudly at night", ["the dogs bark at night"]),
    ("yes", ["no"]),
    ("no", ["no"]),
    ("yes", ["yes"]),
]
NAMES = ["bleu", "chrf", "ter", "f1_macro", "f1_micro", "mcc", "f1", "rougeL", "exact_match"]


def test_stored_values_give_the_score_of_the_answers() -> None:
    choices = [Choice(name) for name in NAMES]
    items = [score_answers(choices, [answer], references, row={}).values for answer, references in ANSWERS]
    scores = estimate_answers(choices, items)
    for name in NAMES:
        direct = score_rows(get_metric(name), [AnswerRow(answer, tuple(references)) for answer, references in ANSWERS])
        assert scores[name].estimate.value == pytest.approx(direct.estimate.value), name
        assert scores[name].estimate.stderr == pytest.approx(direct.estimate.stderr), name
        if name != "f1_micro":  # its signature counts classes, and two labels of one class have one number
            assert scores[name].signature == direct.signature


def test_each_filter_is_scored_beside_the_first_that_matches() -> None:
    choices, filters = [Choice("exact_match_verbatim", {"ignore_case": True})], named_filters("gsm8k")
    items = [
        score_answers(choices, [answer], ["7"], row={}, filters=filters)
        for answer in ("so 7\n#### 7", "it is 7", "no idea")
    ]
    assert [item.filters for item in items] == [("strict",), ("flexible",), (None,)]
    assert [item.unparsed for item in items] == [0, 0, 1]
    scores = {
        name: score.estimate.value for name, score in estimate_answers(choices, [item.values for item in items]).items()
    }
    name = "exact_match_verbatim"
    assert scores == pytest.approx({name: 2 / 3, f"{name},strict": 1 / 3, f"{name},flexible": 2 / 3})


def test_samples_are_averaged_inside_their_item() -> None:
    choices = [Choice("numeric"), Choice("pass@2"), Choice("maj@3")]
    values = score_answers(choices, ["7", "8", "so 7"], ["7"], row={}, filters=[Pattern("number", r"\d+")]).values
    assert values == pytest.approx({"numeric": 2 / 3, "pass@2": 1.0, "maj@3": 1.0})
    passed = score_answers(
        [Choice("pass@1"), Choice("pass_at_k", {"k": 2})], ["x", "y"], [], row={}, outcomes=[True, False]
    ).values
    assert passed == {"pass@1": 0.5, "pass_at_k": 1.0}
    with pytest.raises(InvalidInput, match="bleu does not score 2"):
        score_answers([Choice("bleu")], ["a", "b"], ["a"], row={})


def test_instructions_are_scored_by_prompt_and_by_instruction() -> None:
    row = {"instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    items = [score_answers([Choice("ifeval")], [answer], [], row=row).values for answer in ('"all"', "a, b")]
    scores = estimate_answers([Choice("ifeval")], items)
    assert {name: score.estimate.value for name, score in scores.items()} == {
        "prompt_strict": 0.5,
        "prompt_loose": 0.5,
        "instruction_strict": 0.5,
        "instruction_loose": 0.5,
    }
