"""Checks of a rater against the others: agreement, votes unlike theirs, one contestant favoured, votes copied."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.agreement import JudgedItems
from backend.domain.battles.raters.checks import Check
from backend.domain.battles.votes import VoteColumns
from backend.domain.statistics.estimates import Estimate, counted_share_estimate
from backend.domain.wording import plural

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NUM_DRAWS = 4000
PRIOR_VOTES = 2.0
NUM_LABELS = 3
POINTS = np.array([0.5, -0.5, 0.0])
FEW_VOTES = 200
NORMAL_UP_TO = {True: (1.5, 2.2), False: (2.5, 3.0)}
"""Standard deviations of surprise and favour, for few votes and for many, from which a chance is simulated. A flag needs about four."""


@dataclass(frozen=True, slots=True)
class PeerAgreement:
    """A rater's agreement with the others' votes on the same items: share of equal labels, and corrected for chance."""

    share: Estimate
    alpha: float | None
    ac1: float | None
    kappa: float | None


def peer_agreement(items: JudgedItems, counts: FloatArray, rater: int) -> PeerAgreement | None:
    """Compare a rater with the others; `counts` are the items' labels. None without a shared item."""
    own = items.rater == rater
    item, label = items.item[own], items.label[own]
    others = counts[item]
    others[np.arange(len(item)), label] -= 1
    shared = others.sum(1) > 0
    item, label, others = item[shared], label[shared], others[shared]
    if not len(item):
        return None
    table = np.zeros((NUM_LABELS, NUM_LABELS))
    np.add.at(table, label, others[:, :NUM_LABELS])
    equal = others[np.arange(len(item)), label]
    share = counted_share_estimate(equal, others.sum(1), clusters=items.prompt_of_item[item])
    return PeerAgreement(share, *chance_corrected(table))


