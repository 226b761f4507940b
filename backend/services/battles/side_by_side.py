"""Votes on side-by-side answers in the playground."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from backend.db.engine import retry_races
from backend.db.tables import Battle, Campaign, CampaignPrompt, Checkpoint, Completion, Contestant
from backend.domain.battles.campaign import CampaignConfig, Messages, content_hash, text_hash
from backend.domain.battles.pool import pair_of
from backend.errors import InvalidInput
from backend.services.battles.assignment import PlannedBattle, add_battle, append_vote, last_vote, pair_key
from backend.services.battles.ballots import check_label
from backend.services.battles.campaigns import enter, insert_campaign
from backend.services.battles.generation import add_completion
from backend.services.battles.raters import RaterView, rater_for
from backend.services.context import Context, Person

PLAYGROUND = "Playground"


@retry_races
def record_side_by_side_vote(
    ctx: Context,
    *,
    messages: Messages,
    answer_a: str,
    answer_b: str,
    checkpoint_a: str,
    checkpoint_b: str,
    label: str,
    person: Person,
) -> str:
    """Store a vote on two side-by-side answers and return its id. It goes into the standing campaign "Playground". A
    repeated vote of the same person on the same texts is not counted twice: an equal label changes nothing, another one
    supersedes. The answers are there, so a model on another server and a checkpoint whose files were deleted are voted
    on, too. Raises InvalidInput for an unknown label or one checkpoint on both sides.
    """
    check_label(label)
    if checkpoint_a == checkpoint_b:
        raise InvalidInput(
            "Both answers come from the same checkpoint, so a vote has no meaning.", remedy="Compare two endpoints."
        )
    rater = rater_for(ctx, person)
    with ctx.db.write() as session:
        campaign = _playground(session, ctx, person)
        sides = [
            enter(session, ctx, campaign, session.get_one(Checkpoint, one)) for one in (checkpoint_a, checkpoint_b)
        ]
        battle = _same_battle(session, campaign, rater, messages, (answer_a, answer_b), sides)
        if battle is None:
            pair = pair_of(sides[0].id, sides[1].id)
            prompt = _prompt(session, campaign, messages, rater=rater, pair=pair)
            texts = zip(sides, (answer_a, answer_b), strict=True)
            ids = [_completion(session, ctx, prompt, side, text).id for side, text in texts]
            plan = PlannedBattle("vote", prompt.id, pair, ids[0], ids[1], probability=1.0)
            battle = add_battle(session, ctx, campaign, plan, rater_id=rater.id)
        last = last_vote(session, battle.id)
        if last is not None and last.label == label:
            return last.id
        return append_vote(session, ctx, battle, rater, label=label, last=last).id


def _playground(session: Session, ctx: Context, person: Person) -> Campaign:
    existing = session.scalar(select(Campaign).where(Campaign.name == PLAYGROUND))
    if existing is not None:
        return existing
    config = CampaignConfig()
    return insert_campaign(
        session, ctx, name=PLAYGROUND, prompts=[], config=config, person=person, dataset_version_id=None, standing=True
    )


def _prompt(
    session: Session, campaign: Campaign, messages: Messages, *, rater: RaterView, pair: tuple[str, str]
) -> CampaignPrompt:
    """Return a prompt's row, one for equal prompts. A rater meets a row with a pair once; new answers take another."""
    voted = select(Battle.prompt_id).where(
        Battle.campaign_id == campaign.id, Battle.rater_id == rater.id, Battle.pair == pair_key(pair)
    )
    digest = content_hash(messages)
    known = select(CampaignPrompt).where(
        CampaignPrompt.campaign_id == campaign.id, CampaignPrompt.content_hash == digest
    )
    existing = session.scalar(known.where(CampaignPrompt.id.not_in(voted)).order_by(CampaignPrompt.position).limit(1))
    if existing is not None:
        return existing
    position = session.scalar(select(func.count()).where(CampaignPrompt.campaign_id == campaign.id)) or 0
    prompt = CampaignPrompt(campaign_id=campaign.id, position=position, messages=messages, content_hash=digest)
    session.add(prompt)
    session.flush()
    return prompt


def _completion(session: Session, ctx: Context, prompt: CampaignPrompt, side: Contestant, text: str) -> Completion:
    """Return a contestant's completion of a prompt, an existing one with this text or a new sample."""
    own = (
        select(Completion)
        .where(Completion.prompt_id == prompt.id, Completion.contestant_id == side.id)
        .order_by(Completion.sample)
    )
    existing = session.scalars(own).all()
    same = next((completion for completion in existing if completion.text == text), None)
    return same or add_completion(
        session, ctx, prompt, side, text=text, sample=len(existing), facts={"from": "playground"}
    )


def _same_battle(
    session: Session,
    campaign: Campaign,
    rater: RaterView,
    messages: Messages,
    answers: tuple[str, str],
    sides: list[Contestant],
) -> Battle | None:
    """Return the rater's battle with exactly these texts of these contestants, or None."""
    side_a, side_b = aliased(Completion), aliased(Completion)
    return session.scalar(
        select(Battle)
        .join(CampaignPrompt, CampaignPrompt.id == Battle.prompt_id)
        .join(side_a, side_a.id == Battle.completion_a_id)
        .join(side_b, side_b.id == Battle.completion_b_id)
        .where(
            Battle.campaign_id == campaign.id,
            Battle.rater_id == rater.id,
            CampaignPrompt.content_hash == content_hash(messages),
            side_a.text_hash == text_hash(answers[0]),
            side_b.text_hash == text_hash(answers[1]),
            side_a.contestant_id == sides[0].id,
            side_b.contestant_id == sides[1].id,
        )
        .limit(1)
    )
