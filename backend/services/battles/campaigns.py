"""Create campaigns: draw prompts (held-out rows of a dataset, or those of a file of completions), enter contestants of
every kind, and generate their completions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Campaign, CampaignPrompt, Checkpoint, Contestant, DatasetVersion, Run
from backend.domain.attributes import attributes_of
from backend.domain.battles.campaign import (
    LONGEST_CATEGORY,
    CampaignConfig,
    CampaignRecord,
    ContestantSource,
    Messages,
    content_hash,
    prompt_messages,
    refuse_revealing_name,
    with_system,
)
from backend.domain.data.kinds import PROMPT_KINDS, DatasetKind
from backend.domain.data.rows.display import displayable
from backend.domain.data.rows.mapping import apply_mapping
from backend.domain.data.rows.problem import RowProblem
from backend.domain.data.rows.records import RECORD, file_row
from backend.domain.data.versions.provenance import VotesProvenance
from backend.domain.jobs.states import QUEUE_OF, JobKind
from backend.domain.json_values import Row
from backend.domain.names import clean_name, require_length
from backend.domain.wording import plural
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.files.parquet import read_row_page
from backend.services.battles.generation import add_completion, refuse_closed, start_generation, usable_checkpoint
from backend.services.battles.views import GOLD_KINDS, CampaignView, campaign_view, find_campaign
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.views import VersionView
from backend.services.jobs.jobs import wake
from backend.services.serving.endpoints import get_endpoint

PROMPT_PARTS = ("messages", "prompt", "question", "instruction", "input")
COMPLETION_COLUMNS = ("completion", "answer", "response", "output")
MAX_LINES, MAX_PREVIEWED, MAX_COLUMN = 200_000, 50, 120


@dataclass(frozen=True)
class FilePrompt:
    """A prompt of a file, the first line that holds it, and its category there; None without the column."""

    messages: Messages
    line: int
    category: str | None


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
    prompts: dict[str, FilePrompt] = field(default_factory=dict)


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
        try:
            prompts, answers = parse_completions(files[source.file], column=source.column, config=config)
        except InvalidInput as error:
            raise InvalidInput(f"{source.file}: {error.message}", remedy=error.remedy, field=error.field) from error
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
) -> tuple[dict[str, FilePrompt], dict[str, list[str]]]:
    """Read JSON lines {prompt or messages, completion}; return prompts and their completions by the prompts' hash.

    `column` names the column of the completions; empty: `completion`, `answer`, `response` or `output`. Raises
    InvalidInput with the line.
    """
    prompts: dict[str, FilePrompt] = {}
    answers: dict[str, list[str]] = {}
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines or len(lines) > MAX_LINES:
        raise InvalidInput(
            f"The file has {len(lines):,} lines of completions.", remedy=f"Give 1 to {MAX_LINES:,}.", field="file"
        )
    for number, line in lines:
        row = _row(line, number)
        messages = _prompt_of(row, number)
        name = column or next((name for name in COMPLETION_COLUMNS if name in row), COMPLETION_COLUMNS[0])
        answer = row.get(name)
        if not isinstance(answer, str):
            columns = ", ".join(map(str, row))[:200]
            raise InvalidInput(f"Line {number} has no text in the column {name!r}; it has {columns}.", field="column")
        messages = with_system(messages, config.system)
        key = content_hash(messages)
        has_category = config.category_column and config.category_column in row
        category = str(row[config.category_column] or "") if has_category else None
        prompts.setdefault(key, FilePrompt(messages, number, category))
        answers.setdefault(key, []).append(answer)
    return prompts, answers


def list_completion_columns(text: str) -> tuple[tuple[str, ...], str]:
    """Return the columns of text beside the prompt in the first lines of a file of completions, and that which is read
    where none is named, "" if it is not there.

    Raises InvalidInput for lines that are no JSON objects with a prompt, and without such a column.
    """
    lines = enumerate(text.split("\n", MAX_PREVIEWED)[:MAX_PREVIEWED], start=1)
    rows = {number: _row(line, number) for number, line in lines if line.strip()}
    if not rows:
        raise InvalidInput("The file has no lines of completions.", field="file")
    for number, row in rows.items():
        _prompt_of(row, number)
    columns = {name: None for row in rows.values() for name, value in row.items() if isinstance(value, str)}
    texts = tuple(name for name in columns if name not in PROMPT_PARTS and 0 < len(name) <= MAX_COLUMN)
    if not texts:
        names = ", ".join(map(str, next(iter(rows.values()))))[:200]
        raise InvalidInput(
            f"No column beside the prompt holds text; it has {names}.",
            remedy="Put the completions into a column, such as `completion`.",
            field="column",
        )
    return texts, next((name for name in COMPLETION_COLUMNS if name in texts), "")


def _prompt_of(row: Row, number: int) -> Messages:
    messages = prompt_messages(row)
    if messages is None:
        raise InvalidInput(
            f"Line {number} has no prompt.", remedy="Name the column `prompt` or `messages`.", field="file"
        )
    return messages


def _row(line: str, number: int) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Line {number} is not JSON.", remedy="Write one object a line.", field="file") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"Line {number} is not an object.", remedy="Write one object a line.", field="file")
    return row


MAX_ROWS = 100_000
PROMPT_COLUMNS = ("prompt", "question", "instruction")
"""Columns that hold the prompt of a row of kind records; the first that is not empty is used."""
T = TypeVar("T")


@dataclass(frozen=True)
class DrawnPrompt:
    """A prompt and its category, empty without one."""

    messages: Messages
    category: str = ""


def draw_from(
    ctx: Context, version: VersionView, config: CampaignConfig, checkpoint_ids: Sequence[str]
) -> list[DrawnPrompt]:
    """Draw a campaign's prompts from rows that no contestant trained on: the validation split, and the training split
    too if the config allows it or none of the checkpoints was trained on the dataset.

    Raises InvalidInput if there are too few, or no column of the categories.
    """
    trained = trained_on(ctx, version, checkpoint_ids)
    with_train = config.allow_train or not trained.names
    until = config.num_prompts + len(trained.prompts)
    distinct, num_repeated = _read(ctx, version, config, until=until, with_train=with_train)
    prompts = [prompt for digest, prompt in distinct.items() if config.allow_train or digest not in trained.prompts]
    if not distinct and with_train:
        columns = " In kind records it stands in a column prompt, question or instruction."
        raise InvalidInput(
            f"No row of “{version.label}” holds a prompt.{columns if version.kind == DatasetKind.RECORDS else ''}",
            remedy="Choose another dataset.",
            field="dataset",
        )
    if len(prompts) < config.num_prompts and not config.allow_train:
        num_learned = len(distinct) - len(prompts)
        reasons = [
            *([f"“{trained.names[0]}” trained on its other rows"] if not with_train else []),
            *([f"a contestant learned from votes on {num_learned:,} others"] if num_learned else []),
            *(
                [f"{plural(num_repeated, 'row')} repeat{'s' * (num_repeated == 1)} another's text"]
                if num_repeated
                else []
            ),
        ]
        cures = [
            *([f"use {plural(len(prompts), 'prompt')}"] if prompts else []),
            "choose another dataset",
            *(["turn on “Allow training rows” (`allow_train`)"] if not with_train or num_learned else []),
        ]
        remedy = f"{', '.join(cures[:-1])} or {cures[-1]}." if len(cures) > 1 else f"{cures[0]}."
        raise InvalidInput(
            f"{'' if with_train else 'The validation split of '}“{version.label}” has {len(prompts):,} distinct"
            f" held-out prompts, and {config.num_prompts:,} are needed"
            f"{': ' if reasons else ''}{', and '.join(reasons)}.",
            remedy=f"{remedy[0].upper()}{remedy[1:]}",
            field="num_prompts",
        )
    return sample_prompts(prompts, num=config.num_prompts, seed=config.seed)


@dataclass(frozen=True)
class TrainedOn:
    """Contestants that trained on a dataset (`names`), and the prompts (by hash) of campaigns they trained on."""

    names: tuple[str, ...]
    prompts: frozenset[str]


def trained_on(ctx: Context, version: VersionView, checkpoint_ids: Sequence[str]) -> TrainedOn:
    """Return which checkpoints a run trained on any version of a dataset, they or their ancestors, and the prompts of
    their votes.
    """
    names, voted = [], set[str]()
    with ctx.db.read() as session:
        dataset_id = session.scalar(select(DatasetVersion.dataset_id).where(DatasetVersion.id == version.id))
        for checkpoint_id in checkpoint_ids:
            versions = _ancestry(session, checkpoint_id)
            if any(row.dataset_id == dataset_id for row in versions):
                names.append(session.get_one(Checkpoint, checkpoint_id).name)
            voted |= {
                row["prompt_id"]
                for used in versions
                if isinstance(used.provenance, VotesProvenance)
                for row in used.provenance.rows
            }
        hashes = session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.id.in_(voted)))
        return TrainedOn(tuple(names), frozenset(hashes))


def _ancestry(session: Session, checkpoint_id: str) -> list[DatasetVersion]:
    """Return the dataset versions that a checkpoint and its ancestors were trained on."""
    versions, waiting, visited = [], [checkpoint_id], set[str]()
    while waiting:
        checkpoint = session.get(Checkpoint, waiting.pop())
        if checkpoint is None or checkpoint.id in visited:
            continue
        visited.add(checkpoint.id)
        run = session.get(Run, checkpoint.run_id) if checkpoint.run_id else None
        used = session.get(DatasetVersion, run.dataset_version_id) if run and run.dataset_version_id else None
        versions += [used] if used else []
        waiting += [parent for parent in (checkpoint.parent_id, run.base_id if run else None) if parent]
    return versions


def read_held_out_prompts(
    ctx: Context, version: VersionView, *, config: CampaignConfig, checkpoint_ids: Sequence[str]
) -> list[DrawnPrompt]:
    """Return the distinct held-out prompts of a dataset for these checkpoints, or all of them if the config allows
    training rows.

    Raises InvalidInput if its rows have no prompts.
    """
    trained = trained_on(ctx, version, checkpoint_ids)
    prompts, _ = _read(ctx, version, config, until=MAX_ROWS, with_train=config.allow_train or not trained.names)
    return [prompt for digest, prompt in prompts.items() if config.allow_train or digest not in trained.prompts]


def sample_prompts(prompts: list[T], *, num: int, seed: int) -> list[T]:
    """Return at most `num` prompts, drawn with the seed, in the dataset's order."""
    if len(prompts) <= num:
        return prompts
    return [prompts[index] for index in sorted(Random(seed).sample(range(len(prompts)), num))]


