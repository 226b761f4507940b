"""`roundhouse prompt`: the team's prompts: list, show a version or what changed, save the next version, delete."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.domain.evaluation.prompts import prompt_diff
from backend.domain.names import clean_name
from backend.errors import InvalidInput, NotFound
from backend.services.context import LOCAL
from backend.services.serving.prompts import (
    MAX_NAME,
    PromptVersionView,
    PromptView,
    delete_prompt,
    get_prompt,
    get_version,
    list_team_prompts,
    save_prompt,
)

app = CommandGroup(no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of a prompt.")]


@app.command("list")
def list_(find: Annotated[str, typer.Option(help="Only prompts whose name holds these words.")] = "") -> None:
    """List the prompts with their newest version."""
    prompts = list_team_prompts(get_context(), find)
    lines = [
        f"{prompt.name:<28} version {prompt.number:<3} {prompt.saved_at:%Y-%m-%d %H:%M} {prompt.author:<12} "
        f"{', '.join(prompt.variables)}".rstrip()
        for prompt in prompts
    ]
    data = [
        {
            "name": prompt.name,
            "version": prompt.number,
            "variables": list(prompt.variables),
            "author": prompt.author or None,
            "saved_at": prompt.saved_at,
        }
        for prompt in prompts
    ]
    emit({"prompts": data}, text="\n".join(lines) or "No prompt.")


@app.command("show")
def show(
    name: NameArgument,
    version: Annotated[int | None, typer.Option(min=1, help="Version; the newest if left out.")] = None,
    against: Annotated[int | None, typer.Option(min=1, help="Show what differs from this version.")] = None,
) -> None:
    """Print a version of a prompt, or what differs from another one."""
    prompt = get_prompt(get_context(), name)
    shown = get_version(get_context(), prompt, version)
    data = _data(prompt, shown)
    text = "\n".join(shown.body.lines())
    if against is not None:
        before = get_version(get_context(), prompt, against)
        data["against"], data["diff"] = against, prompt_diff(before.body, shown.body)
        text = str(data["diff"]) or "No differences."
    emit(data, text=text)


@app.command("save")
def save(
    name: NameArgument,
    file: Annotated[Path, typer.Argument(help="File with the message, {{name}} for a variable; - reads stdin.")],
    system: Annotated[
        Path | None, typer.Option(help="File with the system prompt; the last version's if left out.")
    ] = None,
    note: Annotated[str, typer.Option(help="Change note.")] = "",
) -> None:
    """Save a prompt as its next version; a new name as version 1. The same text makes no version."""
    ctx = get_context()
    name, before = clean_name(name, what="A prompt", limit=MAX_NAME), ""
    with suppress(NotFound):
        before = get_prompt(ctx, name).newest.body.system
    values = {"system": before if system is None else _read(system), "text": _read(file)}
    prompt = save_prompt(ctx, name, values, note=note, person=LOCAL)
    emit(_data(prompt, prompt.newest), text=f"{prompt.name} is at version {prompt.newest.number}.")


@app.command("delete")
def delete(name: NameArgument) -> None:
    """Delete a prompt with its versions and matrices; tasks that were made of it stay."""
    delete_prompt(get_context(), name, person=LOCAL)
    emit({"deleted": name}, text=f"Deleted {name}.")


def _data(prompt: PromptView, version: PromptVersionView) -> dict[str, object]:
    return {
        "name": prompt.name,
        "version": version.number,
        "versions": len(prompt.versions),
        "system": version.body.system,
        "text": version.body.text,
        "variables": list(version.body.variables),
        "note": version.note,
        "author": version.author or None,
        "saved_at": version.saved_at,
    }


def _read(file: Path) -> str:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"{file} can't be read: {error}.", remedy="Name a text file in UTF-8.", field="file"
        ) from error
    return text.removesuffix("\n")
