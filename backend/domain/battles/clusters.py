"""Variances of a fit that allow for dependent votes: the sandwich H^-1 B H^-1, clustered by prompt, by rater or by
both.

B sums the outer products of each cluster's score. Two ways: B_prompt + B_rater - B_(prompt and rater) (Cameron, Gelbach
and Miller 2011,
JBES 29). With few clusters the sandwich is too small and too variable, so each difference gets
- a factor for each way that makes it unbiased where clusters differ: G / (G - 1) in a balanced design, as in analysis
  of variance, more
  where few clusters hold most votes and pull the fit towards themselves (Bell and McCaffrey 2002, with one effect per
  cluster),
- no less than the variance by either way alone (a negative component counts as 0), nor than that of independent votes:
  with three raters who happen to agree, the ways alone may fall far below what single votes leave open,
- where both ways matter, a median-unbiased variance of a way with few clusters: that of three raters is more often far
  too small than far
  too large, and
- Student's t with degrees of freedom by Satterthwaite's rule from the two ways and their interaction, where G is the
  effective number of
  clusters that hold votes on the difference, (sum n)^2 / sum n^2 (Carter, Schnepel and Steigerwald 2017, REStat 99).
`docs/benchmarks/ratings.md` has the coverage of the intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.bradley_terry import Cells, Fit, FloatArray, IntArray, gaps_of, terms_of
from backend.domain.battles.votes import VoteColumns

ClusterBy = Literal["two_way", "prompt", "rater", "none"]

CHUNK_CELLS = 16_000_000
"""Cells (clusters x parameters) of a dense table of scores that are held at once: 128 MB."""
MANY_CLUSTERS = 200
"""From this many clusters on, Student's t is within 1 % of the normal distribution, and a bound on them will do."""
MEDIAN_BELOW = 4.0
"""Degrees of freedom below which a way's variance is made median-unbiased."""
MAX_FACTOR = 1e3
"""Factor of a variance whose clusters are nearly one; Student's t with one degree of freedom says the rest."""
SPARSE_BELOW = 0.02
"""A table with a smaller share of nonzero cells is multiplied as a sparse one."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Per vote, the slope of its weighted log-likelihood: `gap` (enters contestant a, minus b, times each covariate)
    and `tie`.
    """

    columns: VoteColumns
    gap: FloatArray
    covariates: FloatArray
    tie: FloatArray | None

    @property
    def width(self) -> int:
        """Number of parameters."""
        return len(self.columns.contestants) + int(self.covariates.shape[1]) + (self.tie is not None)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Clusters of votes: the cluster of each vote and their number."""

    codes: IntArray
    count: int


@dataclass(frozen=True, slots=True)
class ContrastSpread:
    """Variance and degrees of freedom of each of many contrasts (any shape)."""

    variance: FloatArray
    df: FloatArray


@dataclass(frozen=True, slots=True)
class Few:
    """Corrections for few clusters of each of many contrasts: the variance's factor and degrees of freedom (≥ 1)."""

    factor: FloatArray
    df: FloatArray


@dataclass(frozen=True, slots=True)
class Covariance:
    """`matrix` over all parameters, eigenvalues clipped at 0, is `root` times its transpose; `gaps` the spread of each
    difference of two strengths (M x M); `own` of each strength from the mean of all, or from the anchor.
    """

    root: FloatArray
    matrix: FloatArray
    gaps: ContrastSpread
    own: ContrastSpread


def vote_scores(fit: Fit, cells: Cells, columns: VoteColumns, *, weights: FloatArray | None = None) -> Scores:
    """Return each vote's score at the fit."""
    gap = gaps_of(cells, theta=fit.theta, effects=fit.effects)
    terms = terms_of(fit.method, gap, cells.outcome, tie=fit.tie)
    factor = 1.0 if weights is None else weights
    tie = None if terms.tie is None else terms.tie[cells.of_vote] * factor
    return Scores(columns, terms.gap[cells.of_vote] * factor, cells.covariates[cells.of_vote], tie)


def groupings(columns: VoteColumns, cluster_by: ClusterBy) -> list[Grouping]:
    """Return the clusterings whose sandwiches a covariance needs: two ways also need their intersection, last."""
    prompt, rater = Grouping(columns.prompt, columns.num_prompts), Grouping(columns.rater, columns.num_raters)
    if cluster_by == "none":
        return []
    if cluster_by != "two_way":
        return [prompt if cluster_by == "prompt" else rater]
    return [prompt, rater, _intersection(columns)]


