"""Find runs by any of their fields. A process keeps the table of runs in memory and reads again only what changed."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import chain
from weakref import WeakKeyDictionary

from sqlalchemy import JSON, func, select, type_coerce
from sqlalchemy.orm import Session

from backend.db.engine import Database
from backend.db.tables import Architecture, Checkpoint, Dataset, DatasetVersion, Job, Run, RunGroup, Tokenizer, User
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_parameters
from backend.domain.csv_text import safe_cell
from backend.domain.filters import Value, matcher, parse_filter, quote, tests_of
from backend.domain.jobs.states import ACTIVE, Status, status_word
from backend.domain.json_values import FieldValues
from backend.domain.names import nearest_name
from backend.domain.training.objectives import Objective
from backend.domain.training.run_table import (
    ALIASES,
    BEST,
    DEFAULTS,
    IMPORTED,
    Entry,
    RunFold,
    RunNames,
    RunRow,
    RunTable,
    fold_rows,
    sort_rows,
    with_sections,
)
from backend.domain.training.summary import mean_tokens_per_step
from backend.services.context import Context
from backend.services.jobs.device_uses import times_of_jobs
from backend.services.serving.prices import current_prices
from backend.services.training.open_sweeps import KIND

NEWEST_FIRST = "-created"
SAMPLING = {objective.value for objective in Objective if objective.samples}
AT_ONCE = 500
OVERLAP = timedelta(minutes=10)
"""How far the clocks of machines that write runs may differ."""


@dataclass(frozen=True)
class RunQuery:
    """A search for runs. `text` is in the name or the notes; `statuses` are of jobs, `imported` selects imported runs,
    or all others; `filter` is an expression over fields; `order` a field, with `-` for the highest first.
    """

    text: str = ""
    statuses: tuple[Status, ...] = ()
    imported: bool | None = None
    archived: bool = False
    filter: str = ""
    order: str = NEWEST_FIRST


def read_run_table(ctx: Context) -> RunTable:
    """Return every run with its fields, as the database has them now."""
    with _CACHES_LOCK:
        cache = _CACHES.setdefault(ctx.db, RunTableCache())
    return cache.read(ctx)


def find_runs(ctx: Context, query: RunQuery, *, table: RunTable | None = None, zone: tzinfo = UTC) -> list[RunRow]:
    """Return the rows that pass a query, in its order. `zone` is that of dates in the filter.

    Raises FilterError, and InvalidInput for an unknown field of the order.
    """
    table = table or read_run_table(ctx)
    expression = parse_filter(
        query.filter, table.filter_fields, aliases=ALIASES, ambiguous=table.ambiguous, now=table.now, zone=zone
    )
    passes = matcher(expression, table.filter_reader)
    text, statuses = query.text.strip().casefold(), frozenset(map(str, query.statuses))
    passing = [
        row
        for row in table.rows
        if row.is_archived == query.archived
        and (query.imported is None or row.is_imported == query.imported)
        and (not statuses or (row.status in statuses and not row.is_imported))
        and (not text or text in row.name.casefold() or text in row.notes.casefold())
        and passes(row)
    ]
    return passing if query.order == NEWEST_FIRST else sort_rows(table, passing, query.order)


def suggest_filter_values(table: RunTable, query: RunQuery) -> list[str]:
    """Return what may be meant by the texts in a filter that its fields have in no run: `No run has dataset sherlock.
    Did you mean sherlock-holmes@1?`
    """
    expression = parse_filter(query.filter, table.filter_fields, aliases=ALIASES, ambiguous=table.ambiguous)
    advice = []
    for test in tests_of(expression):
        if test.operator != "=" or not isinstance(test.value, str) or table.fields[test.field].choices:
            continue
        if any(map(matcher(test, table.filter_reader), table.rows)):
            continue
        read, text = table.reader(test.field), test.value.casefold()
        values = [read(row) for row in table.rows]
        texts = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
        known = {part.casefold(): part for part in sorted({part for part in texts if isinstance(part, str)})}
        near = next((name for name in known if text in name), None) or nearest_name(text, known)
        if near:
            advice.append(f"No run has {test.field} {quote(test.value)}. Did you mean {quote(known[near])}?")
    return advice


def fold_runs(table: RunTable, rows: Sequence[RunRow], by: str | None, *, order: str = NEWEST_FIRST) -> Sequence[Entry]:
    """Return rows folded by a field; None: as they are. Folds stand where their first row does, and by the names that
    are shown in the order of names.
    """
    entries = fold_rows(table, rows, by) if by else rows
    if not by or order.removeprefix("-") != "name":
        return entries

    def shown_name(entry: Entry) -> str:
        return (entry.title if isinstance(entry, RunFold) else entry.name).casefold()

    return sorted(entries, key=shown_name, reverse=order.startswith("-"))


def stream_runs_csv(table: RunTable, rows: Iterable[RunRow], columns: Sequence[str]) -> Iterator[str]:
    """Yield rows as the lines of a CSV file: numbers and times in full, a missing value empty, and what pages have a
    word for in that word.
    """
    names = ["id", *dict.fromkeys(["name", *columns])]
    readers = [(table.reader(name), table.fields[name].words) for name in names[1:]]
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    lines: Iterator[list[object]] = (
        [row.id, *(_csv_cell(read(row), words) for read, words in readers)] for row in rows
    )
    heading: list[object] = [*names]
    for cells in chain([heading], lines):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def _csv_cell(value: Value, words: Mapping[str, str]) -> object:
    if isinstance(value, str):
        return safe_cell(words.get(value, value))
    if isinstance(value, tuple):
        return safe_cell(", ".join(value))
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else safe_cell(value)


class RunTableCache:
    """The rows of one database. A run is read again when its row changed, and as long as it is active, since its status
    is its job's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_id: dict[str, tuple[datetime | None, RunRow]] = {}
        self._rows: tuple[RunRow, ...] = ()
        self._metrics: set[tuple[str, str]] = set()
        self._since: datetime | None = None

    def read(self, ctx: Context) -> RunTable:
        """Return the table as it is now."""
        with self._lock, ctx.db.read() as session:
            now = ctx.now()
            self._refresh(session, now)
            return RunTable(
                self._rows,
                _names(session),
                now,
                statuses={**{str(status): status_word(status) for status in Status}, IMPORTED: IMPORTED},
                device_hour_usd=current_prices(ctx, session).default,
                metrics=frozenset(self._metrics),
            )

    def _refresh(self, session: Session, now: datetime) -> None:
        if self._since is None:
            self._load(session, None)
        else:
            changed = dict(session.execute(select(Run.id, Run.changed_at).where(Run.changed_at > self._since)).all())
            stale = {run_id for run_id, when in changed.items() if self._by_id.get(run_id, ("",))[0] != when}
            stale |= {run_id for run_id, (_, row) in self._by_id.items() if row.is_active}
            if len(stale) > 4 * AT_ONCE:
                self._load(session, None)
            elif stale:
                self._load(session, sorted(stale))
            if session.scalar(select(func.count()).select_from(Run)) != len(self._by_id):  # deleted, or put back
                present = set(session.scalars(select(Run.id)))
                self._by_id = {run_id: known for run_id, known in self._by_id.items() if run_id in present}
                self._load(session, sorted(present - self._by_id.keys()))
        self._since = now - OVERLAP

    def _load(self, session: Session, ids: Sequence[str] | None) -> None:
        """Read the runs with these ids; None: all."""
        parts = [ids[first : first + AT_ONCE] for first in range(0, len(ids), AT_ONCE)] if ids is not None else [None]
        if ids is None:
            self._by_id, self._metrics = {}, set()
        architectures = _Architectures(session)
        for part in parts:
            sizes = _sizes(session, part)
            for when, row in self._read_rows(session, part, sizes, architectures):
                self._by_id[row.id] = (when, row)
                prefix = row.objective
                self._metrics.update((prefix, name) for name in row.metrics)
                if row.best_val_loss is not None:
                    self._metrics.add((prefix, BEST))
        self._sort()

    def _sort(self) -> None:
        rows = [row for _, row in self._by_id.values()]
        rows.sort(key=lambda row: row.id)
        rows.sort(key=lambda row: row.created_at, reverse=True)
        self._rows = tuple(rows)

    def _read_rows(
        self, session: Session, ids: Sequence[str] | None, sizes: dict[str, int], architectures: _Architectures
    ) -> Iterator[tuple[datetime | None, RunRow]]:
        columns = (
            Run.id,
            Run.name,
            Run.notes,
            Run.objective,
            Run.origin,
            Run.tags,
            Run.dataset_version_id,
            Run.base_id,
            Run.architecture_id,
            Run.tokenizer_id,
            Run.group_id,
            Run.job_id,
            Run.created_by,
            Run.last_step,
            Run.created_at,
            Run.archived_at,
            Run.changed_at,
            Job.status,
            Job.started_at,
            Job.finished_at,
        )
        stored_parts = ("last", BEST, "imported", "earlier_s")  # the sparkline is most of it
        parts = [Run.summary[name].label(name) for name in stored_parts]
        query = select(*columns, type_coerce(Run.config, JSON).label("config"), *parts).outerjoin(
            Job, Job.id == Run.job_id
        )
        if ids is not None:
            query = query.where(Run.id.in_(ids))
        jobs = select(Run.job_id) if ids is None else select(Run.job_id).where(Run.id.in_(ids))
        times = times_of_jobs(session, jobs)
        for one in session.execute(query.execution_options(yield_per=AT_ONCE)):
            stored = one.config or None
            is_imported = one.origin == IMPORTED
            inline = stored.get("architecture") if stored else None
            shape, size = architectures.find(one.architecture_id, inline if isinstance(inline, dict) else None)
            config = (
                {SHARED.get(path, path): value for path, value in with_sections(stored).items()} if stored else None
            )
            status = Status.FINISHED if is_imported else Status(one.status) if one.status else Status.CANCELLED
            yield (
                one.changed_at,
                RunRow(
                    id=one.id,
                    name=one.name,
                    notes=one.notes,
                    objective=one.objective,
                    status=status.value,
                    is_active=status in ACTIVE,
                    is_imported=is_imported,
                    tags=tuple(one.tags or ()),
                    version_id=one.dataset_version_id,
                    base_id=one.base_id,
                    architecture_id=one.architecture_id,
                    tokenizer_id=one.tokenizer_id,
                    group_id=one.group_id,
                    user_id=one.created_by,
                    steps=one.last_step,
                    tokens_per_step=_tokens_per_step(
                        config,
                        one.imported,
                        samples=one.objective in SAMPLING,
                        last=one.last or {},
                        steps=one.last_step,
                    ),
                    parameters=sizes.get(one.id) or size or sizes.get(one.base_id or ""),
                    best_val_loss=one.best_val_loss,
                    metrics=one.last or {},
                    config=config,
                    shape=shape,
                    created_at=one.created_at,
                    started_at=one.started_at,
                    finished_at=one.finished_at,
                    earlier_s=one.earlier_s or 0.0,
                    time=times.get(one.job_id or ""),
                    is_archived=one.archived_at is not None,
                ),
            )


