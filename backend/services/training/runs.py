"""Launch, stop, resume, rename, tag and archive runs. Parts are resolved in `parts`, lists are in `views`."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Checkpoint, Job, Run
from backend.domain.evaluation.suites import Moment
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.states import TERMINAL, Status, StopRequest, status_word
from backend.domain.names import clean_name
from backend.domain.training.config import RunConfig, parse_config
from backend.domain.training.differences import state_difference
from backend.domain.training.launch_warnings import LaunchWarning
from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective, made_by
from backend.domain.training.summary import run_seconds
from backend.errors import Conflict, InvalidInput
from backend.services.checkpoints.files import rename_checkpoints
from backend.services.context import Context, Person, require_builder
from backend.services.evaluation.open_suites import SuiteChoice, add_choice
from backend.services.jobs.device_uses import times_of_jobs
from backend.services.jobs.jobs import add_job, add_log_line, request_stop, wake
from backend.services.jobs.placements import check_placement
from backend.services.naming import rename, replace_notes
from backend.services.people.gpu_hours import NeededHours, lock_gpu_hours, require_gpu_hours
from backend.services.training.events import forget_after
from backend.services.training.parts import RunParts, require_disk, resolve_parts, training_payload
from backend.services.training.views import RunView, find_run, get_run, newest_checkpoint_step

MAX_TAGS, MAX_TAG = 12, 40


VERBS = {objective: facts.verb or facts.name for objective, facts in OBJECTIVE_FACTS.items()}
"""How generated names begin."""
MADE = {objective: made_by(objective) for objective in Objective}
"""Word for a base in the name of a run, by the objective of the base's own run."""
JOINT = " · "
"""Between a generated name and what differs from the run that has it."""
MAX_NAME = 100


@retry_races
def launch_run(
    ctx: Context,
    config: RunConfig,
    *,
    person: Person,
    idempotency_key: str | None = None,
    parts: RunParts | None = None,
    tags: tuple[str, ...] = (),
    group_id: str | None = None,
    parent: str | None = None,
    warnings: Sequence[LaunchWarning] = (),
    suites: Sequence[SuiteChoice] = (),
    placement: str | None = None,
) -> RunView:
    """Queue a run. The same `idempotency_key` returns the same run, so that a double click launches one run. It waits
    for a dataset or tokenizer that is still being made. `parts` are the config's parts, if the caller has resolved
    them. `group_id` is the run's row of `run_groups`, `parent` the run whose config was copied, `warnings` the accepted
    warnings, `placement` a partition of a compute provider such as `slurm:gpu`. Raises InvalidInput, NotFound or
    Conflict naming field, value and cure; NotAllowed for a rater; Unavailable for a full disk.
    """
    require_builder(person)
    if idempotency_key and (again := _run_of_key(ctx, idempotency_key)) is not None:
        return again
    parts = parts or resolve_parts(ctx, config)
    placement = check_placement(ctx, placement, config) if placement else None
    require_disk(ctx, config, parts)
    needed = require_gpu_hours(ctx, config, person=person, steps=config.max_steps, parts=parts, placement=placement)
    try:
        with ctx.db.write() as session:
            lock_gpu_hours(session, ctx, needed)
            run_id = _insert(
                session,
                ctx,
                config,
                parts,
                person=person,
                key=idempotency_key,
                depends_on=parts.wait_for,
                placement=placement,
                tags=clean_tags(tags),
                group_id=group_id,
                parent_id=find_run(session, parent).id if parent else None,
                warnings=list(warnings),
                holds_checkpoints=any(choice.moment is Moment.CHECKPOINT for choice in suites),
            )
            # the run's row first: its references run in circles, so the order is not sorted out by itself
            session.flush()
            for choice in suites:
                add_choice(session, run_id, choice)
    except IntegrityError:  # another process inserted the same key
        again = _run_of_key(ctx, idempotency_key) if idempotency_key else None
        if again is None:
            raise
        return again
    wake(ctx, "train")
    return get_run(ctx, run_id)


