"""Fit strengths to votes by Newton's method: Bradley-Terry and its two models with ties, with covariates and weights.

theta is on the natural scale: the gap of a vote is theta_a - theta_b + covariates @ effects. Votes that share
everything are summed first, so that a fit without covariates of the answers costs the same for ten thousand votes and
for ten million. Works on arrays; `ratings` adds names. Source for when a maximum exists: Ford (1957), American
Mathematical Monthly 64.

The three models of one vote between contestants a `gap` apart: likelihood, score and information.

    bradley_terry  P(a) = 1 / (1 + exp(-gap)); a tie counts as half a win for each (a quasi-likelihood: the model has no
                   ties)
    davidson       P(a) : P(tie) : P(b) = exp(gap / 2) : nu : exp(-gap / 2), tie parameter log nu
    rao_kupper     P(a) = 1 / (1 + exp(eta - gap)), P(b) = 1 / (1 + exp(eta + gap)), else a tie; tie parameter eta > 0

All are concave in gap and tie parameter. Sources: Bradley and Terry (1952); Davidson (1970), JASA 65; Rao and Kupper
(1967), JASA 62.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.votes import LABELS, Label, VoteColumns

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Method = Literal["bradley_terry", "davidson", "rao_kupper"]

METHOD_NAMES: dict[Method, str] = {"bradley_terry": "Bradley-Terry", "davidson": "Davidson", "rao_kupper": "Rao-Kupper"}
WIN, TIE, LOSS = 0, 1, 2
"""Codes of a vote's outcome for side a."""
_POINTS = np.array([1.0, 0.5, 0.0])


@dataclass(frozen=True, slots=True)
class Terms:
    """Per vote: log-likelihood, its slope in the gap and in the tie parameter, and the negative second derivatives."""

    value: FloatArray
    gap: FloatArray
    gap_gap: FloatArray
    tie: FloatArray | None = None
    tie_tie: FloatArray | None = None
    gap_tie: FloatArray | None = None


def terms_of(method: Method, gap: FloatArray, outcome: IntArray, *, tie: float | None) -> Terms:
    """Evaluate a model; `tie` None means a model without ties, which all three share."""
    if tie is None or method == "bradley_terry":
        chance = scipy.special.expit(gap)
        points = _POINTS[outcome]
        return Terms(points * gap - np.logaddexp(0.0, gap), points - chance, chance * (1 - chance))
    return _davidson(gap, outcome, log_nu=tie) if method == "davidson" else _rao_kupper(gap, outcome, eta=tie)


def first_tie(method: Method, *, share: float) -> float:
    """The tie parameter at which equal contestants tie with this share of votes: where a fit starts."""
    share = min(max(share, 1e-6), 1 - 1e-6)
    return float(np.log(2 * share / (1 - share)) if method == "davidson" else np.log((1 + share) / (1 - share)))


def _davidson(gap: FloatArray, outcome: IntArray, *, log_nu: float) -> Terms:
    total = np.logaddexp(np.logaddexp(gap / 2, -gap / 2), log_nu)
    win, tied, loss = np.exp(gap / 2 - total), np.exp(log_nu - total), np.exp(-gap / 2 - total)
    lead = (win - loss) / 2
    sign = _POINTS[outcome] - 0.5
    is_tie = (outcome == TIE).astype(np.float64)
    return Terms(
        value=sign * gap + is_tie * log_nu - total,
        gap=sign - lead,
        gap_gap=(win + loss) / 4 - lead**2,
        tie=is_tie - tied,
        tie_tie=tied * (1 - tied),
        gap_tie=-lead * tied,
    )


def _rao_kupper(gap: FloatArray, outcome: IntArray, *, eta: float) -> Terms:
    has_a, has_b = (outcome != LOSS).astype(np.float64), (outcome != WIN).astype(np.float64)
    is_tie = (outcome == TIE).astype(np.float64)
    miss_a, miss_b = scipy.special.expit(eta - gap), scipy.special.expit(eta + gap)
    spread_a, spread_b = has_a * miss_a * (1 - miss_a), has_b * miss_b * (1 - miss_b)
    odds = -np.expm1(-2 * eta)  # 1 - exp(-2 eta): log(exp(2 eta) - 1) = 2 eta + log(odds)
    return Terms(
        value=-has_a * np.logaddexp(0.0, eta - gap)
        - has_b * np.logaddexp(0.0, eta + gap)
        + is_tie * (2 * eta + np.log(odds)),
        gap=has_a * miss_a - has_b * miss_b,
        gap_gap=spread_a + spread_b,
        tie=-has_a * miss_a - has_b * miss_b + is_tie * 2 / odds,
        tie_tie=spread_a + spread_b + is_tie * 4 * np.exp(-2 * eta) / odds**2,
        gap_tie=spread_b - spread_a,
    )