def _intersection(columns: VoteColumns) -> Grouping:
    """Group votes of one rater on one prompt. Most are alone, and need no number in order."""
    crossed = columns.prompt * columns.num_raters + columns.rater
    ordered = np.sort(crossed)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(shared):
        return Grouping(np.arange(len(crossed)), len(crossed))
    position = np.minimum(np.searchsorted(shared, crossed), len(shared) - 1)
    alone = shared[position] != crossed
    return Grouping(np.where(alone, len(shared) + np.cumsum(alone) - 1, position), len(shared) + int(alone.sum()))


def covariance(fit: Fit, scores: Scores, groups: list[Grouping], *, anchor_at: int | None = None) -> Covariance:
    """Estimate the covariance of all parameters. A regularised fit gets at least its posterior variance: without a
    single loss, residuals vanish and the sandwich would be 0.
    """
    size = len(fit.theta)
    bread = fit.inverse_hessian
    if groups:
        parts = [bread @ _cluster_meat(scores, group) @ bread for group in groups]
        matrix = _matrix_of(parts, groups)
        totals = np.bincount(np.concatenate([scores.columns.a, scores.columns.b]), minlength=size).astype(np.float64)
        ways = [_corrections(scores.columns, group, totals, anchor_at=anchor_at) for group in groups[:2]]
        gaps = combine([gap_variances(part, size) for part in parts], [pairs for pairs, _ in ways])
        own = combine([own_variances(part, size, anchor_at) for part in parts], [single for _, single in ways])
    else:
        matrix = bread @ _vote_meat(scores) @ bread
        gaps = ContrastSpread(gap_variances(matrix, size), _endless((size, size)))
        own = ContrastSpread(own_variances(matrix, size, anchor_at), _endless((size,)))
    if fit.precision > 0:
        gaps = ContrastSpread(np.maximum(gaps.variance, gap_variances(bread, size)), gaps.df)
        own = ContrastSpread(np.maximum(own.variance, own_variances(bread, size, anchor_at)), own.df)
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return Covariance(root, np.asarray(root @ root.T), gaps, own)


def contrast_spread(scores: Scores, groups: list[Grouping], vector: FloatArray) -> ContrastSpread:
    """Estimate the variance of one linear contrast from its `vector`, the inverse Hessian times the contrast."""
    a, b = scores.columns.a, scores.columns.b
    size, extra = len(scores.columns.contestants), scores.covariates.shape[1]
    influence = scores.gap * (vector[a] - vector[b] + scores.covariates @ vector[size : size + extra])
    if scores.tie is not None:
        influence = influence + scores.tie * vector[-1]
    if not groups:
        return ContrastSpread(np.array(influence @ influence), _endless(()))
    parts = [np.array((np.bincount(group.codes, influence, group.count) ** 2).sum()) for group in groups]
    counts = [np.bincount(group.codes, minlength=group.count).astype(np.float64) for group in groups]
    return combine(parts, [few([np.array((count**power).sum()) for power in (1, 2, 3)]) for count in counts[:2]])


def few(sums: list[FloatArray]) -> Few:
    """Corrections of a way from the sums over its clusters of n, n^2 and n^3, n the votes of a cluster on the contrast.

    With shares a = n / sum n and one effect per cluster, all of one variance, the variance of the fit is sum a^2 of it,
    and the sandwich expects sum a^2 - 2 sum a^3 + (sum a^2)^2. Degrees of freedom are those of the effective number of
    clusters, 1 / sum a^2.
    """
    second, third = sums[1] / sums[0] ** 2, sums[2] / sums[0] ** 3
    expected = np.maximum(second - 2 * third + second**2, second / MAX_FACTOR)
    return Few(np.asarray(second / expected), np.asarray(np.maximum(1 / second - 1, 1.0)))


def few_of_number(number: FloatArray) -> Few:
    """Corrections of a way with this many clusters of one size."""
    df = np.maximum(number - 1, 1.0)
    return Few((df + 1) / df, df)


