"""`roundhouse task`: the tasks of evaluations: list, show, check on a dataset, save for the team, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit, note, read_text
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.lm_eval_yaml import from_lm_eval, to_lm_eval
from backend.domain.evaluation.tasks.reading import TaskGroup, task_yaml
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.errors import InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.task_fit import resolve_benchmark
from backend.services.evaluation.tasks import (
    TaskView,
    delete_task,
    find_single_task,
    get_task,
    list_tasks,
    preview_task,
    save_task,
    suggest_tasks,
)

app = CommandGroup(no_args_is_help=True)

TaskArgument = Annotated[str, typer.Argument(help="Name of a task, or a YAML file.")]


@app.command("list")
def list_(
    benchmark: Annotated[
        str | None, typer.Option(help="Only the tasks that fit this dataset, likeliest first.")
    ] = None,
) -> None:
    """List the tasks: the team's, and those that come with the product."""
    ctx = get_context()
    views = suggest_tasks(ctx, resolve_version(ctx, benchmark)) if benchmark else list_tasks(ctx)
    lines = [f"{view.name:<18} {_kind(view):<16} {view.origin:<8} {view.definition.shown_title}" for view in views]
    emit({"tasks": [_summary(view) for view in views]}, text="\n".join(lines) or "No task fits.")


@app.command("show")
def show(name: TaskArgument) -> None:
    """Print a task as YAML."""
    ctx = get_context()
    text = read_task_text(name) or get_task(ctx, name).text
    task = find_single_task(ctx, text) if "\ntasks:" not in text else None
    emit({"name": name, "text": text, "hash": task.hash if task else None}, text=text.rstrip("\n"))


@app.command("check")
def check(
    name: TaskArgument,
    benchmark: Annotated[str, typer.Option(help="Dataset; found by the task's names when left out.")] = "",
    prompts: Annotated[int, typer.Option(min=0, max=100, help="First prompts to print.")] = 3,
) -> None:
    """Check a task, and print its first prompts on a dataset. A fault names line, field, column and remedy."""
    ctx = get_context()
    text = read_task_text(name) or get_task(ctx, name).text
    task = find_single_task(ctx, text)
    version = resolve_benchmark(ctx, benchmark, task=task)
    preview = preview_task(ctx, text, version, count=prompts)
    data = {
        "task": task.name,
        "hash": task.hash,
        "benchmark": version.label,
        "rows": preview.rows,
        "scored": preview.scored,
        "prompts": [prompt_data(prompt) for prompt in preview.prompts],
    }
    head = f"{task.shown_title} on {version.label}: {preview.scored:,} of {preview.rows:,} rows are scored."
    emit(data, text="\n\n".join([head, *map(_lines, preview.prompts)]))


@app.command("save")
def save(file: Annotated[Path, typer.Argument(help="YAML file of a task or group.")]) -> None:
    """Save a task for the team under the name that its file gives."""
    view = save_task(get_context(), read_text(file), person=LOCAL)
    emit(_summary(view), text=f"Saved {view.name}.")


@app.command("delete")
def delete(name: str) -> None:
    """Delete a task of the team; evaluations keep their copy."""
    delete_task(get_context(), name, person=LOCAL)
    emit({"deleted": name}, text=f"Deleted {name}.")


@app.command("convert")
def convert(
    from_lm_eval_file: Annotated[
        Path | None, typer.Option("--from-lm-eval", help="Task file of lm-evaluation-harness.")
    ] = None,
    to_lm_eval_name: Annotated[
        str | None, typer.Option("--to-lm-eval", help="Task to write for it: name or file.")
    ] = None,
) -> None:
    """Convert a task from or to the YAML of lm-evaluation-harness. What can't be converted is named."""
    if (from_lm_eval_file is None) == (to_lm_eval_name is None):
        raise InvalidInput(
            "Nothing to convert is named, or too much.", remedy="Give --from-lm-eval FILE or --to-lm-eval NAME."
        )
    if from_lm_eval_file is not None:
        folder = from_lm_eval_file.parent
        converted = from_lm_eval(
            read_text(from_lm_eval_file), included=lambda name: read_text(folder / Path(name).name)
        )
        text, left_out = task_yaml(converted.task), converted.left_out
    else:
        ctx = get_context()
        name = str(to_lm_eval_name)
        written = to_lm_eval(find_single_task(ctx, read_task_text(name) or name))
        text, left_out = written.text, written.left_out
    for sentence in left_out:
        note(f"Left out: {sentence}")
    emit({"text": text, "left_out": list(left_out)}, text=text.rstrip("\n"))


def read_task_option(
    ctx: Context, task: str, *, shots: int | None = None, max_tokens: int | None = None
) -> TaskDefinition:
    """Return the task of a name or a YAML file, with another number of examples or longest answer if given.

    Raises NotFound, InvalidInput.
    """
    return find_single_task(ctx, read_task_text(task) or task).adjusted(shots=shots, max_tokens=max_tokens)


def read_task_text(name: str) -> str:
    """Return the text of a YAML file, or nothing if the argument is a name. Raises InvalidInput for a missing file."""
    if not name.endswith((".yaml", ".yml")) and not Path(name).is_file():
        return ""
    return read_text(Path(name))


def prompt_data(prompt: Rendered) -> dict[str, object]:
    """Return a rendered item as JSON."""
    return {
        "context": prompt.context,
        "contexts": list(prompt.contexts) if prompt.contexts else None,
        "continuations": list(prompt.continuations) if prompt.continuations else None,
        "gold": list(prompt.gold),
        "references": list(prompt.references),
        "stop": list(prompt.stop),
        "subgroup": prompt.subgroup,
        "prompt_hash": prompt.prompt_hash,
    }


def _lines(prompt: Rendered) -> str:
    """Return a rendered item as lines: what stands before the answer, then what is scored, the right ones marked."""
    lines = [prompt.context]
    for at, (context, continuation) in enumerate(prompt.pairs()):
        shown = f"{context!r} -> {continuation!r}" if prompt.contexts else repr(continuation)
        lines.append(f"{'*' if at in prompt.gold else ' '} {shown}")
    if prompt.continuations is None:
        lines += [f"= {reference!r}" for reference in prompt.references]
    return "\n".join(lines)


def _kind(view: TaskView) -> str:
    return "group" if isinstance(view.definition, TaskGroup) else view.definition.kind


def _summary(view: TaskView) -> dict[str, object]:
    definition = view.definition
    task = definition if isinstance(definition, TaskDefinition) else None
    return {
        "name": view.name,
        "title": definition.shown_title,
        "kind": _kind(view),
        "origin": view.origin,
        "description": definition.description,
        "hash": task.hash if task else None,
        "metrics": list(task.score_names) if task else [],
        "tasks": list(definition.tasks) if isinstance(definition, TaskGroup) else [],
    }