def prompts_of_entries(entries: Sequence[Entry], config: CampaignConfig) -> list[DrawnPrompt]:
    """Draw a campaign's prompts and their categories from the first file of completions.

    Raises InvalidInput without a file, and for a line of it that lacks the column of the categories.
    """
    first = next((entry for entry in entries if entry.prompts), None)
    if first is None:
        raise InvalidInput("The campaign has no prompts.", remedy="Choose a dataset.", field="dataset")
    column = config.category_column
    lacking = next((prompt.line for prompt in first.prompts.values() if prompt.category is None), None)
    if column and lacking is not None:
        raise InvalidInput(
            f"Line {lacking} of “{first.source['file']}” has no column {column!r}.",
            remedy="Give every line of the first file the column, or leave the category column empty.",
            field="category_column",
        )
    drawn = sample_prompts(list(first.prompts.values()), num=config.num_prompts, seed=config.seed)
    return [DrawnPrompt(prompt.messages, _checked_category(prompt.category or "", column)) for prompt in drawn]


def _read(
    ctx: Context, version: VersionView, config: CampaignConfig, *, until: int, with_train: bool
) -> tuple[dict[str, DrawnPrompt], int]:
    """Return the prompts by their hash, and how many rows repeat another's; the training split is read only if
    validation has fewer than `until`.
    """
    if version.kind not in PROMPT_KINDS or version.folder is None:
        raise InvalidInput(
            f"“{version.dataset}” is a dataset of kind {version.kind}, whose rows have no prompts.",
            remedy=f"Choose one of kind {', '.join(PROMPT_KINDS)}.",
            field="dataset",
        )
    prompts: dict[str, DrawnPrompt] = {}
    num_rows = 0
    for split in ("val", "train") if with_train else ("val",):
        for row in read_row_page(ctx.artifacts.path(version.folder), split=split, limit=MAX_ROWS):
            messages = _messages(row, version.kind)
            if messages is None:
                continue
            num_rows += 1
            messages = with_system(messages, config.system)
            prompts.setdefault(content_hash(messages), DrawnPrompt(messages, _category(row, config.category_column)))
        if len(prompts) >= until:
            break
    return prompts, num_rows - len(prompts)


