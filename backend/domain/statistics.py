"""Scores with honest intervals, and comparisons of two checkpoints on the same items.

Pure arithmetic on numpy and scipy. Knows no benchmark and no database: scores come in item order, clusters are any hashable labels
(a passage, a template, a document). Every interval names its method, so that a page can print it beside the number.
Sources: E. Miller, "Adding Error Bars to Evals" (arXiv 2411.00640); S. Bowyer et al. (arXiv 2503.01747); others at each function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error and interval.

    `stderr`, `low` and `high` are None where the data can't give them (one item, one cluster). `n` counts items.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    method: str


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Second minus first on the same items, with the p value of "no difference". Wins and losses are the second's."""

    n: int
    difference: Estimate
    p_value: float | None
    wins: int
    losses: int
    ties: int
    method: str


def normal_quantile(level: float) -> float:
    """The two-sided critical value of a normal interval: 1.96 for 0.95."""
    if not 0.0 < level < 1.0:
        raise InvalidInput(
            f"An interval's level must lie between 0 and 1, not {level}.", remedy="Use 0.95 for a 95 % interval.", field="level"
        )
    return float(scipy.stats.norm.ppf(0.5 + level / 2))


def student_quantile(level: float, *, df: float) -> float:
    """The two-sided critical value of Student's t with `df` degrees of freedom."""
    normal_quantile(level)
    return float(scipy.stats.t.ppf(0.5 + level / 2, df))


def percent(level: float) -> str:
    """Print a level: 0.95 -> "95 %"."""
    return f"{100 * level:g} %"


def cluster_codes(clusters: Sequence[Hashable]) -> tuple[IntArray, int]:
    """Number the clusters in order of first appearance: codes (one per item) and how many there are."""
    index: dict[Hashable, int] = {}
    codes = np.fromiter((index.setdefault(label, len(index)) for label in clusters), dtype=np.int64, count=len(clusters))
    return codes, len(index)


