"""Quality of a campaign's raters: from its votes, repeats and gold pairs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Completion
from backend.domain.battles.raters.checks import NO_GOLD, is_too_fast, unread_share
from backend.domain.battles.raters.quality import FloatArray, RatedColumns, RaterQuality, rate_raters
from backend.services.battles.views import find_campaign
from backend.services.battles.vote_log import SIDES, VoteLog, read_vote_log, votes_revision
from backend.services.context import Context

MEASURING = ("vote", "repeat", "gold")
"""Purposes of the battles that say something about a rater."""

MAX_REMEMBERED = 32

_remembered: OrderedDict[tuple[object, ...], dict[str, RaterQuality]] = OrderedDict()
_remembering = Lock()


def rater_qualities(ctx: Context, campaign_id: str) -> dict[str, RaterQuality]:
    """Return the quality of each rater with votes, by the rater's id. A flag excludes no one. Raises NotFound.

    The same votes are measured once a process.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        revision = votes_revision(session, campaign_id)
        key = (ctx.db.url, campaign_id, revision)
        with _remembering:
            if key in _remembered:
                _remembered.move_to_end(key)
                return _remembered[key]
        log = read_vote_log(session, campaign_id, revision=revision)
        words = count_words(session, log.answers)
    rows = {row.rater: row for row in rate_raters(_rated(log, words))}
    with _remembering:
        _remembered[key] = rows
        while len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return rows


def _rated(log: VoteLog, words: FloatArray) -> RatedColumns:
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
    )


def vote_seconds(session: Session, log: VoteLog) -> FloatArray:
    """Return the seconds of each vote of a log; NaN where unknown, and for raters whose pace is flagged: their times
    tell nothing of how long a vote takes.
    """
    seconds = log.duration_ms / 1000
    if np.isnan(seconds).all():  # as of a file: their texts need not be read
        return seconds
    words = count_words(session, log.answers)
    shown = words[log.answer_a] + words[log.answer_b]
    for rater in range(len(log.columns.raters)):
        of_rater = log.columns.rater == rater
        measuring = of_rater & log.of_purpose(MEASURING)
        unread = unread_share(seconds[measuring], shown[measuring])
        if unread is not None and is_too_fast(unread):
            seconds = np.where(of_rater, np.nan, seconds)
    return seconds


def count_words(session: Session, answers: Sequence[str]) -> FloatArray:
    """Return the number of words of each answer."""
    counts = dict[str, int]()
    for start in range(0, len(answers), 500):
        rows = session.execute(
            select(Completion.id, Completion.text).where(Completion.id.in_(answers[start : start + 500]))
        )
        counts.update((row[0], len(row[1].split())) for row in rows)
    return np.array([counts[answer] for answer in answers], dtype=np.float64)
