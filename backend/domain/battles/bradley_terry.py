"""Bradley-Terry fit by Newton's method, with half credit for ties, and its sandwich covariance.

theta is on the natural scale: P(a beats b) = 1 / (1 + exp(theta_b - theta_a - side)). Works on arrays; `ratings` adds names.
Sources: Bradley and Terry (1952); Ford (1957) for when a maximum exists; Chiang et al. (2024, arXiv 2403.04132) for the sandwich;
Cameron, Gelbach and Miller (2011) for two-way clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.votes import VoteColumns

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
ClusterBy = Literal["prompt", "rater", "two_way", "none"]

DENSE_CELLS = 4_000_000
"""Up to this many clusters x contestants a dense table of scores is faster than a sparse one (and takes at most 32 MB)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A maximum: `theta` (contestants, mean 0), `side` (advantage of side a; 0 unless fitted), `inverse_hessian` over theta, then side."""

    theta: FloatArray
    side: float
    with_side: bool
    precision: float
    inverse_hessian: FloatArray


@dataclass(frozen=True, slots=True)
class Tally:
    """Votes summed by ordered pair: `counts[a, b]` were shown with a left and b right, and a earned `points[a, b]` of them."""

    counts: FloatArray
    points: FloatArray


def tally_votes(columns: VoteColumns) -> Tally:
    """Sum votes by ordered pair; afterwards a fit costs the same for ten votes and for ten million."""
    size = len(columns.contestants)
    pair = columns.a * size + columns.b
    counts = np.bincount(pair, minlength=size * size).astype(np.float64).reshape(size, size)
    points = np.bincount(pair, columns.points, size * size).astype(np.float64).reshape(size, size)
    return Tally(counts, points)


def strong_components(tally: Tally) -> IntArray:
    """Number each contestant's strong component in the graph of who earned points from whom; a maximum exists if there is only one."""
    earned = tally.points + (tally.counts - tally.points).T
    return np.asarray(
        scipy.sparse.csgraph.connected_components(
            scipy.sparse.csr_array((earned > 0).astype(np.float64)), directed=True, connection="strong"
        )[1],
        dtype=np.int64,
    )


def weak_components(tally: Tally) -> IntArray:
    """Number each contestant's component in the graph of who met whom."""
    return np.asarray(
        scipy.sparse.csgraph.connected_components(scipy.sparse.csr_array((tally.counts > 0).astype(np.float64)), directed=False)[1],
        dtype=np.int64,
    )


def maximise(tally: Tally, *, with_side: bool = False, precision: float = 0.0) -> Fit | None:
    """Maximise the likelihood less `precision` * theta^2 / 2 by damped Newton steps; None if the side's advantage is unidentified or
    infinite.
    """
    size = len(tally.counts)
    params = np.zeros(size + with_side)
    value = _objective(params, tally, precision=precision)
    for _ in range(200):
        gradient, hessian = _derivatives(params, tally, with_side=with_side, precision=precision)
        if with_side and np.linalg.matrix_rank(hessian, tol=1e-9 * float(np.abs(hessian).max()), hermitian=True) < size + 1:
            return None
        step = np.linalg.solve(hessian, gradient)
        damping = 1.0
        while (tried := _objective(params + damping * step, tally, precision=precision)) < value - 1e-9 * abs(value) and damping > 1e-6:
            damping /= 2
        params, value = params + damping * step, tried
        if with_side and abs(params[-1]) > 8.0:
            return None
        if np.abs(step).max() < 1e-10:
            break
    else:
        raise ArithmeticError("Bradley-Terry did not converge in 200 Newton steps")
    _, hessian = _derivatives(params, tally, with_side=with_side, precision=precision)
    inverse: FloatArray = np.linalg.inv(hessian).astype(np.float64)
    return Fit(params[:size] - params[:size].mean(), float(params[-1]) if with_side else 0.0, with_side, precision, inverse)


