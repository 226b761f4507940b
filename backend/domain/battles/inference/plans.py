"""Plans of a verdict: which gap to settle, by which design, at the cost of how many votes, prompts and minutes of
rating.

`any_time` designs are decided by the e-value, however often votes are inspected; `one_look` and `judge` by one interval
at the end, which needs fewer votes and forbids looking before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import scipy

from backend.domain.battles.inference.evidence import OVERLAPS, SHARES
from backend.domain.statistics.estimates import normal_quantile
from backend.errors import InvalidInput

Design = Literal["new_prompts", "raters", "all_pairs", "one_look", "judge"]

POWER = 0.8
MIXING = 4.5
"""Log of the evidence over raters that not knowing gap and leanings costs."""
OF_ONE_RATER, ONE_SIDE = 0.88, 1.3
"""Log of the evidence that a further unanimous rater adds at most, and what the first one lacks."""
GAPS_ELO = (20.0, 35.0, 50.0, 100.0, 150.0)

PLANNED_LIKENESS = 0.25
"""Correlation of two raters' votes on a prompt until it was measured: 0.16 in LLMFAO's votes, 0.33 in MT-bench's."""

PLANNED_LEANING = 0.25
"""Standard deviation of raters' leanings in log-odds until it was measured: none in MT-bench, 0.6 in LLMFAO."""

BALLOT_VOTES = 60.0
"""Votes of a rater until some voted: a ballot's usual length."""

PLANNED_SECONDS = 37.0
"""Seconds per vote until measured: 9.2 minutes for 15 pairs in AlpacaFarm (Dubois et al. 2023, arXiv 2305.14387)."""

LABELS: dict[Design, str] = {
    "new_prompts": "One vote each on new prompts",
    "raters": "{raters} raters on each new prompt",
    "all_pairs": "One vote each on new prompts, all {pairs} pairs alike",
    "one_look": "One vote each on new prompts, a fixed sample",
    "judge": "As a fixed sample, with judge scores (correlation {correlation:.2g})",
}


@dataclass(frozen=True, slots=True)
class VoteSpread:
    """Variance of one of a pair's votes (0.25 without ties), and its share that a prompt's raters have in common."""

    vote: float = 0.25
    likeness: float = PLANNED_LIKENESS

    def of_prompt(self, raters: int) -> float:
        """Variance of the mean of this many votes on one prompt."""
        return self.vote * (self.likeness + (1 - self.likeness) / raters)


@dataclass(frozen=True, slots=True)
class PlanOption:
    """A way to settle a true gap of `gap_elo` with a chance of 80 %. `votes` and `prompts` are totals of a campaign
    that starts now.

    `votes` and `prompts` are what the evidence over prompts needs, `raters` what that over raters needs, each with as
    many votes as planned: a verdict needs both. 0 raters for designs that say nothing about other raters.
    """

    gap_elo: float
    design: Design
    label: str
    any_time: bool
    raters_per_prompt: int
    votes: int
    prompts: int
    minutes: float
    raters: int = 0


def plan_options(
    *,
    gaps: Sequence[float] = GAPS_ELO,
    spread: VoteSpread | None = None,
    alpha: float = 0.05,
    num_pairs: int = 1,
    raters_per_prompt: int = 3,
    judge_correlation: float | None = None,
    seconds_per_vote: float | None = None,
    leaning: float = PLANNED_LEANING,
    votes_per_rater: float = BALLOT_VOTES,
    cast_per_rater: float = 0.0,
) -> tuple[PlanOption, ...]:
    """Return the choices of gap and design with their votes, prompts, raters and minutes.

    `leaning`: standard deviation of raters' leanings in log-odds; `votes_per_rater`: decisive votes of each, and
    `cast_per_rater` all of them where they are known: then `votes` are at least those of the raters that are needed.

    `alpha` is shared by `num_pairs` pairs (Bonferroni). `judge_correlation`: between a judge's and the raters' verdicts
    on a battle, which adds the design with a judge of as many battles as needed. Raises InvalidInput for a gap of 0 or
    less, an alpha or a correlation out of range.
    """
    spread = spread or VoteSpread()
    if judge_correlation is not None and not -1 < judge_correlation < 1:
        raise InvalidInput(
            f"A correlation of {judge_correlation} can't be planned with.", remedy="Give one between -1 and 1."
        )
    pace = PLANNED_SECONDS if seconds_per_vote is None else seconds_per_vote
    level = alpha / max(1, num_pairs)
    options = []
    for gap in gaps:
        delta = checked_gap(gap)
        single = prompts_for(spread.of_prompt(1), delta=delta, alpha=level, raters=1)
        several = prompts_for(spread.of_prompt(raters_per_prompt), delta=delta, alpha=level, raters=raters_per_prompt)
        once = one_look_votes(spread.vote, delta=delta, alpha=level)
        rows: list[tuple[Design, bool, int, int]] = [
            ("new_prompts", True, 1, single),
            ("raters", True, raters_per_prompt, several),
        ]
        if num_pairs > 1:
            rows.append(("all_pairs", True, 1, single))
        rows.append(("one_look", False, 1, once))
        if judge_correlation is not None:
            # the scores are a control variate: the variance falls by the square of the correlation
            rows.append(("judge", False, 1, math.ceil(once * (1 - judge_correlation**2))))
        for design, any_time, raters, prompts in rows:
            label = LABELS[design].format(raters=raters, pairs=num_pairs, correlation=judge_correlation)
            people = raters_for(leaning, gap_elo=gap, alpha=level, votes_per_rater=votes_per_rater) if any_time else 0
            votes = max(prompts * raters, math.ceil(people * cast_per_rater))
            if votes > prompts * raters:
                label = f"At least {label[0].lower()}{label[1:]}"
            votes *= num_pairs if design == "all_pairs" else 1
            options.append(PlanOption(gap, design, label, any_time, raters, votes, prompts, votes * pace / 60, people))
    return tuple(options)


