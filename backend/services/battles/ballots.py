"""Ballot: serve blind battles, take and undo votes. Nothing returned here reveals which contestant wrote a completion.

Votes are append-only: a correction is a new row. A battle is served to one rater, once per prompt, pair and purpose;
the server alone knows which side is whose. What to serve is chosen from memory, outside the transaction that stores it;
that transaction locks the rater's row and fails, to be tried again, if another request of the same rater came first.

The actions of the HTTP interface (open, vote, grade, undo) stand last. A campaign closes once its stopping rule is met.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import combinations
from random import Random, SystemRandom
from typing import Literal

from sqlalchemy import bindparam, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from backend.db.engine import retry_races
from backend.db.tables import AnswerRating, Battle, Campaign, CampaignPrompt, Completion, Contestant, Job, Rater, Vote
from backend.domain.attributes import attributes_of
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.pool import pair_of
from backend.domain.battles.verdicts import is_decided, votes_by_pair
from backend.domain.battles.votes import Label
from backend.domain.jobs.states import ACTIVE, Status
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.battles.assignment import (
    BATTLE_HOURS,
    POOLED,
    REMARKS,
    CampaignPool,
    PlannedBattle,
    RaterLedger,
    VoteInput,
    add_battle,
    append_vote,
    is_current,
    last_vote,
    num_left,
    opened_pool,
    plan_battles,
    read_rater_ledger,
)
from backend.services.battles.raters import RaterView, Voter
from backend.services.battles.standings import read_board_columns
from backend.services.battles.views import (
    GOLD_KINDS,
    RATED,
    SKIPPED,
    UNDONE,
    contestant_names,
    count_votes,
    find_campaign,
)
from backend.services.context import Context

DIMENSION_LABELS = (Label.A, Label.B, Label.TIE)
MAX_NOTE, MAX_REWRITE, MAX_FLAG = 4000, 50_000, 200
MAX_DURATION_MS = 24 * 3600 * 1000
MAX_UNDO = 10
ATTEMPTS = 5
"""Requests of one rater that come at the same moment are tried so often."""


@dataclass(frozen=True)
class BallotProgress:
    """A rater's progress. `done` counts votes and the battles `skipped`. `total` is a promise: it counts repeats, gold
    pairs and answers that are still being generated (`more_to_come`), or wait for that behind other jobs (`is_queued`),
    so it falls where answers turn out equal or fail, and never grows.
    """

    done: int
    skipped: int
    total: int
    median_s: float | None
    can_undo: bool
    more_to_come: bool
    is_queued: bool
    closed: bool = False


@dataclass(frozen=True)
class BallotView:
    """A battle as a rater sees it: (role, text) per message of the prompt, two texts, no hint of their origin.

    `is_single`: there is one answer, to be graded; both texts are the same.
    """

    battle_id: str
    prompt: tuple[tuple[str, str], ...]
    text_a: str
    text_b: str
    progress: BallotProgress
    is_single: bool = False


@dataclass(frozen=True)
class ServedBallot:
    """A rater's open battles, the current one first, their progress, the campaign's form, and the vote that was stored
    with the request.
    """

    battles: tuple[BallotView, ...]
    progress: BallotProgress
    config: CampaignConfig
    vote_id: str | None = None


VoteForm = Literal["vote", "grade"]
"""Form of a rating from a browser: a vote on two answers, or a grade of one."""


class TooFast(Conflict):
    """A rater votes faster than the campaign allows."""


def serve_battles(
    ctx: Context,
    campaign_id: str,
    rater: RaterView,
    *,
    num: int = 2,
    vote: VoteInput | None = None,
    form: VoteForm | None = None,
    rng: Random | None = None,
) -> ServedBallot:
    """Store a vote, if there is one, and return up to `num` battles to judge.

    The battles are the open ones (the last undone first), then new ones. Sending a vote twice is one vote. One that
    came by a `form` is checked against the campaign's and the rater's pace, and its duration can't exceed the time
    since the battle was served.

    Raises InvalidInput for what the form doesn't offer, TooFast, NotAllowed for a rater of another campaign or an
    expired link, NotFound for a battle that was not served to this rater, Conflict for one that is already voted on
    with another label, and for a closed campaign.
    """
    rng = rng or SystemRandom()
    for _ in range(ATTEMPTS):
        with ctx.db.read() as session:
            campaign = admit(session, ctx, campaign_id, rater)
            ledger = read_rater_ledger(session, campaign_id, rater.id)
            with opened_pool(ctx, session, campaign) as held:
                if vote is not None and form is not None:
                    _check_form(vote, held.config, single=form == "grade")
                    vote, form = _check_pace(ctx, vote, held.config, ledger), None
                future = ledger.with_vote(vote.battle, ctx.now()) if vote else ledger
                missing = num - len(future.open)
                plans = plan_battles(held, future, num=missing, rng=rng) if missing > 0 else []
        try:
            vote_id, ledger = _store(ctx, campaign_id, rater, ledger, plans, vote=vote, num_open=num)
        except (_Changed, IntegrityError):  # another request of this rater was first
            continue
        return _served(ctx, campaign_id, ledger, num=num, vote_id=vote_id)
    raise Conflict("The ballot is busy.", remedy="Try again in a moment.")


def ballot_progress(ctx: Context, campaign_id: str, rater: RaterView) -> BallotProgress:
    """Return a rater's progress in a campaign."""
    with ctx.db.read() as session:
        campaign = admit(session, ctx, campaign_id, rater)
        return _progress(session, ctx, campaign, read_rater_ledger(session, campaign_id, rater.id), advance=True)