_OUTCOMES = np.array([{Label.A: WIN, Label.B: LOSS}.get(label, TIE) for label in LABELS])
MAX_EFFECT = 8.0
"""A side's advantage beyond this (natural units) is infinite: one side won every vote."""
MAX_STRENGTH = 20.0
"""A model with ties has no maximum if strengths pass this (3,474 Elo): its likelihood rises without limit."""

FLAT = 1e-10
"""A likelihood that curves less than this in one direction, against its steepest, has no maximum there."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Votes summed by everything a likelihood depends on: `weight` votes of contestants `a` and `b` (codes) with
    `outcome`.

    `covariates` has a row per cell and a column per effect, `of_vote` the cell of each vote.
    """

    size: int
    a: IntArray
    b: IntArray
    outcome: IntArray
    weight: FloatArray
    covariates: FloatArray
    of_vote: IntArray


@dataclass(frozen=True, slots=True)
class Fit:
    """A maximum: `theta` (contestants, mean 0), `effects` of the covariates, `tie` parameter (None without ties).

    `inverse_hessian` is over theta, effects and tie parameter; `precision` is that of the prior on theta, 0 without.
    `log_likelihood` is without the prior.
    """

    method: Method
    theta: FloatArray
    effects: FloatArray
    tie: float | None
    precision: float
    inverse_hessian: FloatArray
    log_likelihood: float


