"""The outcome of a pair without each of its raters, all at once.

A bet's wealth depends only on how many prompts have which frozen score, so leaving out a rater moves a few counts:
those of the prompts among whose first k votes the rater is.
"""

from __future__ import annotations

import math

import numpy as np

from backend.domain.battles.inference.evidence import BETS, FloatArray, IntArray, log_wealths


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
