"""Evaluations for other tools (CSV, one HTML file, the files of lm-evaluation-harness), and scores that other programs
measured: imported from their results files, listed, removed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Literal

from sqlalchemy import delete, select

from backend.db.engine import retry_races
from backend.db.tables import EvaluationItem, ImportedEvaluation
from backend.domain.attributes import attributes_of, view_of
from backend.domain.csv_text import write_csv
from backend.domain.evaluation.config import describe_scoring, score_name
from backend.domain.evaluation.exchange import ItemRow, StatedScore, read_results, sample_line, write_results
from backend.domain.evaluation.report import ReportSection, evaluation_report_html
from backend.domain.jobs.states import Status
from backend.domain.json_values import JsonObject
from backend.domain.wording import shorten
from backend.errors import Conflict, InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.evaluation.board import caveats_of, rank_board, read_board
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.lookups import find_row

ExportFormat = Literal["csv", "html", "lm-eval"]
SHOWN_ITEMS = 200


def export_evaluation(ctx: Context, evaluation_id: str, *, form: ExportFormat) -> bytes:
    """Return a finished evaluation as a file: CSV of its items, an HTML report, or a zip of lm-evaluation-harness' two
    files.

    Raises NotFound, and Conflict before it has scores.
    """
    evaluation = get_evaluation(ctx, evaluation_id)
    if not evaluation.scores:
        raise Conflict(
            f"The evaluation of “{evaluation.checkpoint}” has no scores yet.", remedy="Export it when it has finished."
        )
    items = _items(ctx, evaluation.id)
    if form == "csv":
        return write_csv([_item_cells(item) for item in items]).encode()
    return _html(evaluation, items).encode() if form == "html" else _lm_eval(evaluation, items)


def scores_csv(evaluations: Sequence[EvaluationView]) -> str:
    """Return the scores of evaluations as CSV, a line for each metric; one without for a finished one with no score, as
    where no answer could be judged.
    """
    names = ("metric", "subgroup", "value", "stderr", "low", "high", "n", "method")
    scores = {
        one.id: [attributes_of(score, *names) for score in one.scores]
        or ([dict.fromkeys(names)] if one.status is Status.FINISHED else [])
        for one in evaluations
    }
    return write_csv(
        [
            {
                "checkpoint": one.checkpoint,
                "benchmark": one.benchmark,
                "kind": one.kind.value,
                "shots": one.settings.get("shots"),
                **score,
                "task": one.config.task.name if one.config.task else "",
                "caveats": "; ".join(caveats_of(one)),
                "evaluation": one.id,
                "fingerprint": one.fingerprint,
            }
            for one in evaluations
            for score in scores[one.id]
        ]
    )


def board_html(ctx: Context) -> str:
    """Return the board as one HTML file: a table for each benchmark, best first, imported scores apart."""
    board = read_board(ctx)
    ranks = rank_board(ctx, board, [column.key for column in board.columns])
    sections = []
    for column in board.columns:
        rows = [
            {
                "Place": "tied for first" if rank.shares_first_place else place,
                "Checkpoint": rank.evaluation.checkpoint,
                score_name(column.metric): rank.score.value,
                "95 % interval": _interval(rank.score.low, rank.score.high),
                "Items": rank.score.n,
                "Caveats": "; ".join(caveats_of(rank.evaluation)),
            }
            for place, rank in enumerate(ranks[column.key].values(), 1)
        ]
        sections.append(
            ReportSection(
                column.label, rows, "Places by one joint test on the shared items; intervals are of each score alone."
            )
        )
    imported = [
        {
            "Model": row.model,
            "Benchmark": column.label,
            "Metric": score.metric,
            "Score": score.value,
            "Source": row.source,
        }
        for row in board.imported
        for column in board.columns
        for score in row.cells.get(column.key, ())
    ]
    sections.append(ReportSection("Imported scores", imported, "Measured by other programs; not ranked."))
    return evaluation_report_html("Evaluations", f"Roundhouse, {ctx.now():%Y-%m-%d %H:%M} UTC", sections)


def _html(evaluation: EvaluationView, items: Sequence[ItemRow]) -> str:
    scores = [
        {
            "Metric": score_name(score.metric),
            "Subgroup": score.subgroup,
            "Score": score.value,
            "95 % interval": _interval(score.low, score.high),
            "Standard error": score.stderr,
            "Items": score.n,
            "Method": score.method,
        }
        for score in evaluation.scores
    ]
    settings = [{"Setting": name, "Value": json.dumps(value)} for name, value in evaluation.settings.items()]
    settings += [
        {"Setting": name, "Value": json.dumps(value)}
        for name, value in evaluation.facts.model_dump(mode="json").items()
    ]
    settings.append({"Setting": "fingerprint", "Value": evaluation.fingerprint})
    shown = [{key: _cell(value) for key, value in _item_cells(item).items()} for item in items[:SHOWN_ITEMS]]
    note = f"The first {len(shown)} of {len(items):,} items." if len(items) > len(shown) else ""
    sections = [
        ReportSection("Scores", scores, "; ".join(caveats_of(evaluation))),
        ReportSection("Settings", settings),
        ReportSection("Items", shown, note),
    ]
    subtitle = (
        f"{describe_scoring(evaluation.config, kind=evaluation.kind)}, {evaluation.created_at:%Y-%m-%d %H:%M} UTC"
    )
    return evaluation_report_html(f"{evaluation.checkpoint} on {evaluation.benchmark}", subtitle, sections)


def _lm_eval(evaluation: EvaluationView, items: Sequence[ItemRow]) -> bytes:
    task = evaluation.benchmark.partition("@")[0]
    given = (
        {use.name: dict(use.options) for use in evaluation.config.task.metric_uses} if evaluation.config.task else {}
    )

    def options(score: str) -> Mapping[str, object]:
        return given.get(score.partition(",")[0].partition(":")[0], {})

    results = write_results(
        task=task,
        model=evaluation.checkpoint,
        scores=[
            {**attributes_of(s, "metric", "subgroup", "value", "stderr", "n"), "options": options(s.metric)}
            for s in evaluation.scores
        ],
        settings=evaluation.settings,
        facts=evaluation.facts.model_dump(mode="json"),
        date=evaluation.created_at.timestamp(),
        version=version("roundhouse"),
    )
    stamp = f"{evaluation.created_at:%Y-%m-%dT%H-%M-%S}"
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in task)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"results_{stamp}.json", json.dumps(results, indent=2, ensure_ascii=False))
        lines = [json.dumps(sample_line(item), ensure_ascii=False) for item in items]
        archive.writestr(f"samples_{safe}_{stamp}.jsonl", "\n".join(lines) + "\n")
    return out.getvalue()


def _items(ctx: Context, evaluation_id: str) -> list[ItemRow]:
    query = (
        select(EvaluationItem).where(EvaluationItem.evaluation_id == evaluation_id).order_by(EvaluationItem.position)
    )
    with ctx.db.read() as session:
        return [
            ItemRow(row.item_hash, row.position, dict(row.values), dict(row.shown)) for row in session.scalars(query)
        ]


def _item_cells(item: ItemRow) -> dict[str, object]:
    shown = {
        name: value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
        for name, value in item.shown.items()
    }
    return {"item_number": item.position + 1, "item": item.item_hash, **item.values, **shown}


def _cell(value: object) -> object:
    return shorten(value, 2000) if isinstance(value, str) else value


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ImportedView:
    """A model's scores on one benchmark as a file states them."""

    id: str
    model: str
    benchmark: str
    harness: str
    source: str
    scores: tuple[StatedScore, ...]
    config: JsonObject
    created_at: datetime


