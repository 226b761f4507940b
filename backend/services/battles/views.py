"""Read campaigns: contestants, progress of completions, votes, origin of rematches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, func, select
from sqlalchemy.orm import Session, aliased

from backend.db.tables import (
    Battle,
    Campaign,
    CampaignPrompt,
    Checkpoint,
    Completion,
    Contestant,
    Dataset,
    DatasetVersion,
    Job,
    Run,
    Vote,
)
from backend.domain.attributes import view_of
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.votes import LABELS
from backend.domain.jobs.states import ACTIVE, Status
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, view
from backend.services.lookups import find_named, find_row

UNDONE = "UNDONE"
SKIPPED = "SKIPPED"
RATED = "RATED"
"""Label of a battle of one answer; the grade is an answer rating."""

VOTES = ("vote", "identical")
"""Purposes of the battles whose votes count on a board. Repeats and gold pairs measure raters."""

GOLD_KINDS = ("gold_better", "gold_worse")


@dataclass(frozen=True)
class ContestantView:
    """A contestant: a checkpoint, an endpoint or a file. `job` writes its completions; None while a rematch waits for
    its run.

    `endpoint` is the name of one of this installation that it is, whatever its own. `has_files`: whether it can be
    trained, as a model on another server and a deleted checkpoint can't.
    """

    id: str
    checkpoint_id: str | None
    name: str
    completions: int
    job: JobView | None
    kind: str = "checkpoint"
    endpoint: str = ""
    has_files: bool = False

    @property
    def is_writing(self) -> bool:
        """Return whether completions are still being generated."""
        return self.job is not None and self.job.status in ACTIVE

    @property
    def failed(self) -> bool:
        """Return whether its completions ended early."""
        return self.job is not None and self.job.status in (Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True)
class CampaignView:
    """A campaign; one that `is_imported` has no ballot.

    `held_out`: whether a rematch uses only prompts that are not in its preference set; None for other campaigns.
    """

    id: str
    name: str
    config: CampaignConfig
    is_standing: bool
    is_imported: bool
    dataset: str | None
    num_prompts: int
    num_votes: int
    num_raters: int
    contestants: tuple[ContestantView, ...]
    parent_id: str | None
    parent: str | None
    run_id: str | None
    run: str | None
    run_job: JobView | None
    held_out: bool | None
    created_at: datetime
    closed_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Return whether votes are taken."""
        return self.closed_at is None

    @property
    def is_writing(self) -> bool:
        """Return whether any completions are still being generated."""
        return any(contestant.is_writing for contestant in self.contestants)

    @property
    def is_votable(self) -> bool:
        """Return whether its ballot has, or will have, something to vote on."""
        answering = [contestant for contestant in self.contestants if contestant.completions]
        return self.is_open and not self.is_standing and len(answering) >= (1 if self.config.is_single else 2)

    @property
    def expected_completions(self) -> int:
        """Number of completions when all are generated."""
        return self.num_prompts * len(self.contestants) * self.config.answers_per_prompt

    @property
    def completions(self) -> int:
        """Number of completions generated."""
        return sum(contestant.completions for contestant in self.contestants)


@dataclass(frozen=True)
class ValidVote:
    """A valid vote: a battle's newest revision, if neither undone nor skipped. `a` and `b` are the contestants shown on
    these sides.

    `prompt_key` is equal for equal prompts: the cluster of dependent votes. `purpose` identical marks a TIE that no one
    cast.
    """

    id: str
    battle_id: str
    rater_id: str
    prompt_id: str
    prompt_key: str
    a: str
    b: str
    completion_a_id: str
    completion_b_id: str
    label: str
    duration_ms: int | None
    purpose: str
    repeat_of_id: str | None
    sampling_probability: float
    created_at: datetime
    turn: str = ""

    @property
    def winner(self) -> str | None:
        """The contestant that was preferred, or None."""
        return {"A": self.a, "B": self.b}.get(self.label)

    @property
    def identical(self) -> bool:
        """Return whether both answers were equal, so that no one voted."""
        return self.purpose == "identical"


