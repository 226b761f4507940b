"""Evidence that the raters one would ask prefer one of two contestants, valid at any stopping time and in any order of
votes.

A rater's decisive votes are independent given that rater's leaning, a log-odds; ties say nothing about it. Null:
leanings are spread symmetrically about 0 and small ones are likelier than large ones (unimodal). That holds every
normal, Laplace, t or uniform spread of any width, also raters who don't lean at all. The e-value is a likelihood ratio,
the votes' chance under leanings that favour a side (a fixed mixture of normals) over their largest chance under the
null. For any one null the ratio with that null below is a martingale with every vote, so also while a rater still
votes, and the e-value is no larger: it reaches 1 / alpha, ever, with a chance of at most alpha (Ville). The largest
chance is a concave problem: a symmetric unimodal spread is a mixture of uniform ones about its centre (Khintchine),
whose weights are found by constrained Newton steps and whose remaining gap is bounded by its gradient, so stopping
early errs on the safe side. Sources: Wasserman, Ramdas and Balakrishnan (2020), "Universal inference", PNAS 117;
Lindsay (1983), Annals of Statistics 11; Wang (2007), Journal of the Royal Statistical Society B 69, for the steps.

Raters who share prompts share what these prompts favour, which evidence over prompts (`evidence`) guards against: ask
for both. Two camps of raters with nothing between them are no unimodal spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.special import log_expit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

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
