"""Export checkpoints as folders or files for other tools, to download or push to the Hub."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Job
from backend.domain.checkpoints.export_formats import (
    FORMATS,
    NO_GGUF_CURE,
    NUMBERS,
    gguf_refusal,
    gguf_tokenizer_refusal,
)
from backend.domain.evaluation.safety.reports import HEADING, join_card
from backend.domain.jobs.payloads import ExportPayload, HubTarget, require_folder
from backend.domain.jobs.states import JobKind
from backend.errors import InvalidInput
from backend.services.checkpoints.checkpoints import CheckpointView, require_writer, resolve_checkpoint
from backend.services.checkpoints.networks import bring_small_files
from backend.services.context import Context, Person, require_builder
from backend.services.evaluation.safety.cards import safety_card
from backend.services.jobs.exports import HUB_ID, ExportView, file_name, queue_export, view_export
from backend.services.jobs.jobs import JobView, view
from backend.services.lineage import card_lines
from backend.services.training.reports import run_report_text

MAX_SHOWN = 200
LIBRARY = "library_name: "


@retry_races
def export_checkpoint(
    ctx: Context,
    checkpoint: str,
    *,
    format: str,
    person: Person,
    numbers: str = "f16",
    push: str = "",
    private: bool = True,
) -> JobView:
    """Queue an export; its job writes a folder under `exports/`, named in its result.

    `push` is a repository (owner/name) of the Hub to upload it to as well, with the worker's HF_TOKEN; a new one is
    `private`. Raises InvalidInput for an invalid format, precision or repository, NotFound, Conflict, NotAllowed.
    """
    require_builder(person)
    resolved = resolve_checkpoint(ctx, checkpoint)
    _check(ctx, resolved, format=format, numbers=numbers, push=push)
    payload = ExportPayload(
        checkpoint=require_folder(resolved.folder, what="checkpoint"),
        checkpoint_id=resolved.id,
        format=format,
        numbers=numbers,
        name=file_name(resolved.name),
        card=card_of(ctx, resolved, library="gguf" if format == "gguf" else "transformers"),
        out=f"exports/{new_id()}",
        push=HubTarget(repo=push, private=private) if push else None,
    )
    return queue_export(ctx, payload, title=f"Export {resolved.name}", person=person)


def _check(ctx: Context, checkpoint: CheckpointView, *, format: str, numbers: str, push: str) -> None:
    if format not in FORMATS:
        raise InvalidInput(
            f"There is no export format {format!r}.", remedy=f"Choose one of {', '.join(FORMATS)}.", field="format"
        )
    if numbers not in NUMBERS:
        raise InvalidInput(
            f"A GGUF file can't hold {numbers!r} here.", remedy=f"Choose one of {', '.join(NUMBERS)}.", field="numbers"
        )
    if push and not HUB_ID.fullmatch(push):
        raise InvalidInput(f"{push} is not a repository id of the Hub.", remedy="Write it as owner/name.", field="push")
    if format == "gguf":
        with ctx.db.read() as session:
            require_writer(session, checkpoint.id)
        if (refusal := why_no_gguf(ctx, checkpoint)) is not None:
            raise InvalidInput(refusal, remedy=NO_GGUF_CURE, field="format")


def why_no_gguf(ctx: Context, checkpoint: CheckpointView) -> str | None:
    """Return why a checkpoint can't be exported as GGUF, by its family and its tokenizer; None if it can."""
    refusal = gguf_refusal(checkpoint.family)
    return refusal or (_tokenizer_refusal(ctx, checkpoint.folder) if checkpoint.folder else None)


@lru_cache(maxsize=256)  # a checkpoint's files never change
def _tokenizer_refusal(ctx: Context, folder: str) -> str | None:
    try:
        described = json.loads((bring_small_files(ctx, folder) / "tokenizer.json").read_text(encoding="utf-8"))
        return gguf_tokenizer_refusal(described)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return None  # the job says what is wrong with the file


def card_of(ctx: Context, checkpoint: CheckpointView, *, library: str = "transformers") -> str:
    """Return the model card of an export: the report of the run that made it, or a short card for a base; with the
    safety card, or that safety was not measured. `library` is the one that loads the export, as the Hub names it.
    """
    card = safety_card(ctx, checkpoint.id)
    plain_card = _plain_card(ctx, checkpoint).replace(f"{LIBRARY}transformers\n", f"{LIBRARY}{library}\n", 1)
    return join_card(plain_card, card.markdown if card.scores or card.unjudged else f"{HEADING}\n\nNot measured.\n")


def _plain_card(ctx: Context, checkpoint: CheckpointView) -> str:
    if checkpoint.run_id:
        return run_report_text(ctx, checkpoint.run_id, public=True)
    facts = {
        "Family": checkpoint.family,
        "Parameters": f"{checkpoint.parameters:,}" if checkpoint.parameters else "",
        "Source": checkpoint.source if checkpoint.facts.revision else "",  # a folder's path stays private
        "Licence": checkpoint.facts.licence or "not stated",
    }
    lines = [f"- {label}: {_plain(value)}" for label, value in facts.items() if value]
    lines += [f"- {_plain(line)}" for line in card_lines(ctx, checkpoint.id)]
    return "\n".join(["---", f"{LIBRARY}transformers", "---", "", f"# {_plain(checkpoint.name)}", "", *lines, ""])


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))


def list_exports(ctx: Context, checkpoint_id: str) -> list[ExportView]:
    """Return the exports of a checkpoint, newest first."""
    with ctx.db.read() as session:
        of_it = (Job.kind == JobKind.EXPORT, Job.payload["checkpoint_id"].as_string() == checkpoint_id)
        query = select(Job).where(*of_it).order_by(Job.created_at.desc()).limit(MAX_SHOWN)
        rows = [(view(job), ExportPayload.read(job.payload)) for job in session.scalars(query)]
    return [view_export(ctx, job, payload) for job, payload in rows]