def checked_gap(gap_elo: float) -> float:
    """Return a gap in Elo points as a share above 1/2: 35 -> 0.050. Raises InvalidInput for 0, less, or no number."""
    if not (math.isfinite(gap_elo) and gap_elo > 0):
        raise InvalidInput(
            f"A smallest gap of {gap_elo} Elo can't be planned for.",
            remedy="Name a gap above 0, for instance 35.",
            field="smallest_gap_elo",
        )
    return 1 / (1 + 10 ** (-gap_elo / 400)) - 0.5


def one_look_votes(variance: float, *, delta: float, alpha: float) -> int:
    """Votes that a test of "share = 1/2" needs at a share of 1/2 + delta; one vote has this variance at 1/2."""
    quantiles = normal_quantile(1 - alpha) + float(scipy.special.ndtri(POWER))
    return math.ceil(quantiles**2 * max(variance - delta**2, 0.0) / delta**2)


def prompts_for(variance: float, *, delta: float, alpha: float, raters: int) -> int:
    """Prompts with this many raters each until the e-value has passed 1 / alpha with a chance of 80 %, at a share of
    1/2 + delta.

    `variance` is that of a prompt's score. The log of the wealth is about S^2 / (2 V) - log(8 V / pi) / 2, S and V the
    sums of deviations and of their squares, so its boundary for S grows like sqrt(V). The chance to have crossed it is
    that of a Brownian motion with drift to have crossed the boundary's tangent (Siegmund 1985, 3.13).
    """
    share = next(
        share for overlap, share in zip(reversed(OVERLAPS), reversed(SHARES), strict=True) if overlap <= raters
    )
    log_threshold = -math.log(alpha * share)
    square = variance + delta**2
    low, high = 1, 2
    while _chance_to_cross(high, delta, variance, square, log_threshold) < POWER and high < 10**9:
        high *= 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if _chance_to_cross(middle, delta, variance, square, log_threshold) >= POWER
            else (middle, high)
        )
    return max(high, _unanimous(log_threshold))


def raters_for(leaning: float, *, gap_elo: float, alpha: float, votes_per_rater: float) -> int:
    """Raters with this many decisive votes each until the evidence over raters has passed 1 / alpha with a chance of 80
    %.

    A rater's log-odds is seen with variance leaning^2 + 4 / votes; a gap of r such deviations is worth log(1 + r^2) / 2
    a rater, what a normal spread about the gap gains over one about 0, with deviation r / sqrt(1 + r^2). Mixing over
    leanings costs `MIXING` (simulated: `docs/benchmarks/coverage.md`).
    """
    ratio = gap_elo * math.log(10) / 400 / math.sqrt(leaning**2 + 4 / max(votes_per_rater, 1e-9))
    gain, deviation = math.log1p(ratio**2) / 2, ratio / math.sqrt(1 + ratio**2)
    spread, needed = float(scipy.special.ndtri(POWER)) * deviation, -math.log(alpha) + MIXING
    fewest = math.ceil((needed - MIXING + ONE_SIDE) / OF_ONE_RATER)
    return max(fewest, math.ceil(((spread + math.sqrt(spread**2 + 4 * gain * needed)) / (2 * gain)) ** 2))


def _chance_to_cross(prompts: int, delta: float, variance: float, square: float, log_threshold: float) -> float:
    total = prompts * square
    boundary = math.sqrt(max(0.0, 2 * log_threshold + math.log(8 * total / math.pi)) * total)
    intercept, drift = boundary / 2, delta - boundary / (2 * prompts)
    spread = math.sqrt(prompts * variance)
    if spread == 0:
        return float(delta * prompts >= boundary)
    after = scipy.special.log_ndtr((-intercept - drift * prompts) / spread) + 2 * intercept * drift / variance
    return float(scipy.special.ndtr((drift * prompts - intercept) / spread) + math.exp(min(after, 0.0)))


def _unanimous(log_threshold: float) -> int:
    """Fewest prompts that decide if all agree: 2^n / (n + 1) passes the threshold."""
    return next(n for n in range(1, 10_000) if n * math.log(2) - math.log(n + 1) >= log_threshold)