def combine(parts: list[FloatArray], ways: list[Few]) -> ContrastSpread:
    """Correct the sandwich variances of contrasts for few clusters.

    `parts`: by one way, or by both and their intersection. `ways`: the corrections of each way.
    """
    df, factors = [way.df for way in ways], [way.factor for way in ways]
    first = factors[0] * parts[0]
    if len(parts) == 1:
        return ContrastSpread(first, df[0])
    second = factors[1] * parts[1]
    both = factors[0] * factors[1] * (parts[0] + parts[1] - parts[2])
    rest = first + second - both
    larger, of_larger = np.maximum(first, second), np.where(first >= second, df[0], df[1])
    # three clusters vary too little more often than too much: divide by the median of chi-squared / df (Wilson and
    # Hilferty 1931)
    medians = [np.where(number < MEDIAN_BELOW, (1 - 2 / (9 * number)) ** 3, 1.0) for number in df]
    upper = [first / medians[0], second / medians[1]]
    variance = np.maximum(upper[0] + upper[1] - rest, larger)
    with np.errstate(divide="ignore", invalid="ignore"):
        satterthwaite = variance**2 / (upper[0] ** 2 / df[0] + upper[1] ** 2 / df[1] + rest**2 / (df[0] * df[1]))
    is_both = both > larger * (1 + 1e-9)
    return ContrastSpread(
        np.maximum(np.where(is_both, variance, larger), parts[2]),
        np.maximum(np.where(is_both, satterthwaite, of_larger), 1.0),
    )


def _matrix_of(parts: list[FloatArray], groups: list[Grouping]) -> FloatArray:
    factors = [group.count / (group.count - 1) for group in groups]
    if len(parts) == 1:
        return np.asarray(factors[0] * parts[0])
    return np.asarray(factors[0] * factors[1] * (parts[0] + parts[1] - parts[2]))


