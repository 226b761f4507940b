"""Compare the methods on the same votes: which fits better, and which ranks depend on the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from backend.domain.battles.bradley_terry import Cells, Fit, gaps_of, maximise
from backend.domain.battles.likelihoods import METHOD_NAMES, TIE, WIN, FloatArray, Method
from backend.domain.battles.rating_table import MethodFit, RankChange

PRIOR_SD = 2.5
"""Standard deviation of the prior, natural units, keeps ratings finite without connecting votes (434 Elo)."""


@dataclass(frozen=True, slots=True)
class FitOutcome:
    """A fit and the reason for which it needed a prior, empty if it did not."""

    fit: Fit
    note: str


def fit_method(
    cells: Cells, *, method: Method, penalty: FloatArray | None, connection_note: str, start: FloatArray | None = None
) -> FitOutcome:
    """Fit one method; with a weak prior if the votes do not bound the strengths."""
    tied = method != "bradley_terry" and bool((cells.outcome == TIE).all())
    if not connection_note and not tied:
        fit = maximise(cells, method=method, penalty=penalty, start=start)
        if fit is not None:
            return FitOutcome(fit, "")
    note = connection_note or (
        f"The votes do not bound the strengths of {METHOD_NAMES[method]}'s model, so a weak prior pulls them to the "
        "mean."
    )
    fit = maximise(cells, method=method, precision=PRIOR_SD**-2, penalty=penalty)
    if fit is None:
        raise ArithmeticError(f"{method} with a prior has a maximum")
    return FitOutcome(fit, note)


def order_of(fit: Fit, contestants: Sequence[str]) -> list[int]:
    """Return the contestants' codes, best first; equal strengths by name."""
    return sorted(range(len(fit.theta)), key=lambda code: (-round(float(fit.theta[code]), 9), contestants[code]))


def compare_methods(
    chosen: FitOutcome, cells: Cells, contestants: Sequence[str], *, penalty: FloatArray | None, connection_note: str
) -> tuple[MethodFit, ...]:
    """Fit every method to the same votes and compare its order with the chosen one's."""
    order = order_of(chosen.fit, contestants)
    rows = []
    for method in METHOD_NAMES:
        outcome = (
            chosen
            if method == chosen.fit.method
            else fit_method(
                cells, method=method, penalty=penalty, connection_note=connection_note, start=chosen.fit.theta
            )
        )
        other = {code: rank for rank, code in enumerate(order_of(outcome.fit, contestants), start=1)}
        changes = [
            RankChange(contestants[code], rank, other[code])
            for rank, code in enumerate(order, start=1)
            if other[code] != rank
        ]
        rows.append(
            MethodFit(
                method=method,
                log_likelihood=outcome_log_likelihood(outcome.fit, cells),
                tie_parameter=tie_parameter(outcome.fit, cells),
                kendall_tau=_kendall_tau([other[code] for code in order]),
                rank_changes=tuple(changes),
                regularised=bool(outcome.note),
            )
        )
    return tuple(rows)


def tie_parameter(fit: Fit, cells: Cells) -> float:
    """Return nu of Davidson, eta of Rao-Kupper (both 0 without ties) or, of Bradley-Terry, the share of ties."""
    if fit.method == "bradley_terry":
        return float(cells.weight[cells.outcome == TIE].sum() / cells.weight.sum())
    if fit.tie is None:
        return 0.0
    return math.exp(fit.tie) if fit.method == "davidson" else fit.tie


def outcome_log_likelihood(fit: Fit, cells: Cells) -> float:
    """Return the log-likelihood of wins, ties and losses.

    Bradley-Terry with half credit says nothing about ties: here every battle ties with the same chance, and the
    log-odds of a decisive vote are a common multiple of the gap, both fitted. Its gaps are smaller than those of
    decisive votes, since ties pull them together.
    """
    if fit.tie is not None:
        return fit.log_likelihood
    tied = cells.outcome == TIE
    ties, decisive = float(cells.weight[tied].sum()), float(cells.weight[~tied].sum())
    total = ties + decisive
    chance = sum(count * math.log(count / total) for count in (ties, decisive) if count > 0)
    if not ties or not decisive:
        return chance + fit.log_likelihood * (decisive > 0)
    signed = np.where(cells.outcome == WIN, 1.0, -1.0) * gaps_of(cells, theta=fit.theta, effects=fit.effects)
    gap, weight = signed[~tied], cells.weight[~tied]
    best = scipy.optimize.minimize_scalar(
        lambda scale: weight @ np.logaddexp(0.0, -scale * gap), bounds=(0.0, 50.0), method="bounded"
    )
    return chance - float(best.fun)


def _kendall_tau(ranks: Sequence[int]) -> float:
    if len(ranks) < 2:
        return 1.0
    order = np.array(ranks)
    signs = np.sign(order[None, :] - order[:, None])
    return float(np.triu(signs).sum() / (len(ranks) * (len(ranks) - 1) / 2))
