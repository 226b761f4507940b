"""Calibration of a multiple-choice evaluation: the softmax of its choices' log-likelihoods against what was right."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select

from backend.db.tables import EvaluationItem
from backend.domain.statistics.calibration import ProbabilityCalibration, calibration
from backend.services.context import Context

MIN_ITEMS = 20
"""Items below which no calibration is given: its bins would hold a handful each."""


def read_calibration(ctx: Context, evaluation_id: str) -> ProbabilityCalibration | None:
    """Return the calibration of the chosen answers; None for fewer than 20 items with log-likelihoods."""
    query = select(EvaluationItem.values, EvaluationItem.shown).where(EvaluationItem.evaluation_id == evaluation_id)
    confidences, correct = [], []
    with ctx.db.read() as session:
        for values, shown in session.execute(query):
            logprobs = shown.get("logprobs")
            if isinstance(logprobs, list) and len(logprobs) > 1 and "acc" in values:
                scores = np.asarray(logprobs, dtype=np.float64)
                confidences.append(float(1.0 / np.exp(scores - scores.max()).sum()))
                correct.append(float(values["acc"]))
    return calibration(confidences, correct) if len(confidences) >= MIN_ITEMS else None
