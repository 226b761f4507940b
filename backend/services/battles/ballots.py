"""Ballot: serve blind battles, take and undo votes. Nothing returned here reveals which contestant wrote a completion.

Votes are append-only: a correction is a new row. A battle is served to one rater, once per prompt and pair; the server alone knows
which side is whose.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import timedelta
from itertools import combinations
from random import Random, SystemRandom
from statistics import median

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.tables import Battle, Campaign, CampaignPrompt, Completion, Contestant, Job, Vote
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.pairing import Candidate, Pair, PairCount, choose_battle, pair_of
from backend.domain.battles.votes import Label
from backend.domain.jobs.states import ACTIVE
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.battles.raters import RaterView
from backend.services.battles.views import UNDONE, ValidVote, find_campaign, valid_votes
from backend.services.context import Context

BATTLE_HOURS = 12
MAX_UNDO = 10


@dataclass(frozen=True)
class BallotProgress:
    """A rater's progress. `more_to_come`: completions are still being generated, so the ballot may grow."""

    done: int
    total: int
    median_s: float | None
    can_undo: bool
    more_to_come: bool


@dataclass(frozen=True)
class BallotView:
    """A battle as a rater sees it: (role, text) per message of the prompt, two texts, no hint of their origin."""

    battle_id: str
    prompt: tuple[tuple[str, str], ...]
    text_a: str
    text_b: str
    progress: BallotProgress


def next_battle(ctx: Context, campaign_id: str, rater: RaterView, *, rng: Random | None = None) -> BallotView | None:
    """Return the battle to judge: an open one (the last undone first), or a new one. None if there is none.

    Raises NotAllowed for a rater of another campaign or an expired link, Conflict for a closed campaign.
    """
    try:
        return _next_battle(ctx, campaign_id, rater, rng=rng or SystemRandom())
    except IntegrityError:  # the rater's other tab was served the same battle at the same moment: it is open now
        return _next_battle(ctx, campaign_id, rater, rng=rng or SystemRandom())


def _next_battle(ctx: Context, campaign_id: str, rater: RaterView, *, rng: Random) -> BallotView | None:
    with ctx.db.write() as session:
        campaign = _admit(session, ctx, campaign_id, rater)
        state = _read_state(session, ctx, campaign, rater)
        battle = state.open_battle
        if battle is not None:
            battle.expires_at = ctx.now() + timedelta(hours=BATTLE_HOURS)
            return _ballot_view(session, battle, state.progress())
        if not state.fresh or state.num_cast >= state.quota:
            return None
        return _ballot_view(session, _serve(session, ctx, campaign, rater, state, rng=rng), state.progress())


def ballot_progress(ctx: Context, campaign_id: str, rater: RaterView) -> BallotProgress:
    """Return a rater's progress in a campaign."""
    with ctx.db.read() as session:
        return _read_state(session, ctx, _admit(session, ctx, campaign_id, rater), rater).progress()


def cast_vote(ctx: Context, battle_id: str, *, label: str, rater: RaterView, duration_ms: int | None = None) -> str:
    """Store a vote and return its id. Sending it twice is one vote.

    Raises InvalidInput for an unknown label, NotFound for a battle that was not served to this rater, Conflict for one that is expired,
    already voted on with another label, or of a closed campaign.
    """
    check_label(label)
    try:
        return _cast_vote(ctx, battle_id, label=label, rater=rater, duration_ms=duration_ms)
    except IntegrityError:  # the other of two simultaneous submissions was stored
        return _cast_vote(ctx, battle_id, label=label, rater=rater, duration_ms=duration_ms)


def check_label(label: str) -> None:
    """Raise InvalidInput for an unknown label."""
    if label not in Label.__members__:
        raise InvalidInput(f"There is no vote {label!r}.", remedy=f"Vote {', '.join(Label)}.", field="label")


def _cast_vote(ctx: Context, battle_id: str, *, label: str, rater: RaterView, duration_ms: int | None) -> str:
    with ctx.db.write() as session:
        battle = session.get(Battle, battle_id)
        if battle is None or battle.rater_id != rater.id:
            raise NotFound("This battle was not served to you.", remedy="Reload the ballot.")
        _admit(session, ctx, battle.campaign_id, rater)
        last = last_vote(session, battle.id)
        if last is not None and last.label != UNDONE:
            if last.label == label:
                return last.id
            raise Conflict("You have voted on this battle already.", remedy="Take the vote back first.")
        if battle.expires_at <= ctx.now():
            raise Conflict("This battle was shown too long ago.", remedy="Reload the ballot and vote again.")
        return append_vote(session, ctx, battle, rater, label=label, last=last, duration_ms=duration_ms).id


