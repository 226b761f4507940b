"""Inspect weights: statistics of every tensor, outliers and, against a second checkpoint, changes. Loads no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.attributes import attributes_of
from backend.domain.checkpoints.inspection import (
    CHANGE_ARRAYS,
    TENSOR_ARRAYS,
    ChangeSummary,
    InspectionSummary,
    TensorChange,
)
from jobs.evaluation.ledger import check_stop
from jobs.modeling.checkpoints import is_adapter
from jobs.modeling.weight_statistics import (
    NUM_BINS,
    REACH,
    WeightFolder,
    find_outliers,
    read_change,
    read_tensor,
)
from jobs.reporter import Reporter

Arrays = dict[str, npt.NDArray[Any]]
MAX_OUTLIERS = 60


def inspect_weights(
    subject: Path, other: Path | None, reporter: Reporter
) -> tuple[InspectionSummary, Arrays, dict[str, object]]:
    """Return (summary, numbers, words) of a checkpoint's weights. Raises InvalidInput for an unreadable folder."""
    with WeightFolder(subject) as weights:
        names = weights.names()
        tensors = []
        for done, name in enumerate(names):
            check_stop(reporter)
            reporter.progress(done, len(names) * (2 if other else 1), unit="tensors", message=f"Reading {name}")
            tensors.append(read_tensor(weights, name))
        changes, missing = _changes(weights, other, reporter) if other is not None else ([], {})
    outliers = find_outliers(tensors)
    words: dict[str, object] = {
        "tensors": [
            attributes_of(tensor, "name", "layer", "part", "shape", "dtype", "not_finite", "row_peak", "column_peak")
            for tensor in tensors
        ],
        "outliers": [{"name": one.name, "text": one.text} for one in outliers[:MAX_OUTLIERS]],
        "changes": [{"name": change.name, "layer": change.layer} for change in changes],
        "missing": missing,
    }
    numbers: Arrays = {"edges": np.linspace(-REACH, REACH, NUM_BINS + 1)}
    for field in TENSOR_ARRAYS:  # a spectral norm that is None becomes NaN
        of_field = [getattr(tensor, field) for tensor in tensors]
        numbers[field] = np.array(of_field, dtype=np.int64 if field in ("values", "counts") else np.float64)
    for field in CHANGE_ARRAYS:
        numbers[field] = np.array([getattr(change, field) for change in changes], dtype=np.float64)
    summary: InspectionSummary = {
        "facts": {
            "what": "weights",
            "tensors": len(tensors),
            "values": sum(tensor.values for tensor in tensors),
            "merged": is_adapter(subject),
        },
        "outliers": len(outliers),
    }
    if other is not None:
        summary["changes"] = _sum_up(changes, missing)
    return summary, numbers, words


def _changes(weights: WeightFolder, other: Path, reporter: Reporter) -> tuple[list[TensorChange], dict[str, list[str]]]:
    """Compare every tensor that both checkpoints hold in the same shape; list the others."""
    with WeightFolder(other) as beside:
        mine = {name: weights.shape(name) for name in weights.names()}
        theirs = {name: beside.shape(name) for name in beside.names()}
        shared = [name for name, shape in mine.items() if theirs.get(name) == shape]
        changes = []
        for done, name in enumerate(shared):
            check_stop(reporter)
            reporter.progress(len(mine) + done, len(mine) + len(shared), unit="tensors", message=f"Comparing {name}")
            changes.append(read_change(weights, beside, name))
    missing = {
        "only_first": [name for name in mine if name not in theirs],
        "only_other": [name for name in theirs if name not in mine],
        "unlike": [name for name in mine if name in theirs and theirs[name] != mine[name]],
    }
    return changes, missing


def _sum_up(changes: list[TensorChange], missing: dict[str, list[str]]) -> ChangeSummary:
    norm = math.sqrt(sum(change.norm_a**2 for change in changes))
    moved = math.sqrt(sum(change.norm_change**2 for change in changes))
    relative = moved / norm if norm else 0.0
    return {
        "compared": len(changes),
        "equal": sum(change.norm_change == 0 for change in changes),
        "relative": relative if math.isfinite(relative) else None,
        "only_first": len(missing["only_first"]),
        "only_other": len(missing["only_other"]),
        "unlike": len(missing["unlike"]),
    }
