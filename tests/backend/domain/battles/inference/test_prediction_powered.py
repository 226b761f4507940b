"""A judge as control variate: the published formula, coverage for good and bad judges, and the votes that it saves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.domain.battles.inference.plans import VoteSpread, plan_options
from backend.domain.battles.inference.prediction_powered import assisted_mean, assisted_share
from backend.domain.battles.votes import VoteRecord
from backend.domain.statistics.estimates import FloatArray, normal_quantile, student_quantile
from backend.errors import InvalidInput

TRUTH = 0.6


def simulate(
    rng: np.random.Generator, *, voted: int, judged: int, agreement: float, bias: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Votes on prompts, and verdicts of a judge that repeats the vote with chance `agreement` and else favours one
    side.
    """
    votes = (rng.random(voted + judged) < TRUTH).astype(np.float64)
    other = (rng.random(voted + judged) < TRUTH + bias).astype(np.float64)
    return votes, np.where(rng.random(voted + judged) < agreement, votes, other)


def test_estimate_and_error_are_the_formulas() -> None:
    rng = np.random.default_rng(0)
    votes, verdicts = simulate(rng, voted=40, judged=200, agreement=0.6)
    result = assisted_mean(votes[:40], verdicts[:40], verdicts[40:])
    y, f, more = votes[:40], verdicts[:40], verdicts[40:]
    weight = np.cov(y, f)[0, 1] / ((1 + 40 / 200) * verdicts.var(ddof=1))
    assert result.weight == pytest.approx(weight)
    assert result.share.value == pytest.approx(y.mean() + weight * (more.mean() - f.mean()))
    residual = y - weight * f
    variance = ((residual - residual.mean()) ** 2).sum() / 38 / 40 + weight**2 * more.var(ddof=1) / 200
    assert result.share.stderr == pytest.approx(math.sqrt(variance))
    assert result.share.high == pytest.approx(result.share.value + student_quantile(0.95, df=38) * math.sqrt(variance))


@pytest.mark.parametrize(("agreement", "bias"), [(0.0, 0.0), (0.5, 0.0), (0.9, 0.0), (0.5, 0.35), (0.2, -0.4)])
@pytest.mark.parametrize("voted", [30, 100])
def test_the_interval_holds_the_raters_share_whatever_the_judge(voted: int, agreement: float, bias: float) -> None:
    rng, held = np.random.default_rng(voted), 0
    for _ in range(400):
        votes, verdicts = simulate(rng, voted=voted, judged=400, agreement=agreement, bias=bias)
        share = assisted_mean(votes[:voted], verdicts[:voted], verdicts[voted:]).share
        assert share.low is not None
        assert share.high is not None
        held += share.low <= TRUTH <= share.high
    assert 0.92 <= held / 400 <= 0.985


def test_a_good_judge_saves_votes_and_a_useless_one_costs_none() -> None:
    rng = np.random.default_rng(3)
    good = simulate(rng, voted=100, judged=2000, agreement=0.8)
    useless = simulate(rng, voted=100, judged=2000, agreement=0.0)
    saved = [assisted_mean(votes[:100], verdicts[:100], verdicts[100:]) for votes, verdicts in (good, useless)]
    assert saved[0].correlation == pytest.approx(0.8, abs=0.12)
    assert saved[0].votes_saved == pytest.approx(0.64 * (1 - 100 / 2100), abs=0.15)
    assert saved[0].share.stderr is not None
    assert saved[0].alone.stderr is not None
    assert saved[0].share.stderr < 0.75 * saved[0].alone.stderr
    assert saved[1].votes_saved < 0.08


def test_a_constant_judge_changes_nothing() -> None:
    votes = np.array([1.0, 0.0] * 10)
    result = assisted_mean(votes, np.ones(20), np.ones(50))
    assert (result.weight, result.correlation) == (0.0, 0.0)
    assert result.share.low == pytest.approx(result.alone.low)


def test_the_plan_with_a_judge_reaches_its_power() -> None:
    rng, gap = np.random.default_rng(4), 100.0
    rows = plan_options(gaps=(gap,), spread=VoteSpread(0.25), judge_correlation=0.6)
    planned = next(option.votes for option in rows if option.design == "judge")
    share, settled = 1 / (1 + 10 ** (-gap / 400)), 0
    for _ in range(300):
        votes = (rng.random(20_000) < share).astype(np.float64)
        verdicts = np.where(rng.random(20_000) < 0.6, votes, rng.random(20_000) < share)
        estimate = assisted_mean(votes[:planned], verdicts[:planned], verdicts[planned:]).share
        assert estimate.stderr is not None
        settled += estimate.value - normal_quantile(0.95) * estimate.stderr > 0.5
    assert 0.7 < settled / 300 < 0.9


def test_votes_and_verdicts_are_joined_by_prompt_and_seen_from_first() -> None:
    rng = np.random.default_rng(5)
    votes, verdicts = simulate(rng, voted=30, judged=60, agreement=0.7)
    records = [VoteRecord(f"p{place}", "r", "x", "y", "A" if votes[place] else "B") for place in range(30)]
    records += [
        VoteRecord(f"p{place}", "judge", "y", "x", "B" if verdict else "A") for place, verdict in enumerate(verdicts)
    ]
    result, mirrored = (
        assisted_share(records, "x", "y", judge="judge"),
        assisted_share(records, "y", "x", judge="judge"),
    )
    assert result == assisted_share([*records, VoteRecord("p", "r", "x", "z", "A")], "x", "y", judge="judge")
    assert result.share.value == pytest.approx(assisted_mean(votes[:30], verdicts[:30], verdicts[30:]).share.value)
    assert mirrored.share.value == pytest.approx(1 - result.share.value)
    assert (result.num_voted, result.num_judged) == (30, 60)


def test_too_little_to_estimate_from_is_refused() -> None:
    with pytest.raises(InvalidInput, match="3 prompts have votes"):
        assisted_mean([1, 0, 1], [1, 0, 1], [1, 0])
    with pytest.raises(InvalidInput, match="'gpt' judged no battle"):
        assisted_share([VoteRecord("p", "r", "x", "y", "A")], "x", "y", judge="gpt")
    with pytest.raises(InvalidInput, match="don't match"):
        assisted_mean([1.0] * 12, [1.0] * 11, [])
