"""Scaling studies: preview, launch, watch and fit a group of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

import yaml
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Run, RunGroup, Tokenizer
from backend.domain.attributes import view_of
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.names import clean_name
from backend.domain.scaling.fit import LawFit
from backend.domain.scaling.isoflop import IsoflopFit, fit_isoflop
from backend.domain.scaling.laws import ScalingPoint
from backend.domain.scaling.study import StudyConfig, StudyPlan, parse_study, plan_study
from backend.domain.training.config import RunConfig
from backend.domain.validation import read_stored
from backend.domain.yaml_text import parse_yaml
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.views import version_labels
from backend.services.lookups import find_named
from backend.services.scaling.planner import (
    RunPool,
    choose_law,
    choose_speeds,
    fit_own_law,
    list_pools,
    points_of_group,
    read_plan_inputs,
    worth,
)
from backend.services.tokenizers.tokenizers import get_tokenizer
from backend.services.training.parts import resolve_parts
from backend.services.training.runs import launch_run, retry_run, stop_run
from backend.services.training.views import RunView, get_runs

KIND = "isoflop"
TAG = "scaling"
SPACING = (1, 3, 10)
STUDY_S = 3600.0
FIRST_BUDGETS = (1e12, 3e12, 1e13)


@dataclass(frozen=True)
class StudyView:
    """A study in a list: how many of its runs were planned, launched, are waiting or running, and have finished."""

    id: str
    name: str
    config: StudyConfig
    num_planned: int
    num_launched: int
    num_active: int
    num_finished: int
    num_failed: int
    num_stopped: int
    created_at: datetime
    archived_at: datetime | None

    @property
    def is_active(self) -> bool:
        """Return whether any run is queued or running."""
        return self.num_active > 0


@dataclass(frozen=True)
class FitReport:
    """The fits by both approaches, or the reason why one is not possible."""

    points: tuple[ScalingPoint, ...]
    isoflop: IsoflopFit
    law: LawFit | None
    problem: str


@dataclass(frozen=True)
class StudyDetail:
    """A study in full. `pool` holds all finished runs of its data, tokenizer and context, other studies' too."""

    study: StudyView
    runs: tuple[RunView, ...]
    own: FitReport
    pool: RunPool | None
    pooled: FitReport | None


def preview_study(ctx: Context, config: StudyConfig) -> StudyPlan:
    """Lay out a study's runs with the time of each, launching nothing. Raises NotFound, InvalidInput."""
    inputs = read_plan_inputs(ctx, dataset=config.dataset, tokenizer=config.tokenizer)
    plan = plan_study(
        config,
        law=choose_law(ctx, config.law, inputs=inputs, context=config.context),
        vocab_size=inputs.vocab_size,
        speeds=choose_speeds(ctx, None),
        unique_tokens=inputs.unique_tokens,
    )
    resolve_parts(ctx, plan.runs[0].config)
    if inputs.version is not None and inputs.version.is_ready and not inputs.version.val_rows:
        raise InvalidInput(
            f"{inputs.version.label} has no validation split, so there would be no val_loss to fit to.",
            remedy="Import it with a validation share.",
            field="dataset",
        )
    return plan


def suggest_budgets(ctx: Context) -> tuple[float, ...]:
    """Return three budgets over a factor of ten, with which a study of five sizes takes about an hour at this rate."""
    speeds = choose_speeds(ctx, None)
    if not speeds:
        return FIRST_BUDGETS
    rate = median(speed.flops_per_s for speed in speeds)
    smallest = float(f"{rate * STUDY_S / (5 * sum(SPACING)):.0e}")
    return tuple(smallest * factor for factor in SPACING)


