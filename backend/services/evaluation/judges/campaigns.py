"""Judges beside the raters of a campaign: agreement with the votes under the ceiling of the raters' own, and a column
of ratings apart.

A judge's verdicts are never part of the board.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from backend.db.tables import Completion, Job, JudgedItem
from backend.domain.battles.agreement import JudgeAgreement, RaterAgreement, judge_agreement, vote_agreement
from backend.domain.battles.ratings import fit_ratings
from backend.domain.battles.votes import Label, VoteRecord
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.results import JudgeResult
from backend.domain.jobs.states import JobKind
from backend.domain.statistics.agreement import Resampling
from backend.services.battles.board_votes import read_board_votes
from backend.services.battles.views import contestant_names, find_campaign, valid_votes
from backend.services.context import Context
from backend.services.jobs.jobs import view

CHUNK = 500
RESAMPLING = Resampling(200)


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


def judges_of(ctx: Context, campaign_id: str) -> JudgesView | None:
    """Return the judges that graded pairs of a campaign; None without one. Raises NotFound."""
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        if session.scalar(select(JudgedItem.item).limit(1)) is None:
            return None
        votes = valid_votes(session, campaign_id, purposes=("vote",))
        pairs = sorted({":".join(sorted((vote.completion_a_id, vote.completion_b_id))) for vote in votes})
        rows = [
            row
            for start in range(0, len(pairs), CHUNK)
            for row in session.execute(
                select(JudgedItem.job_id, JudgedItem.item, JudgedItem.verdict).where(
                    JudgedItem.item.in_(pairs[start : start + CHUNK])
                )
            )
        ]
        if not rows:
            return None
        jobs = session.scalars(
            select(Job).where(Job.id.in_({row.job_id for row in rows}), Job.kind == JobKind.JUDGE.value)
        )
        judges = {
            job.id: (result, JudgePayload.read(job.payload).config.criteria, view(job).created_at)
            for job in sorted(jobs, key=lambda job: job.created_at)
            if (result := view(job).result_as(JudgeResult))
        }
        names = contestant_names(session, campaign_id)
        shown = {completion for row in rows for completion in row.item.split(":")}
        authors = dict(
            session.execute(select(Completion.id, Completion.contestant_id).where(Completion.id.in_(shown))).all()
        )
        prompts = {vote.completion_a_id: vote.prompt_key for vote in votes} | {
            vote.completion_b_id: vote.prompt_key for vote in votes
        }
        people = read_board_votes(session, campaign_id).records
    columns = []
    for job_id, (result, criteria, created_at) in reversed(judges.items()):
        judge, trusted = result.judge, None if result.summary is None else result.summary.trusted
        name = f"judge {judge}"  # a rater may be called like the judge
        verdicts = [
            VoteRecord(
                prompt=prompts[first], rater=name, a=names[authors[first]], b=names[authors[second]], winner=row.verdict
            )
            for row in rows
            if row.job_id == job_id and row.verdict in Label.__members__
            for first, second in [row.item.split(":")]
        ]
        if verdicts:
            table = fit_ratings(verdicts, cluster_by="prompt")
            agreement = judge_agreement([*people, *verdicts], name)
            ratings = {row.contestant: row.rating for row in table.ratings}
            columns.append(JudgeColumn(job_id, judge, criteria, created_at, trusted, ratings, agreement))
    ceiling = vote_agreement(people, resampling=RESAMPLING)
    return JudgesView(tuple(columns), ceiling) if columns else None