def valid_votes(session: Session, campaign_id: str, *, purposes: Collection[str] = VOTES) -> list[ValidVote]:
    """Return a campaign's valid votes of these purposes (vote, identical, repeat, gold), oldest first."""
    side_a, side_b = aliased(Completion), aliased(Completion)
    query = (
        select(
            Vote.id,
            Vote.battle_id,
            Vote.rater_id,
            Battle.prompt_id,
            CampaignPrompt.content_hash,
            side_a.contestant_id,
            side_b.contestant_id,
            side_a.id,
            side_b.id,
            Vote.label,
            Vote.duration_ms,
            Battle.purpose,
            Battle.repeat_of_id,
            Battle.sampling_probability,
            Vote.created_at,
            CampaignPrompt.turn,
        )
        .join(Battle, Battle.id == Vote.battle_id)
        .join(CampaignPrompt, CampaignPrompt.id == Battle.prompt_id)
        .join(side_a, side_a.id == Battle.completion_a_id)
        .join(side_b, side_b.id == Battle.completion_b_id)
        .where(Battle.campaign_id == campaign_id, vote_holds(), Battle.purpose.in_(purposes))
        .order_by(Vote.created_at, Battle.served_at, Vote.id)
    )
    return [ValidVote(*tuple(row)) for row in session.execute(query)]


def count_votes(session: Session, campaign_id: str, *, raters: Collection[str] | None = None) -> tuple[int, int]:
    """Return the number of votes that people, or `raters` alone (ids), cast on a campaign's board, and of those who
    cast them.
    """
    counting = select(func.count(), func.count(Vote.rater_id.distinct())).join(Battle, Battle.id == Vote.battle_id)
    counting = counting.where(Battle.campaign_id == campaign_id, Battle.purpose == "vote", vote_holds())
    if raters is not None:
        counting = counting.where(Vote.rater_id.in_(raters))
    num_votes, num_raters = session.execute(counting).one()
    return num_votes, num_raters


def vote_holds() -> ColumnElement[bool]:
    """Return the condition of a valid vote: neither superseded nor skipped."""
    return and_(is_newest(), Vote.label.in_(LABELS))


def is_newest() -> ColumnElement[bool]:
    """Return the condition of a vote that is not superseded."""
    later = aliased(Vote)
    return ~select(later.id).where(later.supersedes_id == Vote.id).exists()


def list_campaigns(ctx: Context) -> list[CampaignView]:
    """Return every campaign, newest first. Abandoned ones stay in the list, to avoid selection bias."""
    with ctx.db.read() as session:
        return [campaign_view(session, row) for row in session.scalars(_newest_campaigns())]


def list_open_campaigns(ctx: Context) -> list[CampaignView]:
    """Return the campaigns that raters can vote in: open, and not the playground's."""
    with ctx.db.read() as session:
        return [campaign_view(session, row) for row in _open_campaigns(session)]


def open_campaign_names(ctx: Context) -> dict[str, str]:
    """Return the names of the campaigns that raters can vote in by their ids, newest first."""
    with ctx.db.read() as session:
        return {row.id: row.name for row in _open_campaigns(session)}


def _newest_campaigns() -> Select[Campaign]:
    return select(Campaign).order_by(Campaign.created_at.desc(), Campaign.id)


def _open_campaigns(session: Session) -> Iterator[Campaign]:
    return (
        row
        for row in session.scalars(_newest_campaigns().where(Campaign.closed_at.is_(None)))
        if not row.record.standing
    )


def get_campaign(ctx: Context, campaign_id: str) -> CampaignView:
    """Return a campaign. Raises NotFound."""
    with ctx.db.read() as session:
        return campaign_view(session, find_campaign(session, campaign_id))


def resolve_campaign(ctx: Context, name: str) -> CampaignView:
    """Return a campaign by its id or its name. Raises NotFound."""
    with ctx.db.read() as session:
        row = find_named(session, Campaign, name, what="campaign", remedy="The Battles page lists all campaigns.")
        return campaign_view(session, row)


