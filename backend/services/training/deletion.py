"""Delete runs with all that is theirs: curves, samples, logs and checkpoints that nothing else refers to."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Column, delete, func, or_, select, true, update
from sqlalchemy.orm import Session, aliased

from backend.db.base import Table
from backend.db.tables import (
    Alias,
    Campaign,
    Checkpoint,
    Dataset,
    DatasetVersion,
    Deployment,
    Endpoint,
    Evaluation,
    Gate,
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
    Suite,
)
from backend.domain.jobs.states import TERMINAL, status_word
from backend.domain.serving.prepared import prepared_folder
from backend.errors import Conflict
from backend.services.context import Context, Person, require_builder
from backend.services.dependents import SHOWN, Use
from backend.services.training.open_sweeps import KIND

log = logging.getLogger(__name__)

OWN = (MetricPoint, MetricBlock, Sample, RunSuite)
"""Tables whose rows go with their run."""
REFERRERS: dict[str, tuple[str, type[Any] | None, str]] = {
    "runs": ("run", Run, "id"),
    "deployments": ("endpoint", Endpoint, "endpoint_id"),
    "aliases": ("alias", Alias, "id"),
    "promotions": ("alias", Alias, "alias_id"),
    "contestants": ("campaign", Campaign, "campaign_id"),
    "gate_results": ("gate", Gate, "gate_id"),
    "suite_results": ("suite", Suite, "suite_id"),
    "evaluations": ("evaluation", Evaluation, "id"),
    "analyses": ("inspection", None, "id"),
    "checkpoints": ("checkpoint", Checkpoint, "id"),
}
"""What refers to checkpoints, by table, the first to be named first: its noun, its table, None without a name, and the
column with its id.
"""


@dataclass(frozen=True)
class StayingRun:
    """A run that can't be deleted, with the reason and the first things with a name that need its checkpoint."""

    name: str
    why: str
    uses: tuple[Use, ...] = ()


@dataclass(frozen=True)
class Deletion:
    """Effect of deleting runs: `names` go, with their checkpoints; `staying` do not."""

    run_ids: tuple[str, ...]
    names: tuple[str, ...]
    num_checkpoints: int
    bytes: int
    staying: tuple[StayingRun, ...]


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
            first = planned.staying[0]
            raise Conflict(f"“{first.name}” can't be deleted: {first.why}.", remedy="Archive it instead.")
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
    folders += [f"runs/{run_id}" for run_id in ids]  # includes files of no checkpoint: references, trackers
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
    staying = {
        run_id: StayingRun(run.name, why) for run_id, run in runs.items() if (why := _why_unfinished(session, run))
    }
    going = [run_id for run_id in runs if run_id not in staying]
    while more := _referred_to(session, going):  # what stays may in turn refer to another
        staying |= {run_id: StayingRun(runs[run_id].name, why, uses) for run_id, (why, uses) in more.items()}
        going = [run_id for run_id in going if run_id not in more]
    sizes = session.scalars(
        select(Checkpoint.bytes).where(Checkpoint.run_id.in_(going), Checkpoint.deleted_at.is_(None))
    ).all()
    return Deletion(
        run_ids=tuple(going),
        names=tuple(runs[run_id].name for run_id in going),
        num_checkpoints=len(sizes),
        bytes=sum(sizes),
        staying=tuple(staying[run_id] for run_id in runs if run_id in staying),
    )


def _why_unfinished(session: Session, run: Run) -> str:
    job = session.get(Job, run.job_id) if run.job_id else None
    if job is not None and job.status not in TERMINAL:
        return f"it is {status_word(job.status)}"
    group = session.get(RunGroup, run.group_id) if run.group_id else None
    if group is not None and group.kind == KIND and not group.result.done:
        return f"its sweep “{group.name}” is not done"
    return ""


def _referred_to(session: Session, going: Sequence[str]) -> dict[str, tuple[str, tuple[Use, ...]]]:
    """Return which of these runs something refers to that stays, each with the reason and what it is."""
    made = aliased(Checkpoint)
    mine = made.run_id.in_(going)
    referrers: dict[str, dict[tuple[str, str], type[Any] | None]] = {}  # by run: tables by (noun, id)
    trained = select(Campaign.run_id, Campaign.id).where(Campaign.run_id.in_(going))
    trainers = {str(run_id): campaign_id for run_id, campaign_id in session.execute(trained)}
    # runs stand for their checkpoints
    based = session.scalars(select(Run.id).join(made, made.id == Run.base_id).where(mine)).all()
    order = list(REFERRERS)
    for column in sorted(_columns_of_checkpoints(), key=lambda column: order.index(column.table.name)):
        table = column.table
        stays = {
            "runs": Run.id.not_in(going),
            "checkpoints": func.coalesce(Checkpoint.run_id, "").not_in([*going, *based]),
        }.get(table.name, true())
        what, owner, key = REFERRERS[table.name]
        query = select(made.run_id, table.c[key]).join(table, column == made.id).where(mine, stays)
        for run_id, id_ in session.execute(query.distinct().order_by(table.c[key])):
            referrers.setdefault(run_id, {})[what, id_] = owner
    checkpoints = dict(session.execute(select(made.id, made.run_id).where(mine)).all())
    loading = select(Endpoint.id, Deployment.config).join(Deployment, Deployment.endpoint_id == Endpoint.id)
    for endpoint_id, config in session.execute(loading.where(Deployment.stopped_at.is_(None))):
        for loaded in (config.draft, *(adapter.checkpoint_id for adapter in config.adapters.values())):
            if loaded in checkpoints:
                referrers.setdefault(str(checkpoints[loaded]), {})["endpoint", endpoint_id] = Endpoint
    return {
        run_id: _reason(session, trainers.get(run_id), referrers.get(run_id, {}))
        for run_id in going
        if run_id in trainers or run_id in referrers
    }


def _reason(
    session: Session, trainer: str | None, referrers: Mapping[tuple[str, str], type[Any] | None]
) -> tuple[str, tuple[Use, ...]]:
    """Return (that a campaign trains a run, or what needs its checkpoints, the first of these)."""
    if trainer is not None:
        use = Use("campaign", session.get_one(Campaign, trainer).name, trainer)
        return f"{use} trains it", (use,)
    uses = [_use(session, what, owner, id_) for (what, id_), owner in islice(referrers.items(), SHOWN)]
    names = ", ".join(dict.fromkeys(str(use) if use.name else f"an {use.what}" for use in uses))
    more = f" and {len(referrers) - SHOWN:,} more" if len(referrers) > SHOWN else ""
    need = "needs" if len(referrers) == 1 else "need"
    return f"{names}{more} {need} its checkpoint", tuple(use for use in uses if use.name)


def _use(session: Session, what: str, owner: type[Any] | None, id_: str) -> Use:
    """Return an object that refers to a checkpoint; an evaluation is called after its dataset, an inspection has no
    name.
    """
    if owner is None:
        return Use(what, "", id_)
    row = session.get_one(owner, id_)
    if isinstance(row, Evaluation):
        version = session.get_one(DatasetVersion, row.dataset_version_id)
        row = session.get_one(Dataset, version.dataset_id)
    return Use(what, row.name, id_)


def _columns_of_checkpoints() -> list[Column[str]]:
    """Return every column that refers to a checkpoint and must not lose it."""
    return [
        column
        for table in Table.metadata.sorted_tables
        for column in table.columns
        if column is not Message.__table__.c.checkpoint_id
        and any(key.column is Checkpoint.__table__.c.id for key in column.foreign_keys)
    ]
