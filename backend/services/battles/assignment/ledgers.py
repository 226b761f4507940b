"""A rater's battles in one campaign, with the newest vote on each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from statistics import median

from sqlalchemy import BindParameter, bindparam, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, Vote
from backend.domain.attributes import attributes_of, view_of
from backend.domain.battles.pool import Item
from backend.services.battles.views import SKIPPED, UNDONE

REPEAT_AFTER = 5
"""A battle is repeated only after this many later votes of its rater."""

VOTED = "VOTED"
"""Label of a battle whose vote is being stored; never in the database."""


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A battle and its newest vote, whose columns are None without one."""

    battle_id: str
    prompt_id: str
    pair: str
    purpose: str
    completion_a_id: str
    completion_b_id: str
    repeat_of_id: str | None
    served_at: datetime
    expires_at: datetime
    label: str | None = None
    revision: int | None = None
    duration_ms: int | None = None
    voted_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Return whether the rater still has to vote on it."""
        return self.label is None or self.label == UNDONE


@dataclass(frozen=True)
class RaterLedger:
    """Every battle that a rater was served, oldest first."""

    rows: tuple[LedgerRow, ...]

    @cached_property
    def shown(self) -> tuple[LedgerRow, ...]:
        """The battles that the rater saw: all but ties of identical answers."""
        return tuple(row for row in self.rows if row.purpose != "identical")

    @cached_property
    def open(self) -> tuple[LedgerRow, ...]:
        """Battles without a vote, in the order in which they are served: the last undone first, then the oldest."""
        unvoted = [row for row in self.shown if row.label is None]
        return (*self.undone, *unvoted)

    @cached_property
    def undone(self) -> tuple[LedgerRow, ...]:
        """Battles whose vote was undone, the last one first."""
        rows = [row for row in self.shown if row.label == UNDONE]
        return tuple(sorted(rows, key=_vote_moment, reverse=True))

    @cached_property
    def cast(self) -> tuple[LedgerRow, ...]:
        """Battles with a vote, also skipped ones, in the order of the votes."""
        return tuple(sorted((row for row in self.shown if not row.is_open), key=_vote_moment))

    @cached_property
    def done(self) -> frozenset[Item]:
        """Prompts and pairs that the rater has met, also as identical answers."""
        return frozenset(
            (row.prompt_id, pair_of_key(row.pair))
            for row in self.rows
            if row.purpose in {"vote", "identical", "single"}
        )

    @property
    def median_s(self) -> float | None:
        """Median seconds per vote."""
        times = [row.duration_ms for row in self.cast if row.duration_ms is not None and row.label != SKIPPED]
        return median(times) / 1000 if times else None

    def votes_since(self, moment: datetime) -> int:
        """Return the number of votes after a moment."""
        return sum(row.voted_at is not None and row.voted_at > moment for row in self.cast)

    def repeatable(self) -> list[LedgerRow]:
        """Return the battles that may be shown again with sides swapped: voted on a while ago, never repeated."""
        repeated = {row.repeat_of_id for row in self.rows}
        rows = self.cast[:-REPEAT_AFTER]
        return [row for row in rows if row.purpose == "vote" and row.label != SKIPPED and row.battle_id not in repeated]

    def with_vote(self, battle_id: str, moment: datetime) -> RaterLedger:
        """Return the ledger as if a battle had its vote already."""
        return RaterLedger(tuple(_voted(row, moment) if row.battle_id == battle_id else row for row in self.rows))

    def after(self, battles: Iterable[Battle], votes: Iterable[Vote]) -> RaterLedger:
        """Return the ledger as it is once battles and votes are stored."""
        rows = {row.battle_id: row for row in self.rows}
        rows |= {battle.id: view_of(LedgerRow, battle, battle_id=battle.id) for battle in battles}
        for vote in votes:
            cast = attributes_of(vote, "label", "revision", "duration_ms")
            rows[vote.battle_id] = replace(rows[vote.battle_id], **cast, voted_at=vote.created_at)
        return RaterLedger(tuple(sorted(rows.values(), key=lambda row: (row.served_at, row.battle_id))))


_CAMPAIGN: BindParameter[str] = bindparam("campaign")
_RATER: BindParameter[str] = bindparam("rater")
_LEDGER = (  # built once: building a statement costs as much as running it
    select(
        Battle.id,
        Battle.prompt_id,
        Battle.pair,
        Battle.purpose,
        Battle.completion_a_id,
        Battle.completion_b_id,
        Battle.repeat_of_id,
        Battle.served_at,
        Battle.expires_at,
        Vote.label,
        Vote.revision,
        Vote.duration_ms,
        Vote.created_at,
    )
    .outerjoin(Vote, Vote.battle_id == Battle.id)
    .where(Battle.campaign_id == _CAMPAIGN, Battle.rater_id == _RATER)
    .order_by(Battle.served_at, Battle.id, Vote.revision)
)
_COUNTS = (
    select(func.count(Battle.id.distinct()), func.count(Vote.id))
    .outerjoin(Vote, Vote.battle_id == Battle.id)
    .where(Battle.campaign_id == _CAMPAIGN, Battle.rater_id == _RATER)
)


def read_rater_ledger(session: Session, campaign_id: str, rater_id: str) -> RaterLedger:
    """Read a rater's battles in a campaign, by their index."""
    rows = session.execute(_LEDGER, {"campaign": campaign_id, "rater": rater_id})
    return RaterLedger(tuple({row[0]: LedgerRow(*tuple(row)) for row in rows}.values()))


def is_current(session: Session, ledger: RaterLedger, campaign_id: str, rater_id: str) -> bool:
    """Return whether a ledger is still the rater's: both battles and votes are only ever added."""
    counts = session.execute(_COUNTS, {"campaign": campaign_id, "rater": rater_id}).one()
    return tuple(counts) == (len(ledger.rows), sum(row.revision or 0 for row in ledger.rows))


def pair_of_key(key: str) -> tuple[str, str]:
    """Return a pair from the text in the battles table."""
    first, _, second = key.partition(":")
    return first, second


def _vote_moment(row: LedgerRow) -> tuple[datetime, datetime]:
    return row.voted_at or row.served_at, row.served_at


def _voted(row: LedgerRow, moment: datetime) -> LedgerRow:
    if not row.is_open:
        return row
    return replace(row, label=VOTED, revision=(row.revision or 0) + 1, duration_ms=None, voted_at=moment)
