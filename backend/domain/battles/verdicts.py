"""Verdict on a pair's votes: better, worse or undecided, and the votes still needed.

Votes are inspected while they arrive, so decision and interval stay valid at any stopping time (`evidence`); an ordinary test, repeated
after every vote, declares a false winner in half of all campaigns. Evidence counts prompts, not votes: ten raters on one prompt are
evidence about one prompt. Votes must come in the order in which they were cast, and equal prompts must have equal names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.inference.evidence import OVERLAPS, confidence_sequence, e_value, e_value_path
from backend.domain.battles.inference.leave_out import outcomes_without
from backend.domain.battles.inference.pair_votes import PairVotes, measured_spread, pair_votes
from backend.domain.battles.inference.plans import Spread, checked_gap, prompts_for
from backend.domain.battles.votes import VoteRecord
from backend.domain.statistics.estimates import Estimate, clustered_mean_estimate
from backend.domain.wording import percent, plural
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Outcome = Literal["better", "worse", "undecided"]

CHEAPER_GAP_ELO = 100.0
"""Gap whose votes are named beside those of the smallest gap."""


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Verdict on `first` against `second`.

    `share` is what first earned of the votes (half for ties and both bad); its interval is a confidence sequence of the average prompt at
    `level` = 1 - alpha / num_pairs, valid at any stopping time. `e_value` >= `threshold` = num_pairs / alpha decides, which is when the
    interval excludes 1/2. `prompts_won` and `prompts_lost` are first's; prompts that came out even count in `prompts` alone. `ties`
    include the `identical` answers. `votes_needed` (each on a new prompt, `prompts_needed`) come on top of what was cast, to settle a true
    gap of `smallest_gap_elo` with a chance of 80 %; 0 once decided. `needs_prompts` says that more raters on the same prompts can't settle
    it. `seconds_needed` is rating time, None without a pace. `rests_on` is the rater without whose votes it would be undecided.
    """

    first: str
    second: str
    outcome: Outcome
    sentence: str
    share: Estimate
    level: float
    num_pairs: int
    e_value: float
    threshold: float
    votes: int
    prompts: int
    raters: int
    prompts_won: int
    prompts_lost: int
    ties: int
    both_bad: int
    identical: int
    votes_needed: int
    prompts_needed: int
    needs_prompts: bool
    seconds_needed: float | None
    smallest_gap_elo: float
    spread: Spread
    rests_on: str | None = None


def verdict_path(votes: Iterable[VoteRecord], first: str, second: str) -> list[float]:
    """The e-value after each of the pair's votes, in the order given; the last one is the verdict's."""
    pair = pair_votes(votes, first, second)
    path: list[float] = e_value_path(pair.points, pair.prompt).tolist()
    return path


def pair_verdict(
    votes: Iterable[VoteRecord],
    first: str,
    second: str,
    *,
    smallest_gap_elo: float = 35.0,
    alpha: float = 0.05,
    num_pairs: int = 1,
    seconds_per_vote: float | None = None,
) -> PairVerdict:
    """Judge `first` against `second` from the votes on battles between the two; other votes are ignored.

    `smallest_gap_elo`: the smallest gap worth acting on (never the observed one). `num_pairs` pairs judged at once share `alpha`
    (Bonferroni). Raises InvalidInput for an unknown label, equal names, a gap or alpha that is out of range.
    """
    pair = pair_votes(votes, first, second)
    return judge_pair(
        pair,
        first,
        second,
        smallest_gap_elo=smallest_gap_elo,
        alpha=alpha,
        num_pairs=num_pairs,
        seconds_per_vote=seconds_per_vote,
    )


