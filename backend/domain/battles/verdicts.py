"""Verdict on a pair's votes: better, worse or undecided, and the votes still needed.

Votes are inspected while they arrive, so decision and interval stay valid at any stopping time; an ordinary test,
repeated after every vote, declares a false winner in half of all campaigns. A verdict asks for evidence over prompts
(`evidence`) and over raters (`rater_evidence` there): ten raters on one prompt are evidence about one prompt, and a
hundred prompts judged by one rater are evidence about one rater. What prompts alone say holds for the raters who voted.
Votes must come in the order in which they were cast, and equal prompts must have equal names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.inference.evidence import (
    MAX_LOG,
    OVERLAPS,
    RaterEvidence,
    confidence_sequence,
    e_value,
    e_value_path,
    interval_of_means,
    log_rater_e_value,
    outcomes_without,
    rater_evidence,
)
from backend.domain.battles.inference.plans import (
    BALLOT_VOTES,
    PLANNED_LEANING,
    VoteSpread,
    checked_gap,
    prompts_for,
    raters_for,
)
from backend.domain.battles.rating_table import ELO_PER_UNIT
from backend.domain.battles.votes import LABEL_REMEDY, LABELS, POINTS_OF_A, Label, VoteColumns, VoteRecord
from backend.domain.statistics.estimates import Estimate, clustered_mean_estimate
from backend.domain.wording import about, format_evidence, percent, plural
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PRIOR_RATERS = 4
"""Pseudo-raters of planned leaning."""
PRIOR_PROMPTS = 4
"""Pseudo-prompts of planned spread that a plan starts from, until real prompts outweigh them."""


@dataclass(frozen=True, slots=True)
class PairVotes:
    """A pair's votes seen from first, in the order cast: points, prompt and rater (a code of `raters`) of each, and
    label counts.

    Ties of `identical` answers are only counted: a bet on them is no bet. `identical_prompts` had no other votes.
    """

    points: FloatArray
    prompt: IntArray
    rater: IntArray
    raters: tuple[str, ...]
    ties: int
    both_bad: int
    identical: int
    identical_prompts: int

    @property
    def share_identical(self) -> float:
        """Share of the votes that are ties of identical answers."""
        return self.identical / (self.identical + len(self.points)) if self.identical else 0.0

    @property
    def sizes(self) -> FloatArray:
        """Votes of each prompt."""
        return np.bincount(self.prompt).astype(np.float64)

    @property
    def means(self) -> FloatArray:
        """Mean points of each prompt."""
        means: FloatArray = np.bincount(self.prompt, self.points) / self.sizes
        return means

    def swapped(self) -> PairVotes:
        """Return the votes seen from second."""
        return replace(self, points=1 - self.points)


NO_VOTES = PairVotes(np.empty(0), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), (), 0, 0, 0, 0)


def pair_votes(votes: Iterable[VoteRecord], first: str, second: str) -> PairVotes:
    """Select the votes on battles between the two. Raises InvalidInput for an unknown label or equal names."""
    if first == second:
        raise InvalidInput(
            f"{first!r} can't be compared with itself.", remedy="Choose two contestants.", field="second"
        )
    prompts, raters = dict[str, int](), dict[str, int]()
    points, prompt, rater, labels, identical = [], [], [], [], list[str]()
    for vote in votes:
        if {vote.a, vote.b} != {first, second}:
            continue
        if vote.winner not in Label.__members__:
            raise InvalidInput(f"The winner {vote.winner!r} is unknown.", remedy=LABEL_REMEDY, field="winner")
        if vote.identical:
            identical.append(vote.prompt)
            continue
        label = Label(vote.winner)
        points.append(POINTS_OF_A[label] if vote.a == first else 1 - POINTS_OF_A[label])
        prompt.append(prompts.setdefault(vote.prompt, len(prompts)))
        rater.append(raters.setdefault(vote.rater, len(raters)))
        labels.append(label)
    return PairVotes(
        np.array(points, dtype=np.float64),
        np.array(prompt, dtype=np.int64),
        np.array(rater, dtype=np.int64),
        tuple(raters),
        labels.count(Label.TIE),
        labels.count(Label.BOTH_BAD),
        len(identical),
        len(set(identical) - set(prompts)),
    )


def votes_by_pair(columns: VoteColumns) -> dict[tuple[str, str], PairVotes]:
    """Split votes by pair, each with its first and second in the order of names."""
    names = columns.contestants
    pair = np.minimum(columns.a, columns.b) * len(names) + np.maximum(columns.a, columns.b)
    order = np.argsort(pair, kind="stable")
    codes, starts = np.unique(pair[order], return_index=True)
    bounds = [*starts, len(order)]
    return {
        (names[code // len(names)], names[code % len(names)]): _select(columns, order[bounds[at] : bounds[at + 1]])
        for at, code in enumerate(codes.tolist())
    }


def _select(columns: VoteColumns, votes: IntArray) -> PairVotes:
    equal = ~columns.is_cast[votes]
    equal_prompts, votes = columns.prompt[votes[equal]], votes[~equal]
    names, rater = np.unique(columns.rater[votes], return_inverse=True)
    prompts, prompt = np.unique(columns.prompt[votes], return_inverse=True)
    points = columns.points_of(votes)
    return PairVotes(
        np.where(columns.a[votes] < columns.b[votes], points, 1 - points),
        prompt,
        rater,
        tuple(columns.raters[code] for code in names),
        int((columns.label[votes] == LABELS.index(Label.TIE)).sum()),
        int((columns.label[votes] == LABELS.index(Label.BOTH_BAD)).sum()),
        len(equal_prompts),
        len(np.setdiff1d(equal_prompts, prompts)),
    )


def measured_spread(pair: PairVotes, *, equal: float = 0.0) -> VoteSpread:
    """Measure the variation of a pair's votes, from a planned spread that real prompts outweigh; `equal` is the share
    of identical answers.

    A vote's variance is a quarter of the share of decisive votes, as it would be between equals; likeness is by
    analysis of variance.
    """
    planned = VoteSpread()
    num_votes, sizes, means = len(pair.points), pair.sizes, pair.means
    num_prompts = len(sizes)
    square = float(((pair.points - 0.5) ** 2).sum())
    vote = (PRIOR_PROMPTS * planned.vote + square) / (PRIOR_PROMPTS + num_votes) * (1 - equal)
    if num_prompts < 2 or num_votes == num_prompts:
        return VoteSpread(vote, planned.likeness)
    within = float(((pair.points - means[pair.prompt]) ** 2).sum()) / (num_votes - num_prompts)
    between = float((sizes * (means - pair.points.mean()) ** 2).sum()) / (num_prompts - 1)
    size = (num_votes - float((sizes**2).sum()) / num_votes) / (num_prompts - 1)
    common = max(0.0, (between - within) / size)
    repeated = int((sizes > 1).sum())
    measured = common / (common + within) if common + within else planned.likeness
    return VoteSpread(vote, (PRIOR_PROMPTS * planned.likeness + repeated * measured) / (PRIOR_PROMPTS + repeated))


def measured_leaning(pair: PairVotes) -> tuple[float, float]:
    """Measure the standard deviation of raters' leanings in log-odds, and the votes that a rater casts on average.

    By analysis of variance over raters on the decisive votes, from a planned leaning that real raters outweigh.
    """
    decisive = pair.points != 0.5
    sizes = np.bincount(pair.rater[decisive], minlength=len(pair.raters)).astype(np.float64)
    per_rater = len(pair.points) / len(pair.raters) if pair.raters else BALLOT_VOTES
    voted = sizes > 0
    sizes, won = sizes[voted], np.bincount(pair.rater[decisive], pair.points[decisive], len(pair.raters))[voted]
    num_votes, num_raters = float(sizes.sum()), len(sizes)
    if num_raters < 2 or num_votes == num_raters:
        return PLANNED_LEANING, per_rater
    means, mean = won / sizes, float(won.sum()) / num_votes
    within = float((won * (1 - means)).sum()) / (num_votes - num_raters)
    between = float((sizes * (means - mean) ** 2).sum()) / (num_raters - 1)
    size = (num_votes - float((sizes**2).sum()) / num_votes) / (num_raters - 1)
    common = max(0.0, (between - within) / size) / max(mean * (1 - mean), 0.01) ** 2
    variance = (PRIOR_RATERS * PLANNED_LEANING**2 + num_raters * common) / (PRIOR_RATERS + num_raters)
    return float(np.sqrt(variance)), per_rater


Outcome = Literal["better", "worse", "undecided"]
FEW_RATERS = 10
"""Fewer say little about how much raters differ."""
MANY_VOTES = 10_000
"""More votes than a campaign collects."""


@dataclass(frozen=True, slots=True)
class Needed:
    """Votes, new prompts and new raters on top of what was cast, to settle a gap of `gap_elo` with a chance of 80 %."""

    gap_elo: float
    votes: int
    prompts: int
    raters: int


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """Verdict on `first` against `second`.

    `outcome` holds for raters like those who voted and prompts like these: `e_value` (over prompts) and `rater_e_value`
    (over raters) both reach `threshold` = num_pairs / alpha, for the same side. `for_these_raters` is what prompts
    alone say, of the raters who voted. `share` is what first earned of the votes (half for ties and both bad); its
    interval is a confidence sequence of the average prompt at `level` = 1 - alpha / num_pairs, valid at any stopping
    time, for these raters (at one look if they voted one after the other); where it excludes 1/2, `e_value` reaches the
    threshold. `prompts_won` and `prompts_lost` are first's; prompts that came out even count in `prompts` alone.
    `votes`, `prompts` and `ties` include the `identical` answers, which no one voted on; `num_cast` and `cast_share`
    leave them out. `needed` is for a true gap of `smallest_gap_elo`, `needed_at_gap` for the observed one (None where
    votes are even); all 0 once decided. `needs_prompts` says that more raters on the same prompts can't settle it.
    `seconds_needed` is rating time, None without a pace. `leaning` is the standard deviation of raters' leanings in
    log-odds, measured from a planned one; `votes_per_rater` and `decisive_per_rater` are the votes of each, and those
    that are no ties. `rests_on` is the rater without whose votes it would be undecided.
    """

    first: str
    second: str
    outcome: Outcome
    for_these_raters: Outcome
    sentence: str
    share: Estimate
    level: float
    num_pairs: int
    e_value: float
    rater_e_value: float
    threshold: float
    votes: int
    prompts: int
    raters: int
    prompts_won: int
    prompts_lost: int
    ties: int
    both_bad: int
    identical: int
    identical_prompts: int
    needed: Needed
    needed_at_gap: Needed | None
    needs_prompts: bool
    seconds_needed: float | None
    smallest_gap_elo: float
    spread: VoteSpread
    leaning: float
    votes_per_rater: float
    decisive_per_rater: float
    rests_on: str | None = None

    @property
    def num_cast(self) -> int:
        """Votes that people cast: all but the ties of identical answers."""
        return self.votes - self.identical

    @property
    def num_cast_prompts(self) -> int:
        """Prompts with votes that people cast."""
        return self.prompts - self.identical_prompts

    @property
    def cast_share(self) -> Estimate:
        """Share that first earned of the votes that people cast, with the interval of `share`."""
        share, equal = self.share, self.identical / max(1, self.votes)
        if not 0 < equal < 1:
            return share

        def of_cast(value: float) -> float:
            return min(1.0, max(0.0, (value - equal / 2) / (1 - equal)))

        return replace(
            share,
            value=of_cast(share.value),
            stderr=None if share.stderr is None else share.stderr / (1 - equal),
            low=None if share.low is None else of_cast(share.low),
            high=None if share.high is None else of_cast(share.high),
            n=self.num_cast,
        )

    @property
    def needed_first(self) -> Needed:
        """Return the number for the observed gap if that is above the smallest one and more votes are needed at it,
        else for the smallest.
        """
        observed = self.needed_at_gap
        is_larger = observed is not None and observed.gap_elo > self.smallest_gap_elo
        return observed if observed is not None and is_larger and observed.votes > 0 else self.needed

    @property
    def votes_needed(self) -> int:
        """Further votes that settle the smallest gap, probably."""
        return self.needed.votes

    @property
    def prompts_needed(self) -> int:
        """Further prompts that settle the smallest gap, probably."""
        return self.needed.prompts

    @property
    def raters_needed(self) -> int:
        """Further raters that settle the smallest gap, probably."""
        return self.needed.raters


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

    `smallest_gap_elo`: the smallest gap worth acting on (never the observed one). `num_pairs` pairs judged at once
    share `alpha` (Bonferroni). Raises InvalidInput for an unknown label, equal names, a gap or alpha that is out of
    range.
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
        raise InvalidInput(
            f"{num_pairs} pairs can't share an error.", remedy="Count the pairs judged at once.", field="num_pairs"
        )
    checked_gap(smallest_gap_elo)
    alpha = alpha / num_pairs
    means = pair.means
    equal = pair.share_identical
    share, by_prompts = _by_prompts(pair, alpha=alpha, equal=equal)
    raters = rater_evidence(pair.points, pair.rater)
    log_e = log_rater_e_value(raters)
    outcome = _both(by_prompts, raters, log_e, alpha=alpha)
    spread = measured_spread(pair, equal=equal)
    so_far = _raters_so_far(pair, spread)
    needed = _needed(pair, spread, so_far, gap_elo=smallest_gap_elo, alpha=alpha, outcome=outcome)
    verdict = PairVerdict(
        first=first,
        second=second,
        outcome=outcome,
        for_these_raters=by_prompts,
        sentence="",
        share=share,
        level=1 - alpha,
        num_pairs=num_pairs,
        e_value=e_value(pair.points, pair.prompt),
        rater_e_value=math.exp(min(log_e, MAX_LOG)),
        threshold=1 / alpha,
        votes=len(pair.points) + pair.identical,
        prompts=len(means) + pair.identical_prompts,
        raters=len(pair.raters),
        prompts_won=int((means > 0.5).sum()),
        prompts_lost=int((means < 0.5).sum()),
        ties=pair.ties + pair.identical,
        both_bad=pair.both_bad,
        identical=pair.identical,
        identical_prompts=pair.identical_prompts,
        needed=needed,
        needed_at_gap=_needed_at_gap(pair, share, spread, so_far, alpha=alpha, outcome=outcome),
        needs_prompts=outcome == "undecided" and _needs_prompts(pair, spread, gap_elo=smallest_gap_elo, alpha=alpha),
        seconds_needed=None if seconds_per_vote is None else needed.votes * seconds_per_vote,
        smallest_gap_elo=smallest_gap_elo,
        spread=spread,
        leaning=so_far.leaning,
        votes_per_rater=so_far.votes,
        decisive_per_rater=so_far.decisive,
        rests_on=None if outcome == "undecided" else _rests_on(pair, outcome, raters, alpha=alpha),
    )
    return replace(verdict, sentence=_sentence(verdict))


def _by_prompts(pair: PairVotes, *, alpha: float, equal: float = 0.0) -> tuple[Estimate, Outcome]:
    """The share with its confidence sequence, and the outcome for the raters who voted.

    Identical answers, a share `equal` of the votes, pull both towards 1/2. Where raters vote one after the other, a
    prompt's first votes are the first rater's, and what these say need not hold for the others: so the interval also
    holds that of the prompts' means, which has no order, or is that one where the first votes contradict the share. It
    is widened to hold the share, which weighs prompts by their votes. Contradicting bounds decide nothing.
    """
    num_votes, num_prompts = len(pair.points), len(pair.sizes)
    if not num_votes:
        bounds = (0.5, 0.5) if equal == 1 else (equal / 2, 1 - equal / 2)
        return Estimate(0.5, None, *bounds, pair.identical, "no votes"), "undecided"
    low, high = confidence_sequence(pair.points, pair.prompt, alpha=alpha)
    may_decide, looks = low <= high and not low <= 0.5 <= high, "valid at any stopping time"
    value, stderr = float(pair.points.mean()), clustered_mean_estimate(pair.points, pair.prompt.tolist()).stderr
    if num_votes > num_prompts:
        of_means = interval_of_means(pair.means, alpha=alpha)
        holds_share = low <= value - (stderr or 0.0) <= value + (stderr or 0.0) <= high
        low, high = (min(low, of_means[0]), max(high, of_means[1])) if holds_share else of_means
        looks += ", at one look if raters voted one after the other"
    outcome: Outcome = "undecided"
    if may_decide and not low <= 0.5 <= high and (low > 0.5) == (value > 0.5) and value != 0.5:
        outcome = "better" if low > 0.5 else "worse"
    low, high = min(low, high, value), max(low, high, value)
    value, low, high = (equal / 2 + (1 - equal) * bound for bound in (value, low, high))
    method = f"confidence sequence by prompt ({num_prompts}), {_level(1 - alpha)}, {looks}"
    return (
        Estimate(
            value, None if stderr is None else (1 - equal) * stderr, low, high, num_votes + pair.identical, method
        ),
        outcome,
    )


def _both(by_prompts: Outcome, raters: RaterEvidence, log_e: float, *, alpha: float) -> Outcome:
    """The outcome by prompts where the evidence over raters reaches the threshold, too, for the same side."""
    side = {"better": 1, "worse": -1, "undecided": 0}[by_prompts]
    return by_prompts if side and log_e >= -math.log(alpha) and raters.side == side else "undecided"


def is_decided(pair: PairVotes, *, alpha: float) -> bool:
    """Return whether a pair's verdict is better or worse, at an error of `alpha`."""
    if e_value(pair.points, pair.prompt) < 1 / alpha:
        return False
    raters, limit = rater_evidence(pair.points, pair.rater), -math.log(alpha)
    log_e = log_rater_e_value(raters, enough=limit, little=limit)
    return _both(_by_prompts(pair, alpha=alpha)[1], raters, log_e, alpha=alpha) != "undecided"


