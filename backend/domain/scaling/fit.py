"""Fit L(N, D) = E + A / N^alpha + B / D^beta to runs, with intervals by bootstrap: Hoffmann et al. 2022 (arXiv
2203.15556), approach 3.

Their objective is kept: the sum of Huber losses (delta 1e-3) of log L, with the law written as a log-sum-exp. Their
optimizer is not. L-BFGS stopped too early there (Besiroglu et al. 2024, arXiv 2404.10102, section 4). Here
Levenberg-Marquardt with Huber's weights solves many problems at once, all starts and all resamples, which takes a tenth
of a second; tests compare it with scipy's L-BFGS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.scaling.laws import NUM_DRAWS, ScalingLaw, ScalingPoint, estimate_of, stretch_draws
from backend.domain.statistics.estimates import Estimate, normal_quantile, student_quantile
from backend.domain.statistics.quantiles import LEVEL
from backend.domain.wording import percent
from backend.errors import InvalidInput

FloatArray = NDArray[np.float64]

HUBER_DELTA = 1e-3
NUM_CONSTANTS = 5
MIN_POINTS = 8
MIN_LEVELS = 3
FINEST = 5e-4
"""Minimum width of an interval as a share of its value: losses are recorded with four or five digits."""

START_EXPONENTS = (0.15, 0.3, 0.5, 0.8)
MAX_EXPONENT = 700.0


@dataclass(frozen=True)
class LawFit:
    """A fitted law with its constants' intervals; `typical_error` is the median |log L - log fit|, about the relative
    error of a loss.
    """

    law: ScalingLaw
    constants: dict[str, Estimate]
    parameter_exponent: Estimate
    objective: float
    typical_error: float
    num_points: int
    method: str
    warnings: tuple[str, ...]


def fit_law(
    points: Sequence[ScalingPoint],
    *,
    title: str = "Fit to these runs",
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> LawFit:
    """Fit the five constants, resampling runs `num_draws` times for their intervals.

    The resamples' spread about the fit is stretched by sqrt(n / (n - 5)) and by Student's t over normal, n - 5 degrees
    of freedom: with 15 runs and 5 constants the plain percentiles are too narrow. Derived quantities are stretched, not
    the five constants: the constants are correlated, and stretched independently they would give absurd losses.
    Coverage is measured in tests and in docs/benchmarks/scaling.md. Raises InvalidInput for too few runs, or sizes and
    token counts that don't identify the constants.
    """
    check_points(points)
    n, d, loss = (np.log([getattr(point, name) for point in points]) for name in ("parameters", "tokens", "loss"))
    centre = np.array([n.mean(), d.mean()])
    n, d = n - centre[0], d - centre[1]
    starts = _starts(n, d, np.exp(loss))
    solutions, values = minimise_huber(starts, n, d, loss, np.ones((1, len(loss))), steps=400, tolerance=1e-12)
    best = solutions[values.argmin()]
    weights = (
        np.random.default_rng(seed)
        .multinomial(len(loss), np.full(len(loss), 1 / len(loss)), size=num_draws)
        .astype(np.float64)
    )
    start = best.copy()
    # a resample that starts at E = 0 would stay there: the gradient is zero
    start[0] = max(start[0], np.log(0.5) + loss.min())
    resampled, _ = minimise_huber(np.tile(start, (num_draws, 1)), n, d, loss, weights, steps=100, tolerance=1e-8)
    freedom = len(loss) - NUM_CONSTANTS
    stretch = float(np.sqrt(len(loss) / freedom)) * student_quantile(LEVEL, df=freedom) / normal_quantile(LEVEL)
    draws = _constants(resampled, centre)
    residuals = np.abs(_log_losses(best[None], n, d)[0][0] - loss)
    method = (
        f"bootstrap of {len(loss)} runs, {num_draws} resamples, spread x {stretch:.2f}, {percent(LEVEL, digits=None)}"
    )
    law = _law(
        _constants(best[None], centre)[0], draws, points, title=title, scatter=_scatter(residuals), stretch=stretch
    )
    values_of = _stretched_constants(law, highest_floor=float(np.exp(loss.min())))
    exponent = law.parameter_exponent + stretch * (draws[:, 4] / (draws[:, 3] + draws[:, 4]) - law.parameter_exponent)
    return LawFit(
        law=law,
        constants={name: _estimate(value, values_of[name], method) for name, value in law.constants.items()},
        parameter_exponent=_estimate(law.parameter_exponent, exponent, method),
        objective=float(values.min()),
        typical_error=float(np.median(residuals)),
        num_points=len(loss),
        method=method,
        warnings=tuple(_warnings(law, values_of)),
    )


def check_points(points: Sequence[ScalingPoint]) -> None:
    """Raise InvalidInput unless the runs identify the five constants."""
    if len(points) < MIN_POINTS:
        raise InvalidInput(
            f"{len(points)} {'run is' if len(points) == 1 else 'runs are'} too few to fit five constants.",
            remedy=f"At least {MIN_POINTS} are needed, over {MIN_LEVELS} sizes and {MIN_LEVELS} token counts.",
        )
    for name, word in (("parameters", "sizes"), ("tokens", "token counts")):
        levels = len(np.unique(np.round(np.log([getattr(point, name) for point in points]), 2)))
        if levels < MIN_LEVELS:
            raise InvalidInput(
                f"These runs differ too little: {levels} {word.removesuffix('s') if levels == 1 else word} can't"
                " determine the constants.",
                remedy=f"Train with at least {MIN_LEVELS} {word}, a factor of two or more apart.",
            )


def huber_objective(
    theta: FloatArray, n: FloatArray, d: FloatArray, loss: FloatArray, weights: FloatArray
) -> FloatArray:
    """Return the weighted Huber losses of each row of `theta` = (log E, log A, log B, alpha, beta); all are logs."""
    size = np.abs(_log_losses(theta, n, d)[0] - loss)
    huber = np.where(size <= HUBER_DELTA, 0.5 * size**2, HUBER_DELTA * (np.minimum(size, 1e6) - 0.5 * HUBER_DELTA))
    return np.asarray((weights * huber).sum(axis=1), dtype=np.float64)


def minimise_huber(
    theta: FloatArray,
    n: FloatArray,
    d: FloatArray,
    loss: FloatArray,
    weights: FloatArray,
    *,
    steps: int,
    tolerance: float,
) -> tuple[FloatArray, FloatArray]:
    """Minimise the objective from each row of `theta` [rows, 5] with its `weights` [rows or 1, points]; return places
    and values.

    Levenberg-Marquardt on the weighted least squares that touch Huber's loss at the present residuals (Huber 1981,
    section 7.8); a row has converged when a step gains less than `tolerance` of its value.
    """
    theta, weights = theta.copy(), np.broadcast_to(weights, (len(theta), len(loss)))
    damping = np.full(len(theta), 1e-2)
    best = huber_objective(theta, n, d, loss, weights)
    active = np.arange(len(theta))
    for _ in range(steps):
        if not len(active):
            break
        trial = theta[active] - _marquardt_step(theta[active], damping[active], n, d, loss, weights[active])
        value = huber_objective(trial, n, d, loss, weights[active])
        better = value <= best[active]  # False for NaN
        gain = np.where(better, best[active] - value, np.inf)
        rests = (gain <= tolerance * best[active]) & (damping[active] < 0.1)
        improved = active[better]
        theta[improved], best[improved] = trial[better], value[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.2, 5.0), 1e-12, 1e9)
        active = active[~rests & (damping[active] < 1e8)]
    return theta, best


def _marquardt_step(
    theta: FloatArray, damping: FloatArray, n: FloatArray, d: FloatArray, loss: FloatArray, weights: FloatArray
) -> FloatArray:
    fitted, shares = _log_losses(theta, n, d)
    residual = fitted - loss
    pull = weights * np.minimum(1.0, HUBER_DELTA / np.maximum(np.abs(residual), 1e-300))
    jacobian = np.stack([shares[0], shares[1], shares[2], -shares[1] * n, -shares[2] * d], axis=-1)
    weighted = jacobian * pull[..., None]
    normal = np.matmul(weighted.transpose(0, 2, 1), jacobian)
    diagonal = np.einsum("rii->ri", normal) + 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None] + 1e-300
    normal = normal + damping[:, None, None] * diagonal[:, :, None] * np.eye(NUM_CONSTANTS)
    gradient = np.einsum("rpi,rp->ri", weighted, residual)
    step: FloatArray = np.linalg.solve(normal, gradient[..., None])[..., 0]
    return step


def _log_losses(theta: FloatArray, n: FloatArray, d: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log L [rows, points] by log-sum-exp, and the three terms' shares of L [3, rows, points]."""
    e, a, b, alpha, beta = theta.T[:, :, None]
    terms = np.stack([np.broadcast_to(e, (len(theta), len(n))), a - alpha * n, b - beta * d])
    terms = np.clip(terms, -MAX_EXPONENT, MAX_EXPONENT)
    top = terms.max(axis=0)
    powers = np.exp(terms - top)
    total = powers.sum(axis=0)
    return top + np.log(total), powers / total


