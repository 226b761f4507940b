"""Storing of battles and votes: the rows that a ballot adds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import bindparam, select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, Campaign, Vote
from backend.domain.attributes import attributes_of
from backend.domain.battles.pairing import Pair
from backend.services.battles.assignment.drawing import PlannedBattle
from backend.services.battles.raters import RaterView
from backend.services.context import Context

BATTLE_HOURS = 12
_LAST_VOTE = select(Vote).where(Vote.battle_id == bindparam("battle")).order_by(Vote.revision.desc()).limit(1)


class VoteInput(BaseModel):
    """A rater's judgement of a battle, which `battle` identifies. `dimensions` maps the rubric's dimensions to labels.
    `amends` replaces reasons, note and the like of an earlier vote with the same label; without it, a vote that is sent
    again is the same vote.
    """

    model_config = ConfigDict(frozen=True)

    battle: str
    label: str
    duration_ms: int | None = None
    reasons: tuple[str, ...] = Field(default=(), max_length=12)
    dimensions: dict[str, str] = Field(default_factory=dict, max_length=8)
    note: str = ""
    rewrite: str | None = None
    flag: str = ""
    amends: bool = False

    def remarks(self) -> Mapping[str, object]:
        """Return what is said beside the label, as a vote's row holds it."""
        return attributes_of(self, *REMARKS) | {"reasons": list(self.reasons)}


REMARKS = ("reasons", "dimensions", "note", "rewrite", "flag")
"""Columns of a vote beside its label."""


def add_battle(session: Session, ctx: Context, campaign: Campaign, plan: PlannedBattle, *, rater_id: str) -> Battle:
    """Insert a battle that was planned for a rater."""
    battle = Battle(
        **attributes_of(plan, "prompt_id", "purpose", "repeat_of_id"),
        campaign_id=campaign.id,
        pair=pair_key(plan.pair),
        completion_a_id=plan.a,
        completion_b_id=plan.b,
        rater_id=rater_id,
        sampling_probability=plan.probability,
        served_at=ctx.now(),
        expires_at=ctx.now() + timedelta(hours=BATTLE_HOURS),
    )
    session.add(battle)
    session.flush()
    return battle


def pair_key(pair: Pair) -> str:
    """Return a pair as the battles table holds it."""
    return f"{pair[0]}:{pair[1]}"


def last_vote(session: Session, battle_id: str) -> Vote | None:
    """Return the valid vote on a battle, None without one."""
    return session.scalar(_LAST_VOTE, {"battle": battle_id})


def append_vote(
    session: Session,
    ctx: Context,
    battle: Battle,
    rater: RaterView,
    *,
    label: str,
    last: Vote | None,
    said: VoteInput | None = None,
) -> Vote:
    """Append a vote on a battle, superseding the last one."""
    said = said or VoteInput(battle=battle.id, label=label)
    vote = Vote(
        battle_id=battle.id,
        rater_id=rater.id,
        label=label,
        revision=last.revision + 1 if last else 1,
        supersedes_id=last.id if last else None,
        duration_ms=said.duration_ms,
        **said.remarks(),
        created_at=ctx.now(),
    )
    session.add(vote)
    session.flush()
    return vote
