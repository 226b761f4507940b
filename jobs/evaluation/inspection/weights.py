"""Inspect weights: statistics of every tensor, outliers and, against a second checkpoint, changes. Loads no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.attributes import attributes_of
from backend.domain.checkpoints.inspection import ChangeSummary, InspectionSummary
from jobs.evaluation.ledger import check_stop
from jobs.modeling.checkpoints import is_adapter
from jobs.modeling.weight_statistics import (
    NUM_BINS,
    REACH,
    TensorChange,
    TensorStatistics,
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
        "tensors": [_tensor_words(tensor) for tensor in tensors],
        "outliers": [{"name": one.name, "text": one.text} for one in outliers[:MAX_OUTLIERS]],
        "changes": [{"name": change.name, "layer": place_layer(change.name, tensors)} for change in changes],
        "missing": missing,
    }
    numbers: Arrays = {
        "counts": np.stack([tensor.counts for tensor in tensors]),
        "edges": np.linspace(-REACH, REACH, NUM_BINS + 1),
    }
    for field in ("mean", "rms", "largest", "zeros", "beyond"):
        numbers[field] = np.array([getattr(tensor, field) for tensor in tensors], dtype=np.float64)
    numbers["values"] = np.array([tensor.values for tensor in tensors], dtype=np.int64)
    numbers["spectral"] = np.array([math.nan if tensor.spectral is None else tensor.spectral for tensor in tensors])
    for field in ("relative", "cosine", "norm_a", "norm_change"):
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


def place_layer(name: str, tensors: list[TensorStatistics]) -> int | None:
    """Return the layer of a tensor."""
    return next(tensor.place.layer for tensor in tensors if tensor.name == name)


def _tensor_words(tensor: TensorStatistics) -> dict[str, object]:
    return {
        "name": tensor.name,
        "layer": tensor.place.layer,
        "part": tensor.place.part,
        "shape": list(tensor.shape),
        **attributes_of(tensor, "dtype", "not_finite", "row_peak", "column_peak"),
    }


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
