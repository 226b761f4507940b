"""Assignment of battles to raters: campaigns' battle pools in this process's memory, a rater's battles so far, the
choice of a gold pair, a repeated battle or a new one, and the storing of battles and votes.

A pool only says what should be served; what is served is decided by the database's unique constraints, so several
processes may each hold one. Rows that another process commits later than their own time by more than `OVERLAP` are
missed here: a battle may then be drawn a little too often, and never twice for one rater.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from random import Random
from statistics import median
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BindParameter, bindparam, func, select
from sqlalchemy.orm import Session

from backend.db.engine import Database
from backend.db.tables import Battle, Campaign, Checkpoint, Completion, Contestant, Run, Vote
from backend.domain.attributes import attributes_of, view_of
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.masking import Masker
from backend.domain.battles.pool import BattlePool, Item, Pair, PooledAnswer, pair_of
from backend.services.battles.raters import RaterView
from backend.services.battles.views import GOLD_KINDS, SKIPPED, UNDONE
from backend.services.context import Context

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


MAX_IDENTICAL = 50
"""Ties of identical answers recorded in one request; the next request continues."""


@dataclass(frozen=True)
class PlannedBattle:
    """A battle to store: completions `a` and `b` on their sides, and the probability of this prompt and pair."""

    purpose: str
    prompt_id: str
    pair: Pair
    a: str
    b: str
    probability: float
    repeat_of_id: str | None = None


def plan_battles(held: CampaignPool, ledger: RaterLedger, *, num: int, rng: Random) -> list[PlannedBattle]:
    """Return up to `num` battles to show, and the identical ones met on the way, within the rater's quota."""
    plans: list[PlannedBattle] = []
    num = min(num, held.config.votes_per_rater - len(ledger.cast) - len(ledger.open))
    done = set(ledger.done)
    num_identical = num_shown = 0
    while num_shown < num and num_identical < MAX_IDENTICAL:
        gold = _unmet_gold(held, ledger, plans)
        special = _special(held, ledger, plans, gold, rng)
        if special is not None:
            plans.append(special)
            num_shown += 1
            continue
        draw = held.pool.draw(done, rng=rng)
        if draw is None:
            last = _last(held, ledger, plans, gold, rng)
            if last is None:
                break
            plans.append(last)
            num_shown += 1
            continue
        done.add((draw.prompt, draw.pair))
        purpose = "identical" if draw.is_identical else "single" if held.config.is_single else "vote"
        plans.append(
            PlannedBattle(purpose, draw.prompt, draw.pair, draw.a.completion, draw.b.completion, draw.probability)
        )
        num_identical += draw.is_identical
        num_shown += not draw.is_identical
    return plans


def num_left(held: CampaignPool, ledger: RaterLedger, *, unwritten: int = 0) -> int:
    """Return how many battles a rater will get besides those served, at most: new ones, gold pairs and repeats.

    `unwritten`: prompts and pairs whose answers are still being generated.
    """
    new = held.pool.num_distinct(ledger.done) + unwritten + len(_unmet_gold(held, ledger, (), unwritten=unwritten))
    return new + _repeats_left(held, ledger, new=new)


def _repeats_left(held: CampaignPool, ledger: RaterLedger, *, new: int) -> int:
    """Return how many repeats a rater still gets with `new` to come: the campaign's share of the whole ballot."""
    share, quota = held.config.repeat_share, held.config.votes_per_rater
    if not share or held.config.is_single:
        return 0
    repeats = sum(row.purpose == "repeat" for row in ledger.rows)
    others = len(ledger.shown) - repeats + new
    is_over = not new and not ledger.open and not ledger.repeatable()  # the last ones were skipped
    if others <= REPEAT_AFTER or is_over:
        return 0
    possible = sum(row.purpose == "vote" and row.label != SKIPPED for row in ledger.rows) + new - repeats
    return max(0, min(round(share * min(quota, others / (1 - share))) - repeats, possible))


def _last(
    held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle], gold: Sequence[Gold], rng: Random
) -> PlannedBattle | None:
    """Draw a gold pair or a repetition that chance has left over, once there is nothing new."""
    if gold:
        return _gold(rng.choice(gold), 1 / len(gold), rng)
    rows = _repeatable(held, ledger, plans)
    return _repeated(rng.choice(rows), 1 / len(rows)) if rows else None


def _repeatable(held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle]) -> list[LedgerRow]:
    """Return the battles that may be repeated now; none once the ballot has its share of repeats."""
    planned = {plan.repeat_of_id for plan in plans} - {None}
    done = {*ledger.done, *((plan.prompt_id, plan.pair) for plan in plans if plan.repeat_of_id is None)}
    if _repeats_left(held, ledger, new=held.pool.num_distinct(done)) <= len(planned):
        return []
    return [row for row in ledger.repeatable() if row.battle_id not in planned]


def _unmet_gold(
    held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle], *, unwritten: int = 0
) -> list[Gold]:
    """Return the gold pairs that a rater has yet to meet; none in a campaign without other battles, where a rater would
    know them for gold.
    """
    if held.config.is_single or not (unwritten or held.pool.num_distinct(())):
        return []
    met = {row.prompt_id for row in ledger.rows} | {plan.prompt_id for plan in plans}
    return [pair for prompt, pair in sorted(held.gold.items()) if prompt not in met]


def _special(
    held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle], gold: Sequence[Gold], rng: Random
) -> PlannedBattle | None:
    """Draw a gold pair or a repetition with the campaign's shares; None otherwise."""
    if held.config.is_single:
        return None
    if gold and rng.random() < held.config.gold_share:
        return _gold(rng.choice(gold), held.config.gold_share / len(gold), rng)
    rows = _repeatable(held, ledger, plans) if held.config.repeat_share else []
    if rows and rng.random() < held.config.repeat_share:
        return _repeated(rng.choice(rows), held.config.repeat_share / len(rows))
    return None


def _gold(gold: Gold, probability: float, rng: Random) -> PlannedBattle:
    sides = [gold.better, gold.worse]
    rng.shuffle(sides)
    return PlannedBattle("gold", gold.prompt_id, gold.pair, sides[0], sides[1], probability)


def _repeated(row: LedgerRow, probability: float) -> PlannedBattle:
    return PlannedBattle(
        "repeat",
        row.prompt_id,
        pair_of_key(row.pair),
        row.completion_b_id,
        row.completion_a_id,
        probability,
        repeat_of_id=row.battle_id,
    )


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
