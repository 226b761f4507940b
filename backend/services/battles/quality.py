"""Quality of a campaign's raters, from its votes, repeats and gold pairs, and their exclusion from its board with the
reason and the person. Votes are never deleted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, Completion, Rater, RaterExclusion, User
from backend.domain.battles.quality import (
    NO_GOLD,
    FloatArray,
    RatedColumns,
    RaterQuality,
    is_too_fast,
    rate_raters,
    unread_share,
)
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.battles.views import count_votes, find_campaign
from backend.services.battles.vote_log import SIDES, Revision, VoteLog, read_vote_log, votes_revision
from backend.services.context import Context, Person, require_builder

MAX_REASON = 500


@dataclass(frozen=True)
class ExclusionView:
    """One decision on a rater: excluded, or counted again. `by` is None on an installation without accounts."""

    rater_id: str
    rater: str
    excluded: bool
    reason: str
    by: str | None
    at: datetime


def exclude_rater(ctx: Context, campaign_id: str, rater_id: str, *, reason: str, person: Person) -> ExclusionView:
    """Leave a rater's votes out of the board. Raises InvalidInput without reason, NotFound, Conflict if excluded."""
    reason = reason.strip()
    if not 3 <= len(reason) <= MAX_REASON:
        raise InvalidInput(
            "An exclusion needs a reason, because it is shown beside the board.",
            remedy=f"Write 3 to {MAX_REASON} characters, for instance: votes faster than the answers can be read.",
            field="reason",
        )
    return _decide(ctx, campaign_id, rater_id, excluded=True, reason=reason, person=person)


def include_rater(ctx: Context, campaign_id: str, rater_id: str, *, person: Person) -> ExclusionView:
    """Count an excluded rater's votes again. Raises NotFound, Conflict if they count already."""
    return _decide(ctx, campaign_id, rater_id, excluded=False, reason="", person=person)


