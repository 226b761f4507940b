"""A metric that is shown as a macro average is compared, ranked and gated as one."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.gate_config import GateConfig, GateVerdict
from backend.domain.evaluation.tasks.reading import read_task
from backend.services.context import Context
from backend.services.evaluation.baselines import compare_across
from backend.services.evaluation.comparisons import compare, rank_evaluations
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.gates import judge_config
from backend.services.evaluation.pairs import group_pairs, list_changed
from tests.support.evaluation_world import claim_of, finish, item
from tests.support.scenario import Scenario

SUBJECTS = ["law"] * 300 + ["art"] * 60
TASK = """
name: exams
kind: multiple_choice
subgroup: subject
average: AVERAGE
prompt: "{{question}}"
choices: choices
answer: answer
"""
OAK = {"law": 240, "art": 15}
"""Right answers: 80 % of law, 25 % of art."""
ELM = {"law": 225, "art": 45}
"""75 % of law, 75 % of art: 22.5 points better as a macro average, 4.2 points over the items."""


def exam(ctx: Context, checkpoint: str, right: dict[str, int], *, average: str) -> EvaluationView:
    """Evaluate a checkpoint that answers the first questions of each subject right, this many, as a worker does."""
    task = read_task(TASK.replace("AVERAGE", average))
    launched = Scenario(ctx).evaluation(checkpoint, "exams", task=task)
    seen = {"law": 0, "art": 0}
    items = []
    for number, subject in enumerate(SUBJECTS):
        items.append(item(number, {"acc": float(seen[subject] < right[subject])}, subgroup=subject))
        seen[subject] += 1
    shares = {"macro": (right["law"] / 300 + right["art"] / 60) / 2, "micro": (right["law"] + right["art"]) / 360}
    other = "micro" if average == "macro" else "macro"
    scores = [
        {"metric": metric, "value": shares[kind], "stderr": 0.02, "low": 0.0, "high": 1.0, "n": 360, "method": kind}
        for metric, kind in (("acc", average), (f"acc:{other}", other))
    ]
    finish(ctx, claim_of(ctx, launched), items, scores=scores, facts={"unit": "items", "used_chat_template": False})
    return get_evaluation(ctx, launched.id)


@pytest.fixture(params=["macro", "micro"])
def pair(request: pytest.FixtureRequest, any_ctx: Context) -> tuple[Context, EvaluationView, EvaluationView]:
    rows = [
        {"question": f"Q{n}", "choices": ["a", "b"], "answer": 0, "subject": subject}
        for n, subject in enumerate(SUBJECTS)
    ]
    Scenario(any_ctx).benchmark("exams", rows)
    Scenario(any_ctx).checkpoints("Oak", "Elm")
    oak, elm = (exam(any_ctx, name, right, average=request.param) for name, right in (("Oak", OAK), ("Elm", ELM)))
    return any_ctx, oak, elm


def shown_difference(first: EvaluationView, second: EvaluationView, metric: str) -> float:
    before, after = first.score(metric), second.score(metric)
    assert before is not None
    assert after is not None
    return after.value - before.value


def test_what_is_shown_is_what_is_tested(pair: tuple[Context, EvaluationView, EvaluationView]) -> None:
    ctx, oak, elm = pair
    for metric in (score.metric for score in oak.scores):
        compared = compare(ctx, oak.id, elm.id, metric=metric)
        assert compared.difference.value == pytest.approx(shown_difference(oak, elm, metric))
        assert compared.method.startswith("macro over 2 subgroups") == oak.average_of(metric).startswith("macro")
        assert compared.p_value is not None
        assert len(list_changed(ctx, compared)) == 45  # 15 lost, 30 won
        assert {name: len(keys) for name, keys in group_pairs(ctx, compared).items()} == {
            "broken": 15,
            "fixed": 30,
            "both_wrong": 75,
            "both_right": 240,
        }


def test_ranks_and_the_table_of_all_benchmarks_agree_with_the_comparison(
    pair: tuple[Context, EvaluationView, EvaluationView],
) -> None:
    ctx, oak, elm = pair
    for metric in (score.metric for score in oak.scores):
        first, second = rank_evaluations(ctx, [oak, elm], metric=metric)
        assert first.evaluation.id == elm.id
        assert second.p_adjusted == pytest.approx(compare(ctx, oak.id, elm.id, metric=metric).p_value)
    (line,) = compare_across(ctx, oak.checkpoint_id or "", elm.checkpoint_id or "")
    assert line.difference.value == pytest.approx(shown_difference(oak, elm, line.metric))


def test_a_gate_decides_on_the_average_that_it_names(pair: tuple[Context, EvaluationView, EvaluationView]) -> None:
    """By the items Oak passes, by 4 points; as a mean of subjects it is 22 points worse."""
    ctx, oak, _ = pair
    for metric in (score.metric for score in oak.scores):
        gate = GateConfig.model_validate(
            {"champion": "Elm", "margin": 0.12, "benchmarks": [{"benchmark": "exams", "metric": metric}]}
        )
        verdict = judge_config(ctx, candidate="Oak", config=gate).verdict
        assert verdict is (GateVerdict.FAIL if oak.average_of(metric).startswith("macro") else GateVerdict.PASS)
