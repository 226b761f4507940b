"""Import other programs' logs as runs: read-only curves for comparison, without config, job and checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Run
from backend.domain.jobs.events import MetricsEvent, Values
from backend.domain.training.imported_logs import MAX_BYTES, MAX_NOTES, ParsedLog, read_logs
from backend.domain.training.summary import ImportedLog, RunSummary
from backend.domain.wording import clean_text
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.metrics.points import add_points, pack_points
from backend.services.training.views import RunView, get_run

IMPORTED = "imported"
ROWS_AT_ONCE = 10_000
MAX_RUNS = 50
EVENT_FILES = "events.out.tfevents.*"


def import_log(ctx: Context, data: bytes, *, filename: str, person: Person, name: str = "") -> list[RunView]:
    """Import a log file, one run for each in it, named `name`, or after the log or the file; of several in a file each
    has its own name after `name`.

    Raises InvalidInput for a file that is no log or too large, NotAllowed for a rater.
    """
    require_builder(person)
    logs = read_logs(data, filename=filename)
    if len(logs) > MAX_RUNS:
        raise InvalidInput(f"The file holds {len(logs)} runs, and at most {MAX_RUNS} are read at once.", field="file")
    names = [name if len(logs) == 1 else f"{name} {log.name}".strip() for log in logs]
    return [
        get_run(ctx, _insert(ctx, log, filename=filename, requested_name=requested, person=person))
        for log, requested in zip(logs, names, strict=True)
    ]


def import_log_path(ctx: Context, path: Path, *, person: Person, name: str = "") -> list[RunView]:
    """Import a local log file, or the event files of a folder as one run. Raises NotFound."""
    require_builder(person)
    if path.is_dir():
        files = sorted(path.glob(EVENT_FILES))
        if not files:
            raise NotFound(f"There is no event file in {path}.", remedy=f"They are called {EVENT_FILES}.")
        merged = _merge([log for file in files for log in read_logs(_read(file), filename=file.name)])
        return [get_run(ctx, _insert(ctx, merged, filename=path.name, requested_name=name, person=person))]
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    return import_log(ctx, _read(path), filename=path.name, person=person, name=name)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)  # one byte over the limit suffices to refuse it


def _merge(logs: Sequence[ParsedLog]) -> ParsedLog:
    """Merge consecutive logs of one program: later points replace earlier ones."""
    first, *others = logs
    for log in others:
        for metric, series in log.points.items():
            first.points.setdefault(metric, {}).update(series)
        first.not_finite = {**log.not_finite, **first.not_finite}
        first.tokens_per_step = log.tokens_per_step or first.tokens_per_step
        first.notes += log.notes
    return first


@retry_races
def _insert(ctx: Context, log: ParsedLog, *, filename: str, requested_name: str, person: Person) -> str:
    run_id, shown = new_id(), clean_text(requested_name or log.name or Path(filename).stem)[:100] or "imported"
    has_time = log.has_time
    with ctx.db.write() as session:
        taken = set(session.scalars(select(Run.name).where(Run.name.startswith(shown, autoescape=True))))
        name = next(
            text for n in range(1, len(taken) + 2) if (text := shown if n == 1 else f"{shown} {n}") not in taken
        )
        imported = ImportedLog(
            file=clean_text(filename)[-200:],
            format=log.format,
            tokens_per_step=log.tokens_per_step,
            flops_per_step=log.flops_per_step,
            has_time=has_time,
            notes=tuple(log.notes[:MAX_NOTES]),
        )
        run = Run(
            id=run_id, name=name, objective="", config=None, origin=IMPORTED, created_by=person.id, created_at=ctx.now()
        )
        session.add(run)
        session.flush()
        summary = RunSummary(imported=imported)
        rows = _rows(log, has_time=has_time)
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            add_points(session, ctx.db, run_id, batch)
            summary = summary.add((event.step, event.values) for event in batch)
        if log.not_finite:
            summary = summary.model_copy(update={"not_finite": dict(log.not_finite)})
        run.summary, run.last_step = summary, log.last_step
        session.flush()
        pack_points(session, run)
    return run_id


def _rows(log: ParsedLog, *, has_time: bool) -> Iterator[MetricsEvent]:
    """Yield the points by step, in the form of a training job's events."""
    for step in sorted({step for series in log.points.values() for step in series}):
        points = {metric: series[step] for metric, series in log.points.items() if step in series}
        times = [time for _, time in points.values() if time is not None]
        values: Values = {metric: value for metric, (value, _) in points.items()}
        yield MetricsEvent(step=step, time=min(times) if has_time else 0.0, values=values)