def rater_progress(ctx: Context, campaign_id: str, rater: RaterView) -> BallotProgress:
    """Return a rater's progress in a campaign that may be closed."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        return _progress(session, ctx, campaign, read_rater_ledger(session, campaign_id, rater.id), advance=True)


def count_pairs(ctx: Context, campaign_id: str) -> tuple[int, int]:
    """Return how many pairs of answers a campaign has, and how many are identical, so that no rater sees them."""
    with ctx.db.read() as session, opened_pool(ctx, session, find_campaign(session, campaign_id)) as held:
        return held.pool.num_pairs, held.pool.num_identical


def check_label(label: str, *, skip: bool = False) -> None:
    """Raise InvalidInput for an unknown label; `skip` allows SKIPPED."""
    if label not in Label.__members__ and not (skip and label == SKIPPED):
        raise InvalidInput(f"There is no vote {label!r}.", remedy=f"Vote {', '.join(Label)}.", field="label")


def undo(ctx: Context, campaign_id: str, rater: RaterView) -> str:
    """Undo the rater's newest valid vote with a row that supersedes it; return its battle's id, which is served next.
    Raises Conflict without one, or if ten undone battles still have no new vote.
    """
    try:
        with ctx.db.write() as session:
            _lock(session, rater)
            campaign = admit(session, ctx, campaign_id, rater)
            ledger = read_rater_ledger(session, campaign_id, rater.id)
            if not ledger.cast:
                raise Conflict("There is no vote to take back.")
            if len(ledger.undone) >= MAX_UNDO:
                raise Conflict(f"{MAX_UNDO} votes are taken back already.", remedy="Vote on those battles again first.")
            battle = session.get_one(Battle, ledger.cast[-1].battle_id)
            vote = append_vote(session, ctx, battle, rater, label=UNDONE, last=last_vote(session, battle.id))
    except IntegrityError as error:  # two requests undid the same vote
        raise Conflict("That vote is taken back already.") from error
    with ctx.db.read() as session, opened_pool(ctx, session, campaign) as held:
        held.pool.add_vote(battle.id, label=UNDONE, revision=vote.revision, now=ctx.now())
    return battle.id


def admit(session: Session, ctx: Context, campaign_id: str, rater: RaterView) -> Campaign:
    """Return the campaign if this rater may vote in it now. Raises NotAllowed and Conflict."""
    if rater.campaign_id not in (None, campaign_id) or (rater.expires_at is not None and rater.expires_at <= ctx.now()):
        raise NotAllowed(
            "This ballot link is not valid for that campaign.", remedy="Ask the person who sent it for a new one."
        )
    campaign = find_campaign(session, campaign_id)
    if campaign.record.standing:
        raise NotAllowed("These prompts come from people's own conversations, so no one else votes on them.")
    if campaign.closed_at is not None or _has_ended(ctx, campaign):
        raise Conflict("This campaign is closed: it takes no more votes.")
    return campaign


def _has_ended(ctx: Context, campaign: Campaign) -> bool:
    """Return whether the date at which a campaign closes has passed."""
    stop_at = campaign.config.stop_at
    return stop_at is not None and stop_at <= ctx.now()


_turn = threading.Lock()
"""Writers of this process take turns on SQLite: its own waiting polls, so that under load some wait for seconds."""


class _Changed(Exception):
    """Another request of the rater changed their ballot."""


def _lock(session: Session, rater: RaterView) -> None:
    """Let this rater's other requests wait. On SQLite all writers wait for each other."""
    session.execute(select(Rater.id).where(Rater.id == rater.id).with_for_update())


