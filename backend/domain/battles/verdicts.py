"""Verdict on a pair's votes: better, worse or undecided, and the votes still needed.

Votes are inspected while they arrive, so the decision uses an e-value, which stays valid under optional stopping; an ordinary test,
repeated after every vote, declares a false winner in half of all campaigns. Evidence counts prompts, not votes: ten raters on one prompt
are evidence about one prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.ratings import elo_share
from backend.domain.battles.votes import LABEL_REMEDY, POINTS_OF_A, Label, VoteRecord
from backend.domain.statistics.estimates import (
    Estimate,
    clustered_mean_estimate,
    normal_quantile,
    percent,
    student_quantile,
    wilson_interval,
)
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Outcome = Literal["better", "worse", "undecided"]

POWER = 0.8
LARGEST_E_VALUE = 1e300
PRIOR_PROMPTS = 4
"""Pseudo-prompts of maximal variance that a plan starts from, until real prompts outweigh them."""


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Verdict on `first` against `second`.

    `share` is what first earned of the votes (half for ties and both bad). `e_value` >= `threshold` (1 / alpha) decides. `prompts_won` and
    `prompts_lost` are first's; prompts that came out even count in `prompts` alone. `votes_needed` and `prompts_needed` come on top of what
    was cast, at the present number of votes per prompt, to settle a true gap of `smallest_gap_elo` with a chance of 80 %; 0 once decided.
    `needs_prompts` says that more raters on the same prompts can't settle it. `seconds_needed` is rating time, None without a pace.
    """

    first: str
    second: str
    outcome: Outcome
    sentence: str
    share: Estimate
    e_value: float
    threshold: float
    votes: int
    prompts: int
    prompts_won: int
    prompts_lost: int
    ties: int
    both_bad: int
    votes_needed: int
    prompts_needed: int
    needs_prompts: bool
    seconds_needed: float | None


@dataclass(frozen=True, slots=True)
class _PairVotes:
    """A pair's votes seen from first: points per vote, the prompt of each, and each prompt's mean."""

    points: FloatArray
    prompt: IntArray
    means: FloatArray
    sizes: FloatArray
    ties: int
    both_bad: int


def beta_mixture_e_value(wins: int, losses: int) -> float:
    """Evidence against "wins and losses are equally likely": B(1/2 + w, 1/2 + l) / B(1/2, 1/2) * 2^n, at most 1e300.

    Its expectation under that null is 1 at every moment, so that reaching 1 / alpha has a chance of at most alpha, ever (Ville 1939).
    """
    if wins < 0 or losses < 0:
        raise InvalidInput(f"Counts can't be negative: {wins} and {losses}.")
    log_e = math.lgamma(0.5 + wins) + math.lgamma(0.5 + losses) - math.lgamma(1 + wins + losses) - math.log(math.pi)
    return math.exp(min(log_e + (wins + losses) * math.log(2), math.log(LARGEST_E_VALUE)))


def votes_for_gap(gap_elo: float, *, alpha: float = 0.05, power: float = POWER, design_effect: float = 1.0) -> int:
    """Decisive votes that one ordinary test, made once at the end, needs to find a gap: 35 Elo -> 771; times the prompts' design effect."""
    share = elo_share(_checked_gap(gap_elo))
    quantiles = normal_quantile(1 - alpha) + float(scipy.stats.norm.ppf(power))
    return math.ceil(design_effect * quantiles**2 * share * (1 - share) / (share - 0.5) ** 2)


