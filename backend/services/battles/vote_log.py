"""All of a campaign's valid votes as arrays, read once for each revision: what boards, agreement and raters' quality
are computed from.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row as SqlRow
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, CampaignPrompt, Completion, Contestant, RaterExclusion, Vote
from backend.domain.battles.votes import LABELS, VoteColumns, codes_of
from backend.services.battles.views import contestant_names

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Revision = tuple[int, ...]
MAX_REMEMBERED = 4
CODE_OF_LABEL = {label.value: code for code, label in enumerate(LABELS)}
MAX_DELAY = timedelta(minutes=10)
"""From the moment that a row of a vote bears until others see it."""
SIDES = {"gold_better": "the better answer of a gold pair", "gold_worse": "the worse answer of a gold pair"}


@dataclass(frozen=True)
class VoteLog:
    """Valid votes of every purpose, oldest first. Codes are positions in `raters`, `prompts`, `answers` (ids) and
    `purposes`.

    `columns` names prompts by content, so that a prompt asked again is the same prompt; `duration_ms` is NaN where
    unknown. Authors of gold pairs are named by SIDES.
    """

    columns: VoteColumns
    prompts: tuple[str, ...]
    prompt: IntArray
    answers: tuple[str, ...]
    answer_a: IntArray
    answer_b: IntArray
    purposes: tuple[str, ...]
    purpose: IntArray
    duration_ms: FloatArray

    def __len__(self) -> int:
        return len(self.prompt)

    def of_purpose(self, purposes: Collection[str]) -> NDArray[np.bool_]:
        """Return which votes have one of these purposes."""
        codes = [code for code, purpose in enumerate(self.purposes) if purpose in purposes]
        return np.isin(self.purpose, codes)


class _VoteRow(NamedTuple):
    """A vote as a log needs it. Rows are sorted as the votes were cast."""

    created_at: datetime
    served_at: datetime
    id: str
    supersedes_id: str | None
    prompt_id: str
    completion_a_id: str
    completion_b_id: str
    rater_id: str
    label: str
    purpose: str
    duration_ms: int | None
    probability: float


@dataclass(frozen=True)
class _Snapshot:
    """A campaign's log at a revision, and every row of its votes by id, undone ones too."""

    revision: Revision
    log: VoteLog
    rows: dict[str, _VoteRow]


_newest: OrderedDict[tuple[str, str], _Snapshot] = OrderedDict()
_remembering = Lock()


def votes_revision(session: Session, campaign_id: str) -> Revision:
    """Return numbers that change with every vote, undo and exclusion of a campaign, and with its contestants."""
    votes = (
        select(func.count())
        .select_from(Vote)
        .join(Battle, Battle.id == Vote.battle_id)
        .where(Battle.campaign_id == campaign_id)
    )
    exclusions = select(func.count()).select_from(RaterExclusion).where(RaterExclusion.campaign_id == campaign_id)
    contestants = select(func.count()).select_from(Contestant).where(Contestant.campaign_id == campaign_id)
    return tuple(session.scalar(query) or 0 for query in (votes, exclusions, contestants))


def read_vote_log(session: Session, campaign_id: str, *, revision: Revision | None = None) -> VoteLog:
    """Return a campaign's votes, read once a process for each revision (by default `votes_revision`)."""
    bind = session.get_bind()
    campaign = (str(getattr(bind, "url", bind)), campaign_id)
    revision = revision or votes_revision(session, campaign_id)
    with _remembering:
        newest = _newest.get(campaign)
    if newest is not None and newest.revision == revision:
        return newest.log
    rows = _read_rows(session, campaign_id, newest.rows if newest else {}, num_votes=revision[0])
    log = _log_of(session, campaign_id, rows)
    with _remembering:
        _newest[campaign] = _Snapshot(revision, log, rows)
        _newest.move_to_end(campaign)
        while len(_newest) > MAX_REMEMBERED:
            _newest.popitem(last=False)
    return log


def _read_rows(
    session: Session, campaign_id: str, known: dict[str, _VoteRow], *, num_votes: int
) -> dict[str, _VoteRow]:
    """Return every row of a campaign's votes: the known ones, as rows are only added, and those that came since."""
    query = (
        select(
            Vote.created_at,
            Battle.served_at,
            Vote.id,
            Vote.supersedes_id,
            Battle.prompt_id,
            Battle.completion_a_id,
            Battle.completion_b_id,
            Vote.rater_id,
            Vote.label,
            Battle.purpose,
            Vote.duration_ms,
            Battle.sampling_probability,
        )
        .join(Battle, Battle.id == Vote.battle_id)
        .where(Battle.campaign_id == campaign_id)
    )
    rows = known
    if known:
        newest = max(row.created_at for row in known.values())
        later = session.execute(query.where(Vote.created_at >= newest - MAX_DELAY))
        rows = known | {row.id: _vote_row(row) for row in later if row.id not in known}
    if len(rows) != num_votes:  # imported with times of the past, or a database that was put back
        rows = {row.id: _vote_row(row) for row in session.execute(query)}
    return rows


