"""Tasks: shipped ones and those that the team saved; which of them fit a dataset; their first prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import delete, select

from backend.db.engine import retry_races
from backend.db.tables import EvaluationTask
from backend.domain.data.rows.columns import plain_name
from backend.domain.data.rows.records import columns_of
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.definition import RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.reading import (
    TaskGroup,
    read_definition,
    shipped_definition,
    shipped_names,
    shipped_text,
    task_yaml,
    with_line,
)
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.domain.evaluation.tasks.templates import TemplateFault, evaluate
from backend.domain.json_values import Row
from backend.domain.names import not_found
from backend.domain.validation import validation_message
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import list_datasets
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView
from backend.services.evaluation.scoring_choice import choose_split
from backend.services.evaluation.task_fit import render_numbered, resolve_benchmark, select_task_rows

Definition = TaskDefinition | TaskGroup
PREVIEWED = 3
OF_A_KIND = ("kind", "numeric", "max_tokens")
"""Settings of an evaluation without a task, which a task sets itself."""


@dataclass(frozen=True)
class TaskView:
    """A task or group. `origin`: it comes with the product, or the team saved it."""

    name: str
    definition: Definition
    text: str
    origin: Literal["shipped", "team"]
    updated_at: datetime | None = None


@dataclass(frozen=True)
class TaskPreview:
    """First prompts of a task on a dataset. `scored` counts the rows that it scores, of `rows`."""

    rows: int
    scored: int
    prompts: tuple[Rendered, ...]


def list_tasks(ctx: Context) -> list[TaskView]:
    """Return every task and group, the team's first, by name."""
    with ctx.db.read() as session:
        saved = session.execute(
            select(EvaluationTask.name, EvaluationTask.text, EvaluationTask.updated_at).order_by(EvaluationTask.name)
        )
        team = [TaskView(name, read_definition(text), text, "team", at) for name, text, at in saved]
    return [
        *team,
        *(TaskView(name, shipped_definition(name), shipped_text(name), "shipped") for name in shipped_names()),
    ]


def get_task(ctx: Context, name: str) -> TaskView:
    """Return a task or group by name: the team's, or one of the product. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        row = session.scalar(select(EvaluationTask).where(EvaluationTask.name == name))
        if row is not None:
            return TaskView(name, read_definition(row.text), row.text, "team", row.updated_at)
    try:
        definition = shipped_definition(name)
    except NotFound as error:
        known = [task.name for task in list_tasks(ctx)]
        raise not_found("task", name, known, remedy=f"There are: {', '.join(known)}.") from error
    text = shipped_text(name) if name in shipped_names() else task_yaml(definition)
    return TaskView(name, definition, text, "shipped")


def find_task(ctx: Context, name_or_text: str) -> Definition:
    """Return the definition of a name, or of a YAML text. Raises NotFound, InvalidInput."""
    return (
        read_definition(name_or_text)
        if "\n" in name_or_text or ":" in name_or_text
        else get_task(ctx, name_or_text).definition
    )


def find_single_task(ctx: Context, name_or_text: str) -> TaskDefinition:
    """Return the task of a name or of a YAML text. Raises NotFound, InvalidInput for a group."""
    task = find_task(ctx, name_or_text)
    if isinstance(task, TaskGroup):
        raise InvalidInput(
            f"“{task.name}” is a group of tasks.",
            remedy=f"Choose one of them: {', '.join(task.tasks[:12])}.",
            field="task",
        )
    return task


@retry_races
def save_task(
    ctx: Context, text: str, *, person: Person, replace: bool = True, opened_text: str | None = None
) -> TaskView:
    """Save a task for the team under the name that its YAML gives.

    An existing one is replaced; without `replace` only if its text is `opened_text`, the one that the caller began
    with. Raises InvalidInput for a text that defines none, or for the name of a task that comes with the product;
    Conflict for a task that would be lost; NotAllowed.
    """
    require_builder(person)
    definition = read_definition(text)
    if definition.name in shipped_names():
        raise InvalidInput(
            f"“{definition.name}” comes with the product.", remedy="Give the task another name.", field="name"
        )
    with ctx.db.write() as session:
        row = session.scalar(select(EvaluationTask).where(EvaluationTask.name == definition.name))
        if row is None:
            row = EvaluationTask(
                name=definition.name, text=text, created_by=person.id, created_at=ctx.now(), updated_at=ctx.now()
            )
            session.add(row)
        elif not replace and row.text not in (opened_text, text):
            raise Conflict(
                f"The team has another task “{definition.name}”, which this one would replace.",
                remedy="Replace it, or give this one another name.",
                field="name",
            )
        row.text, row.updated_at = text, ctx.now()
    return get_task(ctx, definition.name)


def delete_task(ctx: Context, name: str, *, person: Person) -> None:
    """Delete a task of the team; evaluations keep their copy. Raises NotFound, NotAllowed."""
    require_builder(person)
    if get_task(ctx, name).origin == "shipped":
        raise InvalidInput(f"“{name}” comes with the product and can't be deleted.", field="name")
    with ctx.db.write() as session:
        session.execute(delete(EvaluationTask).where(EvaluationTask.name == name))


def suggest_tasks(ctx: Context, version: VersionView) -> list[TaskView]:
    """Return the tasks for a dataset, likeliest first: those found by its name, then those by its columns."""
    if version.folder is None:
        return []
    return rank_tasks(list_tasks(ctx), **_named_row(ctx, version))


def suggest_task(ctx: Context, version: VersionView) -> TaskDefinition | None:
    """Return the task that a dataset is scored by unless another one is chosen; None: by its rows' kind."""
    definitions = (view.definition for view in suggest_tasks(ctx, version))
    return next((task for task in definitions if isinstance(task, TaskDefinition)), None)


