"""Turn votes into a preference set, train a DPO run on it, and enter its checkpoint in a rematch against its parent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.tables import Campaign, CampaignPrompt, Checkpoint, Completion, Contestant, Run
from backend.domain.battles.campaign import Messages, content_hash
from backend.domain.battles.preference_pairs import CastVote, Resolution, resolve_preferences
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import QUEUE_OF, JobKind
from backend.domain.training.config import Objective, RunConfig
from backend.errors import Conflict, InvalidInput
from backend.services.battles.campaigns import enter, insert_campaign
from backend.services.battles.generation import start_generation
from backend.services.battles.prompts import draw_prompts, read_prompts
from backend.services.battles.standings import leader_of
from backend.services.battles.views import CampaignView, campaign_view, find_campaign, get_campaign, valid_votes
from backend.services.checkpoints.checkpoints import CheckpointView, resolve_checkpoint
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import add_rows_dataset
from backend.services.data.views import VersionView
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import wake
from backend.services.training.runs import launch_run

ENOUGH_HELD_OUT = 8
"""A rematch with fewer unseen prompts than this (or than the campaign asks for) uses the campaign's own prompts instead."""

REMATCH = "Rematch of "
MICRO_BATCH, MIN_STEPS, MAX_STEPS, MAX_CONTEXT = 4, 10, 120, 512


@dataclass(frozen=True)
class PreferenceSet:
    """A dataset of kind `preference` made from votes. Its import is a job, so `version` may not be ready yet."""

    version: VersionView
    resolution: Resolution
    prompt_hashes: frozenset[str]


@dataclass(frozen=True)
class DpoLaunch:
    """A launched DPO run with its rematch. `held_out`: whether the rematch uses only prompts the run does not train on."""

    dataset: str
    num_pairs: int
    run_id: str
    run: str
    base: str
    rematch: CampaignView
    held_out: bool


def preview_preferences(ctx: Context, campaign_id: str) -> Resolution:
    """Return the preference pairs of a campaign's votes so far."""
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        return _resolve(session, campaign_id)


def make_preference_set(ctx: Context, campaign_id: str, *, name: str, person: Person, idempotency_key: str | None = None) -> PreferenceSet:
    """Store a campaign's decisive votes as rows {prompt, chosen, rejected}: the majority on each prompt and pair.

    The version's provenance names campaign, contestants and, row by row, votes, raters and agreement. Raises InvalidInput when no vote
    preferred anything, NotAllowed.
    """
    require_builder(person)
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        resolution = _resolve(session, campaign_id)
        if not resolution.preferences:
            raise InvalidInput(
                "No vote in this campaign prefers one completion to another yet.", remedy="Vote on some battles first.", field="votes"
            )
        prompts = {row.id: row for row in session.scalars(select(CampaignPrompt).where(CampaignPrompt.campaign_id == campaign_id))}
        texts = _texts(session, campaign_id)
        names = _names(session, campaign_id)
        campaign_name = campaign.name
    rows = [
        {
            "prompt": prompts[pair.prompt].messages,
            "chosen": [{"role": "assistant", "content": texts[pair.prompt, pair.chosen]}],
            "rejected": [{"role": "assistant", "content": texts[pair.prompt, pair.rejected]}],
        }
        for pair in resolution.preferences
    ]
    provenance = _provenance(campaign_id, campaign_name, resolution, names)
    version = add_rows_dataset(
        ctx, name=name, kind="preference", rows=rows, provenance=provenance, person=person, idempotency_key=idempotency_key
    )
    return PreferenceSet(version, resolution, frozenset(prompts[pair.prompt].content_hash for pair in resolution.preferences))


def launch_dpo_from_votes(ctx: Context, campaign_id: str, *, person: Person, idempotency_key: str, base_id: str | None = None) -> DpoLaunch:
    """Make the preference set, queue a DPO run that waits for it, and open the rematch that waits for the run.

    The run starts from `base_id` or the campaign's leader and trains low-rank adapters. The same key gives the same run and rematch.
    Raises InvalidInput without decisive votes, Conflict for a base whose files are gone, NotAllowed.
    """
    require_builder(person)
    campaign = get_campaign(ctx, campaign_id)
    base = resolve_checkpoint(ctx, base_id or leader_of(ctx, campaign_id) or "")
    if base.id not in {contestant.checkpoint_id for contestant in campaign.contestants}:
        raise InvalidInput(f"“{base.name}” is not in this campaign.", remedy="Choose one of its contestants.", field="base")
    made = make_preference_set(
        ctx, campaign_id, name=f"{campaign.name} votes"[:120], person=person, idempotency_key=f"votes-{idempotency_key}"
    )
    config = dpo_config(campaign, made, base, context=_context_of(ctx, base))
    run = launch_run(ctx, config, person=person, idempotency_key=f"dpo-{idempotency_key}")
    rematch = _open_rematch(ctx, campaign, made, run_id=run.id, base_id=base.id, person=person)
    return DpoLaunch(
        dataset=made.version.label,
        num_pairs=len(made.resolution.preferences),
        run_id=run.id,
        run=run.name,
        base=base.name,
        rematch=rematch,
        held_out=bool(rematch.held_out),
    )