@retry_races
def launch_study(ctx: Context, config: StudyConfig, *, person: Person) -> StudyView:
    """Queue a study's runs in one group. Launching the same study again launches only missing runs.

    Raises Conflict if another study has the name.
    """
    require_builder(person)
    version = resolve_version(ctx, config.dataset, ready=False)
    config = config.model_copy(
        update={"name": clean_name(config.name, what="A study", limit=100), "dataset": version.label}
    )
    plan = preview_study(ctx, config)
    stored = {
        "study": config.model_dump(mode="json"),
        "runs": [run.config.model_dump(mode="json") for run in plan.runs],
        # names may change, ids stay
        "parts": {"dataset": version.id, "tokenizer": get_tokenizer(ctx, config.tokenizer).id},
    }
    with ctx.db.write() as session:
        group = session.scalar(select(RunGroup).where(RunGroup.name == config.name))
        if group is None:
            group = RunGroup(name=config.name, kind=KIND, config=stored, created_by=person.id, created_at=ctx.now())
            session.add(group)
            session.flush()
        elif group.kind != KIND or _requested_config(group.config) != _requested_config(stored):
            raise Conflict(
                f"There is already another study “{config.name}”.", remedy="Choose another name.", field="name"
            )
        group.archived_at = None
        now = {"dataset": config.dataset, "tokenizer": config.tokenizer}
        group_id, configs = group.id, [RunConfig.model_validate({**values, **now}) for values in group.config["runs"]]
    for number, run in enumerate(configs):
        launch_run(
            ctx, run, person=person, idempotency_key=f"study:{group_id}:{number}", tags=(TAG,), group_id=group_id
        )
    return get_study(ctx, group_id)


def list_studies(ctx: Context) -> list[StudyView]:
    """Return studies that are not archived, newest first."""
    with ctx.db.read() as session:
        query = select(RunGroup).where(RunGroup.kind == KIND, RunGroup.archived_at.is_(None))
        groups = list(session.scalars(query.order_by(RunGroup.created_at.desc())))
        members = _members(session, [group.id for group in groups])
        configs = _configs_now(session, groups)
    return [_view(ctx, group, config, members.get(group.id, [])) for group, config in zip(groups, configs, strict=True)]