def _store(
    ctx: Context,
    campaign_id: str,
    rater: RaterView,
    ledger: RaterLedger,
    plans: Sequence[PlannedBattle],
    *,
    vote: VoteInput | None,
    num_open: int,
) -> tuple[str | None, RaterLedger]:
    """Store a vote and new battles, and count them in the pool. Return the vote's id and the ledger with them. Raises
    _Changed if the ledger is no longer the rater's.
    """
    now = ctx.now()
    renewed = [
        row.battle_id for row in ledger.open[:num_open] if row.expires_at < now + timedelta(hours=BATTLE_HOURS - 1)
    ]
    if not plans and vote is None and not renewed:
        return None, ledger
    with _turn if ctx.db.is_sqlite else nullcontext(), ctx.db.write() as session:
        if not ctx.db.is_sqlite:
            _lock(session, rater)
        campaign = admit(session, ctx, campaign_id, rater)
        if not is_current(session, ledger, campaign_id, rater.id):
            raise _Changed
        stored = _store_vote(session, ctx, campaign_id, rater, vote) if vote else None
        for battle_id in renewed:
            session.get_one(Battle, battle_id).expires_at = now + timedelta(hours=BATTLE_HOURS)
        battles = [add_battle(session, ctx, campaign, plan, rater_id=rater.id) for plan in plans]
        ties = [
            append_vote(session, ctx, battle, rater, label=Label.TIE, last=None)
            for battle in battles
            if battle.purpose == "identical"
        ]
    with ctx.db.read() as session, opened_pool(ctx, session, campaign, advance=False) as held:
        for battle_id in renewed:
            held.pool.renew(battle_id, expires_at=now + timedelta(hours=BATTLE_HOURS), now=now)
        for battle, plan in zip(battles, plans, strict=True):
            if plan.purpose in POOLED:
                held.pool.add_battle(
                    battle.id,
                    (plan.prompt_id, plan.pair),
                    a=held.author_of(plan.a),
                    expires_at=battle.expires_at,
                    now=now,
                )
            if plan.purpose == "identical":
                held.pool.add_vote(battle.id, label=Label.TIE, revision=1, now=now)
        if stored is not None:
            held.pool.add_vote(stored.battle_id, label=stored.label, revision=stored.revision, now=now)
    votes = [*ties, stored] if stored else ties
    return stored.id if stored else None, ledger.after(battles, votes)


def _store_vote(session: Session, ctx: Context, campaign_id: str, rater: RaterView, vote: VoteInput) -> Vote:
    battle = session.get(Battle, vote.battle)
    if battle is None or battle.rater_id != rater.id or battle.campaign_id != campaign_id:
        raise NotFound("This battle was not served to you.", remedy="Reload the ballot.")
    last = last_vote(session, battle.id)
    if last is not None and last.label != UNDONE:
        if last.label == vote.label:
            return (
                append_vote(session, ctx, battle, rater, label=vote.label, last=last, said=vote)
                if vote.amends and vote.remarks() != attributes_of(last, *REMARKS)
                else last
            )
        raise Conflict("You have voted on this battle already.", remedy="Take the vote back first.")
    if battle.expires_at <= ctx.now():
        raise Conflict("This battle was shown too long ago.", remedy="Reload the ballot and vote again.")
    return append_vote(session, ctx, battle, rater, label=vote.label, last=last, said=vote)