@retry_races
def resume_run(ctx: Context, name_or_id: str, *, person: Person, max_steps: int | None = None) -> RunView:
    """Queue a new job for an ended run, from its newest checkpoint; `max_steps` may be raised.

    An active run is returned unchanged. Raises Conflict without a checkpoint, or for a finished run whose
    `max_steps` is not raised; InvalidInput for fewer steps than are done, or a partition that is not offered any more.
    """
    require_builder(person)
    needed = _require_hours_again(ctx, name_or_id, person=person, max_steps=max_steps)
    with ctx.db.write() as session:
        run, job = _ended(session, name_or_id, locks=True)
        if job is None or job.status not in TERMINAL:
            return get_run(ctx, run.id)
        step = newest_checkpoint_step(session, run.id)
        if step is None:
            raise Conflict(
                f"“{run.name}” has no checkpoint to resume from.", remedy="Start it again from the first step."
            )
        config = _with_steps(run, job, step=step, max_steps=max_steps)
        lock_gpu_hours(session, ctx, needed)
        _add_job_again(session, ctx, run, job, config, step=step, person=person)
        run_id = run.id
    wake(ctx, "train")
    return get_run(ctx, run_id)


def retry_run(ctx: Context, name_or_id: str, *, person: Person) -> RunView:
    """Queue a failed or cancelled run again: from its newest checkpoint, or from the first step if it has none."""
    require_builder(person)
    needed = _require_hours_again(ctx, name_or_id, person=person)
    with ctx.db.write() as session:
        run, job = _ended(session, name_or_id, locks=True)
        if job is None or job.status not in TERMINAL:
            return get_run(ctx, run.id)
        if job.status == Status.FINISHED:
            raise Conflict(
                f"“{run.name}” is finished.", remedy="Resume it with more steps, or launch a new run with its config."
            )
        lock_gpu_hours(session, ctx, needed)
        step = newest_checkpoint_step(session, run.id)
        if step is None:
            forget_after(session, run, 0)
        _add_job_again(session, ctx, run, job, run.launched_config, step=step, person=person)
        run_id = run.id
    wake(ctx, "train")
    return get_run(ctx, run_id)


def _require_hours_again(
    ctx: Context, name_or_id: str, *, person: Person, max_steps: int | None = None
) -> NeededHours | None:
    """Raise Conflict if the person who continues an ended run has too few GPU-hours left for the steps that it has yet
    to do: what it was launched for may have gone to other runs since.
    """
    with ctx.db.read() as session:
        run, job = _ended(session, name_or_id)
        if job is None or job.status not in TERMINAL:
            return None
        config, placement = run.launched_config, job.placement
        done = newest_checkpoint_step(session, run.id) or 0
    left = max(0, (max_steps or config.max_steps) - done)
    return require_gpu_hours(ctx, config, person=person, steps=left, placement=placement)


def stop_run(ctx: Context, name_or_id: str, *, how: StopRequest = "cancel", person: Person) -> RunView:
    """Ask a run to stop, with `stop_and_save` keeping a checkpoint. Raises Conflict if it has ended."""
    require_builder(person)
    run = get_run(ctx, name_or_id)
    if run.job_id is None:
        raise Conflict(f"“{run.name}” was never started.")
    if run.status in TERMINAL:
        raise Conflict(f"“{run.name}” is already {status_word(run.status)}.")
    request_stop(ctx, run.job_id, how)
    return get_run(ctx, run.id)


def rename_run(ctx: Context, run_id: str, name: str, *, person: Person) -> None:
    """Give a run and its checkpoints another name. Raises InvalidInput, or Conflict if another run has it."""
    require_builder(person)
    with ctx.db.write() as session:
        run = find_run(session, run_id)
        before = run.name
        rename(session, run, name, what="a run")
        if run.name != before:
            rename_checkpoints(session, run, before=before)


def set_tags(ctx: Context, run_id: str, tags: tuple[str, ...], *, person: Person) -> None:
    """Replace a run's tags. Raises InvalidInput for too many or too long ones."""
    require_builder(person)
    cleaned = clean_tags(tags)
    with ctx.db.write() as session:
        find_run(session, run_id).tags = cleaned


def set_notes(ctx: Context, run_id: str, notes: str, *, person: Person, before: str | None = None) -> None:
    """Replace a run's notes: see `replace_notes`."""
    require_builder(person)
    with ctx.db.write() as session:
        replace_notes(session, find_run(session, run_id), notes, before=before)


def archive_runs(ctx: Context, run_ids: Sequence[str], *, person: Person, archived: bool = True) -> None:
    """Archive or restore runs, all or none. Raises Conflict naming one that is active."""
    require_builder(person)
    with ctx.db.write() as session:
        for run_id in run_ids:
            run = find_run(session, run_id)
            job = session.get(Job, run.job_id) if run.job_id else None
            if archived and job is not None and job.status not in TERMINAL:
                raise Conflict(f"“{run.name}” is {status_word(job.status)}.", remedy="Stop it first.")
            run.archived_at = ctx.now() if archived else None