def judge_pair(
    pair: PairVotes,
    first: str,
    second: str,
    *,
    smallest_gap_elo: float,
    alpha: float,
    num_pairs: int,
    seconds_per_vote: float | None,
) -> PairVerdict:
    """Judge a pair by its own votes; see `pair_verdict`."""
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha {alpha} must lie between 0 and 1.", remedy="Use 0.05.", field="alpha")
    if num_pairs < 1:
        raise InvalidInput(f"{num_pairs} pairs can't share an error.", remedy="Count the pairs judged at once.", field="num_pairs")
    delta, alpha = checked_gap(smallest_gap_elo), alpha / num_pairs
    means = pair.means
    equal = pair.share_identical
    share, outcome = _judge(pair, alpha=alpha, equal=equal)
    spread = measured_spread(pair, equal=equal)
    new_prompts, needs_prompts = (0, False) if outcome != "undecided" else _still_needed(pair, spread, delta=delta, alpha=alpha)
    new_votes = math.ceil(new_prompts * (1 - equal))
    verdict = PairVerdict(
        first=first,
        second=second,
        outcome=outcome,
        sentence="",
        share=share,
        level=1 - alpha,
        num_pairs=num_pairs,
        e_value=e_value(pair.points, pair.prompt),
        threshold=1 / alpha,
        votes=len(pair.points) + pair.identical,
        prompts=len(means) + pair.identical_prompts,
        raters=len(pair.raters),
        prompts_won=int((means > 0.5).sum()),
        prompts_lost=int((means < 0.5).sum()),
        ties=pair.ties + pair.identical,
        both_bad=pair.both_bad,
        identical=pair.identical,
        votes_needed=new_votes,
        prompts_needed=new_prompts,
        needs_prompts=needs_prompts,
        seconds_needed=None if seconds_per_vote is None else new_votes * seconds_per_vote,
        smallest_gap_elo=smallest_gap_elo,
        spread=spread,
        rests_on=None if outcome == "undecided" else _rests_on(pair, outcome, alpha=alpha),
    )
    return replace(verdict, sentence=_sentence(verdict))


def _judge(pair: PairVotes, *, alpha: float, equal: float = 0.0) -> tuple[Estimate, Outcome]:
    """The share with its confidence sequence, and the outcome.

    Identical answers, a share `equal` of the votes, pull both towards 1/2. The interval is widened to hold the share of all votes, which
    weighs prompts by their votes. Contradicting bounds decide nothing.
    """
    num_votes, num_prompts = len(pair.points), len(pair.sizes)
    if not num_votes:
        bounds = (0.5, 0.5) if equal == 1 else (equal / 2, 1 - equal / 2)
        return Estimate(0.5, None, *bounds, pair.identical, "no votes"), "undecided"
    low, high = confidence_sequence(pair.points, pair.prompt, alpha=alpha)
    value = float(pair.points.mean())
    outcome: Outcome = "undecided"
    if low <= high and not low <= 0.5 <= high and (low > 0.5) == (value > 0.5) and value != 0.5:
        outcome = "better" if low > 0.5 else "worse"
    low, high = min(low, high, value), max(low, high, value)
    stderr = clustered_mean_estimate(pair.points, pair.prompt.tolist()).stderr
    value, low, high = (equal / 2 + (1 - equal) * bound for bound in (value, low, high))
    method = f"confidence sequence by prompt ({num_prompts}), {_level(1 - alpha)}, valid at any stopping time"
    return Estimate(value, None if stderr is None else (1 - equal) * stderr, low, high, num_votes + pair.identical, method), outcome


def is_decided(pair: PairVotes, *, alpha: float) -> bool:
    """Return whether a pair's verdict is better or worse, at an error of `alpha`."""
    return e_value(pair.points, pair.prompt) >= 1 / alpha and _judge(pair, alpha=alpha)[1] != "undecided"


def _rests_on(pair: PairVotes, outcome: Outcome, *, alpha: float) -> str | None:
    """The rater without whose votes the outcome would differ; the one with most votes where there are several."""
    sign = 1 if outcome == "better" else -1
    changed = np.flatnonzero(outcomes_without(pair.points, pair.prompt, pair.rater, alpha=alpha) != sign)
    if not len(changed):
        return None
    sizes = np.bincount(pair.rater)
    return pair.raters[min(changed.tolist(), key=lambda rater: (-sizes[rater], rater))]


