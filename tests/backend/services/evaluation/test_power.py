"""Power before the run: planned where nothing was measured, measured where two checkpoints answered the same items."""

from __future__ import annotations

import pytest

from backend.domain.evaluation.config import EvaluationConfig
from backend.services.context import Context
from backend.services.evaluation.evaluations import plan_evaluation
from tests.support.scenario import Scenario


def test_discordance_is_planned_until_two_checkpoints_were_evaluated_and_measured_then(ctx: Context) -> None:
    Scenario(ctx).evaluation("Oak", "facts", [1] * 20 + [0] * 20)
    planned = plan_evaluation(ctx, benchmark="facts", config=EvaluationConfig()).power
    Scenario(ctx).evaluation("Elm", "facts", [1] * 16 + [0] * 24)
    measured = plan_evaluation(ctx, benchmark="facts", config=EvaluationConfig()).power
    assert planned is not None
    assert measured is not None
    assert (planned.discordance, planned.measured_pairs) == (0.3, 0)
    assert (measured.discordance, measured.measured_pairs) == (pytest.approx(0.1), 1)
    assert planned.detectable == pytest.approx(0.24, abs=0.005)
    assert measured.detectable is None, "40 items can't show 10 points, the most that 10 % of differing items allow"


def test_two_that_never_differed_are_planned_by_the_rule_of_three(ctx: Context, scenario: Scenario) -> None:
    for name in ("Oak", "Elm"):
        scenario.evaluation(name, "facts", [1] * 40)
    plan = plan_evaluation(ctx, benchmark="facts", config=EvaluationConfig()).power
    assert plan is not None
    assert plan.discordance == pytest.approx(3 / 40)


def test_texts_have_no_share_to_plan(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("stories", val=0)
    assert plan_evaluation(ctx, benchmark="stories", config=EvaluationConfig()).power is None