def find_campaign(session: Session, campaign_id: str) -> Campaign:
    """Return the row of a campaign. Raises NotFound."""
    return find_row(session, Campaign, campaign_id, what="campaign", remedy="The Battles page lists all campaigns.")


def list_rematches(ctx: Context, campaign_id: str) -> list[CampaignView]:
    """Return the rematches of a campaign, oldest first."""
    with ctx.db.read() as session:
        rows = session.scalars(select(Campaign).where(Campaign.parent_id == campaign_id).order_by(Campaign.created_at))
        return [campaign_view(session, row) for row in rows]


def campaign_view(session: Session, row: Campaign) -> CampaignView:
    """Copy a row and its related rows into a view that outlives the session."""
    version = session.get(DatasetVersion, row.dataset_version_id) if row.dataset_version_id else None
    dataset = session.get(Dataset, version.dataset_id) if version else None
    parent = session.get(Campaign, row.parent_id) if row.parent_id else None
    run = session.get(Run, row.run_id) if row.run_id else None
    votes, raters = count_votes(session, row.id)
    return view_of(
        CampaignView,
        row,
        is_standing=row.record.standing,
        is_imported=row.record.imported,
        dataset=f"{dataset.name}@{version.number}" if dataset and version else None,
        num_prompts=_num_prompts(session, row.id),
        num_votes=votes,
        num_raters=raters,
        contestants=tuple(_contestants(session, row.id)),
        parent=parent.name if parent else None,
        run=run.name if run else None,
        run_job=_job(session, run.job_id) if run else None,
        held_out=row.record.held_out,
    )


def _num_prompts(session: Session, campaign_id: str) -> int:
    """Return the number of prompts. A rater's second vote on a prompt of the playground or of an imported file has a
    copy of its row.
    """
    prompts = select(CampaignPrompt.content_hash, CampaignPrompt.turn).where(
        CampaignPrompt.campaign_id == campaign_id, CampaignPrompt.purpose == "vote"
    )
    return session.scalar(select(func.count()).select_from(prompts.distinct().subquery())) or 0


def _contestants(session: Session, campaign_id: str) -> Iterable[ContestantView]:
    counts = dict(
        session.execute(
            select(Completion.contestant_id, func.count())
            .join(Contestant, Contestant.id == Completion.contestant_id)
            .where(Contestant.campaign_id == campaign_id)
            .group_by(Completion.contestant_id)
        ).all()
    )
    rows = session.execute(
        select(Contestant, Checkpoint)
        .outerjoin(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
        .where(Contestant.campaign_id == campaign_id, Contestant.kind.not_in(GOLD_KINDS))
        .order_by(Contestant.created_at, Checkpoint.name, Contestant.label)
    )
    for contestant, checkpoint in rows:
        yield ContestantView(
            id=contestant.id,
            checkpoint_id=contestant.checkpoint_id,
            name=contestant.label or (checkpoint.name if checkpoint else ""),
            completions=counts.get(contestant.id, 0),
            job=_job(session, contestant.job_id),
            kind=contestant.kind,
            endpoint=contestant.source.get("endpoint") or "",
            has_files=checkpoint is not None and checkpoint.folder is not None and checkpoint.deleted_at is None,
        )


def contestant_names(session: Session, campaign_id: str) -> dict[str, str]:
    """Return the name of each contestant by its id, in the order of entry, without the authors of gold pairs."""
    query = (
        select(Contestant.id, Contestant.label, Checkpoint.name)
        .outerjoin(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
        .where(Contestant.campaign_id == campaign_id, Contestant.kind.not_in(GOLD_KINDS))
        .order_by(Contestant.created_at, Contestant.id)
    )
    return {contestant: label or name or contestant for contestant, label, name in session.execute(query)}


def _job(session: Session, job_id: str | None) -> JobView | None:
    job = session.get(Job, job_id) if job_id else None
    return view(job) if job else None
