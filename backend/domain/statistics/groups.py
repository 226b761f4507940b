"""Averages over the tasks of a group, such as the 57 subjects of MMLU: macro (each task counts the same) and micro (each item does)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from backend.domain.statistics.estimates import Estimate, normal_quantile, percent
from backend.errors import InvalidInput


def macro_average(tasks: Sequence[Estimate], *, level: float = 0.95) -> Estimate:
    """Average tasks with equal weights: SE = sqrt(sum se_i^2) / k, the tasks being fixed and their items independent.

    `n` is the number of items. A task without an error leaves the average without one.
    """
    count = len(_some(tasks))
    return _weighted(tasks, [1 / count] * count, level=level, name=f"macro average of {count} tasks")


def micro_average(tasks: Sequence[Estimate], *, level: float = 0.95) -> Estimate:
    """Average tasks weighted by items, stratified: SE = sqrt(sum n_i^2 se_i^2) / N (Cochran, Sampling Techniques, 5.4)."""
    total = sum(task.n for task in _some(tasks))
    return _weighted(tasks, [task.n / total for task in tasks], level=level, name=f"micro average of {len(tasks)} tasks")


def _some(tasks: Sequence[Estimate]) -> Sequence[Estimate]:
    if not tasks or any(task.n < 1 for task in tasks):
        raise InvalidInput("A group's average needs a score of at least one item for each of its tasks.", remedy="Evaluate every task.")
    return tasks


def _weighted(tasks: Sequence[Estimate], weights: Sequence[float], *, level: float, name: str) -> Estimate:
    value = sum(weight * task.value for weight, task in zip(weights, tasks, strict=True))
    n = sum(task.n for task in tasks)
    errors = [task.stderr for task in tasks if task.stderr is not None]
    if len(errors) < len(tasks):
        return Estimate(value, None, None, None, n, f"{name}: a task without an error")
    stderr = math.sqrt(sum((weight * error) ** 2 for weight, error in zip(weights, errors, strict=True)))
    margin = normal_quantile(level) * stderr
    return Estimate(value, stderr, value - margin, value + margin, n, f"{name}, {percent(level)}")