_CACHES: WeakKeyDictionary[Database, RunTableCache] = WeakKeyDictionary()
_CACHES_LOCK = threading.Lock()
SHARED = {path: path for path in DEFAULTS}
"""One text a path: ten thousand rows have the same keys."""


class _Architectures:
    """Shapes and sizes of architectures, read or counted once each."""

    def __init__(self, session: Session) -> None:
        query = select(Architecture.id, type_coerce(Architecture.config, JSON), Architecture.parameters)
        self._stored = {key: (config or {}, size) for key, config, size in session.execute(query)}
        self._inline: dict[str, tuple[FieldValues, int | None]] = {}

    def find(self, architecture_id: str | None, inline: FieldValues | None) -> tuple[FieldValues, int | None]:
        """Return the fields and the number of parameters of a run's architecture."""
        if inline is None:
            return self._stored.get(architecture_id or "", ({}, None))
        key = json.dumps(inline, sort_keys=True)
        if key not in self._inline:
            try:
                size = sum(count_parameters(ArchitectureConfig.model_validate(inline)).values())
            except ValueError:  # stored by another version
                size = None
            self._inline[key] = (inline, size)
        return self._inline[key]


def _sizes(session: Session, run_ids: Sequence[str] | None) -> dict[str, int]:
    """Return the parameters of the checkpoints that runs made, by run, and of their bases, by checkpoint."""
    made = select(Checkpoint.run_id, func.max(Checkpoint.parameters)).where(
        Checkpoint.run_id.is_not(None), Checkpoint.parameters.is_not(None), Checkpoint.is_adapter.is_(False)
    )
    based = select(Checkpoint.id, Checkpoint.parameters).where(Checkpoint.parameters.is_not(None))
    used = select(Run.base_id).where(Run.base_id.is_not(None))
    if run_ids is not None:
        made, used = made.where(Checkpoint.run_id.in_(run_ids)), used.where(Run.id.in_(run_ids))
    rows = [*session.execute(made.group_by(Checkpoint.run_id)), *session.execute(based.where(Checkpoint.id.in_(used)))]
    return dict(rows)


