"""`roundhouse eval run --task GROUP`: the tasks of a group on a checkpoint or an endpoint, as a suite."""

from __future__ import annotations

from backend.cli.evaluation.suite import run_and_emit
from backend.cli.evaluation.task import read_task_text
from backend.cli.output import note
from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.groups import TaskGroup
from backend.services.context import LOCAL, Context
from backend.services.evaluation.suites import suite_of_group, tasks_of
from backend.services.evaluation.tasks import find_task


def find_group(ctx: Context, task: str) -> TaskGroup | None:
    """Return the group of a name or a YAML file; None if it is a single task. Raises NotFound, InvalidInput."""
    definition = find_task(ctx, read_task_text(task) or task)
    return definition if isinstance(definition, TaskGroup) else None


def run_group(
    ctx: Context,
    group: TaskGroup,
    *,
    checkpoint: str | None,
    endpoint: str | None,
    benchmark: str,
    config: EvaluationConfig,
    given: tuple[int | None, int | None],
    wait: bool,
) -> None:
    """Run a group's tasks on a checkpoint or an endpoint as a suite, and print its result. `given`: few-shot examples
    and max new tokens for all.
    """
    shots, max_tokens = given
    tasks = [task.adjusted(shots=shots, max_tokens=max_tokens) for task in tasks_of(ctx, group)]
    suite = suite_of_group(ctx, group, tasks=tasks, config=config, person=LOCAL, benchmark=benchmark)
    note(
        f"{group.shown_title}: {len(tasks)} tasks as the suite “{suite.name}”; roundhouse eval suite show {suite.id}"
        " shows its results."
    )
    run_and_emit(ctx, suite.id, checkpoint=checkpoint, endpoint=endpoint, wait=wait)