def _decide(
    ctx: Context, campaign_id: str, rater_id: str, *, excluded: bool, reason: str, person: Person
) -> ExclusionView:
    require_builder(person)
    with ctx.db.write() as session:
        campaign = find_campaign(session, campaign_id)
        rater = session.get(Rater, rater_id)
        took_part = select(Battle.id).where(Battle.campaign_id == campaign.id, Battle.rater_id == rater_id).limit(1)
        if rater is None or session.scalar(took_part) is None:
            raise NotFound("This campaign has no such rater.", field="rater")
        if (rater_id in excluded_raters(session, campaign.id)) == excluded:
            state = "excluded already" if excluded else "not excluded"
            raise Conflict(f"“{rater.name}” is {state}.", field="rater")
        row = RaterExclusion(
            campaign_id=campaign.id,
            rater_id=rater_id,
            excluded=excluded,
            reason=reason,
            created_by=person.id,
            created_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        return ExclusionView(rater_id, rater.name, excluded, reason, person.name if person.id else None, row.created_at)


def excluded_raters(session: Session, campaign_id: str) -> frozenset[str]:
    """Return the ids of the raters whose votes a campaign's board leaves out now."""
    rows = session.execute(
        select(RaterExclusion.rater_id, RaterExclusion.excluded)
        .where(RaterExclusion.campaign_id == campaign_id)
        .order_by(RaterExclusion.created_at, RaterExclusion.id)
    )
    newest = dict(rows.all())
    return frozenset(rater_id for rater_id, excluded in newest.items() if excluded)


def count_excluded_votes(ctx: Context, campaign_id: str) -> tuple[int, int]:
    """Return the number of votes that a campaign's board leaves out, and of the raters who cast them."""
    with ctx.db.read() as session:
        excluded = excluded_raters(session, campaign_id)
        return count_votes(session, campaign_id, raters=excluded) if excluded else (0, 0)


def list_exclusions(ctx: Context, campaign_id: str) -> list[ExclusionView]:
    """Return every decision on a campaign's raters, newest first."""
    with ctx.db.read() as session:
        rows = session.execute(
            select(RaterExclusion, Rater.name, User.name)
            .join(Rater, Rater.id == RaterExclusion.rater_id)
            .outerjoin(User, User.id == RaterExclusion.created_by)
            .where(RaterExclusion.campaign_id == campaign_id)
            .order_by(RaterExclusion.created_at.desc(), RaterExclusion.id)
        )
        return [
            ExclusionView(row.rater_id, name, row.excluded, row.reason, by, row.created_at) for row, name, by in rows
        ]


log = logging.getLogger(__name__)

MEASURING = ("vote", "repeat", "gold")
"""Purposes of the battles that say something about a rater."""

MAX_REMEMBERED = 32

QUICK_S, RESTS = 0.5, 20
"""A measurement that takes no longer is made for each visitor; a longer one is followed by a pause so much longer."""


@dataclass(frozen=True)
class _Measurement:
    """Qualities at a revision of the votes, when they were measured and how long that took."""

    rows: dict[str, RaterQuality]
    revision: Revision
    ended: float
    took_s: float

    @property
    def rests_until(self) -> float:
        """The moment from which the next one may be made."""
        return self.ended + RESTS * self.took_s


_newest: OrderedDict[tuple[str, str], _Measurement] = OrderedDict()
_measuring: set[tuple[str, str]] = set()
_remembering = Lock()


def rater_qualities(ctx: Context, campaign_id: str) -> dict[str, RaterQuality]:
    """Return the quality of each rater with votes, by the rater's id. A flag excludes no one. Raises NotFound.

    The same votes are measured once a process.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        revision = votes_revision(session, campaign_id)
        with _remembering:
            last = _newest.get((ctx.db.url, campaign_id))
        if last is not None and last.revision == revision:
            return last.rows
        votes = read_vote_log(session, campaign_id, revision=revision)
        words = lengths_in_words(session, votes.answers)
        excluded = excluded_raters(session, campaign_id)
    began = time.monotonic()
    rows = {row.rater: row for row in rate_raters(_rated(votes, words, excluded))}
    ended = time.monotonic()
    with _remembering:
        _newest[ctx.db.url, campaign_id] = _Measurement(rows, revision, ended, ended - began)
        _newest.move_to_end((ctx.db.url, campaign_id))
        while len(_newest) > MAX_REMEMBERED:
            _newest.popitem(last=False)
    return rows


def last_rater_qualities(ctx: Context, campaign_id: str) -> dict[str, RaterQuality]:
    """Return the qualities as they were measured last, some votes ago: while people vote, a visitor of the board does
    not wait for a measurement after each vote. A newer one is made beside it, one at a time, and at most a twentieth of
    the time is spent on them. Raises NotFound.
    """
    campaign = (ctx.db.url, campaign_id)
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        revision = votes_revision(session, campaign_id)
    with _remembering:
        last = _newest.get(campaign)
        has_changed = last is None or last.revision[1:] != revision[1:]  # other raters or contestants
        is_due = last is not None and last.revision != revision and time.monotonic() > last.rests_until
        is_slow = last is not None and not has_changed and last.took_s > QUICK_S
        starts = is_slow and is_due and campaign not in _measuring
        if starts:
            _measuring.add(campaign)
    if last is None or not is_slow:
        return rater_qualities(ctx, campaign_id)
    if starts:
        threading.Thread(target=_measure_beside, args=(ctx, campaign_id), daemon=True, name="rater-quality").start()
    return last.rows


def _measure_beside(ctx: Context, campaign_id: str) -> None:
    try:
        rater_qualities(ctx, campaign_id)
    except Exception as error:  # a database that is away, a deleted campaign: the next page that asks says it
        log.warning("the raters of campaign %s can't be measured: %s", campaign_id, error)
    finally:
        with _remembering:
            _measuring.discard((ctx.db.url, campaign_id))


def _rated(log: VoteLog, words: FloatArray, excluded: frozenset[str]) -> RatedColumns:
    """Return the votes that measure raters; a gold battle expects the side of the better answer."""
    measuring = log.of_purpose(MEASURING)
    gold, better = log.of_purpose(("gold",)), SIDES["gold_better"]
    a_is_better = log.columns.a == (log.columns.contestants.index(better) if better in log.columns.contestants else -1)
    expected = np.where(gold, np.where(a_is_better, 0, 1), NO_GOLD)
    return RatedColumns(
        votes=log.columns.select(measuring),
        seconds=log.duration_ms[measuring] / 1000,
        words=(words[log.answer_a] + words[log.answer_b])[measuring],
        gold=expected[measuring],
        is_repeat=log.of_purpose(("repeat",))[measuring],
        excluded=excluded,
    )


def vote_seconds(session: Session, log: VoteLog) -> FloatArray:
    """Return the seconds of each vote of a log; NaN where unknown, and for raters whose pace is flagged: their times
    tell nothing of how long a vote takes.
    """
    seconds = log.duration_ms / 1000
    if np.isnan(seconds).all():  # as in a file: the texts need not be read
        return seconds
    words = lengths_in_words(session, log.answers)
    shown = words[log.answer_a] + words[log.answer_b]
    for rater in range(len(log.columns.raters)):
        of_rater = log.columns.rater == rater
        measuring = of_rater & log.of_purpose(MEASURING)
        unread = unread_share(seconds[measuring], shown[measuring])
        if unread is not None and is_too_fast(unread):
            seconds = np.where(of_rater, np.nan, seconds)
    return seconds


def lengths_in_words(session: Session, answers: Sequence[str]) -> FloatArray:
    """Return the number of words of each answer."""
    counts = dict[str, int]()
    for start in range(0, len(answers), 500):
        rows = session.execute(
            select(Completion.id, Completion.text).where(Completion.id.in_(answers[start : start + 500]))
        )
        counts.update((row[0], len(row[1].split())) for row in rows)
    return np.array([counts[answer] for answer in answers], dtype=np.float64)