def get_study(ctx: Context, name_or_id: str) -> StudyView:
    """Return a study by name or id. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        group = _find(session, name_or_id)
        members = _members(session, [group.id])
        (config,) = _configs_now(session, [group])
    return _view(ctx, group, config, members.get(group.id, []))


def study_detail(ctx: Context, name_or_id: str) -> StudyDetail:
    """Return a study with its runs and fits so far. Raises NotFound."""
    study = get_study(ctx, name_or_id)
    runs = tuple(get_runs(ctx, _run_ids(ctx, study.id)))
    try:
        inputs = read_plan_inputs(ctx, dataset=study.config.dataset, tokenizer=study.config.tokenizer)
    except (InvalidInput, Conflict, NotFound):  # referenced rows may have been deleted
        inputs = None
    unique = inputs.unique_tokens if inputs else None
    pools = list_pools(ctx)
    pool = next((p for p in pools if any(run.group_id == study.id for run in p.runs)), None)
    own = fit_report(points_of_group(pools, study.id), unique)
    everything = [run.point for run in pool.runs] if pool else []
    more = len(everything) > len(own.points)
    return StudyDetail(study, runs, own, pool, fit_report(everything, unique) if more else None)


def fit_report(points: Sequence[ScalingPoint], unique_tokens: int | None) -> FitReport:
    """Fit both approaches: parabolas to trained tokens, the law to effective tokens."""
    try:
        return FitReport(tuple(points), fit_isoflop(points), fit_own_law(worth(points, unique_tokens)), "")
    except InvalidInput as error:
        return FitReport(tuple(points), fit_isoflop(points), None, str(error))


def stop_study(ctx: Context, name_or_id: str, *, person: Person) -> int:
    """Stop every queued or running run of a study; return their number."""
    require_builder(person)
    active = [
        run for run in get_runs(ctx, _run_ids(ctx, name_or_id)) if run.is_active and run.status is not Status.CANCELLING
    ]
    for run in active:
        try:
            stop_run(ctx, run.id, person=person)
        except Conflict:  # it ended in this moment
            continue
    return len(active)


def retry_study(ctx: Context, name_or_id: str, *, person: Person) -> int:
    """Queue again every run of a study that failed or was stopped, each from its newest checkpoint; return how many."""
    require_builder(person)
    ended = [run for run in get_runs(ctx, _run_ids(ctx, name_or_id)) if run.status in {Status.FAILED, Status.CANCELLED}]
    for run in ended:
        retry_run(ctx, run.id, person=person)
    return len(ended)


def _run_ids(ctx: Context, name_or_id: str) -> list[str]:
    with ctx.db.read() as session:
        group_id = _find(session, name_or_id).id
        return _members(session, [group_id]).get(group_id, [])


def archive_study(ctx: Context, name_or_id: str, *, person: Person) -> None:
    """Archive a study; its runs stay. Raises Conflict while some are active."""
    require_builder(person)
    study = get_study(ctx, name_or_id)
    if study.is_active:
        raise Conflict(f"“{study.name}” has {study.num_active} active runs.", remedy="Stop them first.")
    with ctx.db.write() as session:
        _find(session, study.id).archived_at = ctx.now()


def read_study(text: str) -> StudyConfig:
    """Read a study from YAML. Raises InvalidInput with the line or the field at fault."""
    return parse_study(parse_yaml(text, what="The study"))


def study_yaml(config: StudyConfig) -> str:
    """Write a study as the YAML that `roundhouse plan study` reads, leaving defaults out."""
    return yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True), sort_keys=False, allow_unicode=True)


def _find(session: Session, name_or_id: str) -> RunGroup:
    return find_named(session, RunGroup, name_or_id, what="study", remedy="Launch one on the Planner page.", kind=KIND)


def _members(session: Session, group_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the run ids of groups, in the order they were launched."""
    members: dict[str, list[str]] = {}
    query = select(Run.group_id, Run.id).where(Run.group_id.in_(group_ids)).order_by(Run.created_at, Run.id)
    for group_id, run_id in session.execute(query):
        members.setdefault(str(group_id), []).append(run_id)
    return members


def _requested_config(stored: dict[str, Any]) -> dict[str, Any]:
    """Return a study's config with its parts by id, so that renaming one does not make it another study."""
    return {**stored.get("study", {}), **stored.get("parts", {})}


def _configs_now(session: Session, groups: Sequence[RunGroup]) -> list[StudyConfig]:
    """Return the configs of studies with the current names of dataset and tokenizer; deleted ones keep theirs."""
    parts = [group.config.get("parts", {}) for group in groups]
    labels = version_labels(session, [part["dataset"] for part in parts if part])
    query = select(Tokenizer.id, Tokenizer.name).where(Tokenizer.id.in_([part["tokenizer"] for part in parts if part]))
    names = dict(session.execute(query).all())
    configs = []
    for group, part in zip(groups, parts, strict=True):
        config = read_stored(StudyConfig, group.config["study"])
        now = {"dataset": labels.get(part.get("dataset", "")), "tokenizer": names.get(part.get("tokenizer", ""))}
        configs.append(config.model_copy(update={field: name for field, name in now.items() if name}))
    return configs


def _view(ctx: Context, group: RunGroup, config: StudyConfig, run_ids: Sequence[str]) -> StudyView:
    statuses = [run.status for run in get_runs(ctx, run_ids)]
    return view_of(
        StudyView,
        group,
        config=config,
        num_planned=len(group.config["runs"]),
        num_launched=len(statuses),
        num_active=sum(status in ACTIVE for status in statuses),
        num_finished=sum(status is Status.FINISHED for status in statuses),
        num_failed=sum(status is Status.FAILED for status in statuses),
        num_stopped=sum(status in {Status.CANCELLED, Status.PAUSED} for status in statuses),
    )
