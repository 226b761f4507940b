"""Three models of one vote between two contestants a `gap` apart on the natural scale: likelihood, score and
information.

    bradley_terry  P(a) = 1 / (1 + exp(-gap)); a tie counts as half a win for each (a quasi-likelihood: the model has no
    ties) davidson       P(a) : P(tie) : P(b) = exp(gap / 2) : nu : exp(-gap / 2), tie parameter log nu rao_kupper
    P(a) = 1 / (1 + exp(eta - gap)), P(b) = 1 / (1 + exp(eta + gap)), else a tie; tie parameter eta > 0

All are concave in gap and tie parameter. Sources: Bradley and Terry (1952); Davidson (1970), JASA 65; Rao and Kupper
(1967), JASA 62.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

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
