"""Rematches: open one that waits for a run, and enter the run's new checkpoint against its parent when the run ends."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Campaign, Checkpoint, Contestant, Run
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import QUEUE_OF, JobKind
from backend.errors import Conflict
from backend.services.battles.campaigns import DrawnPrompt, add_gold, enter, insert_campaign
from backend.services.battles.generation import start_generation
from backend.services.battles.views import CampaignView, campaign_view, find_campaign
from backend.services.checkpoints.checkpoints import CheckpointView, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import wake

REMATCH = "Rematch of "


def open_rematch(
    ctx: Context, campaign: CampaignView, prompts: Sequence[DrawnPrompt], *, run_id: str, base_id: str, person: Person
) -> CampaignView:
    """Insert the rematch of a run against its base, once. Its prompts are held out from all its ancestry."""
    try:
        with ctx.db.write() as session:
            known = session.scalar(select(Campaign).where(Campaign.run_id == run_id))
            if known is None:
                known = insert_campaign(
                    session,
                    ctx,
                    name=_free_name(session, REMATCH + campaign.name.removeprefix(REMATCH)),
                    prompts=[prompt.messages for prompt in prompts],
                    categories=[prompt.category for prompt in prompts],
                    config=campaign.config,
                    person=person,
                    dataset_version_id=session.get_one(Campaign, campaign.id).dataset_version_id,
                    parent_id=campaign.id,
                    run_id=run_id,
                    held_out=True,
                )
                add_gold(session, ctx, known, campaign.config)
                enter(session, ctx, known, session.get_one(Checkpoint, base_id))
                _enter_awaited(session, ctx, known, person_id=person.id)  # the run finished before this transaction
            return campaign_view(session, known)
    except IntegrityError:  # a double click
        with ctx.db.read() as session:
            return campaign_view(session, session.scalars(select(Campaign).where(Campaign.run_id == run_id)).one())


def rematch_ready(ctx: Context, campaign_id: str) -> CheckpointView | None:
    """Return the finished checkpoint that a rematch waits for, if it exists and has not been entered."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        checkpoint = _awaited(session, campaign)
        checkpoint_id = checkpoint.id if checkpoint else None
    return resolve_checkpoint(ctx, checkpoint_id) if checkpoint_id else None


@retry_races
def enter_new_checkpoint(ctx: Context, campaign_id: str, *, person: Person) -> CampaignView:
    """Enter the run's new checkpoint against its parent and queue completions of both. Idempotent.

    Raises Conflict while the run has no final checkpoint.
    """
    require_builder(person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        if campaign.run_id is None:
            raise Conflict("This campaign is no rematch, so there is no new checkpoint to enter.")
        if not _enter_awaited(session, ctx, campaign, person_id=person.id) and not _has_two(session, campaign):
            raise Conflict(
                "The run has not finished, so there is no new checkpoint yet.", remedy="Wait for the run, or resume it."
            )
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def enter_rematch(session: Session, ctx: Context, claim: Claim[TrainPayload], result: TrainResult) -> None:
    """Enter the new checkpoint in the rematch that waits for a finished run, in the same transaction."""
    run_id = session.scalar(select(Run.id).where(Run.job_id == claim.job_id))
    campaign = session.scalar(select(Campaign).where(Campaign.run_id == run_id)) if run_id else None
    if campaign is not None:
        _enter_awaited(session, ctx, campaign, person_id=campaign.created_by)


def _awaited(session: Session, campaign: Campaign) -> Checkpoint | None:
    """Return the final checkpoint of a rematch's run, unless it is entered already."""
    if campaign.run_id is None:
        return None
    final = session.scalar(
        select(Checkpoint)
        .where(
            Checkpoint.run_id == campaign.run_id,
            Checkpoint.is_final,
            Checkpoint.deleted_at.is_(None),
            Checkpoint.folder.is_not(None),
        )
        .order_by(Checkpoint.step.desc())
        .limit(1)
    )
    if final is None:
        return None
    plays = session.scalar(
        select(Contestant.id).where(Contestant.campaign_id == campaign.id, Contestant.checkpoint_id == final.id)
    )
    return None if plays else final


def _enter_awaited(session: Session, ctx: Context, campaign: Campaign, *, person_id: str | None) -> bool:
    final = _awaited(session, campaign)
    if final is None or campaign.closed_at is not None:
        return False
    enter(session, ctx, campaign, final)
    for contestant in session.scalars(
        select(Contestant).where(Contestant.campaign_id == campaign.id, Contestant.job_id.is_(None))
    ).all():
        start_generation(session, ctx, campaign, contestant, person_id=person_id)
    return True


def _has_two(session: Session, campaign: Campaign) -> bool:
    return len(session.scalars(select(Contestant.id).where(Contestant.campaign_id == campaign.id)).all()) > 1


def _free_name(session: Session, name: str) -> str:
    taken = set(session.scalars(select(Campaign.name).where(Campaign.name.startswith(name[:110], autoescape=True))))
    if name[:120] not in taken:
        return name[:120]
    return next(f"{name[:110]} {n}" for n in range(2, len(taken) + 3) if f"{name[:110]} {n}" not in taken)
