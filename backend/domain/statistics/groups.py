"""Averages over the tasks of a group, such as the 57 subjects of MMLU: macro (each task counts the same) and micro
(each item does).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from backend.domain.statistics.estimates import Estimate
from backend.errors import InvalidInput


def macro_average(tasks: Sequence[Estimate]) -> Estimate:
    """Average tasks with equal weights: SE = sqrt(sum se_i^2) / k, the tasks being fixed and their items independent.

    `n` is the number of items. A task without an error leaves the average without one.
    """
    count = len(_some(tasks))
    return _weighted(tasks, [1 / count] * count, name=f"macro average of {count} tasks")


def micro_average(tasks: Sequence[Estimate]) -> Estimate:
    """Average tasks by items, stratified: SE = sqrt(sum n_i^2 se_i^2) / N (Cochran, Sampling Techniques, 5.4)."""
    total = sum(task.n for task in _some(tasks))
    return _weighted(tasks, [task.n / total for task in tasks], name=f"micro average of {len(tasks)} tasks")


def centre(task: Estimate, *, chance: float) -> Estimate:
    """Return what a share exceeds chance by, of what it can: (score - chance) / (1 - chance), as the CORE metric (Li et
    al. 2024, DCLM).

    Example:
        >>> centre(Estimate(0.4, 0.06, 0.28, 0.52, 50, "Wilson"), chance=0.25).value
        0.2
    """
    if not 0 <= chance < 1:
        raise InvalidInput(
            f"A chance of {chance:g} leaves nothing to exceed it.", remedy="Leave the task out of a centred average."
        )
    room = 1 - chance
    low, high = (None if bound is None else (bound - chance) / room for bound in (task.low, task.high))
    stderr = None if task.stderr is None else task.stderr / room
    return Estimate((task.value - chance) / room, stderr, low, high, task.n, f"{task.method}, centred")


def _some(tasks: Sequence[Estimate]) -> Sequence[Estimate]:
    if not tasks or any(task.n < 1 for task in tasks):
        raise InvalidInput(
            "A group's average needs a score of at least one item for each of its tasks.", remedy="Evaluate every task."
        )
    return tasks


def _weighted(tasks: Sequence[Estimate], weights: Sequence[float], *, name: str) -> Estimate:
    """Average tasks. The interval is made of theirs and so stays within their bounds (MOVER: Zou and Donner 2008, Stat.
    Med. 27, 1693).
    """
    value = sum(weight * task.value for weight, task in zip(weights, tasks, strict=True))
    n = sum(task.n for task in tasks)
    stderr = _root_sum([task.stderr for task in tasks], weights)
    below = _root_sum([None if task.low is None else task.value - task.low for task in tasks], weights)
    above = _root_sum([None if task.high is None else task.high - task.value for task in tasks], weights)
    if stderr is None:
        return Estimate(value, None, None, None, n, f"{name}: a task without an error")
    if below is None or above is None:
        return Estimate(value, stderr, None, None, n, f"{name}: a task without an interval")
    return Estimate(value, stderr, value - below, value + above, n, f"{name}, MOVER")


def _root_sum(lengths: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """Return the weighted lengths' root of the sum of squares; None if one is missing."""
    squares = [(weight * length) ** 2 for weight, length in zip(weights, lengths, strict=True) if length is not None]
    return math.sqrt(sum(squares)) if len(squares) == len(lengths) else None