def with_suggested_task(ctx: Context, version: VersionView, config: EvaluationConfig) -> EvaluationConfig:
    """Return a config with the suggested task of a dataset, unless it names a task or sets what tasks set themselves.

    Raises InvalidInput for a number of examples that the task can't show.
    """
    usual = EvaluationConfig()
    if config.task is not None or any(getattr(config, name) != getattr(usual, name) for name in OF_A_KIND):
        return config
    task = suggest_task(ctx, version)
    return config if task is None else with_task(config, task, benchmark=version.label)


def with_task(config: EvaluationConfig, task: TaskDefinition, *, benchmark: str) -> EvaluationConfig:
    """Return a config whose task shows the config's number of examples; 0 leaves the task's own.

    Raises InvalidInput for a number of examples that the task can't show.
    """
    if config.shots and task.form is not RequestForm.ROLLING:
        try:
            task = task.adjusted(shots=config.shots)
        except ValidationError as error:
            raise InvalidInput(
                f"“{task.shown_title}” can't score {benchmark} so: {validation_message(error)}.",
                remedy="Choose another number of examples.",
                field="shots",
            ) from error
    return config.model_copy(update={"task": task, "shots": 0})


def find_task_dataset(ctx: Context, task: TaskDefinition) -> VersionView | None:
    """Return the newest version of the dataset that a task fits: by its names, else by the columns of the first rows;
    None without one.
    """
    try:
        return resolve_benchmark(ctx, "", task=task)
    except InvalidInput:
        view = TaskView(task.name, task, "", "team")
        newest = (dataset.newest for dataset in list_datasets(ctx, ready=True))
        return next(
            (version for version in newest if version is not None and rank_tasks([view], **_named_row(ctx, version))),
            None,
        )


def _named_row(ctx: Context, version: VersionView) -> Row:
    rows = read_version_rows(ctx, version.folder, split="train", limit=1) if version.folder else []
    return {"name": version.dataset, "row": columns_of(rows[0]) if rows else {}}


def rank_tasks(tasks: Sequence[TaskView], *, name: str, row: Mapping[str, Any]) -> list[TaskView]:
    """Return the tasks that fit a dataset's name or its first row, likeliest first; the more columns a task needs, the
    surer it is.
    """
    columns = {plain_name(column) for column in row}
    ranked: list[tuple[tuple[int, int], TaskView]] = []
    plain = plain_name(name)
    for view in tasks:
        task = view.definition
        if not isinstance(task, TaskDefinition):
            continue
        names = {plain_name(other) for other in (*task.data.names, task.name)}
        needed = {plain_name(column) for column in task.data.columns}
        by_name = 2 if plain in names else 1 if any(len(other) > 3 and other in plain for other in names) else 0
        by_columns = len(needed) if needed and needed <= columns else 0
        if needed and not by_columns:
            continue  # the name alone is no reason where the columns speak against it
        if task.data.sign:
            if not _shows(task, row):
                continue
            by_columns += 2
        if by_name or by_columns > 1 or (by_columns and task.form is RequestForm.ROLLING):
            ranked.append(((by_name, by_columns), view))
    return [view for _, view in sorted(ranked, key=lambda part: part[0], reverse=True)]


def _shows(task: TaskDefinition, row: Mapping[str, Any]) -> bool:
    try:
        return bool(evaluate(task.data.sign, row, path="data.sign"))
    except TemplateFault:
        return False


def preview_task(ctx: Context, text: str, version: VersionView, *, count: int = PREVIEWED) -> TaskPreview:
    """Render the first prompts of a task on a dataset. Raises InvalidInput naming line, field, column and remedy."""
    task = find_single_task(ctx, text)
    try:
        split = choose_split(version, task.data.split)
        rows, selection = select_task_rows(ctx, task, version, split=split, seed=1)
        prompts = tuple(render_numbered(task, rows, at, selection) for at in selection.scored[:count])
    except TemplateFault as fault:
        raise with_line(fault, text) from fault
    return TaskPreview(len(rows), len(selection.scored), prompts)