def tag_runs(
    ctx: Context, run_ids: Sequence[str], *, add: Sequence[str] = (), remove: Sequence[str] = (), person: Person
) -> None:
    """Add tags to runs and remove others, all or none. Raises InvalidInput for too many or too long ones."""
    require_builder(person)
    added, removed = clean_tags(tuple(add)), set(clean_tags(tuple(remove)))
    with ctx.db.write() as session:
        for run_id in run_ids:
            run = find_run(session, run_id)
            run.tags = clean_tags((*(tag for tag in run.tags or () if tag not in removed), *added))


def clean_tags(tags: tuple[str, ...]) -> list[str]:
    """Return stripped, lower-case tags without duplicates, in order."""
    unique = list(dict.fromkeys(" ".join(tag.split()).lower() for tag in tags if tag.strip()))
    if len(unique) > MAX_TAGS:
        raise InvalidInput(f"{len(unique)} tags are too many.", remedy=f"Use at most {MAX_TAGS}.", field="tags")
    if long := next((tag for tag in unique if len(tag) > MAX_TAG), None):
        raise InvalidInput(
            f"The tag “{long[:MAX_TAG]}…” is too long.", remedy=f"Use at most {MAX_TAG} characters.", field="tags"
        )
    return unique


def _insert(
    session: Session,
    ctx: Context,
    config: RunConfig,
    parts: RunParts,
    *,
    person: Person,
    key: str | None,
    depends_on: str | None,
    placement: str | None,
    tags: list[str],
    group_id: str | None,
    parent_id: str | None,
    warnings: list[LaunchWarning],
    holds_checkpoints: bool,
) -> str:
    run_id = new_id()
    name = (
        _free_name(session, clean_name(config.name, what="A run"))
        if config.name.strip()
        else _generated_name(session, config, parts, parent_id)
    )
    named = config.model_copy(update={"name": name})
    job = add_job(
        session,
        ctx,
        training_payload(
            TrainPayload, named, parts, folder_id=run_id, run_id=run_id, holds_checkpoints=holds_checkpoints
        ),
        title=f"Train {name}",
        priority=config.priority,
        device=config.device,
        idempotency_key=key,
        depends_on=depends_on,
        placement=placement,
        created_by=person.id,
    )
    session.add(
        Run(
            id=run_id,
            name=name,
            objective=config.objective.value,
            config=named,
            job_id=job.id,
            dataset_version_id=parts.version.id,
            architecture_id=parts.architecture_id,
            tokenizer_id=parts.tokenizer.id if parts.tokenizer else None,
            base_id=parts.base.id if parts.base else None,
            group_id=group_id,
            parent_id=parent_id,
            warnings=warnings,
            tags=tags,
            created_by=person.id,
            created_at=ctx.now(),
        )
    )
    return run_id


def _add_job_again(
    session: Session,
    ctx: Context,
    run: Run,
    job: Job,
    config: RunConfig,
    *,
    step: int | None,
    person: Person,
) -> None:
    """Queue a new job for a run, from its checkpoint of this step, or from the start; its log begins with that."""
    if job.placement:
        check_placement(ctx, job.placement, config)
    base = session.get(Checkpoint, run.base_id) if run.base_id else None
    if base is not None and base.deleted_at is not None:
        raise Conflict(
            f"“{run.name}” starts from a checkpoint whose files were deleted: “{base.name}”.",
            remedy="Launch a new run from another checkpoint.",
        )
    payload = TrainPayload.read(job.payload).model_copy(update={"config": config, "after_step": step or 0})
    again = add_job(
        session,
        ctx,
        payload,
        title=f"Train {run.name}",
        priority=config.priority,
        device=config.device,
        depends_on=_unfinished(session, job.depends_on_id),
        placement=job.placement,
        created_by=person.id,
    )
    begins = "Starts again from the first step." if step is None else f"Resumes from step {step:,}."
    before = run.launched_config.max_steps
    if config.max_steps != before:
        begins += (
            f" It has {config.max_steps:,} steps now, in place of {before:,}, and the learning rate follows the"
            " schedule of those."
        )
    add_log_line(session, ctx, again.id, begins, attempt=1)
    spent = run_seconds(run.summary.earlier_s, times_of_jobs(session, [job.id]).get(job.id), now=ctx.now())
    run.summary = run.summary.model_copy(update={"earlier_s": spent or 0.0, "restart": None})
    run.config, run.job_id, run.archived_at = config, again.id, None


def _unfinished(session: Session, job_id: str | None) -> str | None:
    before = session.get(Job, job_id) if job_id else None
    return before.id if before is not None and before.status not in TERMINAL else None


