"""Evidence that one of two contestants is better, valid at any stopping time and for any number of raters per prompt.

A prompt's score is frozen: for k = 1, 3, 9 and 27 (`OVERLAPS`) the mean of its first k votes is one bet, placed once,
when the k-th vote arrives. Prompts are independent, so each k has a nonnegative martingale under "the average prompt is
even", and Ville's inequality bounds its supremum; the four share the error (`SHARES`) by the union bound. A score
revised by every further rater is no martingale: such a process declared a false winner up to 7.5 % of the time at a
nominal 5 %.

The bet on scores s in [0, 1] with mean m is the uniform mixture over q of prod(q s / m + (1 - q) (1 - s) / (1 - m)),
Cover's universal portfolio; the means m that no bet has refuted are a confidence sequence. On 0/1 scores it is the
beta-binomial mixture in closed form. Sources: Ville (1939); Orabona and Jun (2021), arXiv 2110.14099; Waudby-Smith and
Ramdas (2023), arXiv 2010.09686.

Assumed: prompts are a sample, the order in which votes arrive doesn't depend on their labels, and the raters are those
one asks about (`rater_evidence` asks about others).

A bet's wealth depends only on how many prompts have which frozen score, so leaving out a rater moves a few counts:
those of the prompts among whose first k votes the rater is.

Evidence over raters holds in any order of votes. A rater's decisive votes are independent given that rater's leaning, a
log-odds; ties say nothing about it. Null: leanings are spread symmetrically about 0 and small ones are likelier than
large ones (unimodal). That holds every normal, Laplace, t or uniform spread of any width, also raters who don't lean at
all. The e-value is a likelihood ratio, the votes' chance under leanings that favour a side (a fixed mixture of normals)
over their largest chance under the null. For any one null the ratio with that null below is a martingale with every
vote, so also while a rater still votes, and the e-value is no larger: it reaches 1 / alpha, ever, with a chance of at
most alpha (Ville). The largest chance is a concave problem: a symmetric unimodal spread is a mixture of uniform ones
about its centre (Khintchine), whose weights are found by constrained Newton steps and whose remaining gap is bounded by
its gradient, so stopping early errs on the safe side. Sources: Wasserman, Ramdas and Balakrishnan (2020), "Universal
inference", PNAS 117; Lindsay (1983), Annals of Statistics 11; Wang (2007), Journal of the Royal Statistical Society B
69, for the steps.

Raters who share prompts share what these prompts favour, which evidence over prompts guards against: ask
for both. Two camps of raters with nothing between them are no unimodal spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, nnls
from scipy.special import gammaln, log_expit, logsumexp

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

OVERLAPS = (1, 3, 9, 27)
"""Votes of a prompt that its score awaits. Votes beyond the 27th say little more about a prompt."""

SHARES = (3 / 4, 1 / 12, 1 / 12, 1 / 12)
"""Share of the error that each overlap may spend. One vote on each prompt is worth most per vote, so most is its."""

BETS = tuple(zip(OVERLAPS, SHARES, strict=True))
"""Each overlap with its share of the error."""

MAX_E_VALUE = 1e300


def frozen_scores(points: FloatArray, prompt: IntArray, overlap: int) -> tuple[FloatArray, IntArray]:
    """Return the mean of each prompt's first `overlap` votes, and the index of the vote that completed it, in order of
    completion.

    `points` are 0 to 1, `prompt` codes from 0, both in the order in which the votes were cast. Prompts with fewer votes
    are left out.
    """
    if not len(points):
        return np.empty(0), np.empty(0, dtype=np.int64)
    counts = np.bincount(prompt)
    if counts.max() < overlap:
        return np.empty(0), np.empty(0, dtype=np.int64)
    order = np.argsort(prompt, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts >= overlap]
    sums = np.concatenate([[0.0], np.cumsum(points[order])])
    scores = (sums[starts + overlap] - sums[starts]) / overlap
    completed = order[starts + overlap - 1]
    by_time = np.argsort(completed)
    return np.round(scores[by_time] * 2 * overlap) / (2 * overlap), completed[by_time].astype(np.int64)


def e_value(points: FloatArray, prompt: IntArray) -> float:
    """Evidence against "the average prompt is even": reaching 1 / alpha, ever, has a chance of at most alpha. At most
    1e300.
    """
    counted = zip(SHARES, _score_counts(points, prompt), strict=True)
    values = [math.log(share) + _log_wealth_of(*counts, 0.5) for share, counts in counted]
    return math.exp(min(max(values), math.log(MAX_E_VALUE)))


def e_value_path(points: FloatArray, prompt: IntArray) -> FloatArray:
    """The e-value after each vote; the last one is `e_value`'s."""
    best = np.full(len(points), -np.inf)
    for overlap, share in BETS:
        scores, completed = frozen_scores(points, prompt, overlap)
        steps = math.log(share) + np.concatenate([[0.0], _log_wealth_path(scores)])
        best = np.maximum(best, steps[np.searchsorted(completed, np.arange(len(points)), side="right")])
    path: FloatArray = np.exp(np.minimum(best, math.log(MAX_E_VALUE)))
    return path


