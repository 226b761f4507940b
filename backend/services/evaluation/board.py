"""The board of evaluations: a matrix of checkpoints by benchmarks, their metric, and who is first in each column."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import select

from backend.db.tables import ImportedEvaluation
from backend.domain.attributes import attributes_of
from backend.domain.data.file_names import bare_name
from backend.domain.data.rows.columns import plain_name
from backend.domain.data.splits import SPLITS
from backend.domain.evaluation.boards import AVERAGES, Cuts, caveats, same_benchmark, telling_metric, void_reason
from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind, describe_way
from backend.domain.evaluation.exchange import StatedScore
from backend.domain.jobs.states import Status
from backend.services.context import Context
from backend.services.evaluation.comparisons import Rank, column_keys, rank_evaluations
from backend.services.evaluation.evaluations import EvaluationView, ScoreView, list_evaluations
from backend.services.evaluation.task_fit import dataset_names_of

LIMIT = 5000
"""Evaluations on the board, newest first."""


@dataclass(frozen=True)
class Column:
    """A benchmark with its settings: evaluations in one column may be compared. `config` launches another one.

    `metric` is the headline, the main metric on every page; where all its scores are 0, `telling` is another one that
    orders them.

    `title` is the task's, or the dataset's name without a task. `detail` is the dataset, where its name isn't the
    task's (one file of many must not pass for the benchmark), and what sets the column apart from another one of the
    same title. `metrics` are those that its scores have, averages over subgroups among them; `averages` says over what
    those are taken.
    """

    key: str
    benchmark: str
    version_id: str
    kind: EvaluationKind
    title: str
    detail: str
    metrics: tuple[str, ...]
    metric: str
    config: EvaluationConfig
    averages: Mapping[str, str] = field(default_factory=dict)
    telling: str | None = None

    @property
    def label(self) -> str:
        """Return the title with its detail: `GSM8K (5-shot)`, `facts@1`."""
        return f"{self.title} ({self.detail})" if self.detail else self.title


@dataclass(frozen=True)
class Cell:
    """A checkpoint in a column: its newest finished evaluation, and a newer one, active or without scores."""

    finished: EvaluationView | None = None
    pending: EvaluationView | None = None

    @property
    def caveats(self) -> tuple[str, ...]:
        """Return why the score must not be read as it stands."""
        return caveats_of(self.finished) if self.finished else ()

    @property
    def void_reason(self) -> str:
        """Return why the score is none of the benchmark; empty where it is one."""
        return void_reason_of(self.finished) if self.finished else ""


@dataclass(frozen=True)
class ImportedRow:
    """Scores that another program measured, by the key of the column that they are shown beside."""

    id: str
    model: str
    source: str
    cells: dict[str, tuple[ScoreView, ...]]


@dataclass(frozen=True)
class BoardRow:
    """A checkpoint or an endpoint with its cells by column key. `checkpoint` is its name."""

    subject_id: str
    checkpoint: str
    cells: dict[str, Cell]
    is_endpoint: bool = False


@dataclass(frozen=True)
class Board:
    """Columns by title, rows by their newest evaluation. `imported` rows take no part in ranks.

    `without_scores` are evaluations that failed or were stopped, with settings that no scores exist for: they have no
    column. `renamed` holds the present key of each column whose key was another one before its first scores.
    """

    columns: tuple[Column, ...]
    rows: tuple[BoardRow, ...]
    imported: tuple[ImportedRow, ...] = ()
    without_scores: tuple[EvaluationView, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_active(self) -> bool:
        """Return whether an evaluation on the board is queued or running."""
        return any(
            cell.pending is not None and cell.pending.is_active for row in self.rows for cell in row.cells.values()
        )

    def column(self, key: str) -> Column | None:
        """Return the column of a key, or of the one that it had before its first scores, if there is one."""
        present = self.renamed.get(key, key)
        return next((column for column in self.columns if column.key == present), None)

    def scored(self, key: str) -> list[EvaluationView]:
        """Return the finished evaluations of a column."""
        return [cell.finished for row in self.rows if (cell := row.cells.get(key)) and cell.finished]


def read_board(ctx: Context) -> Board:
    """Return the board of the newest evaluations: scores only, no items."""
    evaluations = list_evaluations(ctx, limit=LIMIT)
    columns: dict[str, list[EvaluationView]] = {}
    column_of_settings: dict[str, str] = {}
    finished = column_keys([e for e in evaluations if e.status is Status.FINISHED and e.scores])
    for evaluation in evaluations:
        if (key := finished.get(evaluation.id)) is not None:
            columns.setdefault(key, []).append(evaluation)
            column_of_settings.setdefault(_settings_key(evaluation), key)
    rows: dict[str, BoardRow] = {}
    scored = set(columns)
    for evaluation in evaluations:
        settings = _settings_key(evaluation)
        key = finished.get(evaluation.id) or column_of_settings.setdefault(settings, settings)
        if evaluation.id not in finished and key not in scored:
            columns.setdefault(key, []).append(evaluation)
        name, is_endpoint = evaluation.checkpoint, evaluation.endpoint is not None
        row = rows.setdefault(evaluation.subject_id, BoardRow(evaluation.subject_id, name, {}, is_endpoint))
        row.cells[key] = _add_to_cell(row.cells.get(key, Cell()), evaluation, has_scores=evaluation.id in finished)
    ended = {key for key, members in columns.items() if key not in scored and not any(e.is_active for e in members)}
    ended = set() if len(ended) == len(columns) else ended
    without_scores = tuple(evaluation for key in ended for evaluation in columns.pop(key))
    shown = [
        replace(row, cells={key: cell for key, cell in row.cells.items() if key not in ended}) for row in rows.values()
    ]
    ordered = _distinct(
        sorted((_column(key, members) for key, members in columns.items()), key=lambda column: column.label.casefold())
    )
    renamed = {before: key for before, key in column_of_settings.items() if before != key}
    return Board(ordered, tuple(row for row in shown if row.cells), _imported(ctx, ordered), without_scores, renamed)


def read_columns(evaluations: Sequence[EvaluationView]) -> list[tuple[Column, list[EvaluationView]]]:
    """Return finished evaluations by the column that they may be compared in, labels distinct."""
    members: dict[str, list[EvaluationView]] = {}
    finished = [evaluation for evaluation in evaluations if evaluation.status is Status.FINISHED and evaluation.scores]
    keys = column_keys(finished)
    for evaluation in finished:
        members.setdefault(keys[evaluation.id], []).append(evaluation)
    columns = _distinct([_column(key, group) for key, group in members.items()])
    return sorted(zip(columns, members.values(), strict=True), key=lambda pair: pair[0].label)


def caveats_of(evaluation: EvaluationView) -> tuple[str, ...]:
    """Return why the scores of an evaluation must not be read as they stand."""
    facts = evaluation.facts
    return caveats(
        lost_bytes=facts.lost_bytes,
        truncated=facts.truncated_items,
        missing=facts.missing_items,
        capped=facts.capped_items,
        unjudged=facts.judge.missing if facts.judge else 0,
    )


def void_reason_of(evaluation: EvaluationView) -> str:
    """Return why an evaluation's scores are none of the benchmark, as where every item was truncated."""
    facts = evaluation.facts
    return void_reason(items=facts.items or 0, truncated=facts.truncated_items, capped=facts.capped_items)


