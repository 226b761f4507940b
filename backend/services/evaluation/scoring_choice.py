"""Choose how a dataset is scored, and on which split."""

from __future__ import annotations

from typing import Literal

from backend.domain.data.kinds import TEXT_KINDS, UNSPLIT_KINDS
from backend.domain.data.splits import SPLITS
from backend.domain.evaluation.config import EvaluationKind
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView

EVALUATED_KINDS = (*TEXT_KINDS, "benchmark")
"""Dataset kinds that can be evaluated on without a task."""
Split = Literal["all", "train", "val"]


def choose_kind(ctx: Context, version: VersionView, requested: str) -> EvaluationKind:
    """Return how a dataset is scored: `auto` by what its rows hold. Raises InvalidInput for what does not suit it."""
    if version.kind not in EVALUATED_KINDS:
        raise InvalidInput(
            f"“{version.dataset}” holds {version.kind}, which has nothing to score.",
            remedy="Choose a task for it." if version.kind == "records" else "Choose a benchmark or a text.",
            field="task" if version.kind == "records" else "benchmark",
        )
    if version.kind in TEXT_KINDS:
        if requested not in ("auto", EvaluationKind.PERPLEXITY):
            raise InvalidInput(
                f"“{version.dataset}” holds {version.kind}, not questions: it can be scored by perplexity alone.",
                remedy="Choose a dataset of kind benchmark, or another way of scoring.",
                field="kind",
            )
        return EvaluationKind.PERPLEXITY
    splits = (read_version_rows(ctx, version.folder or "", split=split, limit=1) for split in SPLITS)
    first = next(filter(None, splits), [])
    has_choices = bool(first and first[0].get("choices"))
    if requested == "auto":
        return EvaluationKind.MULTIPLE_CHOICE if has_choices else EvaluationKind.GENERATION
    if requested == EvaluationKind.PERPLEXITY or (requested == EvaluationKind.MULTIPLE_CHOICE and not has_choices):
        way = "perplexity" if requested == EvaluationKind.PERPLEXITY else "multiple choice"
        reason = "is a benchmark of questions" if requested == EvaluationKind.PERPLEXITY else "has no choices"
        raise InvalidInput(
            f"“{version.dataset}” {reason}: it can't be scored by {way}.",
            remedy="Choose another way of scoring.",
            field="kind",
        )
    return EvaluationKind(requested)


def choose_split(version: VersionView, requested: Literal["auto", "all", "train", "val"]) -> Split:
    """Return the split that is scored. Raises InvalidInput if it has no rows."""
    rows = {"train": version.train_rows, "val": version.val_rows, "all": version.rows}
    if requested == "auto":
        return "all" if version.kind in UNSPLIT_KINDS else "val" if version.val_rows else "train"
    if not rows[requested]:
        raise InvalidInput(
            f"{version.label} has no rows in its {requested} split.", remedy="Choose another split.", field="split"
        )
    return requested