def _vote_row(row: SqlRow[*tuple[Any, ...]]) -> _VoteRow:
    """Return a row whose ids of a prompt, answers and a rater, each in many rows, are held once."""
    return _VoteRow._make((*row[:4], *map(sys.intern, row[4:10]), *row[10:]))


def _log_of(session: Session, campaign_id: str, rows_by_id: dict[str, _VoteRow]) -> VoteLog:
    """Return the log of the valid ones among all votes of a campaign: neither superseded nor skipped."""
    superseded = {row.supersedes_id for row in rows_by_id.values()}
    rows = sorted(row for row in rows_by_id.values() if row.id not in superseded and row.label in CODE_OF_LABEL)
    *_, prompt_ids, side_a, side_b, rater_ids, labels, purposes, durations, probabilities = (
        zip(*rows, strict=True) if rows else ((),) * len(_VoteRow._fields)
    )
    prompts, prompt = _numbered(prompt_ids)
    answers, sides = _numbered((*side_a, *side_b))
    raters, rater = _numbered(rater_ids)
    used, purpose = _numbered(purposes)
    names, contestant = _contestants(session, campaign_id, answers)
    hashes, categories, turns = _prompts(session, campaign_id, prompts)
    keys, key = _numbered(hashes)
    category = categories[1][prompt] if any(categories[0]) else None
    columns = VoteColumns(
        contestants=names,
        prompts=keys,
        raters=raters,
        a=contestant[sides[: len(rows)]],
        b=contestant[sides[len(rows) :]],
        label=codes_of(labels, CODE_OF_LABEL),
        prompt=key[prompt],
        rater=rater,
        categories=categories[0] if category is not None else (),
        category=category,
        probability=np.array(probabilities, dtype=np.float64),
        turn=_numbered(turns)[1][prompt] if any(turns) else None,
        identical=purpose == used.index("identical") if "identical" in used else None,
    )
    return VoteLog(
        columns=columns,
        prompts=prompts,
        prompt=prompt,
        answers=answers,
        answer_a=sides[: len(rows)],
        answer_b=sides[len(rows) :],
        purposes=used,
        purpose=purpose,
        duration_ms=np.array(durations, dtype=np.float64),
    )


def _contestants(session: Session, campaign_id: str, answers: tuple[str, ...]) -> tuple[tuple[str, ...], IntArray]:
    """Return the contestants' names in order, and the author of each answer as a code."""
    kinds = dict(
        session.execute(select(Contestant.id, Contestant.kind).where(Contestant.campaign_id == campaign_id)).all()
    )
    names = {
        **{author: SIDES[kind] for author, kind in kinds.items() if kind in SIDES},
        **contestant_names(session, campaign_id),
    }
    authored = select(Completion.id, Completion.contestant_id).join(
        Contestant, Contestant.id == Completion.contestant_id
    )
    author_of = dict(session.execute(authored.where(Contestant.campaign_id == campaign_id)).all())
    ordered = tuple(sorted({names[author_of[answer]] for answer in answers}))
    code = {name: number for number, name in enumerate(ordered)}
    return ordered, np.array([code[names[author_of[answer]]] for answer in answers], dtype=np.int64)


def _prompts(
    session: Session, campaign_id: str, prompts: tuple[str, ...]
) -> tuple[list[str], tuple[tuple[str, ...], IntArray], list[str]]:
    """Return the content of each prompt as a hash, the categories, each prompt's as a code, and its turn."""
    query = select(CampaignPrompt.id, CampaignPrompt.content_hash, CampaignPrompt.category, CampaignPrompt.turn)
    rows = {row.id: row for row in session.execute(query.where(CampaignPrompt.campaign_id == campaign_id))}
    names = tuple(sorted({rows[prompt].category for prompt in prompts}))
    codes = np.array([names.index(rows[prompt].category) for prompt in prompts], dtype=np.int64)
    return [rows[prompt].content_hash for prompt in prompts], (names, codes), [rows[prompt].turn for prompt in prompts]


def _numbered(values: Sequence[str]) -> tuple[tuple[str, ...], IntArray]:
    """Number distinct values by first appearance."""
    index = {value: code for code, value in enumerate(dict.fromkeys(values))}
    return tuple(index), codes_of(values, index)
