"""Holds on checkpoints: a run does not remove one before the suites that it opens have scored it. Pure.

A hold is an empty file beside the checkpoint's folder. The trainer writes it with the checkpoint, so that no event has
to arrive first; a worker removes it when the suites have ended.
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


def choose_removed(steps: Sequence[int], *, keep_last: int, best: int | None, held: Sequence[int] = ()) -> list[int]:
    """Return the steps of the checkpoints to remove: all but the last ones, the best, and the newest of those that are
    held.

    Example:
        >>> choose_removed([10, 20, 30, 40], keep_last=1, best=10, held=[20])
        [30]
    """
    waiting = sorted(step for step in held if step in steps[:-keep_last])[-MAX_HELD:]
    return [step for step in steps[:-keep_last] if step != best and step not in waiting]