def _starts(n: FloatArray, d: FloatArray, loss: FloatArray) -> FloatArray:
    """Return a start for each two exponents, given which E, A and B >= 0 are linear (non-negative least squares)."""
    rows = []
    for alpha in START_EXPONENTS:
        for beta in START_EXPONENTS:
            columns = np.column_stack([np.ones(len(n)), np.exp(-alpha * n), np.exp(-beta * d)])
            linear, _ = scipy.optimize.nnls(columns, loss)
            floor = 0.01 * float(loss.min())
            rows.append([*np.log(np.maximum(linear, floor)), alpha, beta])
    return np.array(rows)


def _constants(theta: FloatArray, centre: FloatArray) -> FloatArray:
    """Return (E, A, B, alpha, beta) of rows fitted to centred log N and log D."""
    e, a, b, alpha, beta = theta.T
    # a steep draw's A overflows
    logs = np.clip([e, a + alpha * centre[0], b + beta * centre[1]], -MAX_EXPONENT, MAX_EXPONENT)
    return np.column_stack([*np.exp(logs), alpha, beta])


def _scatter(residuals: FloatArray) -> float:
    """Return a robust standard deviation of the residuals, corrected for the five constants they were fitted with."""
    return float(1.4826 * np.median(residuals) * np.sqrt(len(residuals) / (len(residuals) - NUM_CONSTANTS)))


