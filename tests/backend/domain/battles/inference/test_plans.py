"""Plans: published sizes, and the power that a plan promises."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.domain.battles.inference.evidence import e_value_path, log_rater_e_value, rater_evidence
from backend.domain.battles.inference.plans import (
    PlanOption,
    VoteSpread,
    checked_gap,
    one_look_votes,
    plan_options,
    prompts_for,
    raters_for,
)
from backend.errors import InvalidInput


def by_design(options: tuple[PlanOption, ...], gap: float) -> dict[str, PlanOption]:
    return {option.design: option for option in options if option.gap_elo == gap}


@pytest.mark.parametrize(("gap", "votes"), [(20, 2367), (35, 771), (50, 377), (100, 93), (150, 40)])
def test_a_single_test_needs_the_published_number_of_votes(gap: float, votes: int) -> None:
    delta = checked_gap(gap)
    assert one_look_votes(0.25, delta=delta, alpha=0.05) == votes


@pytest.mark.parametrize("raters", [1, 3, 9])
@pytest.mark.parametrize("gap", [100.0, 150.0])
def test_the_planned_prompts_settle_a_true_gap_with_the_stated_power(gap: float, raters: int) -> None:
    rng, delta, ties, likeness = np.random.default_rng(raters), checked_gap(gap), 0.2, 0.25
    spread = VoteSpread(vote=0.25 * (1 - ties), likeness=likeness)
    prompts = prompts_for(spread.of_prompt(raters), delta=delta, alpha=0.05, raters=raters)
    mean = 0.5 + delta / (1 - ties)
    size = mean * (1 - mean) / (likeness * spread.vote / (1 - ties) ** 2) - 1
    settled = 0
    for _ in range(200):
        points = (rng.random((raters, prompts)) < rng.beta(mean * size, (1 - mean) * size, prompts)).astype(np.float64)
        points[rng.random((raters, prompts)) < ties] = 0.5
        settled += e_value_path(points.ravel(), np.tile(np.arange(prompts), raters)).max() >= 20
    assert 0.72 < settled / 200 < 0.96


def test_a_plan_offers_every_gap_and_design_and_a_wider_gap_costs_less() -> None:
    options = plan_options(num_pairs=3, judge_correlation=0.5, seconds_per_vote=30)
    assert {option.gap_elo for option in options} == {20, 35, 50, 100, 150}
    assert set(by_design(options, 35)) == {"new_prompts", "raters", "all_pairs", "one_look", "judge"}
    for design in ("new_prompts", "raters", "one_look", "judge"):
        votes = [option.votes for option in options if option.design == design]
        assert votes == sorted(votes, reverse=True)
        assert votes[0] > 10 * votes[-1]
    assert all(option.minutes == pytest.approx(option.votes / 2) for option in options)


def test_designs_compare_as_they_should() -> None:
    rows = by_design(plan_options(num_pairs=3, raters_per_prompt=9, judge_correlation=0.6), 50)
    assert rows["raters"].prompts < rows["new_prompts"].prompts
    assert rows["raters"].votes == 9 * rows["raters"].prompts > rows["new_prompts"].votes
    assert rows["all_pairs"].votes == 3 * rows["new_prompts"].votes
    assert rows["judge"].votes == pytest.approx(rows["one_look"].votes * (1 - 0.36), abs=1)
    assert rows["one_look"].votes < rows["new_prompts"].votes


def test_ties_lower_the_number_of_votes() -> None:
    assert one_look_votes(0.2, delta=0.05, alpha=0.05) < one_look_votes(0.25, delta=0.05, alpha=0.05)


def test_impossible_plans_are_refused() -> None:
    with pytest.raises(InvalidInput, match="smallest gap of 0"):
        plan_options(gaps=(0.0,))
    with pytest.raises(InvalidInput, match="correlation of 1"):
        plan_options(judge_correlation=1.0)


def test_raters_grow_with_leaning_and_with_smaller_gaps() -> None:
    needed = [raters_for(leaning, gap_elo=100, alpha=0.05, votes_per_rater=60) for leaning in (0.0, 0.3, 0.8)]
    assert needed == sorted(needed)
    assert needed[2] > 3 * needed[0]
    assert raters_for(0.2, gap_elo=35, alpha=0.05, votes_per_rater=60) > 3 * raters_for(
        0.2, gap_elo=100, alpha=0.05, votes_per_rater=60
    )
    assert raters_for(0.0, gap_elo=800, alpha=0.05, votes_per_rater=10_000) >= 4
    options = plan_options(gaps=(35.0,), judge_correlation=0.5)
    assert {option.raters > 0 for option in options if option.any_time} == {True}
    assert {option.raters for option in options if not option.any_time} == {0}


def test_as_many_raters_as_planned_settle_a_gap() -> None:
    rng, raters = np.random.default_rng(2), raters_for(0.3, gap_elo=150, alpha=0.05, votes_per_rater=40)
    rater, settled = np.repeat(np.arange(raters), 40), 0
    for _ in range(60):
        odds = 150 * math.log(10) / 400 + 0.3 * rng.standard_normal(raters)
        points = (rng.random(len(rater)) < 1 / (1 + np.exp(-odds[rater]))).astype(np.float64)
        settled += log_rater_e_value(rater_evidence(points, rater)) >= math.log(20)
    assert 0.65 <= settled / 60 <= 0.97


def test_a_design_says_one_vote_each_only_of_as_many_votes_as_prompts() -> None:
    """3,700 votes on 1,700 prompts were called "One vote each"."""
    few = plan_options(gaps=(35.0,), leaning=0.6, votes_per_rater=10, cast_per_rater=200.0)
    for option in (*few, *plan_options(gaps=(35.0,), cast_per_rater=1.0)):
        is_exact = option.votes == option.prompts * option.raters_per_prompt
        assert option.label.startswith("At least ") == (not is_exact), option
    assert few[0].label == "At least one vote each on new prompts"
