"""Campaigns' battle pools in this process's memory, kept up to date by reading what is newer than the last reading.

A pool only says what should be served; what is served is decided by the database's unique constraints, so several
processes may each hold one. Rows that another process commits later than their own time by more than `OVERLAP` are
missed here: a battle may then be drawn a little too often, and never twice for one rater.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from weakref import WeakKeyDictionary

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.engine import Database
from backend.db.tables import Battle, Campaign, Checkpoint, Completion, Contestant, Run, Vote
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.masking import Masker
from backend.domain.battles.pairing import Pair, pair_of
from backend.domain.battles.pool import BattlePool, PooledAnswer
from backend.services.battles.assignment.ledgers import pair_of_key
from backend.services.battles.views import GOLD_KINDS
from backend.services.context import Context

OVERLAP = timedelta(seconds=10)
REFRESH_S = 0.25
"""Rows of other processes are read so often; this process's own are counted at once."""

SMALL = 2000
"""With fewer completions they are counted at every request, with more once a second."""

MAX_POOLS = 32
POOLED = ("vote", "identical", "single")


@dataclass(frozen=True)
class Gold:
    """A gold pair: its two authors, and the better and the worse completion."""

    prompt_id: str
    pair: Pair
    better: str
    worse: str


@dataclass
class CampaignPool:
    """A campaign's pool, gold pairs and masked names. Use it under `opened_pool` alone."""

    campaign_id: str
    config: CampaignConfig
    pool: BattlePool
    gold: dict[str, Gold] = field(default_factory=dict)
    masker: Masker = field(default_factory=lambda: Masker(()))
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _authors: dict[str, str] = field(default_factory=dict)
    _completions_read_at: datetime | None = None
    _battles_read_at: datetime | None = None
    _next_count: float = 0.0
    _next_refresh: float = 0.0

    def advance(self, session: Session, now: datetime) -> None:
        """Read new completions, battles and votes."""
        clock = time.monotonic()
        if clock >= self._next_count:
            self._read_completions(session, now)
            self._next_count = clock + (1.0 if len(self._authors) > SMALL else 0.0)
        if clock >= self._next_refresh:
            self._read_battles(session, now)
            self._read_votes(session, now)
            self._battles_read_at = now
            self._next_refresh = clock + REFRESH_S
        self.pool.expire(now)

    def author_of(self, completion_id: str) -> str:
        """Return the contestant that wrote a completion."""
        return self._authors[completion_id]

    def _read_completions(self, session: Session, now: datetime) -> None:
        counting = select(func.count(Completion.id)).join(Contestant, Contestant.id == Completion.contestant_id)
        number = session.scalar(counting.where(Contestant.campaign_id == self.campaign_id)) or 0
        if number == len(self._authors):
            return
        since = self._completions_read_at
        self._add_completions(session, since=since)
        # some were committed long after their time, as by a large import
        if since is not None and len(self._authors) < number:
            self._add_completions(session, since=None)
        self._completions_read_at = now
        self.masker = Masker([*self.config.masked_words, *_identities(session, self.campaign_id)])

    def _add_completions(self, session: Session, *, since: datetime | None) -> None:
        query = (
            select(Completion.id, Completion.prompt_id, Completion.contestant_id, Completion.text_hash, Contestant.kind)
            .join(Contestant, Contestant.id == Completion.contestant_id)
            .where(Contestant.campaign_id == self.campaign_id)
            .order_by(Completion.created_at, Completion.id)
        )
        if since is not None:
            query = query.where(Completion.created_at >= since - OVERLAP)
        gold: dict[str, dict[str, tuple[str, str]]] = {}
        for completion, prompt, contestant, digest, kind in session.execute(query):
            if completion in self._authors:
                continue
            self._authors[completion] = contestant
            if kind in GOLD_KINDS:
                gold.setdefault(prompt, {})[kind] = (completion, contestant)
            else:
                self.pool.add_answer(prompt, contestant, PooledAnswer(completion, digest))
        for prompt, sides in gold.items():
            if len(sides) == len(GOLD_KINDS):
                (better, first), (worse, second) = (sides[kind] for kind in GOLD_KINDS)
                self.gold[prompt] = Gold(prompt, pair_of(first, second), better, worse)

    def _read_battles(self, session: Session, now: datetime) -> None:
        query = select(
            Battle.id, Battle.prompt_id, Battle.pair, Battle.completion_a_id, Battle.expires_at, Battle.purpose
        ).where(Battle.campaign_id == self.campaign_id)
        if self._battles_read_at is not None:
            query = query.where(Battle.served_at >= self._battles_read_at - OVERLAP)
        for battle, prompt, pair, completion_a, expires_at, purpose in session.execute(query):
            if purpose in POOLED and completion_a in self._authors:
                self.pool.add_battle(
                    battle, (prompt, pair_of_key(pair)), a=self._authors[completion_a], expires_at=expires_at, now=now
                )

    def _read_votes(self, session: Session, now: datetime) -> None:
        query = select(Vote.battle_id, Vote.label, Vote.revision)
        if self._battles_read_at is None:
            query = query.join(Battle, Battle.id == Vote.battle_id).where(Battle.campaign_id == self.campaign_id)
        else:  # votes of every campaign, which an index finds; the pool skips foreign battles
            query = query.where(Vote.created_at >= self._battles_read_at - OVERLAP)
        for battle, label, revision in session.execute(query):
            self.pool.add_vote(battle, label=label, revision=revision, now=now)


_pools: WeakKeyDictionary[Database, OrderedDict[str, CampaignPool]] = WeakKeyDictionary()
_pools_lock = threading.Lock()


@contextmanager
def opened_pool(ctx: Context, session: Session, campaign: Campaign, *, advance: bool = True) -> Iterator[CampaignPool]:
    """Hold a campaign's pool under its lock, brought up to date unless `advance` is false, as later in a request."""
    with _pools_lock:
        pools = _pools.setdefault(ctx.db, OrderedDict())
        held = pools.get(campaign.id)
        if held is None or held.config != campaign.config:
            held = pools[campaign.id] = CampaignPool(campaign.id, campaign.config, BattlePool(campaign.config))
        pools.move_to_end(campaign.id)
        while len(pools) > MAX_POOLS:
            pools.popitem(last=False)
    with held.lock:
        if advance:
            held.advance(session, ctx.now())
        yield held


def _identities(session: Session, campaign_id: str) -> set[str]:
    """Return what identifies a campaign's contestants: names, those of their runs, ids, models of endpoints."""
    query = (
        select(Contestant.label, Contestant.source, Checkpoint.name, Checkpoint.id, Run.name, Run.id)
        .outerjoin(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
        .outerjoin(Run, Run.id == Checkpoint.run_id)
        .where(Contestant.campaign_id == campaign_id, Contestant.kind.not_in(GOLD_KINDS))
    )
    names: set[str] = set()
    for label, source, *others in session.execute(query):
        names |= {label, source.get("model") or "", *(name for name in others if name)}
    return names
