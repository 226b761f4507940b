"""The plan of an evaluation says what it can detect, and on which assumption."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.reading import shipped_definition
from backend.domain.statistics.power import plan_power
from backend.services.evaluation.evaluations import Plan
from pages.components.evaluation.form import format_plan
from pages.components.evaluation.power import format_detectable, format_power


def test_plan_names_its_assumption_and_the_items_that_smaller_differences_need() -> None:
    assert (
        format_power(plan_power(500))
        == "Detects a difference of 7.0 points with 80 % power; checkpoints are assumed to differ on 30 % of items, as"
        " no two evaluations here share enough of its items yet. Items needed for 1 point: 24,000; 2 points: 6,000; 5"
        " points: 980."
    )


def test_plan_from_earlier_evaluations_names_them_and_their_clusters() -> None:
    words = format_power(plan_power(500, discordance=0.12, measured_pairs=3, design_effect=2.1))
    assert "differed on 12 % of items in 3 earlier comparisons" in words
    assert "design effect 2.1" in words


@pytest.mark.parametrize("n", [3, 8, 15])
def test_plan_of_a_few_items_detects_nothing(n: int) -> None:
    """Fifteen items detected a difference of 57.8 points between checkpoints that differ on 30 % of items."""
    assert format_power(plan_power(n)).startswith("Too few items to detect even 30.0 points with 80 % power")


def test_several_benchmarks_name_only_what_each_detects() -> None:
    """Eleven benchmarks were a wall of eleven paragraphs."""
    assert [format_detectable(plan) for plan in (plan_power(500), plan_power(3), None)] == [
        "7.0 points",
        "none with so few items",
        "–",
    ]


def test_the_plan_of_a_task_names_its_metrics() -> None:
    """LAMBADA's plan said "Perplexity and bits per byte"; it scores accuracy and perplexity."""
    lambada = shipped_definition("lambada")
    assert isinstance(lambada, TaskDefinition)
    plan = Plan(EvaluationKind.PERPLEXITY, "all", 20, None)
    assert (
        format_plan(plan, EvaluationConfig(task=lambada)) == "LAMBADA: accuracy, perplexity of the target on 20 texts."
    )
    assert format_plan(plan, EvaluationConfig()) == "Perplexity on 20 texts."
