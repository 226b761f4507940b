"""Averages, shares and ratios of item scores with honest intervals, and averages over the tasks of a group, such as
the 57 subjects of MMLU: macro (each task counts the same) and micro (each item does).

Pure arithmetic on numpy and scipy. Knows no benchmark and no database: scores come in item order, clusters are any
hashable labels (a passage, a template, a document). Every interval names its method, for display beside the number.
Sources: E. Miller, "Adding Error Bars to Evals" (arXiv 2411.00640); S. Bowyer et al. (arXiv 2503.01747); others at
each function.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from backend.domain.wording import percent, plural
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Clusters = Sequence[Hashable] | IntArray
SMALLEST_WIDTH = 1e-9
"""A narrower interval is that of resamples which do not differ."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its standard error and interval.

    `stderr`, `low` and `high` are None if undefined (one item, one cluster). `n` counts items.
    """

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    method: str

    @property
    def has_width(self) -> bool:
        """Return whether there is an interval, and one with a width: where no resample differs its ends are equal."""
        return self.low is not None and self.high is not None and self.high - self.low > SMALLEST_WIDTH

    def bracketed(self, write: Callable[[float], str]) -> str:
        """Return the interval as it stands behind the value: ` [1.2, 3.4]`; empty without one, or without a width."""
        if self.low is None or self.high is None or not self.has_width:
            return ""
        return f" [{write(self.low)}, {write(self.high)}]"


def normal_quantile(level: float) -> float:
    """The two-sided critical value of a normal interval: 1.96 for 0.95."""
    if not 0.0 < level < 1.0:
        raise InvalidInput(
            f"An interval's level must lie between 0 and 1, not {level}.",
            remedy="Use 0.95 for a 95 % interval.",
            field="level",
        )
    return float(scipy.special.ndtri(0.5 + level / 2))


def student_quantile(level: float, *, df: float) -> float:
    """The two-sided critical value of Student's t with `df` degrees of freedom."""
    normal_quantile(level)
    return float(scipy.special.stdtrit(df, 0.5 + level / 2))


def cluster_codes(clusters: Clusters) -> tuple[IntArray, int]:
    """Number the clusters: codes (one per item) and how many there are; in order of first appearance, an array's in
    order of its values.
    """
    if isinstance(clusters, np.ndarray):
        values, coded = np.unique(clusters, return_inverse=True)
        return coded, len(values)
    index: dict[Hashable, int] = {}
    codes = np.fromiter(
        (index.setdefault(label, len(index)) for label in clusters), dtype=np.int64, count=len(clusters)
    )
    return codes, len(index)


def mean_estimate(scores: ArrayLike, *, level: float = 0.95) -> Estimate:
    """Average scores; the standard error divides by n - 1 (Bessel), the interval is Student's t of n - 1."""
    values = finite_scores(scores)
    n = len(values)
    value = float(values.mean())
    if n < 2:
        return Estimate(value, None, None, None, n, "mean of one item: no interval")
    stderr = float(values.std(ddof=1) / math.sqrt(n))
    margin = student_quantile(level, df=n - 1) * stderr
    return Estimate(value, stderr, value - margin, value + margin, n, f"mean, t interval {percent(level, digits=None)}")


def wilson_interval(share: float, n: float, *, critical: float) -> tuple[float, float]:
    """Wilson's score interval of a share of `n` trials; `n` may be effective. Source: Wilson (1927), JASA 22."""
    squared = critical**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    margin = critical / (1 + squared / n) * math.sqrt(max(share * (1 - share) / n + squared / (4 * n * n), 0.0))
    low = 0.0 if share <= 0.0 else max(0.0, centre - margin)
    high = 1.0 if share >= 1.0 else min(1.0, centre + margin)
    return low, high


