"""Completions recorded as a worker records them, and raters who vote."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from sqlalchemy import select

from backend.db.tables import Battle, Checkpoint, Contestant, Job
from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.states import JobKind, Status
from backend.errors import NotFound
from backend.services import job_events as outcomes
from backend.services.battles.assignment import VoteInput
from backend.services.battles.ballots import BallotView, check_label, serve_battles
from backend.services.battles.raters import RaterView, create_rater_link, rater_from_link
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import Claim
from tests.support.jobs import finish_job, take_job

Judge = Callable[[str, str], str]


def claim_generation(ctx: Context, contestant_id: str) -> Claim[Any]:
    """Take a contestant's job as a worker would."""
    with ctx.db.read() as session:
        job_id = session.get_one(Contestant, contestant_id).job_id
    assert job_id is not None
    return take_job(ctx, job_id)


def write_completions(ctx: Context, claim: Claim[Any], text_of: Callable[[dict[str, Any]], str]) -> None:
    """Report a completion for every prompt of a job, and its end."""
    events = [
        CompletionEvent(prompt_id=prompt.id, text=text_of(prompt.model_dump()), tokens=3, finish_reason="stop")
        for prompt in claim.payload.prompts
    ]
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, events)
    with ctx.db.write() as session:
        finish_job(session, ctx, claim)


def write_all(ctx: Context, campaign_id: str, *, text: Callable[[str, str], str] | None = None) -> None:
    """Let every contestant that has a queued job write. `text(name, prompt)` is what it answers."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(Contestant.id, Checkpoint.name)
            .join(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
            .join(Job, Job.id == Contestant.job_id)
            .where(Contestant.campaign_id == campaign_id, Job.status == Status.QUEUED, Job.kind == JobKind.GENERATE)
        ).all()
    for contestant_id, name in rows:
        claim = claim_generation(ctx, contestant_id)
        write_completions(
            ctx, claim, lambda prompt, name=name: (text or answer)(name, prompt["messages"][-1]["content"])
        )  # type: ignore[misc]


def answer(name: str, prompt: str) -> str:
    """What a contestant writes: its own name, so that a test can tell the sides apart."""
    return f"{name} answers: {prompt}"


def prefer(name: str) -> Judge:
    """A judge who always prefers one contestant, and ties where it does not play."""
    return lambda a, b: "A" if a.startswith(name) else "B" if b.startswith(name) else "TIE"


def next_battle(ctx: Context, campaign_id: str, rater: RaterView, *, rng: Random | None = None) -> BallotView | None:
    """Return the battle that a rater judges next."""
    served = serve_battles(ctx, campaign_id, rater, num=1, rng=rng)
    return served.battles[0] if served.battles else None


def cast_vote(
    ctx: Context, battle_id: str, *, label: str, rater: RaterView, duration_ms: int | None = None, **remarks: Any
) -> str:
    """Store a vote with remarks (fields of `VoteInput`), without the checks of a form, and return its id."""
    check_label(label, skip=True)
    with ctx.db.read() as session:
        battle = session.get(Battle, battle_id)
        if battle is None:
            raise NotFound("This battle was not served to you.")
        campaign_id = battle.campaign_id
    vote = VoteInput(battle=battle_id, label=label, duration_ms=duration_ms, **remarks)
    vote_id = serve_battles(ctx, campaign_id, rater, num=0, vote=vote).vote_id
    assert vote_id is not None
    return vote_id


def vote_all(
    ctx: Context, campaign_id: str, rater: RaterView, judge: Judge, *, limit: int = 1000, seed: int = 1
) -> int:
    """Vote until the ballot is empty; return how many votes were cast."""
    rng = Random(seed)
    for cast in range(limit):
        ballot = next_battle(ctx, campaign_id, rater, rng=rng)
        if ballot is None:
            return cast
        cast_vote(
            ctx, ballot.battle_id, label=judge(ballot.text_a, ballot.text_b), rater=rater, duration_ms=4000 + 10 * cast
        )
    return limit


def link_rater(ctx: Context, campaign_id: str, name: str = "guest", **values: Any) -> RaterView:
    """Return a guest who came by a link of their own."""
    link = create_rater_link(ctx, campaign_id, name=name, person=LOCAL, **values)
    return rater_from_link(ctx, link.url.split("link=")[1])


def vote_in_turn(ctx: Context, campaign_id: str, judge: Judge, *, raters: int = 10, each: int = 1000) -> int:
    """Let this many guests vote, one after the other, on at most `each` battles; return how many votes were cast."""
    cast = 0
    for number in range(raters):
        rater = link_rater(ctx, campaign_id, f"guest {number}")
        cast += vote_all(ctx, campaign_id, rater, judge, limit=each, seed=number)
    return cast
