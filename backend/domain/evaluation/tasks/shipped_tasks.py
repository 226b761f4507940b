"""The tasks that come with the product, by name. `mmlu_astronomy` is the part of `mmlu` with that subgroup."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.groups import TaskGroup
from backend.domain.evaluation.tasks.reading import read_definition
from backend.domain.names import not_found

_FOLDER = files("backend.domain.evaluation.tasks").joinpath("shipped")


@lru_cache(maxsize=1)
def shipped_names() -> tuple[str, ...]:
    """Return the names of the tasks and groups, sorted."""
    return tuple(sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml")))


def shipped_text(name: str) -> str:
    """Return the YAML of a task or group. Raises NotFound."""
    if name not in shipped_names():
        raise not_found("task", name, shipped_names())
    return _FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8")


@lru_cache(maxsize=128)
def shipped_definition(name: str) -> TaskDefinition | TaskGroup:
    """Return a task or group by name, or the part of a task: `bbh_word_sorting`. Raises NotFound."""
    parent = next(
        (other for other in shipped_names() if name.startswith(f"{other}_") and name not in shipped_names()), None
    )
    if parent is not None:
        task = shipped_definition(parent)
        if isinstance(task, TaskDefinition) and task.subgroup in task.let:
            return narrow(task, name.removeprefix(f"{parent}_"))
    return read_definition(shipped_text(name))


def narrow(task: TaskDefinition, subgroup: str) -> TaskDefinition:
    """Return the part of a task with one subgroup; rows that don't say theirs belong to it."""
    known = task.let[task.subgroup]
    where = f"{task.subgroup} == {subgroup!r}"
    condition = f"({task.data.where}) and {where}" if task.data.where else where
    data = {**task.data.model_dump(), "names": (f"{task.name}_{subgroup}", subgroup), "where": condition}
    examples = tuple(row for row in task.fewshot.examples if row.get(task.subgroup) in (None, subgroup))
    return TaskDefinition.model_validate(
        {
            **task.model_dump(exclude_defaults=True),
            "name": f"{task.name}_{subgroup}",
            "title": f"{task.shown_title}: {subgroup.replace('_', ' ')}",
            "data": data,
            "let": {**task.let, task.subgroup: f"({known}) or {subgroup!r}"},
            "groups": {},
            "fewshot": {**task.fewshot.model_dump(exclude_defaults=True), "examples": examples},
        }
    )