def cuts_of(evaluation: EvaluationView) -> Cuts:
    """Return what the context did to an evaluation's items."""
    facts = evaluation.facts
    return Cuts(facts.items or 0, facts.context, facts.truncated_items, facts.capped_items)


def rank_board(
    ctx: Context, board: Board, keys: Sequence[str], *, metrics: Mapping[str, str] | None = None
) -> dict[str, dict[str, Rank]]:
    """Return the rank of each evaluation in each of some columns. Reads packed values, no items."""
    chosen = metrics or {}
    ranks: dict[str, dict[str, Rank]] = {}
    for column in board.columns:
        if column.key in keys:
            ordered = rank_evaluations(ctx, board.scored(column.key), metric=chosen.get(column.key, column.metric))
            ranks[column.key] = {rank.evaluation.id: rank for rank in ordered}
    return ranks


def _settings_key(evaluation: EvaluationView) -> str:
    # beside checkpoints
    settings = evaluation.settings if evaluation.endpoint is None else {**evaluation.settings, "engine": "fast"}
    text = json.dumps([evaluation.version_id, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _add_to_cell(cell: Cell, evaluation: EvaluationView, *, has_scores: bool) -> Cell:
    """Add an evaluation, newest first: what is older than the newest scores says nothing more."""
    if cell.finished is not None:
        return cell
    if has_scores:
        return replace(cell, finished=evaluation)
    return cell if cell.pending is not None else replace(cell, pending=evaluation)


def _column(key: str, evaluations: Sequence[EvaluationView]) -> Column:
    newest = next((one for one in evaluations if one.endpoint is None), evaluations[0])
    metrics = tuple(dict.fromkeys(score.metric for evaluation in evaluations for score in evaluation.totals))
    values = {
        metric: [score.value for e in evaluations if (score := e.score(metric)) is not None] for metric in metrics
    }
    averages = {metric: words for metric in metrics if (words := newest.average_of(metric))}
    metrics = tuple(one for one in metrics if one in averages or one.partition(":")[2] not in AVERAGES)
    headline = newest.main_metric if newest.main_metric in metrics else next(iter(metrics), newest.main_metric)
    return Column(
        **attributes_of(newest, "benchmark", "version_id", "kind", "config"),
        key=key,
        title=newest.config.task.shown_title if newest.config.task else newest.benchmark,
        detail=_detail(newest),
        metrics=metrics,
        metric=headline,
        telling=telling_metric(headline, values),
        averages=averages,
    )


def _detail(evaluation: EvaluationView) -> str:
    settings, task = evaluation.settings, evaluation.config.task
    dataset = evaluation.benchmark.partition("@")[0]
    is_named = task is None or {plain_name(dataset), plain_name(bare_name(dataset))} & dataset_names_of(task)
    shots, limit, split = settings.get("shots"), settings.get("limit"), settings.get("split")
    parts = [
        "" if is_named else evaluation.benchmark,
        f"{shots}-shot" if shots else "",
        f"{limit} items" if limit else "",
        "chat template" if evaluation.facts.used_chat_template else "",
        f"{split} split" if split in SPLITS else "",
    ]
    return ", ".join(part for part in parts if part)


def _distinct(columns: Sequence[Column]) -> tuple[Column, ...]:
    """Add dataset and way of scoring to columns of a dataset that is scored in several ways, their datasets to columns
    whose labels are the same, then a number where they differ in a setting that no label names.
    """
    ways: dict[str, set[str]] = {}
    for column in columns:
        ways.setdefault(column.version_id, set()).add(describe_way(column.config, kind=column.kind))
    columns = [
        _add_detail(column, column.benchmark if column.config.task else describe_way(column.config, kind=column.kind))
        if len(ways[column.version_id]) > 1
        else column
        for column in columns
    ]
    labels = [column.label for column in columns]
    columns = [
        _add_detail(column, column.benchmark) if labels.count(column.label) > 1 else column for column in columns
    ]
    labels = [column.label for column in columns]
    distinct = []
    for place, column in enumerate(columns):
        if labels.count(column.label) > 1:
            column = _add_detail(column, f"settings {1 + labels[:place].count(column.label)}")
        distinct.append(column)
    return tuple(distinct)


def _add_detail(column: Column, text: str) -> Column:
    """Add a text to what sets a column apart, unless that or its title says it."""
    if text == column.title or text in column.detail.split(", "):
        return column
    return replace(column, detail=f"{column.detail}, {text}" if column.detail else text)


def _imported(ctx: Context, columns: Sequence[Column]) -> tuple[ImportedRow, ...]:
    with ctx.db.read() as session:
        stored = list(
            session.scalars(
                select(ImportedEvaluation).order_by(ImportedEvaluation.created_at.desc(), ImportedEvaluation.id)
            )
        )
    rows: dict[tuple[str, str], ImportedRow] = {}
    for one in stored:
        row = rows.setdefault((one.model, one.content_hash), ImportedRow(one.id, one.model, one.source, {}))
        for column in columns:
            if same_benchmark(one.benchmark, column.benchmark) or same_benchmark(one.benchmark, column.title):
                row.cells.setdefault(column.key, read_imported_scores(one.scores))
    return tuple(rows.values())


def read_imported_scores(stored: Sequence[StatedScore]) -> tuple[ScoreView, ...]:
    """Return imported scores as views; an interval is given where the file gave a standard error."""
    scores = []
    for one in stored:
        half = None if one.stderr is None else 1.96 * one.stderr
        low, high = (None, None) if half is None else (one.value - half, one.value + half)
        scores.append(
            ScoreView(one.metric, one.value, one.stderr, low, high, one.n, "as imported, 1.96 standard errors")
        )
    return tuple(scores)
