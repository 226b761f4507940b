"""Corpus metrics are compared as such: from the parts that their items store, not from items' own values."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.metrics.items import score_answers
from backend.domain.evaluation.metrics.registry import get_metric
from backend.domain.evaluation.metrics.score import AnswerRow, score_rows
from backend.domain.evaluation.tasks.definition import MetricUse
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.evaluation.comparisons import compare
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.pairing import comparison_at
from tests.support.evaluation_world import ANSWERS, claim_of, finish, item
from tests.support.scenario import Scenario

REFERENCES = [
    "the cat sat on the mat today",
    "a dog ran over the long road",
    "we eat warm bread in the morning",
    "the boat is on the lake now",
] * 5
WORSE = [text.replace("the", "one") if n % 2 else text for n, text in enumerate(REFERENCES)]
BETTER = [text if n % 3 else text.replace("now", "then") for n, text in enumerate(REFERENCES)]


def answered(ctx: Context, checkpoint: str, metric: str, answers: list[str], references: list[str]) -> EvaluationView:
    launched = Scenario(ctx).evaluation(checkpoint, "words")
    uses = [MetricUse(name=metric)]
    values = [
        score_answers(uses, [answer], [reference], row={}).values
        for answer, reference in zip(answers, references, strict=True)
    ]
    row = {"metric": metric, "value": 0.5, "stderr": 0.1, "low": 0.0, "high": 1.0, "n": len(values), "method": ""}
    facts = {"used_chat_template": False, "unit": "items", "number_format": "float32"}
    finish(ctx, claim_of(ctx, launched), [item(n, one) for n, one in enumerate(values)], scores=[row], facts=facts)
    return get_evaluation(ctx, launched.id)


@pytest.mark.parametrize("metric", ["bleu", "mcc"])
def test_the_difference_is_that_of_the_corpora(ctx: Context, scenario: Scenario, metric: str) -> None:
    scenario.benchmark("words", ANSWERS)
    references = REFERENCES if metric == "bleu" else ["yes", "no", "no", "yes"] * 5
    sides = [WORSE, BETTER] if metric == "bleu" else [["yes", "yes", "no", "no"] * 5, ["yes", "no", "no", "no"] * 5]
    ids = []
    for name, answers in zip(("Oak", "Elm"), sides, strict=True):
        scenario.checkpoint(name)
        ids.append(answered(ctx, name, metric, answers, references).id)
    worse, better = (
        score_rows(
            get_metric(metric), [AnswerRow(a, (r,)) for a, r in zip(answers, references, strict=True)]
        ).estimate.value
        for answers in sides
    )
    comparison = compare(ctx, *ids, metric=metric)
    assert comparison.difference.value == pytest.approx(better - worse)
    assert comparison.difference.low is not None
    assert comparison.difference.low > 0
    assert comparison.better == "second"
    assert comparison.p_value is not None
    assert comparison.p_value < 0.05
    for level in (0.5, 0.8, 0.9, 0.95, 0.99):
        at_level = comparison_at(ctx, *ids, metric)(level)
        assert at_level.difference.low is not None
        assert (at_level.difference.low > 0) == (comparison.p_value < 1 - level)
    narrow = comparison_at(ctx, *ids, metric)(0.5).difference
    assert narrow.low is not None
    assert narrow.low > comparison.difference.low


def test_a_gap_of_pairs_is_refused(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("words", ANSWERS)
    scenario.checkpoint("Oak")
    scenario.checkpoint("Elm")
    first, second = (answered(ctx, name, "exact_match", REFERENCES, REFERENCES).id for name in ("Oak", "Elm"))
    with pytest.raises(InvalidInput, match="pairs of items"):
        compare(ctx, first, second, metric="gender_gap")