def undo(ctx: Context, campaign_id: str, rater: RaterView) -> str:
    """Undo the rater's newest valid vote with a row that supersedes it; return its battle's id, which is served next. Raises Conflict
    without one, or if ten undone battles still have no new vote.
    """
    try:
        with ctx.db.write() as session:
            _admit(session, ctx, campaign_id, rater)
            cast = valid_votes(session, campaign_id, rater_id=rater.id)
            if not cast:
                raise Conflict("There is no vote to take back.")
            if len(_undone(session, campaign_id, rater)) >= MAX_UNDO:
                raise Conflict(f"{MAX_UNDO} votes are taken back already.", remedy="Vote on those battles again first.")
            battle = session.get_one(Battle, cast[-1].battle_id)
            append_vote(session, ctx, battle, rater, label=UNDONE, last=last_vote(session, battle.id), duration_ms=None)
            return battle.id
    except IntegrityError as error:  # two requests undid the same vote
        raise Conflict("That vote is taken back already.") from error


@dataclass(frozen=True)
class _State:
    """State from which a rater's next battle is chosen."""

    open_battle: Battle | None
    fresh: list[Candidate]
    num_open: int
    num_cast: int
    quota: int
    times_ms: tuple[int, ...]
    can_undo: bool
    more_to_come: bool
    counts: dict[Pair, PairCount]

    def progress(self) -> BallotProgress:
        total = min(self.quota, self.num_cast + self.num_open + len(self.fresh))
        middle = median(self.times_ms) / 1000 if self.times_ms else None
        return BallotProgress(self.num_cast, max(total, self.num_cast), middle, self.can_undo, self.more_to_come)


def _read_state(session: Session, ctx: Context, campaign: Campaign, rater: RaterView) -> _State:
    votes = valid_votes(session, campaign.id)
    own = [vote for vote in votes if vote.rater_id == rater.id]
    undone = _undone(session, campaign.id, rater)
    never = select(Vote.id).where(Vote.battle_id == Battle.id).exists()
    unvoted = list(session.scalars(select(Battle).where(Battle.campaign_id == campaign.id, Battle.rater_id == rater.id, ~never)))
    waiting = [*undone, *unvoted]
    own_battles = select(Battle.prompt_id, Battle.pair).where(Battle.campaign_id == campaign.id, Battle.rater_id == rater.id)
    assigned = {(prompt_id, pair) for prompt_id, pair in session.execute(own_battles)}
    writing = (
        select(Job.id).join(Contestant, Contestant.job_id == Job.id).where(Contestant.campaign_id == campaign.id, Job.status.in_(ACTIVE))
    )
    config = CampaignConfig.model_validate(campaign.config.get("config", {}))
    return _State(
        open_battle=waiting[0] if waiting else None,
        fresh=_candidates(session, ctx, campaign, votes, done=assigned),
        num_open=len(waiting),
        num_cast=len(own),
        quota=config.votes_per_rater,
        times_ms=tuple(vote.duration_ms for vote in own if vote.duration_ms is not None),
        can_undo=bool(own) and len(undone) < MAX_UNDO,
        more_to_come=session.scalar(writing.limit(1)) is not None,
        counts=_pair_counts(votes),
    )


def _candidates(
    session: Session, ctx: Context, campaign: Campaign, votes: list[ValidVote], *, done: set[tuple[str, str]]
) -> list[Candidate]:
    """Return every (prompt, pair) with two different completions that the rater has not seen. Open battles count as votes."""
    rows = session.execute(
        select(Completion.prompt_id, Completion.contestant_id, Completion.text_hash)
        .join(Contestant, Contestant.id == Completion.contestant_id)
        .where(Contestant.campaign_id == campaign.id)
    )
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    for prompt_id, contestant_id, digest in rows:
        answers[prompt_id][contestant_id] = digest
    voted = select(Vote.id).where(Vote.battle_id == Battle.id).exists()
    in_flight = select(Battle.prompt_id, Battle.pair).where(Battle.campaign_id == campaign.id, Battle.expires_at > ctx.now(), ~voted)
    busy = Counter((vote.prompt_id, pair_key(pair_of(vote.a, vote.b))) for vote in votes) + Counter(session.execute(in_flight).all())
    per_prompt = Counter[str]()
    for (prompt_id, _), number in busy.items():
        per_prompt[prompt_id] += number
    return [
        Candidate(prompt_id, pair, busy[prompt_id, pair_key(pair)], per_prompt[prompt_id])
        for prompt_id, texts in answers.items()
        for pair in combinations(sorted(texts), 2)
        if texts[pair[0]] != texts[pair[1]] and (prompt_id, pair_key(pair)) not in done
    ]