def _served(ctx: Context, campaign_id: str, ledger: RaterLedger, *, num: int, vote_id: str | None) -> ServedBallot:
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        progress = _progress(session, ctx, campaign, ledger)
        with opened_pool(ctx, session, campaign, advance=False) as held:
            mask, config = held.masker.mask, held.config
        shown = ledger.open[:num]
        texts = _texts(session, [row.battle_id for row in shown]) if shown else {}
        views = []
        for row in shown:
            messages, text_a, text_b = texts[row.battle_id]
            turns = tuple((str(message["role"]), str(message["content"])) for message in messages)
            views.append(
                BallotView(
                    row.battle_id, turns, mask(text_a), mask(text_b), progress, is_single=row.purpose == "single"
                )
            )
    return ServedBallot(tuple(views), progress, config, vote_id)


def _check_form(vote: VoteInput, config: CampaignConfig, *, single: bool) -> None:
    if config.is_single and not single and vote.label != SKIPPED:
        raise InvalidInput("This campaign grades single answers.", remedy="Send a grade instead.", field="label")
    if single and not config.is_single:
        raise InvalidInput("This campaign compares two answers.", remedy="Send a vote instead.", field="value")
    known = [dimension.name for dimension in config.dimensions]
    for name, label in vote.dimensions.items():
        if name not in known:
            raise InvalidInput(
                f"The rubric has no dimension {name[:60]!r}.",
                remedy=f"Use {', '.join(known) or 'none'}.",
                field="dimensions",
            )
        if label not in DIMENSION_LABELS:
            raise InvalidInput(
                f"There is no verdict {label[:60]!r}.", remedy=f"Use {', '.join(DIMENSION_LABELS)}.", field="dimensions"
            )
    for reason in vote.reasons:
        if reason not in config.reasons:
            raise InvalidInput(
                f"There is no reason {reason[:60]!r}.", remedy="Use the reasons of the form.", field="reasons"
            )
    if vote.note and not config.note:
        raise InvalidInput("This campaign takes no notes.", field="note")
    if vote.rewrite is not None and not config.rewrite:
        raise InvalidInput("This campaign takes no rewritten answers.", field="rewrite")
    for text, limit, field in (
        (vote.note, MAX_NOTE, "note"),
        (vote.rewrite or "", MAX_REWRITE, "rewrite"),
        (vote.flag, MAX_FLAG, "flag"),
    ):
        _check_length(text, limit, field=field)


def _check_length(text: str, limit: int, *, field: str) -> None:
    if len(text) > limit:
        raise InvalidInput(f"The {field} has {len(text):,} characters.", remedy=f"Use at most {limit:,}.", field=field)


def _check_pace(ctx: Context, vote: VoteInput, config: CampaignConfig, ledger: RaterLedger) -> VoteInput:
    """Return the vote with a possible duration. Raises TooFast above the campaign's votes a minute, NotFound."""
    now = ctx.now()
    row = next((row for row in ledger.shown if row.battle_id == vote.battle), None)
    if row is None:
        raise NotFound("This battle was not served to you.", remedy="Reload the ballot.")
    if row.is_open and ledger.votes_since(now - timedelta(minutes=1)) >= config.votes_per_minute:
        raise TooFast(
            f"That is more than {config.votes_per_minute} votes a minute.", remedy="Read both answers, then vote again."
        )
    if vote.duration_ms is None:
        return vote
    longest_ms = round((now - row.served_at).total_seconds() * 1000)
    return vote.model_copy(update={"duration_ms": max(0, min(vote.duration_ms, longest_ms, MAX_DURATION_MS))})


_SIDE_A, _SIDE_B = aliased(Completion), aliased(Completion)
_TEXTS = (
    select(Battle.id, CampaignPrompt.messages, _SIDE_A.text, _SIDE_B.text)
    .join(CampaignPrompt, CampaignPrompt.id == Battle.prompt_id)
    .join(_SIDE_A, _SIDE_A.id == Battle.completion_a_id)
    .join(_SIDE_B, _SIDE_B.id == Battle.completion_b_id)
    .where(Battle.id.in_(bindparam("battles", expanding=True)))
)
_WRITING = (
    select(Job.status)
    .join(Contestant, Contestant.job_id == Job.id)
    .where(Contestant.campaign_id == bindparam("campaign"), Job.status.in_(ACTIVE))
    .order_by(Job.status == Status.QUEUED)
    .limit(1)
)


