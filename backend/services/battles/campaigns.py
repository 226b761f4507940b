"""Create campaigns: draw prompts, enter contestants, and generate every contestant's completions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.races import retry_races
from backend.db.tables import Campaign, CampaignPrompt, Checkpoint, Contestant
from backend.domain.attributes import attributes_of
from backend.domain.battles.campaign import (
    CampaignConfig,
    CampaignRecord,
    Messages,
    content_hash,
    refuse_revealing_name,
)
from backend.domain.battles.campaign_file import ContestantSource
from backend.domain.jobs.states import QUEUE_OF, JobKind
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput
from backend.services.battles.contestants import Entry, add_file_answers, resolve_entries
from backend.services.battles.generation import add_completion, refuse_closed, start_generation, usable_checkpoint
from backend.services.battles.prompts import draw_from, prompts_of_entries
from backend.services.battles.views import GOLD_KINDS, CampaignView, campaign_view, find_campaign
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.jobs.jobs import wake

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