def _rests_on(pair: PairVotes, outcome: Outcome, raters: RaterEvidence, *, alpha: float) -> str | None:
    """The rater without whose votes the outcome would differ; the one with most votes where there are several."""
    sign, limit = 1 if outcome == "better" else -1, -math.log(alpha)
    changed = set(np.flatnonzero(outcomes_without(pair.points, pair.prompt, pair.rater, alpha=alpha) != sign).tolist())
    for rater in range(len(pair.raters)):
        if rater not in changed and log_rater_e_value(raters.without(rater), enough=limit, little=limit) < limit:
            changed.add(rater)
    sizes = np.bincount(pair.rater)
    return pair.raters[min(changed, key=lambda rater: (-sizes[rater], rater))] if changed else None


class _RatersSoFar(NamedTuple):
    """The standard deviation of raters' leanings, and the votes and decisive votes that each casts."""

    leaning: float
    votes: float
    decisive: float


def _raters_so_far(pair: PairVotes, spread: VoteSpread) -> _RatersSoFar:
    leaning, votes = measured_leaning(pair)
    return _RatersSoFar(leaning, votes, max(4 * spread.vote / max(1 - pair.share_identical, 1e-9), 0.02) * votes)


def _needed(
    pair: PairVotes, spread: VoteSpread, so_far: _RatersSoFar, *, gap_elo: float, alpha: float, outcome: Outcome
) -> Needed:
    """Further prompts with one vote each, and further raters with as many votes as those so far."""
    if outcome != "undecided":
        return Needed(gap_elo, 0, 0, 0)
    delta, equal = checked_gap(gap_elo), pair.share_identical
    prompts = max(
        0, prompts_for(spread.vote, delta=delta, alpha=alpha, raters=1) - len(pair.sizes) - pair.identical_prompts
    )
    total = raters_for(so_far.leaning, gap_elo=gap_elo, alpha=alpha, votes_per_rater=so_far.decisive)
    raters = max(0, total - len(pair.raters))
    return Needed(gap_elo, math.ceil(max(prompts * (1 - equal), raters * so_far.votes)), prompts, raters)


