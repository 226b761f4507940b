"""Entry of a dataset export: a version as a folder for other tools, pushed to a Hub on request."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from backend.domain.data.export_formats import SPLIT_NAMES, export_path
from backend.domain.data.splits import SPLITS, Split
from backend.domain.jobs.payloads import DatasetExportPayload
from backend.domain.jobs.results import DatasetExportResult
from backend.errors import NotFound
from jobs.data.huggingface import load_version, push_version
from jobs.modeling.dataset_files import iter_rows, num_rows
from jobs.modeling.publishing import refuse_stopped_export
from jobs.reporter import JobSpec, Reporter

PROGRESS_ROWS = 1000
CHUNK_BYTES = 2**24


def run(spec: JobSpec[DatasetExportPayload], reporter: Reporter) -> DatasetExportResult:
    """Write a version to the payload's `out` in `format`, then push its rows as Parquet if `push` is given.

    Raises NotFound if the version's files are gone, Unavailable if the Hub refuses,
    JobFailed on a stop request; a failure leaves no files.
    """
    payload, source, target = spec.payload, spec.path(spec.payload.dataset), spec.path(spec.payload.out)
    if not source.is_dir():
        raise NotFound("The dataset's files are gone.", remedy="Import it again.")
    rows: dict[Split, int] = {split: count for split in SPLITS if (count := num_rows(source, split=split))}
    shutil.rmtree(target, ignore_errors=True)  # leftovers of an earlier attempt
    target.mkdir(parents=True)
    try:
        _write(payload, source, target, rows, reporter)
        if payload.card and payload.format != "datasets":
            (target / "README.md").write_text(payload.card, encoding="utf-8")
        pushed = None
        if payload.push is not None:
            pushed = push_version(
                source, rows, payload.push, card=payload.card, message=f"Upload {payload.name}", reporter=reporter
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    reporter.log(f"Wrote {sum(rows.values()):,} rows, {size:,} bytes.")
    by_split = {SPLIT_NAMES[split]: count for split, count in rows.items()}
    return DatasetExportResult(folder=payload.out, rows=by_split, bytes=size, pushed=pushed)


def _write(
    payload: DatasetExportPayload, source: Path, target: Path, rows: dict[Split, int], reporter: Reporter
) -> None:
    if payload.format == "datasets":
        reporter.progress(0, 1, unit="", message="Writing with datasets")
        with load_version(source, rows) as dataset:
            dataset.save_to_disk(str(target))
        return
    for split in rows:
        file = target / export_path(split, format=payload.format)
        file.parent.mkdir(exist_ok=True)
        if payload.format == "jsonl":
            _write_lines(source, split, file, total=rows[split], reporter=reporter)
        else:
            _copy(source / f"{split}.parquet", file, reporter=reporter)


def _write_lines(source: Path, split: Split, file: Path, *, total: int, reporter: Reporter) -> None:
    with file.open("w", encoding="utf-8") as out:
        for number, row in enumerate(iter_rows(source, split=split)):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            if number % PROGRESS_ROWS == 0:
                reporter.progress(number, total, unit="row", message=f"Writing {file.name}")
                refuse_stopped_export(reporter)


def _copy(source: Path, file: Path, *, reporter: Reporter) -> None:
    size, done = source.stat().st_size, 0
    with source.open("rb") as from_, file.open("wb") as to:
        while chunk := from_.read(CHUNK_BYTES):
            to.write(chunk)
            done += len(chunk)
            reporter.progress(done, size, unit="byte", message=f"Writing {file.name}")
            refuse_stopped_export(reporter)