@retry_races
def import_results(ctx: Context, content: bytes, *, source: str, person: Person) -> list[ImportedView]:
    """Import a results file. Content imported before gives the existing rows. Raises InvalidInput naming why."""
    require_builder(person)
    source = source.replace("\\", "/").rsplit("/", 1)[-1][:300]
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{source} has {len(content):,} bytes; at most {MAX_BYTES:,} are read.", field="file")
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{source} is not JSON: {error}.", remedy="Give the results file, not the samples.", field="file"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    rows = read_results(data, source=source)
    with ctx.db.write() as session:
        known = set(
            session.scalars(select(ImportedEvaluation.benchmark).where(ImportedEvaluation.content_hash == digest))
        )
        for row in rows:
            if row.benchmark not in known:
                known.add(row.benchmark)
                session.add(
                    ImportedEvaluation(
                        **attributes_of(row, "harness", "model", "benchmark", "config"),
                        content_hash=digest,
                        source=source,
                        scores=list(row.scores),
                        created_by=person.id,
                        created_at=ctx.now(),
                    )
                )
    return list_imported(ctx, content_hash=digest)


def list_imported(ctx: Context, *, content_hash: str | None = None) -> list[ImportedView]:
    """Return the imported scores, newest first; with `content_hash` those of one file."""
    query = select(ImportedEvaluation).order_by(ImportedEvaluation.created_at.desc(), ImportedEvaluation.benchmark)
    if content_hash is not None:
        query = query.where(ImportedEvaluation.content_hash == content_hash)
    with ctx.db.read() as session:
        rows = session.scalars(query)
        return [view_of(ImportedView, row, scores=tuple(row.scores), config=dict(row.config)) for row in rows]


def remove_imported(ctx: Context, imported_id: str, *, person: Person) -> int:
    """Remove every score that came from the same file; return how many. Raises NotFound."""
    require_builder(person)
    with ctx.db.write() as session:
        remedy = "It may have been removed; see the list."
        row = find_row(session, ImportedEvaluation, imported_id, what="imported evaluation", remedy=remedy)
        ids = list(
            session.scalars(select(ImportedEvaluation.id).where(ImportedEvaluation.content_hash == row.content_hash))
        )
        session.execute(delete(ImportedEvaluation).where(ImportedEvaluation.id.in_(ids)))
        return len(ids)