def proportion_estimate(successes: int, n: int, *, level: float = 0.95) -> Estimate:
    """Share of successes with Wilson's interval, which keeps its coverage near 0 and 1 where share +- 1.96 SE does not.

    With 0 (or n) of n the plug-in error is 0, which is wrong: then `stderr` is the interval's width over twice the
    critical value.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InvalidInput(
            f"{successes} successes of {n} items is impossible.",
            remedy="Give 0 <= successes <= n with n at least 1.",
            field="successes",
        )
    share = successes / n
    critical = normal_quantile(level)
    low, high = wilson_interval(share, n, critical=critical)
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if 0 < successes < n else (high - low) / (2 * critical)
    return Estimate(share, stderr, low, high, n, f"Wilson {percent(level, digits=None)}")


def clustered_mean_estimate(scores: ArrayLike, clusters: Clusters, *, level: float = 0.95) -> Estimate:
    """Average scores of items that come in clusters (a passage with several questions, k samples of a prompt).

    SE = sqrt(C / (C - 1) * sum_c (sum_{i in c} (s_i - mean))^2) / n, interval t(C - 1): Miller (2024), appendix A, with
    the finite-cluster factor.
    """
    values = finite_scores(scores)
    return _clustered_ratio(values, np.ones(len(values)), clusters, level=level, name="mean, clustered")


def share_estimate(values: ArrayLike, *, clusters: Clusters | None = None, level: float = 0.95) -> Estimate:
    """Average values between 0 and 1 with Wilson's interval, of as many items as the clusters are worth.

    Values of 0 and 1 without clusters are `proportion_estimate`'s; shared credit for ties makes some of them fractions.
    With clusters the error is `clustered_mean_estimate`'s, and Wilson's interval gets the effective number of items v(1
    - v)/SE^2, at most their number, and t with C - 1 degrees of freedom (Korn and Graubard 1998, Survey Methodology
    24). Of values all equal an error of 0 is false: then the clusters, or items, count as trials. Clusters of one item
    each are none.
    """
    array = finite_scores(values)
    if array.min() < 0 or array.max() > 1:
        raise InvalidInput(
            f"A share lies between 0 and 1; got {array[(array < 0) | (array > 1)][0]:g}.", field="values"
        )
    n = len(array)
    if clusters is not None and len(clusters) == cluster_codes(clusters)[1] == n:
        clusters = None
    if clusters is None and is_binary(array):
        return proportion_estimate(int(array.sum()), n, level=level)
    if clusters is not None:
        return counted_share_estimate(array, np.ones(n), clusters=clusters, level=level)
    share, critical = float(array.mean()), normal_quantile(level)
    stderr = float(array.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
    low, high = wilson_interval(share, n, critical=critical)
    stderr = stderr if stderr > 1e-12 else (high - low) / (2 * critical)
    return Estimate(share, stderr, low, high, n, f"Wilson {percent(level, digits=None)}, ties share credit")


def counted_share_estimate(
    successes: ArrayLike, trials: ArrayLike, *, clusters: Clusters, level: float = 0.95
) -> Estimate:
    """`share_estimate` with clusters, of items that stand for several trials each."""
    top, bottom = finite_scores(successes), finite_scores(trials)
    plain = _clustered_ratio(top, bottom, clusters, level=level, name="share, clustered")
    n, units = int(bottom.sum()), cluster_codes(clusters)[1]
    if plain.stderr is None:
        return Estimate(plain.value, None, None, None, n, plain.method)
    share, stderr, critical = plain.value, plain.stderr, student_quantile(level, df=units - 1)
    is_equal = bool(np.allclose(top, share * bottom, rtol=0, atol=1e-12))
    effective = units if is_equal else n if stderr < 1e-12 else min(n, share * (1 - share) / stderr**2)
    low, high = wilson_interval(share, effective, critical=critical)
    stderr = stderr if stderr > 1e-12 else (high - low) / (2 * critical)
    counting = " count as items: all values are equal" if is_equal else ""
    method = f"Wilson {percent(level, digits=None)} with Student's t ({units - 1} df), {units} clusters{counting}"
    return Estimate(share, stderr, low, high, n, method)


_MAX_NATS = math.log(sys.float_info.max)


def ratio_estimate(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    clusters: Clusters | None = None,
    level: float = 0.95,
    scale: Literal["plain", "exp"] = "plain",
) -> Estimate:
    """Sum of numerators over sum of denominators, as for nats per token; one pair per document.

    The error is the ratio estimator's: residuals e_i = a_i - R b_i, SE = sqrt(n / (n - 1) * sum e_i^2) / sum b
    (Cochran, Sampling Techniques, 6.4). `scale="exp"` takes the exponential of value and interval (perplexity);
    `stderr` is then by the delta method. `n` counts documents.
    """
    top, bottom = finite_scores(numerators), finite_scores(denominators)
    if len(top) != len(bottom):
        raise InvalidInput(
            f"{len(top)} numerators do not match {len(bottom)} denominators.", remedy="Give one of each per document."
        )
    if bottom.min() < 0 or bottom.sum() <= 0:
        raise InvalidInput(
            "The denominators of a ratio must not be negative, and not all zero.", remedy="Leave empty documents out."
        )
    labels = range(len(top)) if clusters is None else clusters
    plain = _clustered_ratio(
        top, bottom, labels, level=level, name="ratio estimator" if clusters is None else "ratio estimator, clustered"
    )
    if scale == "plain":
        return plain
    value = _exp(plain.value)
    low, high = (None if bound is None else _exp(bound) for bound in (plain.low, plain.high))
    return Estimate(
        value, None if plain.stderr is None else value * plain.stderr, low, high, plain.n, f"exp of {plain.method}"
    )


def _exp(nats: float) -> float:
    """Return the exponential, infinite above the largest float: a bound of a few long targets may lie there."""
    return math.exp(nats) if nats < _MAX_NATS else math.inf


def perplexity_estimate(nlls: ArrayLike, num_tokens: ArrayLike, *, clusters: Clusters | None = None) -> Estimate:
    """Token perplexity from each document's summed negative log-likelihood (nats) and its number of scored tokens."""
    return ratio_estimate(nlls, num_tokens, clusters=clusters, scale="exp")