def dpo_config(campaign: CampaignView, made: PreferenceSet, base: CheckpointView, *, context: int) -> RunConfig:
    """Return the config of the DPO run: two epochs over the pairs, at least 10 and at most 120 steps."""
    pairs = len(made.resolution.preferences)
    steps = min(MAX_STEPS, max(MIN_STEPS, math.ceil(2 * pairs / MICRO_BATCH)))
    return RunConfig(
        name=f"DPO on votes of {campaign.name.removeprefix(REMATCH)}"[:100],
        objective=Objective.DPO,
        dataset=made.version.label,
        base=base.id,
        method="lora",
        max_steps=steps,
        micro_batch=MICRO_BATCH,
        context=min(context, MAX_CONTEXT),
        learning_rate=2e-4,
        warmup_steps=min(5, steps // 5),
        weight_decay=0.0,
        eval_every=max(1, steps // 4),
        checkpoint_every=steps,
        sample_prompts=(),
    )


def rematch_ready(ctx: Context, campaign_id: str) -> CheckpointView | None:
    """Return the finished checkpoint that a rematch waits for, if it exists and has not been entered."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        checkpoint = _awaited(session, campaign)
        checkpoint_id = checkpoint.id if checkpoint else None
    return resolve_checkpoint(ctx, checkpoint_id) if checkpoint_id else None


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
            raise Conflict("The run has not finished, so there is no new checkpoint yet.", remedy="Wait for the run, or resume it.")
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def enter_rematch(session: Session, ctx: Context, claim: Claim[TrainPayload], result: TrainResult) -> None:
    """Enter the new checkpoint in the rematch that waits for a finished run, in the same transaction."""
    run_id = session.scalar(select(Run.id).where(Run.job_id == claim.job_id))
    campaign = session.scalar(select(Campaign).where(Campaign.run_id == run_id)) if run_id else None
    if campaign is not None:
        _enter_awaited(session, ctx, campaign, person_id=campaign.created_by)


def _open_rematch(ctx: Context, campaign: CampaignView, made: PreferenceSet, *, run_id: str, base_id: str, person: Person) -> CampaignView:
    prompts, held_out = _rematch_prompts(ctx, campaign, made)
    try:
        with ctx.db.write() as session:
            known = session.scalar(select(Campaign).where(Campaign.run_id == run_id))
            if known is None:
                known = insert_campaign(
                    session,
                    ctx,
                    name=_free_name(session, REMATCH + campaign.name.removeprefix(REMATCH)),
                    prompts=prompts,
                    config=campaign.config,
                    person=person,
                    dataset_version_id=session.get_one(Campaign, campaign.id).dataset_version_id,
                    parent_id=campaign.id,
                    run_id=run_id,
                    held_out=held_out,
                )
                enter(session, ctx, known, session.get_one(Checkpoint, base_id))
                _enter_awaited(session, ctx, known, person_id=person.id)  # the run finished before this transaction
            return campaign_view(session, known)
    except IntegrityError:  # a double click
        with ctx.db.read() as session:
            return campaign_view(session, session.scalars(select(Campaign).where(Campaign.run_id == run_id)).one())


def _rematch_prompts(ctx: Context, campaign: CampaignView, made: PreferenceSet) -> tuple[list[Messages], bool]:
    """Return prompts that neither this run nor its predecessors trained on, if there are enough; else the campaign's."""
    with ctx.db.read() as session:
        rows = session.scalars(select(CampaignPrompt).where(CampaignPrompt.campaign_id == campaign.id).order_by(CampaignPrompt.position))
        own = [list(row.messages) for row in rows]
        learned = made.prompt_hashes | _learned_before(session, campaign.parent_id)
    candidates = {content_hash(messages): messages for messages in own}
    if campaign.dataset is not None:
        for messages in read_prompts(ctx, resolve_version(ctx, campaign.dataset), config=campaign.config):
            candidates.setdefault(content_hash(messages), messages)
    unseen = [messages for digest, messages in candidates.items() if digest not in learned]
    if len(unseen) >= min(campaign.config.num_prompts, ENOUGH_HELD_OUT):
        return draw_prompts(unseen, num=campaign.config.num_prompts, seed=campaign.config.seed), True
    return own, False


def _learned_before(session: Session, campaign_id: str | None) -> set[str]:
    """Return the prompts of the preference pairs of a campaign and its ancestors."""
    hashes: set[str] = set()
    while campaign_id is not None:
        prompts = {pair.prompt for pair in _resolve(session, campaign_id).preferences}
        rows = session.execute(select(CampaignPrompt.id, CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == campaign_id))
        hashes |= {digest for prompt, digest in rows if prompt in prompts}
        campaign_id = session.get_one(Campaign, campaign_id).parent_id
    return hashes


def _awaited(session: Session, campaign: Campaign) -> Checkpoint | None:
    """Return the final checkpoint of a rematch's run, unless it is entered already."""
    if campaign.run_id is None:
        return None
    final = session.scalar(
        select(Checkpoint)
        .where(Checkpoint.run_id == campaign.run_id, Checkpoint.is_final, Checkpoint.deleted_at.is_(None), Checkpoint.folder.is_not(None))
        .order_by(Checkpoint.step.desc())
        .limit(1)
    )
    if final is None:
        return None
    plays = session.scalar(select(Contestant.id).where(Contestant.campaign_id == campaign.id, Contestant.checkpoint_id == final.id))
    return None if plays else final


def _enter_awaited(session: Session, ctx: Context, campaign: Campaign, *, person_id: str | None) -> bool:
    final = _awaited(session, campaign)
    if final is None or campaign.closed_at is not None:
        return False
    enter(session, ctx, campaign, final)
    for contestant in session.scalars(select(Contestant).where(Contestant.campaign_id == campaign.id, Contestant.job_id.is_(None))).all():
        start_generation(session, ctx, campaign, contestant, person_id=person_id)
    return True


def _has_two(session: Session, campaign: Campaign) -> bool:
    return len(session.scalars(select(Contestant.id).where(Contestant.campaign_id == campaign.id)).all()) > 1


def _resolve(session: Session, campaign_id: str) -> Resolution:
    votes = valid_votes(session, campaign_id)
    return resolve_preferences(
        CastVote(vote=vote.id, rater=vote.rater_id, prompt=vote.prompt_id, contestants=(vote.a, vote.b), winner=vote.winner)
        for vote in votes
    )


def _texts(session: Session, campaign_id: str) -> dict[tuple[str, str], str]:
    query = select(Completion.prompt_id, Completion.contestant_id, Completion.text).join(
        Contestant, Contestant.id == Completion.contestant_id
    )
    rows = session.execute(query.where(Contestant.campaign_id == campaign_id))
    return {(prompt, contestant): text for prompt, contestant, text in rows}


def _names(session: Session, campaign_id: str) -> dict[str, tuple[str, str]]:
    query = select(Contestant.id, Checkpoint.id, Checkpoint.name).join(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
    return {row[0]: (row[1], row[2]) for row in session.execute(query.where(Contestant.campaign_id == campaign_id))}


def _provenance(campaign_id: str, name: str, resolution: Resolution, names: dict[str, tuple[str, str]]) -> dict[str, Any]:
    return {
        "from": "votes",
        "campaign_id": campaign_id,
        "campaign": name,
        "contestants": [{"checkpoint_id": checkpoint, "name": shown} for checkpoint, shown in names.values()],
        "pairs": len(resolution.preferences),
        "mean_agreement": resolution.agreement,
        "undecided_votes": resolution.undecided_votes,
        "split_pairs": resolution.split_pairs,
        "rows": [
            {
                "prompt_id": pair.prompt,
                "chosen": names[pair.chosen][0],
                "rejected": names[pair.rejected][0],
                "votes": list(pair.votes),
                "raters": pair.num_raters,
                "agreement": pair.agreement,
            }
            for pair in resolution.preferences
        ],
    }


def _context_of(ctx: Context, base: CheckpointView) -> int:
    """Return a checkpoint's longest input from its row; a run's training context is a lower bound."""
    known = base.facts.get("context")
    if known:
        return int(known)
    if base.run_id is None:
        return 128
    with ctx.db.read() as session:
        return int(session.get_one(Run, base.run_id).config.get("context") or 128)


def _free_name(session: Session, name: str) -> str:
    taken = set(session.scalars(select(Campaign.name).where(Campaign.name.startswith(name[:110], autoescape=True))))
    if name[:120] not in taken:
        return name[:120]
    return next(f"{name[:110]} {n}" for n in range(2, len(taken) + 3) if f"{name[:110]} {n}" not in taken)