def mean_estimate(scores: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Average scores; the standard error divides by n - 1 (Bessel), the interval is Student's t with n - 1 degrees of freedom."""
    values = _finite(scores)
    n = len(values)
    value = float(values.mean())
    if n < 2:
        return Estimate(value, None, None, None, n, "mean of one item: no interval")
    stderr = float(values.std(ddof=1) / math.sqrt(n))
    margin = student_quantile(level, df=n - 1) * stderr
    return Estimate(value, stderr, value - margin, value + margin, n, f"mean, t interval {percent(level)}")


def wilson_interval(share: float, n: float, *, critical: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` trials; `n` may be an effective number. Source: Wilson (1927), JASA 22."""
    squared = critical**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    margin = critical / (1 + squared / n) * math.sqrt(max(share * (1 - share) / n + squared / (4 * n * n), 0.0))
    low = 0.0 if share <= 0.0 else max(0.0, centre - margin)
    high = 1.0 if share >= 1.0 else min(1.0, centre + margin)
    return low, high


def proportion_estimate(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """Share of successes with Wilson's interval, which keeps its coverage near 0 and 1 where share +- 1.96 SE does not.

    With 0 (or n) of n the plug-in error is 0, which is false: then `stderr` is the interval's width over twice the critical value.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InvalidInput(
            f"{successes} successes of {n} items is impossible.", remedy="Give 0 <= successes <= n with n at least 1.", field="successes"
        )
    share = successes / n
    critical = normal_quantile(level)
    low, high = wilson_interval(share, n, critical=critical)
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if 0 < successes < n else (high - low) / (2 * critical)
    return Estimate(share, stderr, low, high, n, f"Wilson {percent(level)}")


def clustered_mean_estimate(scores: ArrayLike, clusters: Sequence[Hashable], *, level: float = 0.95) -> Estimate:
    """Average scores of items that come in clusters (a passage with several questions, k samples of a prompt).

    SE = sqrt(C / (C - 1) * sum_c (sum_{i in c} (s_i - mean))^2) / n, interval t(C - 1): Miller (2024), appendix A, with the
    finite-cluster factor.
    """
    values = _finite(scores)
    return _clustered_ratio(values, np.ones(len(values)), clusters, level=level, name="mean, clustered")


def ratio_estimate(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    scale: Literal["plain", "exp"] = "plain",
) -> Estimate:
    """Sum of numerators over sum of denominators, as for nats per token; one pair per document.

    The error is the ratio estimator's: residuals e_i = a_i - R b_i, SE = sqrt(n / (n - 1) * sum e_i^2) / sum b (Cochran, Sampling
    Techniques, 6.4). `scale="exp"` takes the exponential of value and interval (perplexity); `stderr` is then by the delta method.
    `n` counts documents.
    """
    top, bottom = _finite(numerators), _finite(denominators)
    if len(top) != len(bottom):
        raise InvalidInput(f"{len(top)} numerators do not match {len(bottom)} denominators.", remedy="Give one of each per document.")
    if bottom.min() < 0 or bottom.sum() <= 0:
        raise InvalidInput("The denominators of a ratio must not be negative, and not all zero.", remedy="Leave empty documents out.")
    labels = range(len(top)) if clusters is None else clusters
    plain = _clustered_ratio(top, bottom, labels, level=level, name="ratio estimator" if clusters is None else "ratio estimator, clustered")
    if scale == "plain":
        return plain
    value = math.exp(plain.value)
    low, high = (None if bound is None else math.exp(bound) for bound in (plain.low, plain.high))
    return Estimate(value, None if plain.stderr is None else value * plain.stderr, low, high, plain.n, f"exp of {plain.method}")


def perplexity_estimate(nlls: ArrayLike, num_tokens: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Token perplexity from each document's summed negative log-likelihood (nats) and its number of scored tokens."""
    return ratio_estimate(nlls, num_tokens, level=level, scale="exp")


def bits_per_byte_estimate(nlls: ArrayLike, num_bytes: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Bits per UTF-8 byte from each document's summed negative log-likelihood (nats); comparable between tokenizers."""
    return ratio_estimate(_finite(nlls) / math.log(2), num_bytes, level=level)


def bootstrap_interval(
    rows: ArrayLike,
    *,
    statistic: Callable[[NDArray[np.float64]], float],
    clusters: Sequence[Hashable] | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap of a corpus metric: draw rows (or whole clusters) with replacement and compute the metric again.

    `rows` has one row per item, of any width, for instance the counts that BLEU or F1 sum up; `statistic` gets such an array.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim == 0 or len(table) == 0:
        raise InvalidInput("There is nothing to resample: no items.", remedy="Evaluate at least one item.")
    value = float(statistic(table))
    codes, num_clusters = cluster_codes(range(len(table)) if clusters is None else clusters)
    if num_clusters < 2:
        return Estimate(value, None, None, None, len(table), "bootstrap of one cluster: no interval")
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    rng = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    for index in range(num_resamples):
        chosen = rng.integers(num_clusters, size=num_clusters)
        picked = chosen if num_clusters == len(table) else np.concatenate([members[cluster] for cluster in chosen])
        draws[index] = statistic(table[picked])
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    kind = "items" if clusters is None else "clusters"
    return Estimate(
        value,
        float(draws.std(ddof=1)),
        float(low),
        float(high),
        len(table),
        f"bootstrap of {kind}, {num_resamples} draws, {percent(level)}",
    )


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> PairedComparison:
    """Compare two checkpoints on the same items in the same order: second minus first.

    Scores of 0 and 1 without clusters: exact McNemar p and the Bonett-Price (2012) interval, which does not collapse when nothing differs.
    Otherwise: t test and t interval on the differences, clustered if `clusters` is given.
    """
    before, after = _finite(first), _finite(second)
    if len(before) != len(after):
        raise InvalidInput(f"{len(before)} scores can't be paired with {len(after)}.", remedy="Join both evaluations on their items first.")
    gaps = after - before
    wins, losses = int((gaps > 0).sum()), int((gaps < 0).sum())
    ties = len(gaps) - wins - losses
    if clusters is None and np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all():
        return PairedComparison(
            len(gaps), _bonett_price(wins, losses, len(gaps), level=level), mcnemar(wins, losses), wins, losses, ties, "exact McNemar"
        )
    if clusters is None:
        difference, df, method = mean_estimate(gaps, level=level), len(gaps) - 1, "paired t test"
    else:
        difference, df, method = (
            clustered_mean_estimate(gaps, clusters, level=level),
            cluster_codes(clusters)[1] - 1,
            "paired t test, clustered",
        )
    if difference.stderr is None:
        return PairedComparison(
            len(gaps), difference, None, wins, losses, ties, f"{method}: too few {'items' if clusters is None else 'clusters'}"
        )
    if difference.stderr <= 1e-12 * max(1.0, abs(difference.value)):
        # All differences are equal: t is 0/0 or infinite, so the signs alone speak.
        return PairedComparison(len(gaps), difference, mcnemar(wins, losses), wins, losses, ties, "exact sign test (all differences equal)")
    p_value = float(2 * scipy.stats.t.sf(abs(difference.value / difference.stderr), df))
    return PairedComparison(len(gaps), difference, p_value, wins, losses, ties, method)


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p value of the discordant pairs (McNemar 1947, exact binomial form): `mcnemar(10, 2)` is 0.03857."""
    if wins < 0 or losses < 0:
        raise InvalidInput(f"Counts can't be negative: {wins} and {losses}.")
    return float(min(1.0, 2 * scipy.stats.binom.cdf(min(wins, losses), wins + losses, 0.5))) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p values, in the order given: controls the chance of any false claim."""
    order, ordered = _ordered_p_values(p_values)
    factors = np.arange(len(ordered), 0, -1)
    return _in_given_order(np.minimum(1.0, np.maximum.accumulate(ordered * factors)), order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's (1995) adjusted p values, in the order given: controls the share of false claims."""
    order, ordered = _ordered_p_values(p_values)
    scaled = ordered * len(ordered) / np.arange(1, len(ordered) + 1)
    return _in_given_order(np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1]), order)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that one of k samples is right, unbiased from n samples: 1 - C(n-c, k) / C(n, k). Chen et al. (2021), arXiv 2107.03374."""
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise InvalidInput(f"pass@{k} needs 1 <= k <= samples and 0 <= correct <= samples; got {num_correct} of {num_samples}.", field="k")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / count for count in range(num_samples - num_correct + 1, num_samples + 1))


def minimum_detectable_effect(n: int, *, difference_sd: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that n paired items find with this power; `difference_sd` is the sd of one item's difference."""
    if n < 1 or difference_sd < 0:
        raise InvalidInput(f"{n} items with a standard deviation of {difference_sd} give no effect size.", field="n")
    return _power_quantiles(alpha, power) * difference_sd / math.sqrt(n)


def required_items(
    effect: float,
    *,
    omega_squared: float = 1 / 9,
    within_variances: tuple[float, float] = (0.0, 0.0),
    samples_per_item: tuple[int, int] = (1, 1),
    alpha: float = 0.05,
    power: float = 0.8,
) -> int:
    """Return the number of items that detect a true difference `effect`: Miller (2024), eq. 9. `required_items(0.03)` is 969.

    `omega_squared` is the variance over items of the difference of expected scores; `within_variances` are the variances of one sample
    about its item's expected score, of either checkpoint, divided by `samples_per_item`.
    """
    if effect == 0 or not math.isfinite(effect):
        raise InvalidInput(
            f"An effect of {effect} needs endless items.", remedy="Name the smallest difference worth acting on.", field="effect"
        )
    variance = omega_squared + sum(within / count for within, count in zip(within_variances, samples_per_item, strict=True))
    return math.ceil(_power_quantiles(alpha, power) ** 2 * variance / effect**2)


def expected_calibration_error(confidences: ArrayLike, correct: ArrayLike, *, num_bins: int = 10) -> float:
    """Mean |accuracy - confidence| over bins of equal mass; equal confidences are never split, so the order of items is immaterial."""
    sure, right = _finite(confidences), _finite(correct)
    edges = np.quantile(sure, np.linspace(0, 1, num_bins + 1)[1:-1])
    bins = np.searchsorted(edges, sure, side="left")
    return float(np.abs(np.bincount(bins, right, num_bins) - np.bincount(bins, sure, num_bins)).sum() / len(sure))


def brier(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Mean squared distance of confidence from the outcome (0 or 1). Brier (1950)."""
    return float(np.mean((_finite(confidences) - _finite(correct)) ** 2))


def _finite(values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise InvalidInput("There are no scores to average.", remedy="Evaluate at least one item.")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise InvalidInput(
            f"Score {int(bad[0]) + 1} of {len(array)} is {array[bad[0]]}, not a number.",
            remedy="Leave items that could not be scored out and count them.",
        )
    return array


def _clustered_ratio(top: FloatArray, bottom: FloatArray, clusters: Sequence[Hashable], *, level: float, name: str) -> Estimate:
    if len(clusters) != len(top):
        raise InvalidInput(
            f"{len(clusters)} cluster labels do not match {len(top)} scores.", remedy="Give one label per score.", field="clusters"
        )
    codes, count = cluster_codes(clusters)
    value = float(top.sum() / bottom.sum())
    if count < 2:
        return Estimate(value, None, None, None, len(top), f"{name}: one cluster gives no interval")
    sums = np.bincount(codes, top - value * bottom, count)
    stderr = math.sqrt(count / (count - 1) * float(sums @ sums)) / float(bottom.sum())
    margin = student_quantile(level, df=count - 1) * stderr
    return Estimate(value, stderr, value - margin, value + margin, len(top), f"{name}, t({count - 1}) interval {percent(level)}")


def _bonett_price(wins: int, losses: int, n: int, *, level: float) -> Estimate:
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    stderr = math.sqrt(max(up + down - (up - down) ** 2, 0.0) / (n + 2))
    margin = normal_quantile(level) * stderr
    return Estimate(
        (wins - losses) / n, stderr, max(-1.0, up - down - margin), min(1.0, up - down + margin), n, f"Bonett-Price {percent(level)}"
    )


def _ordered_p_values(p_values: Sequence[float]) -> tuple[IntArray, FloatArray]:
    values = np.asarray(p_values, dtype=np.float64)
    if values.size and not ((values >= 0) & (values <= 1)).all():
        raise InvalidInput(f"A p value lies between 0 and 1; got {list(p_values)}.", field="p_values")
    order = np.argsort(values, kind="stable")
    return order, values[order]


def _in_given_order(adjusted: FloatArray, order: IntArray) -> list[float]:
    result = np.empty(len(adjusted))
    result[order] = adjusted
    return [float(value) for value in result]


def _power_quantiles(alpha: float, power: float) -> float:
    if not (0 < alpha < 1 and 0 < power < 1):
        raise InvalidInput(f"alpha {alpha} and power {power} must lie between 0 and 1.", field="alpha")
    return float(scipy.stats.norm.ppf(1 - alpha / 2) + scipy.stats.norm.ppf(power))