def confidence_sequence(points: FloatArray, prompt: IntArray, *, alpha: float) -> tuple[float, float]:
    """Interval of the average prompt's share that holds it at every moment with a chance of at least 1 - alpha.

    It excludes 1/2 exactly if the e-value is at least 1 / alpha. Bounds may cross (low > high) where early and late
    votes contradict each other, which has a chance of at most alpha.
    """
    low, high = 0.0, 1.0
    for share, (values, counts) in zip(SHARES, _score_counts(points, prompt), strict=True):
        if len(values):
            bounds = _unrefuted(values, counts, limit=-math.log(alpha * share))
            low, high = max(low, bounds[0]), min(high, bounds[1])
    return low, high


def interval_of_means(means: FloatArray, *, alpha: float) -> tuple[float, float]:
    """Interval of the average prompt's share from the means of all votes on each prompt: it holds at one look, in
    whatever order the votes came.
    """
    values, counts = np.unique(means, return_counts=True)
    return _unrefuted(values, counts.astype(np.float64), limit=-math.log(alpha))


GROUP_BETS = ((1, 1 / 2), (3, 1 / 4), (9, 1 / 4))
"""Points of a person that the person's mean awaits where two groups are compared, with each one's share of error."""


def group_e_value(points: FloatArray, person: IntArray, in_first: NDArray[np.bool_]) -> tuple[float, int]:
    """Evidence that people of one group give more points than those of another, and its side: 1 or -1.

    `points` are 0 to 1, `person` codes from 0, `in_first` whether a point is given to the first group's subject, all in
    the order in which they came. A person belongs to the group of its first point. The n-th people of both groups with
    k = 1, 3 and 9 points are a pair, which the higher mean wins: however people differ, however many points one gives
    and in whatever order, either is as likely to where the groups' subjects are equal. Reaching 1 / alpha, ever, has a
    chance of at most alpha.
    """
    firsts = np.full(int(person.max(initial=-1)) + 1, False)
    codes, begins = np.unique(person, return_index=True)
    firsts[codes] = in_first[begins]
    best, side = 0.0, 0
    for overlap, share in GROUP_BETS:
        means, completed = frozen_scores(points, person, overlap)
        first = firsts[person[completed]]
        num_pairs = min(int(first.sum()), int((~first).sum()))
        ahead = np.sign(means[first][:num_pairs] - means[~first][:num_pairs])
        wins, losses = int((ahead > 0).sum()), int((ahead < 0).sum())
        value = share * mixture_e_value(wins, losses)
        if value > best:
            best, side = value, (wins > losses) - (wins < losses)
    return best, side


def mixture_e_value(wins: int, losses: int) -> float:
    """The uniform mixture's bet on 0/1 scores: 2^n B(1 + w, 1 + l), at most 1e300."""
    return math.exp(min(float(_closed_form(np.array([wins]), np.array([losses]))[0]), math.log(MAX_E_VALUE)))


def _closed_form(wins: NDArray[np.integer] | FloatArray, losses: NDArray[np.integer] | FloatArray) -> FloatArray:
    n = wins + losses
    log_e: FloatArray = gammaln(1 + wins) + gammaln(1 + losses) - gammaln(2 + n) + n * math.log(2)
    return log_e


