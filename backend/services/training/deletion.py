"""Delete runs with all that is theirs: curves, samples, logs and checkpoints that nothing else refers to."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Column, delete, exists, func, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from backend.db.base import Table
from backend.db.tables import (
    Campaign,
    Checkpoint,
    Deployment,
    Job,
    LogLine,
    Measurement,
    Message,
    MetricBlock,
    MetricPoint,
    Run,
    RunGroup,
    RunSuite,
    Sample,
)
from backend.domain.jobs.states import TERMINAL, status_word
from backend.domain.serving.prepared import prepared_folder
from backend.errors import Conflict
from backend.services.context import Context, Person, require_builder
from backend.services.training.open_sweeps import KIND

log = logging.getLogger(__name__)

OWN = (MetricPoint, MetricBlock, Sample, RunSuite)
"""Tables whose rows go with their run."""
NOUNS = {
    "runs": "a run",
    "checkpoints": "a checkpoint",
    "contestants": "a campaign",
    "evaluations": "an evaluation",
    "suite_results": "a suite's result",
    "gate_results": "a gate's result",
    "analyses": "an inspection",
    "deployments": "an endpoint",
    "promotions": "a promotion",
    "aliases": "an alias",
}
"""What refers to checkpoints, by table."""


@dataclass(frozen=True)
class Deletion:
    """Effect of deleting runs: `names` go, with their checkpoints; `staying` are pairs of a name and the reason."""

    run_ids: tuple[str, ...]
    names: tuple[str, ...]
    num_checkpoints: int
    bytes: int
    staying: tuple[tuple[str, str], ...]


def plan_deletion(ctx: Context, run_ids: Sequence[str]) -> Deletion:
    """Return which of these runs can be deleted, what goes with them, and why the others stay."""
    with ctx.db.read() as session:
        return _plan(session, run_ids)


def delete_runs(ctx: Context, run_ids: Sequence[str], *, person: Person) -> Deletion:
    """Delete the runs of these that can be; return what was done. Raises Conflict if none can be.

    The job rows stay, because costs are counted by them; messages of chats stay, without their checkpoint.
    """
    require_builder(person)
    with ctx.db.write() as session:
        planned = _plan(session, run_ids)
        ids = planned.run_ids
        if not ids and planned.staying:
            name, why = planned.staying[0]
            raise Conflict(f"“{name}” can't be deleted: {why}.", remedy="Archive it instead.")
        mine = select(Checkpoint.id).where(Checkpoint.run_id.in_(ids))
        folders = [
            folder for folder in session.scalars(select(Checkpoint.folder).where(Checkpoint.id.in_(mine))) if folder
        ]
        newest = select(Run.job_id).where(Run.id.in_(ids))
        earlier = Job.payload["run_id"].as_string().in_(ids)  # a run that was resumed had other jobs before
        jobs = list(session.scalars(select(Job.id).where(or_(Job.id.in_(newest), earlier))))
        for table in OWN:
            session.execute(delete(table).where(table.run_id.in_(ids)))
        session.execute(update(Measurement).where(Measurement.run_id.in_(ids)).values(run_id=None))
        session.execute(update(Run).where(Run.parent_id.in_(ids)).values(parent_id=None))
        session.execute(update(Run).where(Run.id.in_(ids)).values(base_id=None, parent_id=None))
        session.execute(update(Checkpoint).where(Checkpoint.run_id.in_(ids)).values(parent_id=None))
        session.execute(update(Message).where(Message.checkpoint_id.in_(mine)).values(checkpoint_id=None))
        session.execute(delete(Checkpoint).where(Checkpoint.run_id.in_(ids)))
        session.execute(delete(Run).where(Run.id.in_(ids)))
        session.execute(delete(LogLine).where(LogLine.job_id.in_(jobs)))
        session.execute(update(Job).where(Job.id.in_(jobs)).values(idempotency_key=None))
    folders += [f"runs/{run_id}" for run_id in ids]  # with what no checkpoint records: references, trackers
    for folder in folders:
        for each in (folder, prepared_folder(folder)):
            try:
                ctx.artifacts.remove(each)
            except OSError as error:  # the rows are gone, so the other folders must go now
                log.warning("the folder %s of a deleted run can't be deleted: %s", each, error)
    return planned


def _plan(session: Session, run_ids: Sequence[str]) -> Deletion:
    known = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(run_ids)))}
    runs = {run_id: known[run_id] for run_id in run_ids if run_id in known}
    staying = {run_id: why for run_id, run in runs.items() if (why := _why_unfinished(session, run))}
    going = [run_id for run_id in runs if run_id not in staying]
    while more := _referred_to(session, going):  # what stays may in turn refer to another
        staying |= more
        going = [run_id for run_id in going if run_id not in more]
    sizes = session.scalars(
        select(Checkpoint.bytes).where(Checkpoint.run_id.in_(going), Checkpoint.deleted_at.is_(None))
    ).all()
    return Deletion(
        run_ids=tuple(going),
        names=tuple(runs[run_id].name for run_id in going),
        num_checkpoints=len(sizes),
        bytes=sum(sizes),
        staying=tuple((runs[run_id].name, staying[run_id]) for run_id in runs if run_id in staying),
    )


def _why_unfinished(session: Session, run: Run) -> str:
    job = session.get(Job, run.job_id) if run.job_id else None
    if job is not None and job.status not in TERMINAL:
        return f"it is {status_word(job.status)}"
    group = session.get(RunGroup, run.group_id) if run.group_id else None
    if group is not None and group.kind == KIND and not group.result.done:
        return f"its sweep “{group.name}” is not done"
    return ""


def _referred_to(session: Session, going: Sequence[str]) -> dict[str, str]:
    """Return which of these runs something refers to that stays, each with what it is."""
    made = aliased(Checkpoint)
    mine = made.run_id.in_(going)
    trained = session.scalars(select(Campaign.run_id).where(Campaign.run_id.in_(going)))
    reasons = [(run_id, "a campaign trains it") for run_id in trained]
    for column in _columns_of_checkpoints():
        stays = {
            "runs": Run.id.not_in(going),
            "checkpoints": func.coalesce(Checkpoint.run_id, "").not_in(going),
        }.get(column.table.name, true())
        query = select(made.run_id).where(mine, exists().where(column == made.id, stays)).distinct()
        noun = NOUNS.get(column.table.name, f"a row of {column.table.name}")
        reasons += [(run_id, f"{noun} needs its checkpoint") for run_id in session.scalars(query)]
    loaded = {
        key
        for config in session.scalars(select(Deployment.config).where(Deployment.stopped_at.is_(None)))
        for key in (config.draft, *(adapter.checkpoint_id for adapter in config.adapters.values()))
    }
    checkpoints = session.execute(select(made.id, made.run_id).where(mine))
    reasons += [
        (run_id, f"{NOUNS['deployments']} needs its checkpoint") for key, run_id in checkpoints if key in loaded
    ]
    return {run_id: why for run_id, why in reasons if run_id is not None}


def _columns_of_checkpoints() -> list[Column[str]]:
    """Return every column that refers to a checkpoint and must not lose it."""
    return [
        column
        for table in Table.metadata.sorted_tables
        for column in table.columns
        if column is not Message.__table__.c.checkpoint_id
        and any(key.column is Checkpoint.__table__.c.id for key in column.foreign_keys)
    ]
