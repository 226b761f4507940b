"""Metrics of choices from their log-likelihoods, under the names of lm-evaluation-harness where it has them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jobs.evaluation.engines.base import Scores
from jobs.evaluation.questions import TIE, credit

GAIN_TIE = 1e-4
"""Gains closer than this (nats) count as equal: a difference of two sums holds the rounding of both."""
USUAL = ("acc", "acc_norm", "acc_bytes", "acc_token")


def choice_values(
    scores: Scores,
    choices: Sequence[str],
    gold: Sequence[int],
    *,
    metrics: Sequence[str] = USUAL,
    alone: Scores | None = None,
) -> dict[str, float]:
    """Return an item's values. `alone` are the scores of the choices without their context, for `acc_pmi`.

    `acc` goes by the sum of log-probabilities, `acc_norm` by that sum per character of the choice, `acc_bytes` per
    byte, `acc_token` per token, `acc_pmi` by the gain over the choice alone. Ties share credit. An item with a score
    that is not finite is missing.
    """
    sums = np.array([score.sum_logprob for score in scores])
    if not np.isfinite(sums).all():
        return {"missing": 1.0}
    sizes = {
        "acc": [1] * len(choices),
        "acc_norm": [max(1, len(choice)) for choice in choices],
        "acc_bytes": [max(1, len(choice.encode())) for choice in choices],
        "acc_token": [max(1, score.tokens) for score in scores],
    }
    values = {name: credit((sums / np.array(sizes[name])).tolist(), gold) for name in metrics if name in sizes}
    if "acc_pmi" in metrics and alone is not None:
        gains = sums - np.array([score.sum_logprob for score in alone])
        values["acc_pmi"] = credit(gains.tolist(), gold, tie=GAIN_TIE)
    shares = np.exp(sums - sums.max())
    shares /= shares.sum()
    if "mc2" in metrics:
        values["mc2"] = float(shares[list(gold)].sum())
    if "brier" in metrics:
        values["brier"] = float(((shares - np.isin(np.arange(len(choices)), gold)) ** 2).sum())
    # CrowS-Pairs: the first is the stereotype
    if {"likelihood_diff", "pct_stereotype"} & set(metrics) and len(sums) == 2:
        values |= {"likelihood_diff": float(abs(sums[0] - sums[1])), "pct_stereotype": float(sums[0] > sums[1])}
    values["chance"] = len(set(gold)) / len(choices)
    tied = int((sums.max() - sums <= TIE).sum())
    return values | counted(scores) | ({"tied": float(tied)} if tied > 1 else {})


def counted(scores: Scores) -> dict[str, float]:
    """Return how many tokens the network did not see of the item's context, if any."""
    cut = max((score.cut for score in scores), default=0)
    return {"cut": float(cut)} if cut else {}


def shown_choices(scores: Scores, choices: Sequence[str], gold: Sequence[int]) -> dict[str, object]:
    """Return what a page shows of an item's choices."""
    sums = [score.sum_logprob for score in scores]
    chosen = max(range(len(sums)), key=sums.__getitem__)
    return {
        "choices": list(choices),
        "answer": choices[gold[0]] if len(gold) == 1 else [choices[index] for index in gold],
        "chosen": choices[chosen],
        "logprobs": [round(total, 5) for total in sums],
        "tokens": [score.tokens for score in scores],
        "tied": sum(1 for total in sums if sums[chosen] - total <= TIE),
    }