def _needed_at_gap(
    pair: PairVotes, share: Estimate, spread: VoteSpread, so_far: _RatersSoFar, *, alpha: float, outcome: Outcome
) -> Needed | None:
    """Count the votes that settle the observed gap, where there is one."""
    inside = (share.value * share.n + 1) / (share.n + 2)  # a vote for each, so that unanimous votes have a gap, too
    gap = abs(math.log(inside / (1 - inside))) * ELO_PER_UNIT
    return _needed(pair, spread, so_far, gap_elo=gap, alpha=alpha, outcome=outcome) if gap > 1 else None


def _needs_prompts(pair: PairVotes, spread: VoteSpread, *, gap_elo: float, alpha: float) -> bool:
    """Return whether more raters on the same prompts can't settle a gap."""
    num_prompts = len(pair.sizes) + pair.identical_prompts
    delta = checked_gap(gap_elo)
    return prompts_for(spread.of_prompt(OVERLAPS[-1]), delta=delta, alpha=alpha, raters=OVERLAPS[-1]) > num_prompts > 0


def _sentence(verdict: PairVerdict) -> str:
    first, second, share = verdict.first, verdict.second, verdict.cast_share
    if not verdict.num_cast:
        equal = f" {plural(verdict.prompts, 'prompt')} got identical answers." if verdict.identical else ""
        return f"Undecided: no vote compares {first} with {second} yet.{equal} {_plan(verdict)}"
    low, high = share.low or 0.0, 1.0 if share.high is None else share.high
    votes, prompts = plural(verdict.num_cast, "vote"), plural(verdict.num_cast_prompts, "prompt")
    numbers = (
        f"{first} earned {percent(share.value)} of {votes} [{percent(low)}, {percent(high)}] on"
        f" {prompts}{_halves(verdict)}{_with_identical(verdict)}"
    )
    correction = f", {verdict.num_pairs} pairs by Bonferroni" if verdict.num_pairs > 1 else ""
    whom = "this rater" if verdict.raters == 1 else "these raters"
    level = f"{_level(verdict.level)} interval for {whom}{correction}"
    if verdict.outcome == "undecided":
        return f"Undecided between {first} and {second}: {numbers} ({level}).{_these_raters(verdict)} {_plan(verdict)}"
    raters = plural(verdict.raters, "rater")
    by_prompts, by_raters = format_evidence(verdict.e_value), format_evidence(verdict.rater_e_value)
    evidence = f"e-values {by_prompts} over prompts and {by_raters} over {raters}, above {verdict.threshold:,.0f}"
    strength = f"{level}, {evidence}: valid at any stopping time, for raters like these"
    return f"{first} is {verdict.outcome} than {second}: {numbers} ({strength}).{_one_rater(verdict)}"


