"""Queue one-off completions and log-likelihoods of a checkpoint. Results are files of the job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from backend.db.base import new_id
from backend.domain.jobs.payloads import GeneratePayload, GenerationPrompt, LoglikelihoodPayload
from backend.domain.jobs.records import Payload
from backend.domain.jobs.results import GenerateResult, LoglikelihoodResult
from backend.domain.jobs.states import Status, status_word
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.files.paths import find_path
from backend.services.checkpoints.checkpoints import require_writer, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import JobView, add_job, get_job, view, wake

MAX_PROMPTS = 10_000


def find_checkpoint_folder(ctx: Context, checkpoint: str, *, person: Person) -> tuple[str, str]:
    """Return (name, folder) of a checkpoint by name or id, or of a local folder that holds one.

    Raises NotFound, NotAllowed for a folder named by an account, Conflict if a checkpoint's files are missing.
    """
    try:
        resolved = resolve_checkpoint(ctx, checkpoint)
    except NotFound:
        path = find_path(checkpoint)
        if path is None or not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise
        if person.id is not None:
            raise NotAllowed(
                "Accounts use checkpoints, not folders of the server.", remedy="Add the folder as a base first."
            ) from None
        return path.name, str(path.resolve())
    if resolved.folder is None:
        raise Conflict(f"The files of “{resolved.name}” are missing.", field="checkpoint")
    with ctx.db.read() as session:
        require_writer(session, resolved.id)
    return resolved.name, resolved.folder


def launch_completions(
    ctx: Context,
    *,
    checkpoint: str,
    prompts: Sequence[Sequence[dict[str, str]]],
    person: Person,
    max_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: Literal["auto", "on", "off"] = "auto",
) -> JobView:
    """Queue completions of prompts, each a list of messages; read them with `read_completions` when the job has
    finished.

    Raises InvalidInput for numbers out of range or no prompts, NotFound, NotAllowed.
    """
    require_builder(person)
    for name, value, low, high in (
        ("max_tokens", max_tokens, 1, 1_000_000),
        ("temperature", temperature, 0.0, 2.0),
        ("top_p", top_p, 1e-6, 1.0),
        ("seed", seed, 0, 2**63 - 1),
    ):
        if not low <= value <= high:
            raise InvalidInput(f"{name} {value:g} is not between {low:,.12g} and {high:,.12g}.", field=name)
    if not prompts or len(prompts) > MAX_PROMPTS:
        raise InvalidInput(
            f"{len(prompts)} prompts can't be completed in one job.",
            remedy=f"Give 1 to {MAX_PROMPTS}.",
            field="prompts",
        )
    name, folder = find_checkpoint_folder(ctx, checkpoint, person=person)
    payload = GeneratePayload(
        checkpoint=folder,
        prompts=tuple(
            GenerationPrompt(id=str(index), messages=tuple(messages)) for index, messages in enumerate(prompts)
        ),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        chat=chat,
    )
    return _launch(ctx, payload, title=f"Completions of {name}", person=person)


def launch_loglikelihoods(ctx: Context, *, checkpoint: str, file: Path, person: Person) -> JobView:
    """Queue log-likelihoods of the rows {context, continuation} of a JSONL file; read them with `read_loglikelihoods`.

    Raises NotFound for the file or the checkpoint, InvalidInput for an empty file, NotAllowed.
    """
    require_builder(person)
    if not file.is_file():
        raise NotFound(f"There is no file {file}.", field="file")
    if not file.stat().st_size:
        raise InvalidInput(
            f"{file.name} is empty.", remedy='Write lines of {"context": text, "continuation": text}.', field="file"
        )
    name, folder = find_checkpoint_folder(ctx, checkpoint, person=person)
    copy = ctx.artifacts.folder("uploads", new_id()) / "pairs.jsonl"
    shutil.copyfile(file, copy)
    payload = LoglikelihoodPayload(checkpoint=folder, rows_file=ctx.artifacts.relative(copy))
    return _launch(ctx, payload, title=f"Log-likelihoods by {name}", person=person)


def _launch(ctx: Context, payload: Payload, *, title: str, person: Person) -> JobView:
    with ctx.db.write() as session:
        job = view(add_job(session, ctx, payload, title=title, priority=3, created_by=person.id))
    wake(ctx, job.queue)
    return job


def read_completions(ctx: Context, job_id: str) -> list[dict[str, Any]]:
    """Return a finished job's completions in the order of its prompts: {text, tokens, prompt_tokens, finish_reason}."""
    result = _finished(ctx, job_id).result_as(GenerateResult)
    records = _read_lines(ctx, result.file if result else None)
    records.sort(key=lambda record: int(record["prompt_id"]))
    return [
        {name: value for name, value in record.items() if name not in ("prompt_id", "sample")} for record in records
    ]


def read_loglikelihoods(ctx: Context, job_id: str) -> list[dict[str, object]]:
    """Return a finished job's log-likelihoods in the order of the file: {sum_logprob (nats), tokens, greedy}."""
    result = _finished(ctx, job_id).result_as(LoglikelihoodResult)
    return _read_lines(ctx, result.items_file if result else None)


def _finished(ctx: Context, job_id: str) -> JobView:
    job = get_job(ctx, job_id)
    if job.status is not Status.FINISHED:
        raise Conflict(f"The job is {status_word(job.status)}.", remedy="Wait until it has finished.")
    return job


def _read_lines(ctx: Context, file: str | None) -> list[dict[str, Any]]:
    path = ctx.artifacts.path(file or "")
    if not path.is_file():
        raise NotFound("The job's files were deleted.", remedy="Ask again.")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