def _still_needed(pair: PairVotes, spread: Spread, *, delta: float, alpha: float) -> tuple[int, bool]:
    """Further prompts, with one vote each, and whether more raters on the same prompts can't do it."""
    num_prompts = len(pair.sizes) + pair.identical_prompts
    more = max(0, prompts_for(spread.vote, delta=delta, alpha=alpha, raters=1) - num_prompts)
    enough = prompts_for(spread.of_prompt(OVERLAPS[-1]), delta=delta, alpha=alpha, raters=OVERLAPS[-1])
    return more, enough > num_prompts > 0


def _sentence(verdict: PairVerdict) -> str:
    first, second, share = verdict.first, verdict.second, verdict.share
    if verdict.votes == verdict.identical:
        equal = f" {_count(verdict.prompts, 'prompt')} got identical answers." if verdict.identical else ""
        return f"Undecided: no vote compares {first} with {second} yet.{equal} {_plan(verdict)}"
    low, high = share.low or 0.0, 1.0 if share.high is None else share.high
    votes, prompts = _count(verdict.votes, "vote"), _count(verdict.prompts, "prompt")
    numbers = f"{first} earned {percent(share.value)} of {votes} [{percent(low)}, {percent(high)}] on {prompts}{_halves(verdict)}"
    correction = f", {verdict.num_pairs} pairs by Bonferroni" if verdict.num_pairs > 1 else ""
    level = f"{_level(verdict.level)} interval{correction}"
    if verdict.outcome == "undecided":
        return f"Undecided between {first} and {second}: {numbers} ({level}). {_plan(verdict)}"
    strength = f"{level}, e-value {verdict.e_value:.3g}, above {verdict.threshold:.3g}: valid at any stopping time, for these raters"
    return f"{first} is {verdict.outcome} than {second}: {numbers} ({strength}).{_one_rater(verdict)}"


def _halves(verdict: PairVerdict) -> str:
    """Name the votes that count half."""
    parts = []
    if verdict.ties:
        equal = f", of which {_count(verdict.identical, 'identical answer')}," if verdict.identical else ""
        parts.append(f"{_count(verdict.ties, 'tie')}{equal}")
    if verdict.both_bad:
        parts.append(f"{verdict.both_bad:,} both bad")
    return f", counting {' and '.join(parts)} as half" if parts else ""


def _one_rater(verdict: PairVerdict) -> str:
    if verdict.rests_on is None:
        return ""
    if verdict.raters == 1:
        return " All votes are one rater's."
    return " Without one rater's votes it would be undecided."


def _plan(verdict: PairVerdict) -> str:
    gap = verdict.smallest_gap_elo
    if not verdict.prompts_needed:
        return f"A gap of {gap:g} Elo points would probably have shown by now: the true one is probably smaller."
    pace = "," if verdict.seconds_needed is None else f", about {_duration(verdict.seconds_needed)} of rating,"
    plan = f"About {_count(verdict.votes_needed, 'more vote')}, each on a new prompt{pace} would settle a gap of {gap:g} Elo points"
    total = prompts_for(verdict.spread.vote, delta=checked_gap(CHEAPER_GAP_ELO), alpha=1 - verdict.level, raters=1)
    cheaper = round((total - verdict.prompts) * verdict.votes_needed / verdict.prompts_needed)
    wider = f"; {cheaper:,} one of {CHEAPER_GAP_ELO:g}" if gap < CHEAPER_GAP_ELO and cheaper > 0 else ""
    crowded = verdict.needs_prompts and verdict.votes > verdict.prompts
    return f"{plan}{wider}.{' More raters on the same prompts would not: add prompts.' if crowded else ''}"


def _level(level: float) -> str:
    return percent(round(level, 4), digits=None)


def _count(number: int, noun: str) -> str:
    return plural(number, noun)


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"