def chance_corrected(table: FloatArray) -> tuple[float | None, float | None, float | None]:
    """Return Krippendorff's alpha, Gwet's AC1 and Cohen's kappa of pairs of labels, counted by a rater's label and the other's.

    The definitions are those of `domain.statistics.agreement`, of units with two labels each.
    """
    pairs, equal = float(table.sum()), float(np.trace(table))
    given, received = table.sum(1), table.sum(0)
    totals = given + received
    used = totals[totals > 0] / (2 * pairs)
    if len(used) < 2:
        return None, None, None
    expected = (2 * pairs) ** 2 - float((totals**2).sum())
    alpha = 1 - (2 * pairs - 1) * 2 * (pairs - equal) / expected
    by_chance = float((used * (1 - used)).sum()) / (len(used) - 1)
    same = float(given @ received) / pairs**2
    return alpha, (equal / pairs - by_chance) / (1 - by_chance), (equal / pairs - same) / (1 - same) if same < 1 else None


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Contestants of each pair, and every vote's pair, rater and label. `sign` maps a pair's points to its contestants."""

    names: tuple[str, ...]
    sign: FloatArray
    pair: IntArray
    rater: IntArray
    label: IntArray

    def counts(self, votes: NDArray[np.bool_] | None = None) -> IntArray:
        """Pairs x labels, of some of the votes."""
        cells = self.pair * NUM_LABELS + self.label
        return np.bincount(cells if votes is None else cells[votes], minlength=len(self.sign) * NUM_LABELS).reshape(-1, NUM_LABELS)


def outlier_checks(items: JudgedItems, columns: VoteColumns, *, level: float, seed: int) -> dict[int, list[Check]]:
    """Test each rater against the other raters' votes on the same pairs of contestants.

    Labels are drawn from the others' (Dirichlet-multinomial, whose prior is a label's share over all pairs), so a tie is as likely as ties
    are, a pair with few other votes says little, and no vote is compared with itself. Two statistics: surprise, -log of the labels'
    chances, and favour, the points that one contestant earned beyond its expectation, in standard deviations. The least likely rater leaves
    the comparison and the others are tested again, lest its votes make theirs look odd.
    """
    pairs = _pairs(items, columns)
    total = pairs.counts()
    labels = total.sum(0)
    ties = (labels[2] + 1) / (labels.sum() + 3)
    prior = np.array([(1 - ties) / 2, (1 - ties) / 2, ties]) * PRIOR_VOTES
    own = {rater: pairs.counts(pairs.rater == rater) for rater in range(columns.num_raters)}
    rng, checks, trusted = np.random.default_rng(seed), dict[int, list[Check]](), list(own)
    while trusted:
        checks.update({rater: _compare(pairs, own[rater], total - own[rater], prior, rng) for rater in trusted})
        chances = {rater: min((check.chance for check in checks[rater]), default=1.0) for rater in trusted}
        least = min(trusted, key=chances.__getitem__)
        if chances[least] >= level or len(trusted) < 3:
            break
        trusted.remove(least)
        total = total - own[least]
    return checks


def _pairs(items: JudgedItems, columns: VoteColumns) -> _Pairs:
    size = len(columns.contestants)
    a, b = columns.a[items.vote], columns.b[items.vote]
    codes, pair = np.unique(np.minimum(a, b) * size + np.maximum(a, b), return_inverse=True)
    sign = np.zeros((len(codes), size))
    sign[np.arange(len(codes)), codes // size] = 1.0
    sign[np.arange(len(codes)), codes % size] = -1.0
    return _Pairs(columns.contestants, sign, pair, items.rater, items.label)


def _compare(pairs: _Pairs, own: IntArray, rest: IntArray, prior: FloatArray, rng: np.random.Generator) -> list[Check]:
    """Test a rater's label counts by pair against the others'. Chances that a flag needs are simulated, the others are normal."""
    met = (own.sum(1) > 0) & (rest.sum(1) > 0)
    if not met.any():
        return []
    own, others, sign = own[met], rest[met] + prior, pairs.sign[met]
    played = np.abs(sign).sum(0) > 0
    sign, names = sign[:, played], [name for name, plays in zip(pairs.names, played, strict=True) if plays]
    number, weight = own.sum(1), others.sum(1)
    expected = others / weight[:, None]
    middle = number[:, None] * expected
    spread = number * (number + weight) / (1 + weight)
    surprise = -np.log(expected)
    gained = ((own - middle) @ POINTS @ sign, np.sqrt(spread * ((expected @ POINTS**2) - (expected @ POINTS) ** 2) @ sign**2))
    favour = np.divide(*gained, out=np.zeros(len(names)), where=gained[1] > 0)
    favourite = int(favour.argmax())
    deviation = float(np.sqrt((spread * ((expected * surprise**2).sum(1) - (expected * surprise).sum(1) ** 2)).sum()))
    unlike = float(((own - middle) * surprise).sum()) / deviation if deviation else 0.0
    limits = NORMAL_UP_TO[int(number.sum()) < FEW_VOTES]
    if unlike > limits[0] or favour[favourite] > limits[1]:
        chances = _simulated(own, others, sign, surprise, rng)
    else:
        chances = float(scipy.special.ndtr(-unlike)), float(1 - scipy.special.ndtr(favour[favourite]) ** len(names))
    reason = f"{plural(int(number.sum()), 'vote')} differ from other raters' on the same pairs more than chance allows."
    return [
        Check("outlier", chances[0], reason),
        Check("favourite", chances[1], f"Favoured {names[favourite]} beyond other raters."),
    ]


def _simulated(own: IntArray, others: FloatArray, sign: FloatArray, surprise: FloatArray, rng: np.random.Generator) -> tuple[float, float]:
    """Chances of a surprise and of a favour at least as large, by drawing labels."""
    number = own.sum(1)
    middle = number[:, None] * others / others.sum(1, keepdims=True)
    drawn_chances = rng.gamma(np.broadcast_to(others, (max(200, NUM_DRAWS // (1 + len(own) // 20)), *others.shape)))
    drawn_chances /= drawn_chances.sum(2, keepdims=True)
    drawn = rng.multinomial(np.broadcast_to(number, drawn_chances.shape[:2]), drawn_chances)
    gained = (drawn - middle) @ POINTS @ sign
    scale = gained.std(0)
    scale[scale == 0] = np.inf
    observed = ((own - middle) @ POINTS @ sign) / scale
    return _tail((drawn * surprise).sum((1, 2)), float((own * surprise).sum())), _tail((gained / scale).max(1), float(observed.max()))


def _tail(draws: FloatArray, value: float) -> float:
    """Chance of a draw at least as high: (1 + #) / (1 + n), or Pearson's type III tail of the same moments where that is too coarse."""
    share = (1 + int((draws >= value - 1e-9).sum())) / (1 + len(draws))
    deviation = float(draws.std())
    if share > 5 / len(draws) or deviation == 0:
        return share
    gap, skew = (value - float(draws.mean())) / deviation, float(((draws - draws.mean()) ** 3).mean()) / deviation**3
    if skew < 1e-3:
        return min(share, float(scipy.special.ndtr(-gap)))
    shape = 4 / skew**2
    return min(share, float(scipy.special.gammaincc(shape, max(0.0, shape + gap * math.sqrt(shape)))))


def _at_least(equal: FloatArray, trials: FloatArray, chance: FloatArray) -> FloatArray:
    """Chance of at least so many successes."""
    return np.where(equal > 0, scipy.special.bdtrc(np.maximum(equal - 1, 0), trials.astype(np.int64), chance), 1.0)


def copy_checks(items: JudgedItems, raters: tuple[str, ...]) -> dict[int, Check]:
    """Test each rater against the one it copies most: one person under two names, or a script.

    The chance of an equal label is the share of the item's other raters who gave the partner's label, shrunk towards the average
    agreement. Equal labels are then at most as spread as a binomial of the average chance (Hoeffding 1956); the closest of m partners
    counts m-fold.
    """
    counts = items.counts
    sizes = counts.sum(1)
    judged = (counts * (counts - 1)).sum(), (sizes * (sizes - 1)).sum()
    if not judged[1]:
        return {}
    average = judged[0] / judged[1]
    shape = (len(raters), items.num_items)
    given = counts[items.item, items.label]
    equal, weighted = np.zeros(2 * (len(raters),)), np.zeros(2 * (len(raters),))
    present = scipy.sparse.csr_array((np.ones(len(items.item)), (items.rater, items.item)), shape=shape)
    for label in range(NUM_LABELS):
        own = items.label == label
        votes = (items.rater[own], items.item[own])
        gave = scipy.sparse.csr_array((np.ones(int(own.sum())), votes), shape=shape)
        share = (given[own] - 1 + PRIOR_VOTES * average) / (sizes[votes[1]] - 2 + PRIOR_VOTES)
        alike = 1 / (sizes[votes[1]] - 2 + PRIOR_VOTES)
        equal += (gave @ gave.T).toarray()
        weighted += (present @ scipy.sparse.csr_array((share, votes), shape=shape).T).toarray()
        weighted -= (gave @ scipy.sparse.csr_array((alike, votes), shape=shape).T).toarray()
    shared = (present @ present.T).toarray()
    np.fill_diagonal(shared, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        tails = np.where(shared > 0, _at_least(equal, shared, np.minimum(weighted / shared, 1.0)), np.inf)
    partners = (shared > 0).sum(1)
    checks = {}
    for rater in np.flatnonzero(partners).tolist():
        partner = min(np.flatnonzero(tails[rater] == tails[rater].min()).tolist(), key=raters.__getitem__)
        number = plural(int(shared[rater, partner]), "shared battle")
        reason = f"Gave the same label as another rater on {int(equal[rater, partner])} of {number}."
        checks[rater] = Check("copy", min(1.0, float(tails[rater, partner] * partners[rater])), reason, raters[partner])
    return checks
