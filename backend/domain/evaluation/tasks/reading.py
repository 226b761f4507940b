"""Read task definitions and groups of them from YAML, and write them; list those that come with the product. Errors
name the line. `mmlu_astronomy` is the part of `mmlu` with that subgroup.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.domain.names import not_found
from backend.domain.validation import field_at_fault, validation_message
from backend.domain.yaml_text import field_lines, parse_yaml
from backend.errors import InvalidInput


class TaskGroup(BaseModel):
    """Tasks that are run together. `centred` averages (score - chance) / (1 - chance), as the CORE metric does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80, pattern=r"^[\w.-]+$", description="Name of the group.")
    title: str = Field(default="", max_length=120, description="Name on pages; the group's name if left empty.")
    description: str = Field(default="", max_length=2000, description="What the group measures.")
    tasks: tuple[str, ...] = Field(min_length=1, max_length=200, description="Names of the tasks.")
    average: Literal["macro", "micro"] = Field(
        default="macro", description="Mean of the tasks, or mean of all their items."
    )
    centred: bool = Field(default=False, description="Average what exceeds chance.")

    @property
    def shown_title(self) -> str:
        """The name on pages."""
        return self.title or self.name


_FIELD = re.compile(r"`([a-z_.]+)`")


def read_task(text: str) -> TaskDefinition:
    """Return the task that a YAML text defines. Raises InvalidInput with line, field, value and remedy."""
    task = read_definition(text)
    if isinstance(task, TaskGroup):
        raise InvalidInput(
            f"“{task.name}” is a group of tasks.",
            remedy=f"Choose one of its tasks: {', '.join(task.tasks[:8])}.",
            field="task",
        )
    return task


def read_definition(text: str) -> TaskDefinition | TaskGroup:
    """Return the task or group that a YAML text defines. Raises InvalidInput like `read_task`."""
    values = parse_yaml(text, what="The task")
    if not isinstance(values, dict):
        raise InvalidInput(
            "The task is not a mapping of fields.", remedy="Write one `field: value` a line, beginning with `name:`."
        )
    model: type[TaskDefinition] | type[TaskGroup] = TaskGroup if "tasks" in values else TaskDefinition
    try:
        return model.model_validate(values)
    except ValidationError as error:
        words = validation_message(error, model)
        path = field_at_fault(error) or next(iter(_FIELD.findall(words)), None)
        raise InvalidInput(
            f"{line_words(text, path)}{words}.", remedy="Correct the field.", field=path or "task"
        ) from error
    except TemplateFault as fault:
        raise with_line(fault, text) from fault
    except InvalidInput as error:
        raise InvalidInput(
            f"{line_words(text, error.field)}{error.message}", remedy=error.remedy, field=error.field
        ) from error


def with_line(fault: TemplateFault, text: str) -> TemplateFault:
    """Return the fault with the line of the YAML text before its message."""
    return TemplateFault(
        f"{line_words(text, fault.path, inside=fault.line)}{fault.message}", path=fault.path, remedy=fault.remedy
    )


def line_words(text: str, path: str | None, *, inside: int | None = None) -> str:
    """Return `Line 12: ` for the field of a YAML text, with `inside` for that line of its block, or nothing."""
    lines = field_lines(text)
    parts = (path or "").split(".")
    place = next((lines[at] for length in range(len(parts), 0, -1) if (at := ".".join(parts[:length])) in lines), None)
    if place is None:
        return ""
    line, is_block = place
    return f"Line {line + (inside or 0) if is_block and inside else line}: "


def task_yaml(task: TaskDefinition | TaskGroup) -> str:
    """Return a task as YAML, without the fields that hold their default."""
    values: dict[str, object] = task.model_dump(mode="json", exclude_defaults=True)
    if isinstance(task, TaskDefinition) and task.metrics:
        values["metrics"] = [use.name if not use.options else {"name": use.name, **use.options} for use in task.metrics]
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    is_block = "\n" in text.rstrip("\n") and not any(line != line.rstrip() for line in text.split("\n"))
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if is_block else '"' if "\n" in text else None
    )


_Dumper.add_representer(str, _write_text)


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