def _score_counts(points: FloatArray, prompt: IntArray) -> list[tuple[FloatArray, FloatArray]]:
    """Return, for each overlap, the distinct frozen scores and how many prompts have each; see `frozen_scores`."""
    sizes, order = np.bincount(prompt), np.argsort(prompt, kind="stable")
    ends = np.cumsum(sizes)
    sums = np.concatenate([[0.0], np.cumsum(points[order])])
    counted = []
    for overlap in OVERLAPS:
        starts = (ends - sizes)[sizes >= overlap]
        halves = np.rint(2 * (sums[starts + overlap] - sums[starts])).astype(np.int64)
        counts = np.bincount(halves, minlength=2 * overlap + 1).astype(np.float64)
        present = np.flatnonzero(counts)
        counted.append((present / (2 * overlap), counts[present]))
    return counted


def _log_wealth_of(values: FloatArray, counts: FloatArray, mean: float) -> float:
    if mean == 0.5 and np.isin(values, (0.0, 0.5, 1.0)).all():
        return float(_closed_form(counts[values == 1].sum(keepdims=True), counts[values == 0].sum(keepdims=True))[0])
    q, weights = _fejer(_num_nodes(int(counts.sum())))
    even = (1 - values) / (1 - mean)
    logs = np.log(even + q[:, None] * (values / mean - even)) @ counts
    largest = float(logs.max())
    return largest + math.log(float(np.exp(logs - largest) @ weights))


def log_wealths(counts: FloatArray) -> FloatArray:
    """Log of the wealth against a mean of 1/2 for each row of counts of the scores 0, 1 / n, ... 1, n = columns - 1."""
    overlap = (counts.shape[1] - 1) // 2
    if overlap == 1:
        return _closed_form(counts[:, 2], counts[:, 0])
    q, weights = _fejer(_num_nodes(int(counts.sum(1).max(initial=0))))
    values = np.arange(counts.shape[1]) / (counts.shape[1] - 1)
    logs = counts @ np.log1p(np.outer(values - 0.5, 4 * q - 2))
    largest = logs.max(axis=1, initial=-np.inf)
    wealths: FloatArray = largest + np.log(np.exp(logs - largest[:, None]) @ weights)
    return wealths