def _texts(session: Session, battle_ids: Sequence[str]) -> dict[str, tuple[list[dict[str, str]], str, str]]:
    """Return the prompt and both answers of battles."""
    rows = session.execute(_TEXTS, {"battles": list(battle_ids)})
    return {battle: (messages, text_a, text_b) for battle, messages, text_a, text_b in rows}


def _progress(
    session: Session, ctx: Context, campaign: Campaign, ledger: RaterLedger, *, advance: bool = False
) -> BallotProgress:
    """Return a rater's progress. `advance` reads what is new in the campaign, which one just served need not await."""
    writing = session.scalar(_WRITING, {"campaign": campaign.id})
    is_writing = writing is not None
    with opened_pool(ctx, session, campaign, advance=advance) as held:
        left = num_left(held, ledger, unwritten=_num_unwritten(session, campaign.id, held) if is_writing else 0)
        quota = held.config.votes_per_rater
    done = len(ledger.cast)
    return BallotProgress(
        done=done,
        skipped=sum(row.label == SKIPPED for row in ledger.cast),
        total=max(done, min(quota, done + len(ledger.open) + left)),
        median_s=ledger.median_s,
        can_undo=bool(ledger.cast) and len(ledger.undone) < MAX_UNDO,
        more_to_come=is_writing,
        is_queued=writing == Status.QUEUED,
        closed=campaign.closed_at is not None,
    )


def _num_unwritten(session: Session, campaign_id: str, held: CampaignPool) -> int:
    """Return how many prompts and pairs wait for an answer in the making, so that a ballot's promise never grows."""
    rows = session.execute(
        select(Contestant.id, Job.status)
        .outerjoin(Job, Job.id == Contestant.job_id)
        .where(Contestant.campaign_id == campaign_id, Contestant.kind.not_in(GOLD_KINDS))
    )
    writing = {
        contestant: status in ACTIVE for contestant, status in rows if status not in (Status.FAILED, Status.CANCELLED)
    }
    prompts = session.scalar(
        select(func.count()).where(CampaignPrompt.campaign_id == campaign_id, CampaignPrompt.purpose == "vote")
    )
    pairs = [(one, one) for one in writing] if held.config.is_single else list(combinations(writing, 2))
    waiting = [pair_of(*pair) for pair in pairs if writing[pair[0]] or writing[pair[1]]]
    return sum(max(0, (prompts or 0) - len(held.pool.prompts.get(pair, ()))) for pair in waiting)


NUM_HELD = 2
"""Battles that a browser holds: the current one and the next."""


def open_ballot(ctx: Context, voter: Voter) -> ServedBallot:
    """Return the rater's current battle and the next. A closed campaign has none, and says so in the progress."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, voter.campaign_id)
        config = campaign.config
        closed = campaign.closed_at is not None
    if closed or _close_when_over(ctx, voter.campaign_id, config):
        return ServedBallot((), rater_progress(ctx, voter.campaign_id, voter.rater), config)
    return serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD)


def submit_vote(ctx: Context, voter: Voter, vote: VoteInput) -> ServedBallot:
    """Store a vote and return the rater's open battles. A duration can't exceed the time since the battle was served.

    Raises InvalidInput for what the campaign's form doesn't offer, and what `serve_battles` raises.
    """
    check_label(vote.label, skip=True)
    return _submit(ctx, voter, vote, form="vote")


def submit_rating(ctx: Context, voter: Voter, battle_id: str, *, value: int, note: str = "") -> ServedBallot:
    """Store the grade of a single answer, 1 to 5, and return the rater's open battles. A later grade supersedes it."""
    if not 1 <= value <= 5:
        raise InvalidInput(f"A grade of {value} is not between 1 and 5.", remedy="Grade 1 to 5.", field="value")
    served = _submit(ctx, voter, VoteInput(battle=battle_id, label=RATED, note=note), form="grade")
    store_answer_rating(ctx, voter, battle_id, value=value, note=note)
    return served