def _names(session: Session) -> RunNames:
    versions = session.execute(select(DatasetVersion.id, Dataset.name, DatasetVersion.number).join(Dataset))
    bases = select(Checkpoint.id, Checkpoint.name).where(
        Checkpoint.id.in_(select(Run.base_id).where(Run.base_id.is_not(None)))
    )
    return RunNames(
        versions={key: f"{name}@{number}" for key, name, number in versions},
        bases=dict(session.execute(bases).all()),
        architectures=dict(session.execute(select(Architecture.id, Architecture.name)).all()),
        tokenizers=dict(session.execute(select(Tokenizer.id, Tokenizer.name)).all()),
        sweeps=dict(session.execute(select(RunGroup.id, RunGroup.name).where(RunGroup.kind == KIND)).all()),
        users=dict(session.execute(select(User.id, User.name)).all()),
    )


def _tokens_per_step(
    config: FieldValues | None,
    imported: FieldValues | None,
    *,
    samples: bool,
    last: Mapping[str, float],
    steps: int,
) -> float | None:
    if config is None:
        return (imported or {}).get("tokens_per_step")

    def value(path: str) -> int:
        return int(config[path] if path in config else DEFAULTS[path])

    nominal = value("micro_batch") * value("grad_accum_steps") * value("devices.count") * value("context")
    return mean_tokens_per_step(nominal, samples=samples, last=last, steps=steps)
