"""Marks that keep a run from removing a checkpoint: one that its suites have yet to score, and one in use. Pure.

A mark is an empty file beside the checkpoint's folder. The trainer writes the hold for its suites with the checkpoint,
so that no event has to arrive first, and a worker removes it when they have ended. The process that watches the job
writes and removes the mark of use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TypeVar

MAX_HELD = 8
"""Checkpoints that may wait for their suites at once: where evaluations are slow, older ones give way."""
P = TypeVar("P", bound=PurePath)


def hold_of(checkpoint: P) -> P:
    """Return the path of a checkpoint's hold.

    Example:
        >>> str(hold_of(PurePath("runs/a/checkpoints/step-000100")))
        'runs/a/checkpoints/.step-000100.held'
    """
    return checkpoint.with_name(f".{checkpoint.name}.held")


def mark_of_use(checkpoint: P) -> P:
    """Return the path of the mark that a checkpoint is in use: deployed, named by an alias, in a campaign...

    Example:
        >>> str(mark_of_use(PurePath("runs/a/checkpoints/step-000100")))
        'runs/a/checkpoints/.step-000100.used'
    """
    return checkpoint.with_name(f".{checkpoint.name}.used")


def choose_removed(
    steps: Sequence[int],
    *,
    keep_last: int,
    best: int | None,
    held: Sequence[int] = (),
    used: Sequence[int] = (),
) -> list[int]:
    """Return the steps of the checkpoints to remove: all but the last ones, the best, those in use, and the newest of
    those that are held.

    Example:
        >>> choose_removed([10, 20, 30, 40, 50], keep_last=1, best=10, held=[20], used=[30])
        [40]
    """
    waiting = sorted(step for step in held if step in steps[:-keep_last])[-MAX_HELD:]
    return [step for step in steps[:-keep_last] if step != best and step not in (*waiting, *used)]