def _pair_counts(votes: list[ValidVote]) -> dict[Pair, PairCount]:
    tally: dict[Pair, Counter[str | None]] = defaultdict(Counter)
    for vote in votes:
        tally[pair_of(vote.a, vote.b)][vote.winner] += 1
    return {pair: PairCount(count[pair[0]], count[pair[1]], count[None]) for pair, count in tally.items()}


def _serve(session: Session, ctx: Context, campaign: Campaign, rater: RaterView, state: _State, *, rng: Random) -> Battle:
    chosen, probability = choose_battle(state.fresh, state.counts, rng=rng)
    sides = list(chosen.pair)
    rng.shuffle(sides)
    ids = {
        contestant: completion
        for completion, contestant in session.execute(
            select(Completion.id, Completion.contestant_id).where(
                Completion.prompt_id == chosen.prompt, Completion.contestant_id.in_(sides)
            )
        )
    }
    return add_battle(
        session,
        ctx,
        campaign,
        rater_id=rater.id,
        prompt_id=chosen.prompt,
        pair=chosen.pair,
        completions=(ids[sides[0]], ids[sides[1]]),
        probability=probability,
    )


def add_battle(
    session: Session,
    ctx: Context,
    campaign: Campaign,
    *,
    rater_id: str,
    prompt_id: str,
    pair: Pair,
    completions: tuple[str, str],
    probability: float,
) -> Battle:
    """Insert a battle. `completions` are side a and side b; `probability` is that of the prompt and pair (each order of sides has half)."""
    battle = Battle(
        campaign_id=campaign.id,
        prompt_id=prompt_id,
        pair=pair_key(pair),
        completion_a_id=completions[0],
        completion_b_id=completions[1],
        rater_id=rater_id,
        sampling_probability=probability,
        served_at=ctx.now(),
        expires_at=ctx.now() + timedelta(hours=BATTLE_HOURS),
    )
    session.add(battle)
    session.flush()
    return battle


def pair_key(pair: Pair) -> str:
    """Return a pair as the battles table holds it."""
    return f"{pair[0]}:{pair[1]}"


def _ballot_view(session: Session, battle: Battle, progress: BallotProgress) -> BallotView:
    prompt = session.get_one(CampaignPrompt, battle.prompt_id)
    return BallotView(
        battle_id=battle.id,
        prompt=tuple((str(message["role"]), str(message["content"])) for message in prompt.messages),
        text_a=session.get_one(Completion, battle.completion_a_id).text,
        text_b=session.get_one(Completion, battle.completion_b_id).text,
        progress=progress,
    )


def _admit(session: Session, ctx: Context, campaign_id: str, rater: RaterView) -> Campaign:
    """Return the campaign if this rater may vote in it now."""
    if rater.campaign_id not in (None, campaign_id) or (rater.expires_at is not None and rater.expires_at <= ctx.now()):
        raise NotAllowed("This ballot link is not valid for that campaign.", remedy="Ask the person who sent it for a new one.")
    campaign = find_campaign(session, campaign_id)
    if campaign.config.get("standing"):
        raise NotAllowed("These prompts come from people's own conversations, so no one else votes on them.")
    if campaign.closed_at is not None:
        raise Conflict("This campaign is closed: it takes no more votes.")
    return campaign


def _undone(session: Session, campaign_id: str, rater: RaterView) -> list[Battle]:
    """Return the rater's battles whose newest vote was undone, the last one first."""
    later = select(Vote.supersedes_id).where(Vote.supersedes_id.is_not(None))
    return list(
        session.scalars(
            select(Battle)
            .join(Vote, Vote.battle_id == Battle.id)
            .where(Battle.campaign_id == campaign_id, Battle.rater_id == rater.id, Vote.label == UNDONE, Vote.id.not_in(later))
            .order_by(Vote.created_at.desc(), Vote.revision.desc(), Battle.served_at)
        )
    )


def last_vote(session: Session, battle_id: str) -> Vote | None:
    """Return the valid vote on a battle, None without one."""
    return session.scalar(select(Vote).where(Vote.battle_id == battle_id).order_by(Vote.revision.desc()).limit(1))


def append_vote(
    session: Session, ctx: Context, battle: Battle, rater: RaterView, *, label: str, last: Vote | None, duration_ms: int | None
) -> Vote:
    """Append a vote on a battle, superseding the last one."""
    vote = Vote(
        battle_id=battle.id,
        rater_id=rater.id,
        label=label,
        revision=last.revision + 1 if last else 1,
        supersedes_id=last.id if last else None,
        duration_ms=duration_ms,
        created_at=ctx.now(),
    )
    session.add(vote)
    session.flush()
    return vote