def sandwich(fit: Fit, columns: VoteColumns, *, cluster_by: ClusterBy, dense_cells: int = DENSE_CELLS) -> FloatArray:
    """Covariance of theta (then side): H^-1 B H^-1, where B sums the outer products of each cluster's score, times G / (G - 1).

    Two-way: B_prompt + B_rater - B_(prompt and rater); negative eigenvalues of the covariance are set to 0. A regularised fit gets at
    least its posterior variance: without a single loss, residuals vanish and the sandwich would be 0.
    """
    residuals = columns.points - scipy.special.expit(fit.theta[columns.a] - fit.theta[columns.b] + fit.side)

    def meat_of(codes: IntArray, count: int) -> FloatArray:
        is_dense = count * (len(fit.theta) + fit.with_side) <= dense_cells
        return _cluster_meat(residuals, columns, codes=codes, count=count, with_side=fit.with_side, is_dense=is_dense)

    if cluster_by == "none":
        meat = _vote_meat(residuals, columns, with_side=fit.with_side)
    elif cluster_by == "prompt":
        meat = meat_of(columns.prompt, columns.num_prompts)
    elif cluster_by == "rater":
        meat = meat_of(columns.rater, columns.num_raters)
    else:
        cells, crossed = np.unique(columns.prompt * columns.num_raters + columns.rater, return_inverse=True)
        meat = meat_of(columns.prompt, columns.num_prompts) + meat_of(columns.rater, columns.num_raters) - meat_of(crossed, len(cells))
    if fit.precision > 0:
        return _at_least_posterior(fit, meat)
    return _clip_spectrum(fit.inverse_hessian @ meat @ fit.inverse_hessian, floor=0.0)


def _objective(params: FloatArray, tally: Tally, *, precision: float) -> float:
    size = len(tally.counts)
    theta, side = params[:size], params[size] if len(params) > size else 0.0
    gap = theta[:, None] - theta[None, :] + side
    return float((tally.points * gap - tally.counts * np.logaddexp(0.0, gap)).sum() - precision / 2 * (theta @ theta))


def _derivatives(params: FloatArray, tally: Tally, *, with_side: bool, precision: float) -> tuple[FloatArray, FloatArray]:
    """Gradient and negative Hessian; without a prior, 1 / M on every cell of theta's block fixes the mean at 0."""
    size = len(tally.counts)
    theta, side = params[:size], params[size] if with_side else 0.0
    chance = scipy.special.expit(theta[:, None] - theta[None, :] + side)
    rest, weight = tally.points - tally.counts * chance, tally.counts * chance * (1 - chance)
    gradient, hessian = np.empty(len(params)), np.empty((len(params), len(params)))
    gradient[:size] = rest.sum(1) - rest.sum(0) - precision * theta
    hessian[:size, :size] = np.diag(weight.sum(1) + weight.sum(0) + precision) - weight - weight.T + (0.0 if precision else 1 / size)
    if with_side:
        gradient[size] = rest.sum()
        hessian[size, :size] = hessian[:size, size] = weight.sum(1) - weight.sum(0)
        hessian[size, size] = weight.sum()
    return gradient, hessian


def _cluster_meat(
    residuals: FloatArray, columns: VoteColumns, *, codes: IntArray, count: int, with_side: bool, is_dense: bool
) -> FloatArray:
    width = len(columns.contestants) + with_side
    if is_dense:
        flat = np.bincount(codes * width + columns.a, residuals, count * width) - np.bincount(
            codes * width + columns.b, residuals, count * width
        )
        table = flat.reshape(count, width)
        if with_side:
            table[:, -1] = np.bincount(codes, residuals, count)
        meat = table.T @ table
    else:
        pieces = [(residuals, columns.a), (-residuals, columns.b)] + (
            [(residuals, np.full(len(residuals), width - 1))] if with_side else []
        )
        data, places = np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])
        sparse = scipy.sparse.coo_array((data, (np.tile(codes, len(pieces)), places)), shape=(count, width)).tocsr()
        meat = (sparse.T @ sparse).toarray()
    result: FloatArray = meat * (count / (count - 1))
    return result


def _vote_meat(residuals: FloatArray, columns: VoteColumns, *, with_side: bool) -> FloatArray:
    size = len(columns.contestants)
    squares = np.bincount(columns.a * size + columns.b, residuals**2, size * size).reshape(size, size)
    meat = np.zeros((size + with_side, size + with_side))
    meat[:size, :size] = np.diag(squares.sum(1) + squares.sum(0)) - squares - squares.T
    if with_side:
        meat[size, :size] = meat[:size, size] = squares.sum(1) - squares.sum(0)
        meat[size, size] = squares.sum()
    return meat


def _at_least_posterior(fit: Fit, meat: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(fit.inverse_hessian)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    prior = np.zeros_like(meat)
    size = len(fit.theta)
    prior[:size, :size] = fit.precision * np.eye(size)
    covariance: FloatArray = root @ _clip_spectrum(root @ (meat + prior) @ root, floor=1.0) @ root
    return covariance


def _clip_spectrum(matrix: FloatArray, *, floor: float) -> FloatArray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    clipped: FloatArray = (vectors * np.maximum(values, floor)) @ vectors.T
    return clipped
