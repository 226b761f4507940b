"""Create campaigns and generate each contestant's completions of the same prompts by a job, before any vote."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Campaign, CampaignPrompt, Checkpoint, Completion, Contestant, Job
from backend.domain.battles.campaign import CampaignConfig, Messages, content_hash, prompt_messages, refuse_revealing_name, text_hash
from backend.domain.data.kinds import PROMPT_KINDS
from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.payloads import GeneratePayload, Prompt, require_folder
from backend.domain.jobs.results import GenerateResult
from backend.domain.jobs.states import ACTIVE, QUEUE_OF, JobKind
from backend.domain.names import clean_name
from backend.errors import Conflict, InvalidInput
from backend.infra.files.parquet import read_rows
from backend.services.battles.views import CampaignView, campaign_view, find_campaign
from backend.services.checkpoints.checkpoints import require_writer
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.views import VersionView
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import add_job, wake

MAX_CONTESTANTS = 20
MAX_ROWS = 100_000


def create_campaign(
    ctx: Context,
    *,
    name: str,
    checkpoint_ids: Sequence[str],
    dataset: str,
    config: CampaignConfig,
    person: Person,
) -> CampaignView:
    """Draw prompts from a dataset (`name`, `name@version` or a version's id) and queue every contestant's completions.

    Raises InvalidInput for fewer than two contestants, a name that reveals one, or a dataset without prompts; Conflict for a
    name that is taken; NotAllowed.
    """
    require_builder(person)
    name = clean_name(name, what="A campaign")
    if len(set(checkpoint_ids)) < 2:
        raise InvalidInput("A campaign needs at least two different contestants.", remedy="Choose another checkpoint.", field="contestants")
    if len(set(checkpoint_ids)) > MAX_CONTESTANTS:
        raise InvalidInput(f"{len(set(checkpoint_ids))} contestants are too many.", remedy=f"Choose at most {MAX_CONTESTANTS}.")
    version = resolve_version(ctx, dataset)
    prompts = draw_prompts(read_prompts(ctx, version, enough=config.num_prompts), num=config.num_prompts, seed=config.seed)
    with ctx.db.write() as session:
        checkpoints = [usable_checkpoint(session, checkpoint_id) for checkpoint_id in dict.fromkeys(checkpoint_ids)]
        refuse_revealing_name(name, [checkpoint.name for checkpoint in checkpoints])
        campaign = insert_campaign(session, ctx, name=name, prompts=prompts, config=config, person=person, dataset_version_id=version.id)
        for checkpoint in checkpoints:
            start_generation(session, ctx, campaign, enter(session, ctx, campaign, checkpoint), person_id=person.id)
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def read_prompts(ctx: Context, version: VersionView, *, enough: int) -> list[Messages]:
    """Return the distinct prompts of a dataset's rows: of its validation split, and of the training split too if those are not enough.

    Raises InvalidInput if its rows have no prompts.
    """
    if version.kind not in PROMPT_KINDS or version.folder is None:
        raise InvalidInput(
            f"“{version.dataset}” is a dataset of kind {version.kind}, whose rows have no prompts.",
            remedy=f"Choose one of kind {', '.join(PROMPT_KINDS)}.",
            field="dataset",
        )
    prompts: dict[str, Messages] = {}
    for split in ("val", "train"):
        for row in read_rows(ctx.artifacts.path(version.folder), split=split, limit=MAX_ROWS):
            messages = prompt_messages(row)
            if messages is not None:
                prompts.setdefault(content_hash(messages), messages)
        if len(prompts) >= enough:
            break
    if not prompts:
        raise InvalidInput(f"No row of “{version.label}” holds a prompt.", remedy="Choose another dataset.", field="dataset")
    return list(prompts.values())


def draw_prompts(prompts: list[Messages], *, num: int, seed: int) -> list[Messages]:
    """Return at most `num` prompts, drawn with the seed, in the dataset's order."""
    if len(prompts) <= num:
        return prompts
    return [prompts[place] for place in sorted(Random(seed).sample(range(len(prompts)), num))]


def add_contestant(ctx: Context, campaign_id: str, checkpoint_id: str, *, person: Person) -> CampaignView:
    """Enter another checkpoint on the same prompts. Raises Conflict if it is entered already or the campaign is closed."""
    require_builder(person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        _refuse_closed(campaign)
        checkpoint = usable_checkpoint(session, checkpoint_id)
        if session.scalar(select(Contestant.id).where(Contestant.campaign_id == campaign.id, Contestant.checkpoint_id == checkpoint.id)):
            raise Conflict(f"“{checkpoint.name}” is already in this campaign.", field="contestant")
        refuse_revealing_name(campaign.name, [checkpoint.name])
        start_generation(session, ctx, campaign, enter(session, ctx, campaign, checkpoint), person_id=person.id)
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def retry_generation(ctx: Context, contestant_id: str, *, person: Person) -> CampaignView:
    """Queue a contestant's missing completions. Raises Conflict while they are being generated or if none is missing."""
    require_builder(person)
    with ctx.db.write() as session:
        contestant = session.get(Contestant, contestant_id)
        if contestant is None:
            raise InvalidInput("There is no such contestant.")
        campaign = find_campaign(session, contestant.campaign_id)
        _refuse_closed(campaign)
        job = session.get(Job, contestant.job_id) if contestant.job_id else None
        if job is not None and job.status in ACTIVE:
            raise Conflict("This contestant's completions are being generated.")
        if not _owed_prompts(session, contestant):
            raise Conflict("This contestant has answered every prompt.")
        start_generation(session, ctx, campaign, contestant, person_id=person.id)
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def close_campaign(ctx: Context, campaign_id: str, *, person: Person, closed: bool = True) -> CampaignView:
    """Close a campaign, or reopen it. Votes and standings are kept."""
    require_builder(person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
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
    **columns: Any,
) -> Campaign:
    """Insert a campaign with its prompts. `columns` may hold parent_id and run_id; `held_out` and `standing` go into its config."""
    if session.scalar(select(Campaign.id).where(Campaign.name == name)):
        raise Conflict(f"There is already a campaign “{name}”.", remedy="Give the new one another name.", field="name")
    extra = {key: columns.pop(key) for key in ("held_out", "standing") if key in columns}
    campaign = Campaign(
        name=name,
        config={"config": config.model_dump(mode="json"), **extra},
        dataset_version_id=dataset_version_id,
        created_by=person.id,
        created_at=ctx.now(),
        **columns,
    )
    session.add(campaign)
    session.flush()
    session.add_all(
        CampaignPrompt(campaign_id=campaign.id, position=position, messages=messages, content_hash=content_hash(messages))
        for position, messages in enumerate(prompts)
    )
    session.flush()
    return campaign


def usable_checkpoint(session: Session, checkpoint_id: str) -> Checkpoint:
    """Return a checkpoint whose files exist. Raises InvalidInput."""
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.deleted_at is not None or checkpoint.folder is None:
        shown = f"“{checkpoint.name}”" if checkpoint else "This checkpoint"
        raise InvalidInput(f"{shown} has no files to generate with.", remedy="Choose another checkpoint.", field="contestants")
    require_writer(session, checkpoint_id, field="contestants")
    return checkpoint


def enter(session: Session, ctx: Context, campaign: Campaign, checkpoint: Checkpoint) -> Contestant:
    """Insert a contestant, or return the checkpoint's existing one."""
    existing = session.scalar(select(Contestant).where(Contestant.campaign_id == campaign.id, Contestant.checkpoint_id == checkpoint.id))
    if existing is not None:
        return existing
    contestant = Contestant(campaign_id=campaign.id, checkpoint_id=checkpoint.id, created_at=ctx.now())
    session.add(contestant)
    session.flush()
    return contestant


def start_generation(session: Session, ctx: Context, campaign: Campaign, contestant: Contestant, *, person_id: str | None) -> Job:
    """Queue the job that generates a contestant's missing completions, inside the caller's transaction."""
    checkpoint = usable_checkpoint(session, contestant.checkpoint_id or "")
    config = CampaignConfig.model_validate(campaign.config.get("config", {}))
    prompts = _owed_prompts(session, contestant)
    payload = GeneratePayload(
        checkpoint=require_folder(checkpoint.folder, what="checkpoint"),
        prompts=tuple(Prompt(id=prompt.id, messages=tuple(prompt.messages)) for prompt in prompts),
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.seed,
    )
    job = add_job(session, ctx, payload, title=f"Completions of {checkpoint.name} for {campaign.name}", created_by=person_id)
    contestant.job_id = job.id
    session.flush()
    return job


def record_completion(session: Session, ctx: Context, claim: Claim[GeneratePayload], event: CompletionEvent) -> None:
    """Store one completion of a contestant. A repeated one, as after a lost worker, is ignored: the first may have votes."""
    contestant = session.scalar(select(Contestant).where(Contestant.job_id == claim.job_id))
    if contestant is None:
        return  # a generation that belongs to no campaign, such as the command line's
    prompt = session.get(CampaignPrompt, event.prompt_id)
    if prompt is None or prompt.campaign_id != contestant.campaign_id:
        return
    if session.scalar(select(Completion.id).where(Completion.prompt_id == prompt.id, Completion.contestant_id == contestant.id)):
        return
    facts = {"finish_reason": event.finish_reason}
    add_completion(session, ctx, prompt, contestant, text=event.text, tokens=event.tokens, facts=facts)


def add_completion(
    session: Session, ctx: Context, prompt: CampaignPrompt, contestant: Contestant, *, text: str, tokens: int = 0, facts: dict[str, Any]
) -> Completion:
    """Insert a contestant's completion of a prompt."""
    text = text.replace("\x00", "")  # PostgreSQL holds no NUL
    row = Completion(
        prompt_id=prompt.id,
        contestant_id=contestant.id,
        text=text,
        text_hash=text_hash(text),
        tokens=tokens,
        facts=facts,
        created_at=ctx.now(),
    )
    session.add(row)
    session.flush()
    return row


def record_generated(session: Session, ctx: Context, claim: Claim[GeneratePayload], result: GenerateResult) -> GenerateResult:
    """Record at the end of a generation how many prompts the contestant left unanswered."""
    contestant = session.scalar(select(Contestant).where(Contestant.job_id == claim.job_id))
    if contestant is None:
        return result
    return result.model_copy(update={"owed": len(_owed_prompts(session, contestant))})


def _owed_prompts(session: Session, contestant: Contestant) -> list[CampaignPrompt]:
    answered = select(Completion.id).where(Completion.prompt_id == CampaignPrompt.id, Completion.contestant_id == contestant.id).exists()
    query = select(CampaignPrompt).where(CampaignPrompt.campaign_id == contestant.campaign_id, ~answered)
    return list(session.scalars(query.order_by(CampaignPrompt.position)))


def _refuse_closed(campaign: Campaign) -> None:
    if campaign.closed_at is not None:
        raise Conflict(f"“{campaign.name}” is closed.", remedy="Reopen it first.")