def _submit(ctx: Context, voter: Voter, vote: VoteInput, *, form: VoteForm) -> ServedBallot:
    served = serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD, vote=vote, form=form)
    if _close_when_over(ctx, voter.campaign_id, served.config):
        served = replace(served, progress=replace(served.progress, closed=True))
    return served


def undo_vote(ctx: Context, voter: Voter) -> ServedBallot:
    """Undo the rater's newest vote or grade; its battle is the first of the open ones."""
    battle_id = undo(ctx, voter.campaign_id, voter.rater)
    served = serve_battles(ctx, voter.campaign_id, voter.rater, num=NUM_HELD)
    if served.battles and served.battles[0].is_single:
        store_answer_rating(ctx, voter, battle_id, value=0)
    return served


@retry_races
def store_answer_rating(ctx: Context, voter: Voter, battle_id: str, *, value: int, note: str = "") -> None:
    """Append a grade of a battle's answer; 0 takes the last one back."""
    with ctx.db.write() as session:
        battle = session.get_one(Battle, battle_id)
        mine = (AnswerRating.completion_id == battle.completion_a_id) & (AnswerRating.rater_id == voter.rater.id)
        last = session.scalar(select(AnswerRating).where(mine).order_by(AnswerRating.revision.desc()).limit(1))
        if value == (last.value if last is not None else 0):
            return
        session.add(
            AnswerRating(
                campaign_id=voter.campaign_id,
                completion_id=battle.completion_a_id,
                rater_id=voter.rater.id,
                revision=last.revision + 1 if last else 1,
                value=value,
                note=note,
                created_at=ctx.now(),
            )
        )


def _close_when_over(ctx: Context, campaign_id: str, config: CampaignConfig) -> bool:
    """Close a campaign whose stopping rule is met. The pool's count says whether counting stored votes is worth it."""
    if config.stop_votes is not None and config.stop_at is None and not config.stop_on_verdict:
        with ctx.db.read() as session, opened_pool(ctx, session, find_campaign(session, campaign_id)) as held:
            if held.pool.num_votes < config.stop_votes:
                return False
    if config.stop_votes is None and config.stop_at is None and not config.stop_on_verdict:
        return False
    return close_when_over(ctx, campaign_id)


ALPHA = 0.05
VERDICT_EVERY_S = 10.0
"""Verdicts read every vote, so they are computed again only so often."""

_checked: dict[str, float] = {}
_closing = threading.Lock()


def close_when_over(ctx: Context, campaign_id: str) -> bool:
    """Close a campaign whose stopping rule is met; return whether it is closed now.

    Votes that were under way at that moment still count, so there may be a few more than asked for.
    """
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        if campaign.closed_at is not None:
            return True
        over = is_over(session, ctx, campaign)
    if over:
        with ctx.db.write() as session:
            campaign = find_campaign(session, campaign_id)
            campaign.closed_at = campaign.closed_at or ctx.now()
    return over


def is_over(session: Session, ctx: Context, campaign: Campaign) -> bool:
    """Return whether a campaign has its votes, its date has passed, or every pair has a verdict."""
    config = campaign.config
    if config.stop_at is not None and config.stop_at <= ctx.now():
        return True
    if config.stop_votes is not None and count_votes(session, campaign.id)[0] >= config.stop_votes:
        return True
    return config.stop_on_verdict and _is_due(campaign.id) and _all_decided(session, campaign.id)


def _is_due(campaign_id: str) -> bool:
    now = time.monotonic()
    with _closing:
        if now < _checked.get(campaign_id, 0.0):
            return False
        _checked[campaign_id] = now + VERDICT_EVERY_S
    return True


def _all_decided(session: Session, campaign_id: str) -> bool:
    """Return whether every pair is better or worse, at a family-wise error rate of 5 %."""
    votes = read_board_columns(session, campaign_id).votes
    names = sorted(contestant_names(session, campaign_id).values())
    by_pair, num_pairs = votes_by_pair(votes), len(names) * (len(names) - 1) // 2
    return len(by_pair) == num_pairs > 0 and all(is_decided(pair, alpha=ALPHA / num_pairs) for pair in by_pair.values())