def bits_per_byte_estimate(nlls: ArrayLike, num_bytes: ArrayLike, *, clusters: Clusters | None = None) -> Estimate:
    """Bits per UTF-8 byte from each document's summed negative log-likelihood (nats); comparable between tokenizers."""
    return ratio_estimate(finite_scores(nlls) / math.log(2), num_bytes, clusters=clusters)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that one of k samples is right, unbiased from n samples: 1 - C(n-c, k) / C(n, k). Chen et al. (2021),
    arXiv 2107.03374.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise InvalidInput(
            f"pass@{k} needs 1 <= k <= samples and 0 <= correct <= samples; got {num_correct} of {num_samples}.",
            field="k",
        )
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / count for count in range(num_samples - num_correct + 1, num_samples + 1))


def is_binary(values: FloatArray) -> bool:
    """Return whether all values are 0 or 1."""
    return bool(((values == 0.0) | (values == 1.0)).all())


def finite_scores(values: ArrayLike) -> FloatArray:
    """Return scores as a one-dimensional array. Raises InvalidInput for none, NaN or infinity."""
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


def _clustered_ratio(top: FloatArray, bottom: FloatArray, clusters: Clusters, *, level: float, name: str) -> Estimate:
    if len(clusters) != len(top):
        raise InvalidInput(
            f"{len(clusters)} cluster labels do not match {len(top)} scores.",
            remedy="Give one label per score.",
            field="clusters",
        )
    codes, count = cluster_codes(clusters)
    value = float(top.sum() / bottom.sum())
    if count < 2:
        return Estimate(value, None, None, None, len(top), f"{name}: one cluster gives no interval")
    sums = np.bincount(codes, top - value * bottom, count)
    stderr = math.sqrt(count / (count - 1) * float(sums @ sums)) / float(bottom.sum())
    margin = student_quantile(level, df=count - 1) * stderr
    return Estimate(
        value,
        stderr,
        value - margin,
        value + margin,
        len(top),
        f"{name}, t({count - 1}) interval {percent(level, digits=None)}",
    )


def macro_average(tasks: Sequence[Estimate]) -> Estimate:
    """Average tasks with equal weights: SE = sqrt(sum se_i^2) / k, the tasks being fixed and their items independent.

    `n` is the number of items. A task without an error leaves the average without one.
    """
    count = len(_some(tasks))
    return _weighted(tasks, [1 / count] * count, name=f"macro average of {plural(count, 'task')}")


def micro_average(tasks: Sequence[Estimate]) -> Estimate:
    """Average tasks by items, stratified: SE = sqrt(sum n_i^2 se_i^2) / N (Cochran, Sampling Techniques, 5.4)."""
    total = sum(task.n for task in _some(tasks))
    return _weighted(tasks, [task.n / total for task in tasks], name=f"micro average of {len(tasks)} tasks")


def centre(task: Estimate, *, chance: float) -> Estimate:
    """Return what a share exceeds chance by, of what it can: (score - chance) / (1 - chance), as the CORE metric (Li et
    al. 2024, DCLM).

    Example:
        >>> centre(Estimate(0.4, 0.06, 0.28, 0.52, 50, "Wilson"), chance=0.25).value
        0.2
    """
    if not 0 <= chance < 1:
        raise InvalidInput(
            f"A chance of {chance:g} leaves nothing to exceed it.", remedy="Leave the task out of a centred average."
        )
    room = 1 - chance
    low, high = (None if bound is None else (bound - chance) / room for bound in (task.low, task.high))
    stderr = None if task.stderr is None else task.stderr / room
    return Estimate((task.value - chance) / room, stderr, low, high, task.n, f"{task.method}, centred")


def _some(tasks: Sequence[Estimate]) -> Sequence[Estimate]:
    if not tasks or any(task.n < 1 for task in tasks):
        raise InvalidInput(
            "A group's average needs a score of at least one item for each of its tasks.", remedy="Evaluate every task."
        )
    return tasks


def _weighted(tasks: Sequence[Estimate], weights: Sequence[float], *, name: str) -> Estimate:
    """Average tasks. The interval is made of theirs and so stays within their bounds (MOVER: Zou and Donner 2008, Stat.
    Med. 27, 1693).
    """
    value = sum(weight * task.value for weight, task in zip(weights, tasks, strict=True))
    n = sum(task.n for task in tasks)
    stderr = _root_sum([task.stderr for task in tasks], weights)
    below = _root_sum([None if task.low is None else task.value - task.low for task in tasks], weights)
    above = _root_sum([None if task.high is None else task.high - task.value for task in tasks], weights)
    if stderr is None:
        return Estimate(value, None, None, None, n, f"{name}: a task without an error")
    if below is None or above is None:
        return Estimate(value, stderr, None, None, n, f"{name}: a task without an interval")
    return Estimate(value, stderr, value - below, value + above, n, f"{name}, MOVER")


def _root_sum(lengths: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Return the weighted lengths' root of the sum of squares; None if one is missing."""
    squares = [(weight * length) ** 2 for weight, length in zip(weights, lengths, strict=True) if length is not None]
    return math.sqrt(sum(squares)) if len(squares) == len(lengths) else None
