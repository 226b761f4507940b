"""Read task definitions and groups of them from YAML, and write them. Errors name the line."""

from __future__ import annotations

import re

import yaml
from pydantic import ValidationError

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.groups import TaskGroup
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.domain.validation import field_at_fault, validation_message
from backend.domain.yaml_text import field_lines, parse_yaml
from backend.errors import InvalidInput

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
