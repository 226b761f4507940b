"""Contestants of every kind: checkpoints, endpoints, and files of completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Campaign, CampaignPrompt, Contestant
from backend.domain.battles.campaign import CampaignConfig, Messages, content_hash, prompt_messages, with_system
from backend.domain.battles.campaign_file import ContestantSource
from backend.domain.json_values import Row
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.services.battles.generation import add_completion
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person
from backend.services.serving.endpoints import get_endpoint

COMPLETION_COLUMNS = ("completion", "answer", "response", "output")
MAX_LINES = 200_000


@dataclass(frozen=True)
class Entry:
    """A contestant to enter. `label` is empty for a checkpoint without a name of its own. `answers` of a file: texts by
    prompt, with `prompts` by their hash.
    """

    kind: str
    name: str
    label: str
    checkpoint_id: str | None = None
    source: dict[str, str | None] = field(default_factory=dict)
    answers: dict[str, list[str]] = field(default_factory=dict)
    prompts: dict[str, Messages] = field(default_factory=dict)


def resolve_entries(
    ctx: Context,
    sources: Sequence[ContestantSource],
    files: Mapping[str, str],
    *,
    config: CampaignConfig,
    person: Person,
) -> list[Entry]:
    """Return the contestants of these sources. Raises NotFound for an unknown one, InvalidInput for a file without
    completions, two of the same name or a context that the answers fill, NotAllowed for a foreign address that an
    account names.
    """
    entries = [_resolve(ctx, source, files, config=config, person=person) for source in sources]
    names = [entry.name for entry in entries]
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise InvalidInput(
            f"Two contestants are named “{twice}”.", remedy="Give one of them a `name`.", field="contestants"
        )
    return entries


def add_file_answers(session: Session, ctx: Context, campaign: Campaign, contestant: Contestant, entry: Entry) -> None:
    """Insert a file's completions of the campaign's prompts. Raises InvalidInput if it answers none."""
    config = campaign.config
    prompts = session.scalars(
        select(CampaignPrompt).where(CampaignPrompt.campaign_id == campaign.id, CampaignPrompt.purpose == "vote")
    )
    number = 0
    for prompt in prompts.all():
        for sample, text in enumerate(entry.answers.get(prompt.content_hash, [])[: config.answers_per_prompt]):
            add_completion(session, ctx, prompt, contestant, text=text, sample=sample, facts={"from": "file"})
            number += 1
    if not number:
        raise InvalidInput(
            f"The file of “{entry.name}” answers none of the campaign's prompts.",
            remedy=(
                "Choose “The files' own prompts” (in a file of a campaign: no dataset), or files that answer the"
                " dataset's prompts, word for word."
            ),
            field="contestants",
        )


def _resolve(
    ctx: Context, source: ContestantSource, files: Mapping[str, str], *, config: CampaignConfig, person: Person
) -> Entry:
    if source.checkpoint:
        return _checkpoint(ctx, source, config)
    if source.file:
        if source.file not in files:
            raise NotFound(f"The file {source.file!r} was not given.", remedy="Add it.", field="contestants")
        prompts, answers = parse_completions(files[source.file], column=source.column, config=config)
        return Entry("file", source.label, source.label, source={"file": source.file}, answers=answers, prompts=prompts)
    if source.endpoint:
        endpoint = get_endpoint(ctx, source.endpoint)
        return Entry("endpoint", source.label, source.label, source={"endpoint": endpoint.name})
    if person.id is not None and source.url != ctx.policy.judge_url:
        raise NotAllowed(
            "An account can't name an address that the server calls.",
            remedy=(
                "Create the campaign by `roundhouse campaign create` on the server, or ask the operator for"
                " ROUNDHOUSE_JUDGE_URL."
            ),
        )
    return Entry(
        "endpoint",
        source.label,
        source.label,
        source={"url": source.url, "model": source.model, "key_env": source.key_env},
    )


def _checkpoint(ctx: Context, source: ContestantSource, config: CampaignConfig) -> Entry:
    try:
        checkpoint = resolve_checkpoint(ctx, source.checkpoint)
    except NotFound as error:
        raise InvalidInput(str(error.message), remedy="Choose another checkpoint.", field="contestants") from error
    context = checkpoint.facts.context
    if context is not None and config.max_tokens >= context:
        raise InvalidInput(
            f"The context of “{checkpoint.name}” holds {context:,} tokens: an answer of {config.max_tokens:,} leaves no"
            " room for the prompt.",
            remedy=f"Set Max new tokens to {context // 2:,} or fewer, or leave it out.",
            field="max_tokens",
        )
    return Entry("checkpoint", source.name or checkpoint.name, source.name, checkpoint_id=checkpoint.id)


def parse_completions(
    text: str, *, column: str, config: CampaignConfig
) -> tuple[dict[str, Messages], dict[str, list[str]]]:
    """Read JSON lines {prompt or messages, completion}; return prompts and their completions by the prompts' hash.

    `column` names the column of the completions; empty: `completion`, `answer`, `response` or `output`. Raises
    InvalidInput with the line.
    """
    prompts: dict[str, Messages] = {}
    answers: dict[str, list[str]] = {}
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines or len(lines) > MAX_LINES:
        raise InvalidInput(
            f"The file has {len(lines):,} lines of completions.", remedy=f"Give 1 to {MAX_LINES:,}.", field="file"
        )
    for number, line in lines:
        row = _row(line, number)
        messages = prompt_messages(row)
        if messages is None:
            raise InvalidInput(
                f"Line {number} has no prompt.", remedy="Name the column `prompt` or `messages`.", field="file"
            )
        name = column or next((name for name in COMPLETION_COLUMNS if name in row), COMPLETION_COLUMNS[0])
        answer = row.get(name)
        if not isinstance(answer, str):
            columns = ", ".join(map(str, row))[:200]
            raise InvalidInput(f"Line {number} has no text in the column {name!r}; it has {columns}.", field="column")
        messages = with_system(messages, config.system)
        key = content_hash(messages)
        prompts.setdefault(key, messages)
        answers.setdefault(key, []).append(answer)
    return prompts, answers


def _row(line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Line {number} is not JSON.", remedy="Write one object a line.", field="file") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"Line {number} is not an object.", remedy="Write one object a line.", field="file")
    return row