def _ended(session: Session, name_or_id: str, *, locks: bool = False) -> tuple[Run, Job | None]:
    """Return a run and its newest job. With `locks`, no other call continues the run before this transaction is over:
    two jobs would write the same checkpoints.
    """
    run = find_run(session, name_or_id)
    if locks:
        session.refresh(run, with_for_update=True)
    return run, session.get(Job, run.job_id) if run.job_id else None


def _with_steps(run: Run, job: Job, *, step: int, max_steps: int | None) -> RunConfig:
    config = run.launched_config
    steps = max_steps or config.max_steps
    if steps <= step:
        if job.status == Status.FINISHED and max_steps is None:
            raise Conflict(
                f"“{run.name}” has done all its {config.max_steps:,} steps.",
                remedy="Resume it with more steps.",
                field="max_steps",
            )
        raise InvalidInput(
            f"The run has done {step:,} steps, so max_steps {steps:,} leaves nothing to do.",
            remedy=f"Choose more than {step:,}.",
            field="max_steps",
        )
    if steps == config.max_steps:
        return config
    # a resumed schedule keeps its warm-up in steps
    return parse_config({**config.model_dump(mode="json"), "max_steps": steps, "warmup_steps": config.num_warmup_steps})


def _run_of_key(ctx: Context, key: str) -> RunView | None:
    with ctx.db.read() as session:
        job = session.scalar(select(Job).where(Job.idempotency_key == key))
        run_id = job.payload.get("run_id") if job is not None else None
    return get_run(ctx, str(run_id)) if run_id else None


def _generated_name(session: Session, config: RunConfig, parts: RunParts, parent_id: str | None) -> str:
    """Return a name of objective, base and dataset, or the name of the copied run if those are the same; if a run has
    that name, with what differs from it: `DPO tales on votes · LR 1e-4`.
    """
    stem = _describe(config, parts)
    parent = session.get(Run, parent_id) if parent_id else None
    if parent is not None and _is_about_the_same(parent, config, parts):
        stem = _first_of_copies(session, parent).name
    holder = session.scalar(select(Run).where(Run.name == stem))
    if holder is None or holder.config is None:
        return _free_name(session, stem)
    same_rows = {
        name: getattr(config, name)
        for name, is_same in (
            ("dataset", holder.dataset_version_id == parts.version.id),
            ("base", parts.base is not None and holder.base_id == parts.base.id),
        )
        if is_same  # however they are written
    }
    change = state_difference(holder.config.model_copy(update=same_rows), config).replace("@", " ")[:60].rstrip(" ,")
    return _free_name(session, f"{stem[: MAX_NAME - len(change)].rstrip()}{JOINT}{change}" if change else stem)


def _is_about_the_same(run: Run, config: RunConfig, parts: RunParts) -> bool:
    base_id = parts.base.id if parts.base else None
    return (run.objective, run.dataset_version_id, run.base_id) == (config.objective.value, parts.version.id, base_id)


def _first_of_copies(session: Session, run: Run) -> Run:
    """Return the run whose name the generated name of this one begins with."""
    while run.parent_id and (above := session.get(Run, run.parent_id)) and run.name.startswith(f"{above.name}{JOINT}"):
        run = above
    return run


def _describe(config: RunConfig, parts: RunParts) -> str:
    base = f"{_subject(parts.base.run or parts.base.name)} " if parts.base else ""
    return f"{VERBS[config.objective]} {base}on {parts.version.dataset}"[:MAX_NAME].replace("@", " ")


def _subject(name: str) -> str:
    """Return what a generated name is about, so that the names of runs on runs do not nest: `fine-tuned tales` of
    "Fine-tune tales on chat".
    """
    objective = next((one for one, verb in VERBS.items() if name.startswith(f"{verb} ")), None)
    if objective is None or " on " not in name:
        return name
    subject, _, dataset = name.removeprefix(VERBS[objective]).partition(JOINT)[0].partition(" on ")
    subject = subject.strip() or dataset
    for made in MADE.values():
        subject = subject.removeprefix(f"{made} ")
    return subject if objective is Objective.PRETRAIN else f"{MADE[objective]} {subject}"


def _free_name(session: Session, name: str) -> str:
    """Return the name, with the next free number appended if it is taken."""
    taken = set(session.scalars(select(Run.name).where(Run.name.startswith(name, autoescape=True))))
    if name not in taken:
        return name
    joint = JOINT if JOINT in name else " "  # “LR 1e-4 2” would be another rate
    number = next(n for n in range(2, len(taken) + 3) if f"{name}{joint}{n}" not in taken)
    return f"{name[:110]}{joint}{number}"