def _cluster_meat(scores: Scores, group: Grouping) -> FloatArray:
    """Sum the outer products of the clusters' scores. Clusters of one vote need no table."""
    sizes = np.bincount(group.codes, minlength=group.count)
    alone = sizes[group.codes] == 1
    if alone.all():
        return _vote_meat(scores)
    meat = _vote_meat(scores, alone) if alone.any() else np.zeros((scores.width, scores.width))
    position = np.cumsum(sizes > 1) - 1
    votes = np.flatnonzero(~alone)
    count = int(position[-1]) + 1
    codes = position[group.codes[votes]]
    width = scores.width
    if count * width > CHUNK_CELLS and 2 * len(votes) < SPARSE_BELOW * count * width:
        table = _sparse_table(scores, votes, codes, count)
        return np.asarray(meat + (table.T @ table).toarray())
    step = max(1, CHUNK_CELLS // width)
    if count > step:
        order = np.argsort(codes, kind="stable")
        votes, codes = votes[order], codes[order]
    borders = np.searchsorted(codes, np.arange(0, count + step, step)) if count > step else [0, len(codes)]
    for number, (start, end) in enumerate(pairwise(borders)):
        dense = _dense_table(
            scores, votes[start:end], codes[start:end] - number * step, min(step, count - number * step)
        )
        meat = meat + dense.T @ dense
    return meat


def _extras(scores: Scores, votes: IntArray | NDArray[np.bool_]) -> FloatArray:
    """Scores of covariates and tie parameter, a row per vote."""
    columns = [scores.gap[votes, None] * scores.covariates[votes]]
    return np.hstack(columns if scores.tie is None else [*columns, scores.tie[votes, None]])


def _dense_table(scores: Scores, votes: IntArray, codes: IntArray, count: int) -> FloatArray:
    width, size = scores.width, len(scores.columns.contestants)
    gap = scores.gap[votes]
    flat = np.bincount(codes * width + scores.columns.a[votes], gap, count * width)
    flat = flat - np.bincount(codes * width + scores.columns.b[votes], gap, count * width)
    table = np.asarray(flat.reshape(count, width), dtype=np.float64)
    if width > size:
        for number, column in enumerate(_extras(scores, votes).T):
            table[:, size + number] = np.bincount(codes, column, count)
    return table


def _sparse_table(scores: Scores, votes: IntArray, codes: IntArray, count: int) -> scipy.sparse.csr_array:
    size, gap = len(scores.columns.contestants), scores.gap[votes]
    extras = _extras(scores, votes).T
    data = np.concatenate([gap, -gap, *extras])
    where = np.concatenate(
        [
            scores.columns.a[votes],
            scores.columns.b[votes],
            *(np.full(len(votes), size + number) for number in range(len(extras))),
        ]
    )
    rows = np.tile(codes, 2 + len(extras))
    return scipy.sparse.coo_array((data, (rows, where)), shape=(count, scores.width)).tocsr()


def _vote_meat(scores: Scores, votes: NDArray[np.bool_] | None = None) -> FloatArray:
    """Sum the outer products of single votes' scores."""
    chosen = slice(None) if votes is None else votes
    size, width = len(scores.columns.contestants), scores.width
    a, b, gap = scores.columns.a[chosen], scores.columns.b[chosen], scores.gap[chosen]
    meat = np.zeros((width, width))
    squares = np.bincount(a * size + b, gap**2, size * size).reshape(size, size)
    meat[:size, :size] = np.diag(squares.sum(1) + squares.sum(0)) - squares - squares.T
    if width > size:
        extras = _extras(scores, np.arange(len(scores.gap)) if votes is None else votes)
        for number, column in enumerate(extras.T):
            crossed = np.bincount(a, gap * column, size) - np.bincount(b, gap * column, size)
            meat[size + number, :size] = meat[:size, size + number] = crossed
        meat[size:, size:] = extras.T @ extras
    return meat


def _power_sums(columns: VoteColumns, group: Grouping) -> tuple[list[FloatArray], list[FloatArray]]:
    """Sums over clusters of n, n^2 and n^3: n its votes on each pair of contestants (M x M), and each contestant."""
    size = len(columns.contestants)
    votes = np.concatenate([columns.a, columns.b])
    codes = np.concatenate([group.codes, group.codes])
    if group.count * size <= CHUNK_CELLS:
        table = (
            np.bincount(codes * size + votes, minlength=group.count * size)
            .reshape(group.count, size)
            .astype(np.float64)
        )
        single = [(table**power).sum(axis=0) for power in (1, 2, 3)]
        common, squared = table.T @ table, (table**2).T @ table
    else:
        sparse = scipy.sparse.coo_array((np.ones(len(votes)), (codes, votes)), shape=(group.count, size)).tocsr()
        single = [np.asarray(sparse.power(power).sum(axis=0)).ravel() for power in (1, 2, 3)]
        common, squared = (np.asarray((sparse.power(power).T @ sparse).toarray()) for power in (1, 2))
    both = [total[:, None] + total[None, :] for total in single]
    return [both[0], both[1] + 2 * common, both[2] + 3 * (squared + squared.T)], single


def _corrections(
    columns: VoteColumns, group: Grouping, totals: FloatArray, *, anchor_at: int | None
) -> tuple[Few, Few]:
    """Corrections for the clusters with votes on each pair, and on each contestant (with the anchor); a lower bound of
    df if many.
    """
    largest = float(np.bincount(group.codes, minlength=group.count).max())
    if totals.min() >= MANY_CLUSTERS * largest:
        pairs = few_of_number((totals[:, None] + totals[None, :]) / (2 * largest))
        single = few_of_number(totals / largest)
    else:
        pairs, single = (few(sums) for sums in _power_sums(columns, group))
    return pairs, single if anchor_at is None else Few(pairs.factor[anchor_at], pairs.df[anchor_at])


def gap_variances(matrix: FloatArray, size: int) -> FloatArray:
    """Variances of all differences of two strengths."""
    block = matrix[:size, :size]
    diagonal = np.diag(block)
    return np.asarray(np.maximum(diagonal[:, None] + diagonal[None, :] - 2 * block, 0.0))


def own_variances(matrix: FloatArray, size: int, anchor_at: int | None) -> FloatArray:
    """Variances of the strengths from the anchor, or else from the mean of all."""
    if anchor_at is not None:
        return np.asarray(gap_variances(matrix, size)[anchor_at])
    block = matrix[:size, :size]
    return np.asarray(np.maximum(np.diag(block) - 2 * block.mean(1) + block.mean(), 0.0))


def _endless(shape: tuple[int, ...]) -> FloatArray:
    return np.full(shape, np.inf)