def _stretched_constants(law: ScalingLaw, *, highest_floor: float) -> dict[str, FloatArray]:
    """Return the draws of each constant, spread wider by the law's factor: A and B by their ratios, the others by their
    differences.
    """
    assert law.draws is not None
    stretched = {}
    for (name, value), draws in zip(law.constants.items(), law.draws.T, strict=True):
        stretched[name] = (
            stretch_draws(value, draws, law.stretch) if name in "AB" else value + law.stretch * (draws - value)
        )
    stretched["E"] = np.clip(stretched["E"], 0.0, highest_floor)  # E lies below every observed loss
    return stretched


def _law(
    values: FloatArray, draws: FloatArray, points: Sequence[ScalingPoint], *, title: str, scatter: float, stretch: float
) -> ScalingLaw:
    flops = [point.flops for point in points]
    E, A, B, alpha, beta = (float(value) for value in values)
    return ScalingLaw(
        "own",
        title,
        E=E,
        A=A,
        B=B,
        alpha=alpha,
        beta=beta,
        source=f"Fitted to {len(points)} runs, approach 3 of Hoffmann et al. 2022.",
        points=len(points),
        flops_range=(min(flops), max(flops)),
        scatter=scatter,
        is_own=True,
        stretch=stretch,
        draws=draws,
    )


def _estimate(value: float, draws: FloatArray, method: str) -> Estimate:
    estimate = estimate_of(value, draws, method=method)
    if estimate.low is None or estimate.high is None:
        return estimate
    margin = FINEST * abs(value)
    return Estimate(
        value,
        estimate.stderr,
        min(estimate.low, value - margin),
        max(estimate.high, value + margin),
        estimate.n,
        method,
    )


def _warnings(law: ScalingLaw, draws: dict[str, FloatArray]) -> list[str]:
    warnings = []
    if law.alpha <= 0 or law.beta <= 0:
        word = "parameters" if law.alpha <= 0 else "tokens"
        warnings.append(f"In these runs the loss does not fall with more {word}, so there is no optimum.")
    if np.quantile(draws["E"], 0.975) > 20 * max(np.quantile(draws["E"], 0.025), 1e-300):
        warnings.append("These runs hardly constrain the irreducible loss E: larger budgets would.")
    if np.nanquantile(draws["alpha"], 0.025) <= 0 or np.nanquantile(draws["beta"], 0.025) <= 0:
        warnings.append("An exponent's interval includes zero: more runs, or runs further apart, would narrow it.")
    return warnings
