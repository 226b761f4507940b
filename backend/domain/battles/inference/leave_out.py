"""The outcome of a pair without each of its raters, all at once.

A bet's wealth depends only on how many prompts have which frozen score, so leaving out a rater moves a few counts:
those of the prompts among whose first k votes the rater is.
"""

from __future__ import annotations

import math

import numpy as np

from backend.domain.battles.inference.evidence import BETS, FloatArray, IntArray, frozen_scores, log_wealths


def outcomes_without(points: FloatArray, prompt: IntArray, rater: IntArray, *, alpha: float) -> IntArray:
    """Return the outcome without each rater: 1 better, -1 worse, 0 undecided, by rater code from 0.

    A bet whose e-value reaches 1 / alpha decides for the side that its scores favour; bets that contradict each other
    or the share of all votes decide nothing.
    """
    num_raters = int(rater.max(initial=-1)) + 1
    for_first, for_second = np.zeros(num_raters, dtype=bool), np.zeros(num_raters, dtype=bool)
    repeated = len(np.unique(prompt * num_raters + rater)) < len(prompt)
    for overlap, share in BETS:
        counts = (_counted_again if repeated else _moved_counts)(points, prompt, rater, num_raters, overlap)
        rejects = log_wealths(counts) + math.log(share) >= -math.log(alpha)
        favour = counts @ (np.arange(2 * overlap + 1) / overlap - 1)
        for_first |= rejects & (favour > 0)
        for_second |= rejects & (favour < 0)
    sign = for_first.astype(np.int64) - for_second
    all_votes = (points - 0.5).sum() - np.bincount(rater, points - 0.5, num_raters)
    return np.where(sign * all_votes > 0, sign, 0)


def _moved_counts(points: FloatArray, prompt: IntArray, rater: IntArray, num_raters: int, overlap: int) -> FloatArray:
    """Raters x scores: prompts with this frozen score (in halves of a point, of `overlap` votes) without the rater.

    Each rater has one vote on a prompt at most, which the prompt's next vote replaces; without a next one the prompt
    has no score.
    """
    order = np.argsort(prompt, kind="stable")
    sizes = np.bincount(prompt)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    halves, voter, of = np.rint(2 * points[order]).astype(np.int64), rater[order], prompt[order]
    sums = np.concatenate([[0], np.cumsum(halves)])
    scored = sizes >= overlap
    score = np.where(scored, sums[np.minimum(starts + overlap, len(halves))] - sums[starts], 0)
    counts = np.tile(np.bincount(score[scored], minlength=2 * overlap + 1).astype(np.float64), (num_raters, 1))
    among = np.flatnonzero((np.arange(len(order)) - starts[of] < overlap) & scored[of])
    np.subtract.at(counts, (voter[among], score[of[among]]), 1.0)
    among = among[sizes[of[among]] > overlap]
    following = halves[starts[of[among]] + overlap]
    np.add.at(counts, (voter[among], score[of[among]] - halves[among] + following), 1.0)
    return counts


def _counted_again(points: FloatArray, prompt: IntArray, rater: IntArray, num_raters: int, overlap: int) -> FloatArray:
    """The same, one rater after the other, where raters have several votes on a prompt."""
    rows = []
    for code in range(num_raters):
        others = rater != code
        scores, _ = frozen_scores(points[others], np.unique(prompt[others], return_inverse=True)[1], overlap)
        rows.append(np.bincount(np.rint(2 * overlap * scores).astype(np.int64), minlength=2 * overlap + 1))
    return np.array(rows, dtype=np.float64).reshape(num_raters, 2 * overlap + 1)
