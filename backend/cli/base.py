"""`roundhouse base`: checkpoints from outside."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.cli.waiting import wait_for_job
from backend.domain.attributes import attributes_of
from backend.domain.wording import format_bytes
from backend.infra.files.paths import find_path
from backend.services.checkpoints.bases import add_base, list_base_offers, preview_base
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints, resolve_checkpoint
from backend.services.context import LOCAL

app = CommandGroup(no_args_is_help=True)
Source = Annotated[
    str,
    typer.Argument(
        help="A folder with config.json and safetensors, a .gguf file, or a Hub id, which may be OWNER/NAME@REVISION."
    ),
]
Revision = Annotated[str, typer.Option(help="Branch, tag or commit of a Hub id. Default: main.")]


@app.command("add")
def add(source: Source, name: Annotated[str, typer.Option(help="Name of the base.")], revision: Revision = "") -> None:
    """Add a base, and wait until it is downloaded and checked."""
    ctx = get_context()
    base = add_base(ctx, name=name, source=_absolute(source), revision=revision, person=LOCAL)
    assert base.job_id is not None
    wait_for_job(ctx, base.job_id)
    done = resolve_checkpoint(ctx, base.id)
    emit(checkpoint_data(done), text=f"Added {_summary(done)}")


@app.command("check")
def check(source: Source, revision: Revision = "") -> None:
    """Check a source without adding it: family, parameters, size, licence. Reads only small files of the Hub."""
    look = preview_base(get_context(), _absolute(source), revision=revision, person=LOCAL)
    facts = look.facts
    data = {
        "source": look.source,
        **attributes_of(facts, "kind", "family", "parameters", "bytes", "licence", "quantisation", "bits_per_weight"),
        "memory_bytes_16bit": facts.memory_bytes[0],
        "memory_bytes_32bit": facts.memory_bytes[1],
        **(
            {"revision": look.commit, "requested_revision": look.revision, "download_bytes": look.download_bytes}
            if look.commit
            else {}
        ),
    }
    numbers = f", {facts.quantisation}, {facts.bits_per_weight} bits per weight" if facts.quantisation else ""
    where = f", commit {look.commit}, {format_bytes(look.download_bytes)} to download" if look.commit else ""
    emit(
        data,
        text=(
            f"{look.source}: {facts.family or 'unknown family'}, {_count(facts.parameters)},"
            f" {format_bytes(facts.bytes)}{numbers}{where}; licence: {facts.licence or 'not stated'}."
        ),
    )


@app.command("show")
def show(base: Annotated[str, typer.Argument(help="Its name or id.")]) -> None:
    """Show a base or any other checkpoint: family, size, licence, source, and the commit of a Hub id."""
    checkpoint = resolve_checkpoint(get_context(), base)
    lines = [_summary(checkpoint), f"Source: {checkpoint.source or checkpoint.run or 'unknown'}"]
    lines += [
        f"{key.replace('_', ' ').capitalize()}: {value}"
        for key, value in checkpoint.facts.dump().items()
        if value not in (None, "")
    ]
    emit(checkpoint_data(checkpoint), text="\n".join(lines))


@app.command("list")
def list_() -> None:
    """List checkpoints, bases and those of runs."""
    checkpoints = list_checkpoints(get_context())
    emit(
        {"checkpoints": [checkpoint_data(c) for c in checkpoints]},
        text="\n".join(f"{c.name}  {c.family}  {_count(c.parameters)}" for c in checkpoints) or "No checkpoints yet.",
    )


@app.command("scan")
def scan() -> None:
    """List the folders under MODEL_PATH as bases, with the reason where one can't be used."""
    ctx = get_context()
    offers = list_base_offers(ctx)
    data = [
        {
            "name": offer.name,
            "path": str(offer.path),
            "kind": offer.kind,
            "family": offer.facts.family if offer.facts else None,
            "parameters": offer.facts.parameters if offer.facts else None,
            "bytes": offer.facts.bytes if offer.facts else None,
            "licence": offer.facts.licence if offer.facts else None,
            "problem": offer.problem or None,
        }
        for offer in offers
    ]
    words = [
        (
            f"{o.name}  {o.facts.family}  {_count(o.facts.parameters)}  {o.facts.licence or 'licence not stated'}"
            if o.facts
            else f"{o.name}  can't be used: {o.problem}"
        )
        for o in offers
    ]
    empty = (
        "MODEL_PATH is not set."
        if ctx.model_path is None
        else f"Nothing under {ctx.model_path} looks like a checkpoint."
    )
    emit({"offers": data}, text="\n".join(words) or empty)


def checkpoint_data(checkpoint: CheckpointView) -> dict[str, object]:
    """Return a checkpoint as the command line's JSON."""
    return {
        "checkpoint": checkpoint.name,
        **attributes_of(
            checkpoint,
            "id",
            "origin",
            "family",
            "parameters",
            "bytes",
            "run",
            "step",
            "parent",
            "is_adapter",
            "is_ready",
            "source",
            "metrics",
        ),
        **checkpoint.facts.dump(),
    }


def _absolute(source: str) -> str:
    path = find_path(source)
    return str(path.resolve()) if path is not None else source


def _count(parameters: int | None) -> str:
    return f"{parameters:,} parameters" if parameters else "parameters unknown"


def _summary(checkpoint: CheckpointView) -> str:
    licence = checkpoint.facts.licence
    return (
        f"{checkpoint.name}: {checkpoint.family}, {_count(checkpoint.parameters)}, {format_bytes(checkpoint.bytes)}"
        + (f"; licence: {licence}" if licence else "")
        + "."
    )