def _messages(row: Mapping[str, object], kind: str) -> Messages | None:
    """Return a row's prompt, for a row as its file has it as an import of kind prompts reads it; None without one."""
    if kind != DatasetKind.RECORDS:
        return prompt_messages(row)
    source = file_row(row)
    column = next((name for name in PROMPT_COLUMNS if source.get(name)), None)
    if column is None:
        return None
    mapping = {column: "prompt", **({"input": "input"} if column == "instruction" and "input" in source else {})}
    try:
        return prompt_messages(apply_mapping(source, kind=DatasetKind.PROMPTS, mapping=mapping))
    except RowProblem:
        return None


def _category(row: Mapping[str, object], column: str) -> str:
    if not column:
        return ""
    columns = {**row, **file_row(row)}
    columns.pop(RECORD, None)
    if column not in columns:
        raise InvalidInput(
            f"The dataset has no column {column!r}. It has {', '.join(map(displayable, columns))}.",
            remedy=(
                f"If its file has a column {column!r}, import it again as kind records, which keeps every column, and"
                " choose that dataset."
            ),
            field="category_column",
        )
    return _checked_category(str(columns[column] or ""), column)


def _checked_category(value: str, column: str) -> str:
    what = f"In the column {column!r} the category"
    return require_length(displayable(value), what=what, limit=LONGEST_CATEGORY, field="category_column")