def pair_verdict(
    votes: Iterable[VoteRecord],
    first: str,
    second: str,
    *,
    smallest_gap_elo: float = 35.0,
    alpha: float = 0.05,
    seconds_per_vote: float | None = None,
) -> PairVerdict:
    """Judge `first` against `second` from the votes on battles between the two; other votes are ignored.

    `smallest_gap_elo`: the smallest gap worth acting on (never the observed one). For m pairs watched at once give alpha / m.
    The e-value gets one score per prompt: the sign of its mean. Raises InvalidInput for an unknown label, equal names, a gap or alpha that
    is out of range.
    """
    if first == second:
        raise InvalidInput(f"{first!r} can't be compared with itself.", remedy="Choose two contestants.", field="second")
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha {alpha} must lie between 0 and 1.", remedy="Use 0.05.", field="alpha")
    gap = elo_share(_checked_gap(smallest_gap_elo)) - 0.5
    pair = _select(votes, first, second)
    won, lost = int((pair.means > 0.5).sum()), int((pair.means < 0.5).sum())
    share = _share(pair, level=1 - alpha)
    e_value = beta_mixture_e_value(won, lost)
    outcome: Outcome = "undecided"
    if e_value >= 1 / alpha and (won - lost) * (share.value - 0.5) > 0:
        outcome = "better" if won > lost else "worse"
    more_votes, more_prompts, needs_prompts = (0, 0, False) if outcome != "undecided" else _still_needed(pair, gap=gap, alpha=alpha)
    seconds = None if seconds_per_vote is None else more_votes * seconds_per_vote
    verdict = PairVerdict(
        first=first,
        second=second,
        outcome=outcome,
        sentence="",
        share=share,
        e_value=e_value,
        threshold=1 / alpha,
        votes=len(pair.points),
        prompts=len(pair.means),
        prompts_won=won,
        prompts_lost=lost,
        ties=pair.ties,
        both_bad=pair.both_bad,
        votes_needed=more_votes,
        prompts_needed=more_prompts,
        needs_prompts=needs_prompts,
        seconds_needed=seconds,
    )
    return replace(verdict, sentence=_sentence(verdict, gap_elo=smallest_gap_elo))


def _checked_gap(gap_elo: float) -> float:
    if not (math.isfinite(gap_elo) and gap_elo > 0):
        raise InvalidInput(
            f"A smallest gap of {gap_elo} Elo can't be planned for.",
            remedy="Name a gap above 0, for instance 35.",
            field="smallest_gap_elo",
        )
    return gap_elo


def _select(votes: Iterable[VoteRecord], first: str, second: str) -> _PairVotes:
    index: dict[str, int] = {}
    points, prompt, labels = [], [], []
    for vote in votes:
        if {vote.a, vote.b} != {first, second}:
            continue
        if vote.winner not in Label.__members__:
            raise InvalidInput(f"The winner {vote.winner!r} is unknown.", remedy=LABEL_REMEDY, field="winner")
        label = Label(vote.winner)
        points.append(POINTS_OF_A[label] if vote.a == first else 1 - POINTS_OF_A[label])
        prompt.append(index.setdefault(vote.prompt, len(index)))
        labels.append(label)
    scores, codes = np.array(points, dtype=np.float64), np.array(prompt, dtype=np.int64)
    sizes = np.bincount(codes, minlength=len(index)).astype(np.float64)
    means = np.bincount(codes, scores, len(index)) / sizes
    return _PairVotes(scores, codes, means, sizes, labels.count(Label.TIE), labels.count(Label.BOTH_BAD))


def _share(pair: _PairVotes, *, level: float) -> Estimate:
    """Share of the votes with Wilson's interval at the effective number of votes (clustered by prompt) and Student's quantile.

    Source of the effective number: Korn and Graubard (1998). It stays in 0 to 1 and is not empty when all votes agree.
    """
    num_votes, num_prompts = len(pair.points), len(pair.means)
    if not num_votes:
        return Estimate(0.5, None, 0.0, 1.0, 0, "no votes")
    clustered = clustered_mean_estimate(pair.points, pair.prompt.tolist(), level=level)
    value, stderr, spread = clustered.value, clustered.stderr, float(pair.points.var())
    binomial = value * (1 - value)
    effective = float(num_prompts)
    if stderr and spread > 0:
        # Never more than independent votes would give: with few prompts a small clustered error is luck.
        effective = min(binomial / stderr**2, binomial * num_votes / spread)
    critical = student_quantile(level, df=num_prompts - 1) if num_prompts > 1 else normal_quantile(level)
    low, high = wilson_interval(value, effective, critical=critical)
    return Estimate(value, stderr, low, high, num_votes, f"Wilson, clustered by prompt ({num_prompts}), {percent(level)}")


