"""Check that a task fits a dataset, found by name, by rendering its rows before anything is queued."""

from __future__ import annotations

import time
from collections.abc import Sequence

from backend.domain.data.file_names import bare_name
from backend.domain.data.rows.columns import plain_name
from backend.domain.data.rows.records import columns_of
from backend.domain.data.splits import SPLITS
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.domain.evaluation.tasks.selection import Selection, name_row, render_row, select_rows
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.domain.jobs.payloads import require_folder
from backend.domain.json_values import Row
from backend.errors import InvalidInput, NotAllowed
from backend.infra.files.parquet import read_row_page
from backend.services.context import Context
from backend.services.data.datasets import list_datasets, resolve_version
from backend.services.data.views import VersionView
from backend.services.evaluation.scoring_choice import Split

MAX_CHECKED_ROWS = 50_000
CHECK_S = 2.0
"""Longest time for rendering rows before the launch; the job renders the rest before it loads the network."""
MAX_REMEMBERED = 1000
_fitting: dict[tuple[object, ...], int] = {}
"""Rows that a task scores of a version's split, once checked: a form asks again at every change."""


def dataset_names_of(task: TaskDefinition) -> set[str]:
    """Return the names by which a task finds its dataset, spelled plainly."""
    return {plain_name(name) for name in (*task.data.names, task.name)}


def resolve_benchmark(ctx: Context, benchmark: str, *, task: TaskDefinition | None) -> VersionView:
    """Return the dataset version of a name, or without one the dataset that a task finds by its names.

    Raises NotFound, Conflict if it is not ready, InvalidInput if there is neither name nor task, or no dataset of the
    task's names.
    """
    if benchmark:
        return resolve_version(ctx, benchmark)
    if task is None:
        raise InvalidInput(
            "The evaluation names no benchmark.",
            remedy="Choose a dataset, or a task that finds one.",
            field="benchmark",
        )
    names = dataset_names_of(task)
    datasets = [dataset for dataset in list_datasets(ctx, ready=True) if dataset.newest is not None]
    for dataset in [
        *(d for d in datasets if plain_name(d.name) in names),
        *(d for d in datasets if plain_name(bare_name(d.name)) in names),
    ]:
        if dataset.newest is not None:
            return dataset.newest
    names_shown = " or ".join(task.data.names or (task.name,))
    where = f" It is published as {task.data.hub.id} on the Hub." if task.data.hub else ""
    raise InvalidInput(
        f"“{task.shown_title}” needs a dataset named {names_shown}; there is none.{where}",
        remedy="Import it under one of these names, or name the dataset.",
        field="benchmark",
    )


def task_rows(ctx: Context, version: VersionView, *, split: Split) -> list[Row]:
    """Return a version's rows with the columns that templates read, at most 50,000."""
    folder = ctx.artifacts.path(require_folder(version.folder, what="dataset"))
    rows: list[Row] = []
    for name in SPLITS if split == "all" else (split,):
        rows += (
            read_row_page(folder, split=name, limit=MAX_CHECKED_ROWS - len(rows))
            if len(rows) < MAX_CHECKED_ROWS
            else []
        )
    return [columns_of(row) for row in rows]


def examples_folder(ctx: Context, task: TaskDefinition | None) -> str | None:
    """Return the folder of the dataset that examples come from; None where that is the scored one. Raises NotFound."""
    if task is None or not task.fewshot.count or not task.fewshot.dataset:
        return None
    return require_folder(resolve_version(ctx, task.fewshot.dataset).folder, what="dataset")


def select_task_rows(
    ctx: Context, task: TaskDefinition, version: VersionView, *, split: Split, seed: int
) -> tuple[list[Row], Selection]:
    """Return a version's rows and those of them that a task scores, with its examples. Raises InvalidInput."""
    rows = task_rows(ctx, version, split=split)
    pool = None
    if task.fewshot.count and not task.fewshot.examples and (task.fewshot.dataset or task.fewshot.split):
        source = resolve_version(ctx, task.fewshot.dataset) if task.fewshot.dataset else version
        pool = task_rows(ctx, source, split=task.fewshot.split or "all")
    return rows, select_rows(task, rows, limit=None, seed=seed, pool=pool)


def check_task(
    ctx: Context, task: TaskDefinition, version: VersionView, *, split: Split, config: EvaluationConfig
) -> int:
    """Render the rows that a task would score, and return how many there are without a limit.

    Raises TemplateFault naming row, field, value and remedy; InvalidInput if no row fits or examples are too few;
    NotAllowed if the task runs code and the installation does not.
    """
    if task.runs_code:
        require_code_execution(ctx)
    key = (version.id, version.content_hash, split, task.hash, task.fewshot.dataset, config.seed)
    if key in _fitting:
        return _fitting[key]
    rows, selection = select_task_rows(ctx, task, version, split=split, seed=config.seed)
    ends = time.monotonic() + CHECK_S
    for at in _spread(selection.scored):
        render_numbered(task, rows, at, selection)
        if time.monotonic() > ends:
            break
    cut = version.rows - len(rows) if split == "all" and len(rows) >= MAX_CHECKED_ROWS else 0
    if len(_fitting) >= MAX_REMEMBERED:
        _fitting.clear()
    _fitting[key] = len(selection.scored) + max(0, cut)
    return _fitting[key]


def render_numbered(task: TaskDefinition, rows: Sequence[Row], at: int, selection: Selection) -> Rendered:
    """Render a row; a fault names its number."""
    try:
        return render_row(task, rows[at], selection)
    except TemplateFault as fault:
        raise name_row(fault, at) from fault


def _spread(places: Sequence[int]) -> Sequence[int]:
    """Return the first hundred places, then the others in steps through all of them, so that a stop saw all parts."""
    steps = 97
    return [*places[:100], *(place for start in range(steps) for place in places[100 + start :: steps])]


def require_code_execution(ctx: Context) -> None:
    """Raise NotAllowed unless the operator lets benchmarks run programs that a model wrote."""
    if not ctx.policy.run_code:
        raise NotAllowed(
            "This benchmark runs programs that the model writes, and this installation does not allow it.",
            remedy="Set ROUNDHOUSE_RUN_CODE=true and restart; docs/security.md says what confines them.",
        )
