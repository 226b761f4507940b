"""Checkpoints as forms offer them."""

from __future__ import annotations

from collections.abc import Iterable

from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context
from backend.services.training.diagnosis import spoiled_checkpoints


def label_usable_first(ctx: Context, checkpoints: Iterable[CheckpointView]) -> dict[str, str]:
    """Return the labels of checkpoints by their ids: those of no use, since their run diverged, last and marked."""
    names = {checkpoint.id: checkpoint.name for checkpoint in checkpoints}
    spoiled = spoiled_checkpoints(ctx, names)
    usable = {id_: name for id_, name in names.items() if id_ not in spoiled}
    return usable | {id_: f"{name} (diverged)" for id_, name in names.items() if id_ in spoiled}
