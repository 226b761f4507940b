"""Adjust a fit for how its battles were drawn and for the form of the answers: weights of votes, and covariates of
length and style.

Sources: Chiang et al. (2024, arXiv 2403.04132), equation 7, for the weights; Li, Angelopoulos and Chiang (2024) for the
covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.domain.battles.answer_features import FEATURES
from backend.domain.battles.likelihoods import FloatArray
from backend.domain.battles.options import Control
from backend.domain.battles.votes import VoteColumns
from backend.domain.wording import plural
from backend.errors import InvalidInput

MIN_PAIR = 50
"""A pair with fewer votes weighs no more than one with this many: its few votes would rule the ratings."""
CONTROL_PENALTY = 1.0
"""Precision of the prior on an effect, in natural units per standard deviation: 174 Elo are one."""
CONTROL_FEATURES: dict[Control, tuple[str, ...]] = {"length": ("length",), "style": ("headers", "lists", "bold")}


@dataclass(frozen=True, slots=True)
class Weights:
    """A weight per vote with mean 1, and the sentence that explains them."""

    values: FloatArray
    note: str


@dataclass(frozen=True, slots=True)
class ControlColumns:
    """A column per feature, in units of its standard deviation `deviations` (about 0, so that swapping sides changes
    signs alone).
    """

    features: tuple[str, ...]
    values: FloatArray
    deviations: FloatArray
    notes: tuple[str, ...]


def pair_weights(columns: VoteColumns) -> Weights:
    """Weight votes as if pairs were uniform: by 1 / (logged probability), or by 1 / max(votes of the pair, 50)."""
    if columns.probability is not None and not np.isnan(columns.probability).any():
        raw, rule = 1 / columns.probability, "the logged probability of its battle"
    else:
        size = len(columns.contestants)
        pair = np.minimum(columns.a, columns.b) * size + np.maximum(columns.a, columns.b)
        raw = 1 / np.maximum(np.bincount(pair, minlength=size * size), MIN_PAIR)[pair]
        rule = f"the votes on its pair (at least {MIN_PAIR})"
    values = raw / raw.mean()
    effective = len(values) ** 2 / float(values @ values)
    return Weights(
        values,
        f"Each vote is weighted by 1 / {rule}, as if every pair had been drawn equally often. "
        f"If the model fits, this only widens intervals: {plural(len(values), 'vote')} count as {effective:,.0f}.",
    )


def control_columns(columns: VoteColumns, control: Sequence[Control]) -> ControlColumns | None:
    """Return the features to hold equal, standardised; None without control. Raises InvalidInput if no vote has one."""
    features = [feature for name in control for feature in CONTROL_FEATURES[name]]
    if not features:
        return None
    forms = columns.forms
    names, values, deviations, notes = [], [], [], []
    for feature in features:
        column = np.full(len(columns), np.nan) if forms is None else forms[:, FEATURES.index(feature)]
        known = ~np.isnan(column)
        if not known.any():
            raise InvalidInput(
                f"No vote has the {feature} of both answers, so the ratings can't be controlled for it.",
                remedy=f"Add the columns {feature}_a and {feature}_b, or rate without this control.",
                field="control",
            )
        deviation = float(np.sqrt(np.mean(column[known] ** 2)))
        if deviation == 0:
            notes.append(f"The answers never differ in {feature}, so it has no effect here.")
            continue
        if not known.all():
            notes.append(
                f"{plural(int((~known).sum()), 'vote')} without {feature} count as answers of equal {feature}."
            )
        names.append(feature)
        values.append(np.where(known, column, 0.0) / deviation)
        deviations.append(deviation)
    table = np.column_stack(values) if values else np.zeros((len(columns), 0))
    return ControlColumns(tuple(names), table, np.array(deviations), tuple(notes))