def _these_raters(verdict: PairVerdict) -> str:
    """Say what prompts alone decide: it holds for the raters who voted, and others may differ."""
    if verdict.for_these_raters == "undecided":
        return ""
    preferred = verdict.first if verdict.for_these_raters == "better" else verdict.second
    who = "The one rater who voted prefers" if verdict.raters == 1 else f"The {verdict.raters} raters who voted prefer"
    evidence = format_evidence(verdict.rater_e_value)
    return f" {who} {preferred}; others may not (e-value {evidence} over raters, below {verdict.threshold:,.0f})."


def _halves(verdict: PairVerdict) -> str:
    """Name the votes that count half."""
    ties = verdict.ties - verdict.identical
    parts = [plural(ties, "tie")] if ties else []
    if verdict.both_bad:
        parts.append(f"{verdict.both_bad:,} both bad")
    return f", counting {' and '.join(parts)} as half" if parts else ""


def _with_identical(verdict: PairVerdict) -> str:
    """Give the share over all battles, where some had identical answers."""
    if not verdict.identical:
        return ""
    return f"; {percent(verdict.share.value)} with {plural(verdict.identical, 'identical answer')} as ties"


def _one_rater(verdict: PairVerdict) -> str:
    return "" if verdict.rests_on is None else " Without one rater's votes it would be undecided."