MAX_CONTESTANTS = 20


@retry_races
def start_campaign(
    ctx: Context,
    *,
    name: str,
    contestants: Sequence[ContestantSource],
    dataset: str,
    config: CampaignConfig,
    person: Person,
    files: Mapping[str, str] | None = None,
) -> CampaignView:
    """Draw held-out prompts from a dataset (`name`, `name@version` or a version's id; empty: the prompts of the first
    file) and queue the completions of every checkpoint and endpoint. `files` maps the names of files of completions to
    their text.

    Raises InvalidInput for fewer than two contestants, a name that reveals one, or too few held-out prompts; Conflict
    for a name that is taken; NotFound, NotAllowed.
    """
    require_builder(person)
    name = clean_name(name, what="A campaign")
    least = 1 if config.is_single else 2
    if len(contestants) < least:
        raise InvalidInput(
            "A campaign needs at least two different contestants.",
            remedy="Choose another checkpoint.",
            field="contestants",
        )
    if len(contestants) > MAX_CONTESTANTS:
        raise InvalidInput(f"{len(contestants)} contestants are too many.", remedy=f"Choose at most {MAX_CONTESTANTS}.")
    entries = resolve_entries(ctx, contestants, files or {}, config=config, person=person)
    refuse_revealing_name(name, [entry.name for entry in entries])
    version = resolve_version(ctx, dataset) if dataset else None
    checkpoint_ids = [entry.checkpoint_id for entry in entries if entry.checkpoint_id]
    prompts = draw_from(ctx, version, config, checkpoint_ids) if version else prompts_of_entries(entries, config)
    with ctx.db.write() as session:
        campaign = insert_campaign(
            session,
            ctx,
            name=name,
            prompts=[prompt.messages for prompt in prompts],
            categories=[prompt.category for prompt in prompts],
            config=config,
            person=person,
            dataset_version_id=version.id if version else None,
        )
        add_gold(session, ctx, campaign, config)
        for entry in entries:
            _enter_source(session, ctx, campaign, entry, person_id=person.id)
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def add_contestant(ctx: Context, campaign_id: str, checkpoint_id: str, *, person: Person) -> CampaignView:
    """Enter another checkpoint on the same prompts. Raises what `start_campaign` raises, and Conflict if it is there or
    the campaign is closed.
    """
    require_builder(person)
    with ctx.db.read() as session:
        config = find_campaign(session, campaign_id).config
    (entry,) = resolve_entries(ctx, [ContestantSource(checkpoint=checkpoint_id)], {}, config=config, person=person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        refuse_closed(campaign)
        refuse_revealing_name(campaign.name, [entry.name])
        _enter_source(session, ctx, campaign, entry, person_id=person.id)
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def close_campaign(ctx: Context, campaign_id: str, *, person: Person, closed: bool = True) -> CampaignView:
    """Close a campaign, or reopen it. Votes and standings are kept."""
    require_builder(person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        if campaign.record.imported and not closed:
            raise Conflict("Imported votes have no ballot.", remedy="Start a campaign of your own.")
        campaign.closed_at = (campaign.closed_at or ctx.now()) if closed else None
        session.flush()
        return campaign_view(session, campaign)


def insert_campaign(
    session: Session,
    ctx: Context,
    *,
    name: str,
    prompts: Sequence[Messages],
    config: CampaignConfig,
    person: Person,
    dataset_version_id: str | None,
    categories: Sequence[str] = (),
    **columns: Any,
) -> Campaign:
    """Insert a campaign with its prompts and their categories. `columns` may hold parent_id and run_id; `held_out`,
    `standing` and `imported` go into its config.
    """
    if session.scalar(select(Campaign.id).where(Campaign.name == name)):
        raise Conflict(f"There is already a campaign “{name}”.", remedy="Give the new one another name.", field="name")
    extra = {key: columns.pop(key) for key in ("held_out", "standing", "imported") if key in columns}
    campaign = Campaign(
        name=name,
        record=CampaignRecord(config=config, **extra),
        dataset_version_id=dataset_version_id,
        created_by=person.id,
        created_at=ctx.now(),
        **columns,
    )
    session.add(campaign)
    session.flush()
    session.add_all(
        CampaignPrompt(
            campaign_id=campaign.id,
            position=position,
            messages=messages,
            content_hash=content_hash(messages),
            category=categories[position] if categories else "",
        )
        for position, messages in enumerate(prompts)
    )
    session.flush()
    return campaign


def enter(session: Session, ctx: Context, campaign: Campaign, checkpoint: Checkpoint) -> Contestant:
    """Insert a contestant, or return the checkpoint's existing one."""
    existing = session.scalar(
        select(Contestant).where(Contestant.campaign_id == campaign.id, Contestant.checkpoint_id == checkpoint.id)
    )
    if existing is not None:
        return existing
    contestant = Contestant(campaign_id=campaign.id, checkpoint_id=checkpoint.id, created_at=ctx.now())
    session.add(contestant)
    session.flush()
    return contestant


def add_gold(session: Session, ctx: Context, campaign: Campaign, config: CampaignConfig) -> None:
    """Insert a campaign's gold pairs: prompts with answers of two authors that no board shows."""
    if not config.gold:
        return
    authors = [Contestant(campaign_id=campaign.id, kind=kind, label=kind, created_at=ctx.now()) for kind in GOLD_KINDS]
    session.add_all(authors)
    session.flush()
    for number, gold in enumerate(config.gold):
        prompt = CampaignPrompt(
            campaign_id=campaign.id,
            position=config.num_prompts + number,
            messages=gold.messages,
            content_hash=content_hash(gold.messages),
            purpose="gold",
        )
        session.add(prompt)
        session.flush()
        for author, text in zip(authors, (gold.better, gold.worse), strict=True):
            add_completion(session, ctx, prompt, author, text=text, facts={"from": "gold"})


def _enter_source(session: Session, ctx: Context, campaign: Campaign, entry: Entry, *, person_id: str | None) -> None:
    """Enter a contestant and queue its completions, or take them from its file. Raises Conflict if it is there."""
    if entry.checkpoint_id is not None:
        checkpoint = usable_checkpoint(session, entry.checkpoint_id)
        known = select(Contestant.id).where(
            Contestant.campaign_id == campaign.id, Contestant.checkpoint_id == checkpoint.id
        )
    else:
        known = select(Contestant.id).where(Contestant.campaign_id == campaign.id, Contestant.label == entry.name)
    if session.scalar(known):
        raise Conflict(
            f"“{entry.name}” is already in this campaign.", remedy="Give it another name.", field="contestant"
        )
    contestant = Contestant(
        **attributes_of(entry, "checkpoint_id", "kind", "label", "source"),
        campaign_id=campaign.id,
        created_at=ctx.now(),
    )
    session.add(contestant)
    session.flush()
    if entry.kind == "file":
        add_file_answers(session, ctx, campaign, contestant, entry)
    else:
        start_generation(session, ctx, campaign, contestant, person_id=person_id)
