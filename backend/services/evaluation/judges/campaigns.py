"""Judges beside the raters of a campaign: agreement with the votes under the ceiling of the raters' own, and a column
of ratings apart.

A judge's verdicts are never part of the board.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from threading import Lock

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Completion, Contestant, Job, JudgedItem
from backend.domain.battles.agreement import JudgeAgreement, RaterAgreement, judge_agreement, vote_agreement
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.votes import Label, VoteRecord
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.results import JudgeResult
from backend.domain.jobs.states import JobKind, Status
from backend.domain.statistics.agreement import Resampling
from backend.services.battles.standings import read_vote_records
from backend.services.battles.views import contestant_names, find_campaign, valid_votes
from backend.services.battles.vote_log import Revision, votes_revision
from backend.services.context import Context
from backend.services.jobs.jobs import view

CHUNK = 500
MAX_REMEMBERED = 32
RESAMPLING = Resampling(200)


_Basis = tuple[Revision, tuple[str, ...]]
"""The votes of a campaign, and the judgements that have finished: neither ever changes."""


@dataclass(frozen=True)
class JudgeColumn:
    """One judgement of a campaign: the judge's ratings by contestant, and its agreement with the raters on the same
    battles. `is_trusted` is None where no empty answers were mixed in; `created_at` tells judgements of a judge apart.
    """

    job_id: str
    judge: str
    criteria: str
    created_at: datetime
    is_trusted: bool | None
    ratings: dict[str, float]
    agreement: JudgeAgreement


@dataclass(frozen=True)
class JudgesView:
    """The judgements of a campaign, newest first. `ceiling` is the agreement of the raters with each other."""

    columns: tuple[JudgeColumn, ...]
    ceiling: RaterAgreement


_remembered: OrderedDict[tuple[str, str], tuple[_Basis, JudgesView | None]] = OrderedDict()
"""The newest view of each campaign."""
_remembering = Lock()


def judges_of(ctx: Context, campaign_id: str) -> JudgesView | None:
    """Return the judges that graded pairs of a campaign; None without one. The same votes and judgements are compared
    once a process. Raises NotFound.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        judged = select(Job.id).where(Job.kind == JobKind.JUDGE.value, Job.status == Status.FINISHED.value)
        jobs = tuple(session.scalars(judged.order_by(Job.created_at.desc(), Job.id)))
        basis = votes_revision(session, campaign_id), jobs
        key = (ctx.db.url, campaign_id)
        with _remembering:
            newest = _remembered.get(key)
        if newest is not None and newest[0] == basis:
            return newest[1]
        judges = _compare(session, campaign_id, jobs) if jobs else None
    with _remembering:
        _remembered[key] = basis, judges
        _remembered.move_to_end(key)
        while len(_remembered) > MAX_REMEMBERED:
            _remembered.popitem(last=False)
    return judges


def _compare(session: Session, campaign_id: str, job_ids: tuple[str, ...]) -> JudgesView | None:
    """Compare the judgements of these jobs with a campaign's votes; None where none is of its pairs."""
    votes = valid_votes(session, campaign_id, purposes=("vote",))
    pairs = sorted({":".join(sorted((vote.completion_a_id, vote.completion_b_id))) for vote in votes})
    rows = [
        row
        for start in range(0, len(pairs), CHUNK)
        for row in session.execute(
            select(JudgedItem.job_id, JudgedItem.item, JudgedItem.verdict).where(
                JudgedItem.job_id.in_(job_ids), JudgedItem.item.in_(pairs[start : start + CHUNK])
            )
        )
    ]
    if not rows:
        return None
    names = contestant_names(session, campaign_id)
    authors = dict(
        session.execute(
            select(Completion.id, Completion.contestant_id)
            .join(Contestant, Contestant.id == Completion.contestant_id)
            .where(Contestant.campaign_id == campaign_id)
        ).all()
    )
    prompts = {answer: vote.prompt_key for vote in votes for answer in (vote.completion_a_id, vote.completion_b_id)}
    people = read_vote_records(session, campaign_id)
    columns = []
    for job_id in job_ids:
        graded = [row for row in rows if row.job_id == job_id and row.verdict in Label.__members__]
        job = session.get_one(Job, job_id) if graded else None
        result = view(job).result_as(JudgeResult) if job else None
        if job is None or result is None:
            continue
        name = f"judge {result.judge}"  # a rater may be called like the judge
        verdicts = [
            VoteRecord(
                prompt=prompts[first], rater=name, a=names[authors[first]], b=names[authors[second]], winner=row.verdict
            )
            for row in graded
            for first, second in [row.item.split(":")]
        ]
        columns.append(
            JudgeColumn(
                job_id=job_id,
                judge=result.judge,
                criteria=JudgePayload.read(job.payload).config.criteria,
                created_at=view(job).created_at,
                is_trusted=None if result.summary is None else result.summary.trusted,
                ratings={row.contestant: row.rating for row in fit_ratings(verdicts, cluster_by="prompt").ratings},
                agreement=judge_agreement([*people, *verdicts], name),
            )
        )
    return JudgesView(tuple(columns), vote_agreement(people, resampling=RESAMPLING)) if columns else None