def _log_wealth_path(scores: FloatArray) -> FloatArray:
    """Log of the wealth against a mean of 1/2 after each score."""
    if np.isin(scores, (0.0, 0.5, 1.0)).all():
        return _closed_form(np.cumsum(scores == 1), np.cumsum(scores == 0))
    q, weights = _fejer(_num_nodes(len(scores)))
    values, codes = np.unique(scores, return_inverse=True)
    factors = np.log1p(np.outer(values - 0.5, 4 * q - 2))
    path, total = np.empty(len(scores)), np.zeros(len(q))
    chunk = max(1, 4_000_000 // len(q))
    for start in range(0, len(scores), chunk):
        logs = total + np.cumsum(factors[codes[start : start + chunk]], axis=0)
        path[start : start + len(logs)] = logsumexp(logs, axis=1, b=weights)
        total = logs[-1]
    return path


def _unrefuted(values: FloatArray, counts: FloatArray, *, limit: float) -> tuple[float, float]:
    """Bounds of the means whose log wealth stays below `limit`. The wealth is log-convex in the mean."""
    mean, edge = float(values @ counts / counts.sum()), 1e-9

    def excess(candidate: float) -> float:
        return _log_wealth_of(values, counts, candidate) - limit

    centre = min(max(mean, 2 * edge), 1 - 2 * edge)
    low = 0.0 if excess(edge) <= 0 else float(brentq(excess, edge, centre, xtol=1e-6))
    high = 1.0 if excess(1 - edge) <= 0 else float(brentq(excess, centre, 1 - edge, xtol=1e-6))
    return low, high


def _num_nodes(num_scores: int) -> int:
    """Nodes that resolve the integrand, of width about 1 / (2 sqrt(n)); powers of 2, so few sets are made."""
    return 1 << max(6, math.ceil(math.log2(min(num_scores + 2, 8 * math.sqrt(num_scores) + 32))))


@lru_cache(maxsize=16)
def _fejer(num_nodes: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights on (0, 1) of Fejér's first rule: exact for polynomials of a degree below the nodes' number."""
    theta = (np.arange(num_nodes) + 0.5) * np.pi / num_nodes
    orders = np.arange(1, num_nodes // 2 + 1)
    weights = (1 - 2 * (np.cos(2 * np.outer(theta, orders)) / (4 * orders**2 - 1)).sum(1)) / num_nodes
    return (1 - np.cos(theta)) / 2, weights


def outcomes_without(points: FloatArray, prompt: IntArray, rater: IntArray, *, alpha: float) -> IntArray:
    """Return the outcome without each rater: 1 better, -1 worse, 0 undecided, by rater code from 0.

    A bet whose e-value reaches 1 / alpha decides for the side that its scores favour; bets that contradict each other
    or the share of all votes decide nothing.
    """
    num_raters = int(rater.max(initial=-1)) + 1
    for_first, for_second = np.zeros(num_raters, dtype=bool), np.zeros(num_raters, dtype=bool)
    for overlap, share in BETS:
        counts = _counts_without(points, prompt, rater, num_raters, overlap)
        rejects = log_wealths(counts) + math.log(share) >= -math.log(alpha)
        favour = counts @ (np.arange(2 * overlap + 1) / overlap - 1)
        for_first |= rejects & (favour > 0)
        for_second |= rejects & (favour < 0)
    sign = for_first.astype(np.int64) - for_second
    all_votes = (points - 0.5).sum() - np.bincount(rater, points - 0.5, num_raters)
    return np.where(sign * all_votes > 0, sign, 0)


def _counts_without(points: FloatArray, prompt: IntArray, rater: IntArray, num_raters: int, overlap: int) -> FloatArray:
    """Raters x scores: prompts with this frozen score (in halves of a point, of `overlap` votes) without the rater.

    Only where the rater is among a prompt's first `overlap` votes does its score change: to that of the first as many
    votes of others, or to none where they are fewer.
    """
    order = np.argsort(prompt, kind="stable")
    sizes = np.bincount(prompt)
    starts = np.cumsum(sizes) - sizes
    halves, voter, of = np.rint(2 * points[order]).astype(np.int64), rater[order], prompt[order]
    sums = np.concatenate([[0], np.cumsum(halves)])
    scored = sizes >= overlap
    score = np.where(scored, sums[np.minimum(starts + overlap, len(halves))] - sums[starts], 0)
    counts = np.tile(np.bincount(score[scored], minlength=2 * overlap + 1).astype(np.float64), (num_raters, 1))
    among = (np.arange(len(order)) - starts[of] < overlap) & scored[of]
    pairs = np.unique(of[among] * num_raters + voter[among])
    changed, leaving = pairs // num_raters, pairs % num_raters
    np.subtract.at(counts, (leaving, score[changed]), 1.0)
    begins = np.cumsum(sizes[changed]) - sizes[changed]
    pair = np.repeat(np.arange(len(pairs)), sizes[changed])
    vote = np.arange(len(pair)) - begins[pair] + starts[changed][pair]
    by_others = voter[vote] != leaving[pair]
    rank = np.cumsum(by_others)
    rank -= (rank - by_others)[begins][pair]
    counted = by_others & (rank <= overlap)
    num_counted = np.bincount(pair, counted, len(pairs)).astype(np.int64)
    without = np.bincount(pair, counted * halves[vote], len(pairs)).astype(np.int64)
    rescored = num_counted == overlap
    np.add.at(counts, (leaving[rescored], without[rescored]), 1.0)
    return counts


MAX_LEANING, STEP = 8.0, 0.02
"""Grid of leanings in log-odds; a leaning of 8 chooses its side 2,999 times in 3,000."""
LEANINGS: FloatArray = np.arange(-MAX_LEANING, MAX_LEANING + STEP / 2, STEP)
EDGES: FloatArray = np.append(LEANINGS - STEP / 2, LEANINGS[-1] + STEP / 2)
WIDTHS: FloatArray = np.geomspace(STEP / 2, MAX_LEANING + STEP / 2, 48)
"""Half-widths of the uniform spreads; the first is no spread at all."""

CENTRES: FloatArray = np.geomspace(0.1, 6.4, 45)
USUAL, WIDE, WIDE_SHARE = 0.8, 4.0, 0.2
"""Leanings that favour a side: normal about these centres and their mirror images, in log-odds. The centres weigh as a
normal of the usual standard deviation, with a share of a wide one for raters who are unanimous.
"""
SPREADS = ((0.0, 0.4), (0.15, 0.2), (0.3, 0.15), (0.6, 0.15), (1.0, 0.1))
"""Standard deviations about the centre and their weights."""

MAX_STEPS = 100
STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Parts of a Newton step that are tried."""
CLOSE = 0.01
"""Error of the log of an e-value at which the weights are good enough."""
MAX_LOG = math.log(1e300)


@dataclass(frozen=True, slots=True)
class RaterEvidence:
    """Evidence of raters with decisive votes, ready to be weighed against any centre of their leanings.

    `even` is a rater's chance under the uniform spread of each width about 0, `favoured` the log of its chance under
    each leaning that favours a side; both are relative to the rater's best leaning and have a row per distinct pair of
    wins and losses, which `counts` raters have. `row_of` is the row of each rater, -1 without decisive votes.
    """

    even: FloatArray
    favoured: FloatArray
    counts: FloatArray
    row_of: IntArray

    @property
    def num_raters(self) -> int:
        """Raters with a decisive vote."""
        return int(self.counts.sum())

    @property
    def log_favoured(self) -> float:
        """Log of the votes' chance under leanings that favour a side."""
        return float(np.logaddexp.reduce(self.counts @ self.favoured + _alternatives()[1]))

    @property
    def side(self) -> int:
        """Side that leanings favour: 1 the first contestant, -1 the second, 0 neither."""
        weights = self.counts @ self.favoured + log_weights_of_alternatives()
        half = len(weights) // 2
        return int(np.sign(round(float(np.logaddexp.reduce(weights[half:]) - np.logaddexp.reduce(weights[:half])), 9)))

    def without(self, rater: int) -> RaterEvidence:
        """Return the evidence without one rater."""
        counts = self.counts.copy()
        if self.row_of[rater] >= 0:
            counts[self.row_of[rater]] -= 1
        return replace(self, counts=counts)


def rater_evidence(points: FloatArray, rater: IntArray) -> RaterEvidence:
    """Sum up the votes of each rater: `points` 1, 0.5 or 0 for the first contestant, `rater` codes from 0."""
    size = int(rater.max(initial=-1)) + 1
    return evidence_of_counts(np.bincount(rater, points > 0.5, size), np.bincount(rater, points < 0.5, size))


def evidence_of_counts(won: FloatArray | IntArray, lost: FloatArray | IntArray) -> RaterEvidence:
    """Sum up raters by their decisive votes for the first contestant and for the second."""
    pairs, row, counts = np.unique(np.stack([won, lost], axis=1), axis=0, return_inverse=True, return_counts=True)
    decisive = pairs.sum(1) > 0
    row_of = np.where(decisive[row], np.cumsum(decisive)[row] - 1, -1)
    pairs, counts = pairs[decisive], counts[decisive].astype(np.float64)
    sums = [_sums_of_rater(*pair) for pair in pairs.tolist()]
    even = np.array([one for one, _ in sums]).reshape(len(sums), len(WIDTHS))
    favoured = np.array([one for _, one in sums]).reshape(len(sums), len(_alternatives()[1]))
    return RaterEvidence(even, favoured, counts, row_of)


@lru_cache(maxsize=512)
def _sums_of_rater(won: float, lost: float) -> tuple[FloatArray, FloatArray]:
    """Rows of `RaterEvidence.even` and `favoured`. Remembered, since from vote to vote one rater's counts change."""
    logs = won * log_expit(LEANINGS) + lost * log_expit(-LEANINGS)
    likelihood = np.exp(logs - logs.max())
    return _uniform_chances(likelihood), np.log(np.maximum(likelihood @ _alternatives()[0], 1e-300))


def log_rater_e_value(evidence: RaterEvidence, *, enough: float = math.inf, little: float = -math.inf) -> float:
    """Log of the evidence against leanings spread about 0 (log-odds); 0 without votes. At most the exact one.

    Stops early where the result is at least `enough`, or where the exact one is below `little`, and then returns what
    is known so far.
    """
    if not len(evidence.counts) or not evidence.num_raters:
        return 0.0
    used = evidence.counts > 0
    favoured, counts, spread = evidence.log_favoured, evidence.counts[used], evidence.even[used]
    weights = np.full(len(WIDTHS), 1 / len(WIDTHS))
    value = -math.inf
    for _ in range(MAX_STEPS):
        chances = np.maximum(spread @ weights, 1e-300)
        ratios = spread / chances[:, None]
        gradient = counts @ ratios / counts.sum()
        ratio = favoured - float(counts @ np.log(chances))
        gap = float(counts.sum()) * math.log(max(float(gradient.max()), 1.0))
        value = max(value, ratio - gap)
        if gap < CLOSE or value >= enough or ratio < little:
            break
        weights = _likelier(weights, spread, counts, ratios)
    return min(value, MAX_LOG)


def _likelier(weights: FloatArray, spread: FloatArray, counts: FloatArray, ratios: FloatArray) -> FloatArray:
    """Weights of a greater likelihood: a Newton step within the simplex, then one of expectation maximisation.

    `ratios` are each rater's chances under each width over the chance under the weights. The log-likelihood's second
    order is a least-squares problem in the new weights, |ratios @ new - 2|, whose 2 is within because weights sum to 1
    (Wang 2007, 3).
    """
    rows = np.vstack([np.sqrt(counts)[:, None] * (ratios - 2), np.ones(len(weights))])
    try:
        newton, _ = nnls(rows, np.append(np.zeros(len(counts)), 1.0))
    except RuntimeError:  # no solution within its iterations: expectation maximisation gains alone
        newton = weights
    direction = newton / newton.sum() - weights
    least = float(counts @ np.log(np.maximum(spread @ weights, 1e-300)))
    for step in STEPS:
        candidate = weights + step * direction
        if float(counts @ np.log(np.maximum(spread @ candidate, 1e-300))) >= least:
            weights = candidate
            break
    likelier: FloatArray = weights * (counts @ (spread / np.maximum(spread @ weights, 1e-300)[:, None])) / counts.sum()
    return likelier


def _uniform_chances(likelihood: FloatArray) -> FloatArray:
    """Mean likelihood under the uniform spread of each width about 0."""
    below = np.concatenate([[0.0], np.cumsum(likelihood)])
    ends = [np.clip((side * WIDTHS - EDGES[0]) / STEP, 0, len(LEANINGS)) for side in (-1, 1)]
    sums = [np.interp(end, np.arange(len(below)), below) for end in ends]
    chances: FloatArray = (sums[1] - sums[0]) / np.maximum(ends[1] - ends[0], 1e-9)
    return chances


def log_weights_of_alternatives() -> FloatArray:
    """Log weights of the leanings that favour a side, in the order of `RaterEvidence.favoured`."""
    return _alternatives()[1]


@cache
def _alternatives() -> tuple[FloatArray, FloatArray]:
    """Leanings that favour a side: their chances (leanings x alternatives) and log weights, negative centres first."""
    usual, wide = (CENTRES * np.exp(-((CENTRES / scale) ** 2) / 2) for scale in (USUAL, WIDE))
    one_side = (1 - WIDE_SHARE) * usual / usual.sum() + WIDE_SHARE * wide / wide.sum()
    both = np.concatenate([-CENTRES[::-1], CENTRES])
    weight = np.concatenate([one_side[::-1], one_side]) / (2 * one_side.sum())
    columns, weights = [], []
    for centre, share in zip(both, weight, strict=True):
        for spread, part in SPREADS:
            chance = np.exp(-(((LEANINGS - centre) / max(spread, STEP / 2)) ** 2) / 2)
            columns.append(chance / chance.sum())
            weights.append(math.log(share * part))
    return np.array(columns).T, np.array(weights)