def _still_needed(pair: _PairVotes, *, gap: float, alpha: float) -> tuple[int, int, bool]:
    """Further votes, further prompts, and whether raters alone can't do it, to settle a share of 1/2 + gap with the e-value."""
    num_votes, num_prompts = len(pair.points), len(pair.means)
    per_prompt = num_votes / num_prompts if num_prompts else 1.0
    decisive = (1 + float((pair.means != 0.5).sum())) / (1 + num_prompts)
    squares = float(((pair.means - pair.means.mean()) ** 2).sum()) if num_prompts else 0.0
    variance = (PRIOR_PROMPTS * 0.25 / per_prompt + squares) / (PRIOR_PROMPTS + max(num_prompts - 1, 0))
    total = _prompts_for(variance, gap=gap, alpha=alpha, decisive=decisive, per_prompt=per_prompt)
    more_prompts = max(0, math.ceil(total - num_prompts))
    between = _between_prompts(pair)
    limit = _prompts_for(between, gap=gap, alpha=alpha, decisive=1.0, per_prompt=math.inf) if between is not None else 0.0
    return math.ceil(more_prompts * per_prompt), more_prompts, limit > num_prompts > 0


def _prompts_for(variance: float, *, gap: float, alpha: float, decisive: float, per_prompt: float) -> float:
    """Prompts that bring the e-value past 1 / alpha with a chance of 80 %, where prompts' means have this variance.

    log e of n signs is about z^2 / 2 - log(pi n / 2) / 2, so its critical z grows slowly with n, above the 1.96 of a single look. A sign
    keeps all of one vote's information, and 2 / pi of that of a mean of many votes.
    """
    loss = 1 + (math.pi / 2 - 1) * (1 - 1 / per_prompt)
    needed = 10.0
    for _ in range(50):
        critical = math.sqrt(2 * math.log(1 / alpha) + max(0.0, math.log(math.pi / 2 * decisive * needed)))
        needed = max(10.0, (critical + float(scipy.stats.norm.ppf(POWER))) ** 2 * variance * loss / gap**2)
    return needed


def _between_prompts(pair: _PairVotes) -> float | None:
    """Variance of prompts' true means, by analysis of variance; None unless some prompt has two votes."""
    num_votes, num_prompts = len(pair.points), len(pair.means)
    if num_prompts < 2 or num_votes == num_prompts:
        return None
    within = float(((pair.points - pair.means[pair.prompt]) ** 2).sum()) / (num_votes - num_prompts)
    between = float((pair.sizes * (pair.means - pair.points.mean()) ** 2).sum()) / (num_prompts - 1)
    size = (num_votes - float((pair.sizes**2).sum()) / num_votes) / (num_prompts - 1)
    return max(0.0, (between - within) / size)


def _sentence(verdict: PairVerdict, *, gap_elo: float) -> str:
    first, second, share = verdict.first, verdict.second, verdict.share
    if not verdict.votes:
        return f"Undecided: no vote compares {first} with {second} yet. {_plan(verdict, gap_elo=gap_elo)}"
    low, high = share.low or 0.0, 1.0 if share.high is None else share.high
    votes, prompts = _count(verdict.votes, "vote"), _count(verdict.prompts, "prompt")
    numbers = f"{first} earned {share.value:.0%} of {votes} [{low:.0%}, {high:.0%}] on {prompts}"
    if verdict.outcome == "undecided":
        return f"Undecided between {first} and {second}: {numbers}. {_plan(verdict, gap_elo=gap_elo)}"
    strength = f"e-value {verdict.e_value:.3g}, above {verdict.threshold:.3g}: valid at any stopping time"
    return f"{first} is {verdict.outcome} than {second}: {numbers} ({strength})."


def _plan(verdict: PairVerdict, *, gap_elo: float) -> str:
    if not verdict.prompts_needed:
        return f"A gap of {gap_elo:g} Elo points would probably have shown by now: the true one is probably smaller."
    pace = "" if verdict.seconds_needed is None else f", about {_duration(verdict.seconds_needed)} of rating,"
    amount = f"{_count(verdict.votes_needed, 'more vote')} on {_count(verdict.prompts_needed, 'new prompt')}"
    plan = f"About {amount}{pace} would settle a gap of {gap_elo:g} Elo points."
    return f"{plan} More raters on the same prompts can't: add prompts." if verdict.needs_prompts else plan


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.0f} h"