def sum_votes(
    columns: VoteColumns, *, weights: FloatArray | None = None, covariates: FloatArray | None = None
) -> Cells:
    """Sum votes by ordered pair and outcome; with `covariates` of single votes each vote is a cell."""
    size, outcome = len(columns.contestants), _OUTCOMES[columns.label]
    if covariates is not None:
        ones = np.ones(len(columns)) if weights is None else weights
        return Cells(size, columns.a, columns.b, outcome, ones, covariates, np.arange(len(columns)))
    code = (columns.a * size + columns.b) * 3 + outcome
    sums = np.bincount(code, minlength=3 * size * size)
    used = np.flatnonzero(sums)
    position = np.zeros(len(sums), dtype=np.int64)
    position[used] = np.arange(len(used))
    weight = (sums if weights is None else np.bincount(code, weights, len(sums)))[used].astype(np.float64)
    return Cells(size, used // (3 * size), used // 3 % size, used % 3, weight, np.zeros((len(used), 0)), position[code])


def with_side(cells: Cells) -> Cells:
    """Add the advantage of side a as first covariate."""
    ones = np.ones((len(cells.a), 1))
    return Cells(
        cells.size, cells.a, cells.b, cells.outcome, cells.weight, np.hstack([ones, cells.covariates]), cells.of_vote
    )


def strong_components(cells: Cells) -> IntArray:
    """Number each contestant's strong component in the graph of who earned points from whom; a maximum exists if there
    is only one.
    """
    earned_a, earned_b = cells.outcome != LOSS, cells.outcome != WIN
    rows = np.concatenate([cells.a[earned_a], cells.b[earned_b]])
    columns = np.concatenate([cells.b[earned_a], cells.a[earned_b]])
    return _components(rows, columns, size=cells.size, connection="strong")


def weak_components(cells: Cells) -> IntArray:
    """Number each contestant's component in the graph of who met whom."""
    return _components(cells.a, cells.b, size=cells.size, connection="weak")


def maximise(
    cells: Cells,
    *,
    method: Method = "bradley_terry",
    precision: float = 0.0,
    penalty: FloatArray | None = None,
    start: FloatArray | None = None,
) -> Fit | None:
    """Maximise the log-likelihood less half of `precision` * theta^2 and `penalty` * effects^2 by damped Newton steps
    from theta `start`.

    None if there is no maximum: an effect is unidentified or infinite, or strengths of a model with ties grow without
    limit.
    """
    ties = float(cells.weight[cells.outcome == TIE].sum())
    has_tie = method != "bradley_terry" and ties > 0
    tie = [first_tie(method, share=ties / float(cells.weight.sum()))] if has_tie else []
    params = np.concatenate(
        [np.zeros(cells.size) if start is None else start, np.zeros(cells.covariates.shape[1]), tie]
    )
    ridge = np.zeros(len(params))
    ridge[: cells.size] = precision
    if penalty is not None:
        ridge[cells.size : cells.size + len(penalty)] = penalty
    if has_tie and precision:
        ridge[-1] = precision
    objective = _Objective(cells, method, has_tie, ridge)
    fitted = objective.climb(params)
    if fitted is None:
        return None
    params, hessian = fitted
    size = cells.size
    theta = params[:size] - params[:size].mean()
    end = len(params) - has_tie
    return Fit(
        method=method,
        theta=theta,
        effects=params[size:end],
        tie=float(params[-1]) if has_tie else None,
        precision=precision,
        inverse_hessian=np.linalg.inv(hessian).astype(np.float64),
        log_likelihood=float(cells.weight @ objective.terms(params).value),
    )


def gaps_of(cells: Cells, *, theta: FloatArray, effects: FloatArray) -> FloatArray:
    """Return each cell's gap in favour of side a, natural units."""
    gap = theta[cells.a] - theta[cells.b]
    return gap + cells.covariates @ effects if cells.covariates.shape[1] else gap


@dataclass(frozen=True, slots=True)
class _Objective:
    cells: Cells
    method: Method
    has_tie: bool
    ridge: FloatArray

    def terms(self, params: FloatArray) -> Terms:
        size, end = self.cells.size, len(params) - self.has_tie
        gap = gaps_of(self.cells, theta=params[:size], effects=params[size:end])
        return terms_of(self.method, gap, self.cells.outcome, tie=float(params[-1]) if self.has_tie else None)

    def value(self, params: FloatArray, terms: Terms) -> float:
        return float(self.cells.weight @ terms.value) - float(self.ridge @ params**2) / 2

    def climb(self, params: FloatArray) -> tuple[FloatArray, FloatArray] | None:
        """Return the maximum and its negative Hessian."""
        size, num_effects = self.cells.size, self.cells.covariates.shape[1]
        terms = self.terms(params)
        value = self.value(params, terms)
        for step_number in range(200):
            gradient, hessian = self.derivatives(params, terms)
            # an effect is identified by the design, so once is enough
            if (
                step_number == 0
                and num_effects
                and np.linalg.matrix_rank(hessian, tol=1e-9 * float(np.abs(hessian).max()), hermitian=True)
                < len(params)
            ):
                return None
            try:
                step = np.linalg.solve(hessian, gradient)
            except np.linalg.LinAlgError:
                return None
            damping = 1.0
            while True:
                tried = params + damping * step
                if not (self.has_tie and self.method == "rao_kupper" and tried[-1] <= 0):
                    terms = self.terms(tried)
                    rise = self.value(tried, terms)
                    if rise >= value - 1e-9 * abs(value) or damping < 1e-6:
                        break
                damping /= 2
            params, value = tried, rise
            beyond = np.abs(params[size : size + num_effects]).max(initial=0.0) > MAX_EFFECT
            if beyond or (self.has_tie and np.abs(params[:size]).max() > MAX_STRENGTH):
                return None
            if np.abs(step).max() < 1e-10:
                hessian = self.derivatives(params, terms)[1]
                spectrum = np.linalg.eigvalsh(hessian) if self.has_tie else [1.0]
                return (params, hessian) if spectrum[0] > FLAT * spectrum[-1] else None
        if self.has_tie:
            return None
        raise ArithmeticError(f"{self.method} did not converge in 200 Newton steps")

    def derivatives(self, params: FloatArray, terms: Terms) -> tuple[FloatArray, FloatArray]:
        """Gradient and negative Hessian; without a prior, 1 / M on every cell of theta's block fixes the mean at 0."""
        cells, size = self.cells, self.cells.size
        extra = cells.covariates.shape[1]
        slope, weight = cells.weight * terms.gap, cells.weight * terms.gap_gap
        gradient, hessian = -self.ridge * params, np.diag(self.ridge)
        gradient[:size] += _signed_sum(cells, slope)
        table = np.bincount(cells.a * size + cells.b, weight, size * size).reshape(size, size)
        hessian[:size, :size] += (
            np.diag(table.sum(1) + table.sum(0)) - table - table.T + (0.0 if self.ridge[0] else 1 / size)
        )
        for number in range(extra):
            column = cells.covariates[:, number]
            hessian[size + number, :size] = hessian[:size, size + number] = _signed_sum(cells, weight * column)
        if extra:
            gradient[size : size + extra] += cells.covariates.T @ slope
            hessian[size : size + extra, size : size + extra] += (
                cells.covariates * weight[:, None]
            ).T @ cells.covariates
        if terms.tie is not None and terms.tie_tie is not None and terms.gap_tie is not None:
            mixed = cells.weight * terms.gap_tie
            gradient[-1] += cells.weight @ terms.tie
            hessian[-1, -1] += cells.weight @ terms.tie_tie
            hessian[-1, :size] = hessian[:size, -1] = _signed_sum(cells, mixed)
            if extra:
                hessian[-1, size : size + extra] = hessian[size : size + extra, -1] = cells.covariates.T @ mixed
        return gradient, hessian


def _signed_sum(cells: Cells, values: FloatArray) -> FloatArray:
    return np.asarray(
        np.bincount(cells.a, values, cells.size) - np.bincount(cells.b, values, cells.size), dtype=np.float64
    )


def _components(rows: IntArray, columns: IntArray, *, size: int, connection: Literal["weak", "strong"]) -> IntArray:
    graph = scipy.sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    return np.asarray(
        scipy.sparse.csgraph.connected_components(graph, directed=True, connection=connection)[1], dtype=np.int64
    )