def _plan(verdict: PairVerdict) -> str:
    smallest, needed = verdict.needed, verdict.needed_first
    if not smallest.prompts and not smallest.raters:
        gap = f"{smallest.gap_elo:g}"
        return f"A gap of {gap} rating points would probably have shown by now: the true one is probably smaller."
    if needed.votes > MANY_VOTES:
        gap = f"{needed.gap_elo:.0f}"
        needed_for = f"More than {MANY_VOTES:,} votes would be needed to settle a gap of {gap} rating points"
        return f"{needed_for}: treat the two as equal."
    shares_pace = verdict.seconds_needed is not None and smallest.votes > 0
    seconds = (verdict.seconds_needed or 0.0) * needed.votes / max(1, smallest.votes)
    pace = f", about {_duration(seconds)} of rating," if shares_pace else ""
    who = f" by {_about(needed.raters, 'new rater')}" if needed.raters else ""
    prompts = _about(needed.prompts, "new prompt") if needed.prompts else ""
    where = (f" and with {prompts}" if who else f" on {prompts}") if prompts else ""
    votes = _about(needed.votes, "more vote")
    plan = f"About {votes}{who}{where}{pace} would settle a gap of {needed.gap_elo:.0f} rating points"
    if needed is not smallest:
        plan += (
            ", a cautious reading of these votes: as if each side had won one more."
            f" A gap of {smallest.gap_elo:g} needs {about(smallest.votes)} votes"
        )
    crowded = verdict.needs_prompts and verdict.num_cast > verdict.num_cast_prompts
    differing = f" {_differing(verdict)}" if needed.votes > 2 * needed.prompts and verdict.raters > 1 else ""
    return (
        f"{plan}.{differing}{' More raters on the same prompts would not settle it: add prompts.' if crowded else ''}"
    )


def _differing(verdict: PairVerdict) -> str:
    """Say why a verdict needs many raters, and how well that is known."""
    unsure = f", as far as {plural(verdict.raters, 'rater')} can tell" if verdict.raters < FEW_RATERS else ""
    if verdict.leaning > 2 * PLANNED_LEANING:
        return f"So many raters because they differ in what they prefer{unsure}: votes of the same raters say less."
    return "New raters can cast fewer votes each than those so far: it is their number that counts."


def _level(level: float) -> str:
    return percent(round(level, 4), digits=None)


def _about(number: int, noun: str) -> str:
    return f"{about(number)} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{math.ceil(minutes / 60)} h"
