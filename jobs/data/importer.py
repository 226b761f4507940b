"""Import a dataset: recognise, convert, reject with reasons, split, hash, publish. Memory is bounded, whatever the file's size."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from backend.domain.recognise_rows import recognise
from backend.domain.row_problem import RowProblem
from backend.domain.row_readers import NumberedRow
from backend.domain.rows import DatasetKind, apply_mapping, canonical_json, check_mapping
from backend.errors import InvalidInput, JobFailed
from jobs.data.readers import RowSource
from jobs.data.splitting import MIN_DOCUMENTS, cut_text, exact_val_rows, hash_fraction
from jobs.data.writing import DatasetWriter, publish, temporary_folder
from jobs.reporter import Reporter

SAMPLE_ROWS = 50
SHOWN_REJECTED = 200
HELD_ROWS, HELD_CHARACTERS = 1000, 64 * 2**20  # below this a dataset is small, and its split exact
REPORT_EVERY_S = 0.5
NO_SPLIT = frozenset({DatasetKind.BENCHMARK, DatasetKind.PROMPTS})
FORMAT_VERSION = 1


@dataclass(frozen=True)
class ImportResult:
    """What an import made.

    `rejected` holds the first 200 rows that could not be used, as {"row", "reason"}. `bytes` is the size on disk, `text_bytes` that of
    the text. When texts were cut for validation (fewer than ten of them), a text counts in `train_rows` and in `val_rows`.
    """

    kind: str
    mapping: dict[str, str]
    rows: int
    train_rows: int
    val_rows: int
    rejected_count: int
    rejected: list[dict[str, Any]]
    content_hash: str
    folder: Path
    bytes: int
    text_bytes: int
    columns: list[str]
    unigram_byte_entropy_bits: float
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the folder as text."""
        return {**asdict(self), "folder": str(self.folder)}


def import_dataset(
    source: Path,
    *,
    out_root: Path,
    reporter: Reporter,
    kind: str | None = None,
    mapping: Mapping[str, str] | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    keep_good: bool = True,
    encoding: str | None = None,
) -> ImportResult:
    """Import a file, a folder or a zip into `<out_root>/<first 16 of the content hash>/`.

    `kind` and `mapping` (source column -> field, see backend.domain.rows) are recognised when left out. The same content, kind and
    split give the same folder. With `keep_good` bad rows are left out and listed, with their raw beginning, in `rejected.jsonl`; without it the
    first ends the import. `encoding` names how text is encoded where it is not UTF-8 (a mark at the beginning tells UTF-16). Raises InvalidInput
    if the source, the kind or the mapping can't be used or no row is good, NotFound if the source is missing, JobFailed when stopped on request.
    """
    wanted = _checked_kind(kind)
    if not 0 <= val_fraction < 1:
        raise InvalidInput(f"val_fraction is {val_fraction}; give a share from 0 to below 1.", field="val_fraction")
    rows = RowSource(source, lines_are_prompts=wanted is DatasetKind.PROMPTS)
    numbered = iter(rows)
    head = list(_head(numbered))
    sample = [row for _, row in head if isinstance(row, dict)]
    columns = list(dict.fromkeys(str(column) for row in sample for column in row))
    if not sample:
        raise _nothing_usable(source.name, [_shown(number, row) for number, row in head if isinstance(row, RowProblem)])
    final_kind, final_mapping, reason = _decide(sample, kind=wanted, mapping=mapping)
    reporter.log(f"Reading {source.name} as {final_kind}: {reason}.")
    with temporary_folder(out_root) as folder:
        writer = DatasetWriter(folder, kind=final_kind)
        rejected: list[dict[str, Any]] = []
        writer.note(f"{FORMAT_VERSION} {final_kind} {val_fraction:.6f} {seed}")
        good = _convert(itertools.chain(head, numbered), kind=final_kind, mapping=final_mapping, writer=writer, rejected=rejected)
        _split_and_write(_reported(good, source=rows, reporter=reporter), writer, kind=final_kind, val_fraction=val_fraction, seed=seed)
        writer.close()
        if writer.count("train") == 0:
            raise _nothing_usable(source.name, rejected)
        result = ImportResult(
            kind=final_kind.value,
            mapping=dict(final_mapping),
            rows=writer.num_rows,
            train_rows=writer.count("train"),
            val_rows=writer.count("val"),
            rejected_count=writer.rejected_count,
            rejected=rejected,
            content_hash=writer.content_hash,
            folder=out_root / writer.content_hash[:16],
            bytes=sum(file.stat().st_size for file in folder.iterdir()),
            text_bytes=writer.text_bytes,
            columns=columns,
            unigram_byte_entropy_bits=writer.byte_entropy_bits(),
            reason=reason,
        )
        meta = {**result.as_dict(), "folder": result.folder.name, "val_fraction": val_fraction, "seed": seed, "format": FORMAT_VERSION}
        (folder / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        fresh = publish(folder, target=result.folder)
    reporter.log(_summary(result, fresh=fresh))
    return replace(result, bytes=sum(file.stat().st_size for file in result.folder.iterdir()))


def _checked_kind(kind: str | None) -> DatasetKind | None:
    if kind is None:
        return None
    try:
        return DatasetKind(kind)
    except ValueError:
        known = ", ".join(known.value for known in DatasetKind)
        raise InvalidInput(f"There is no dataset kind {kind!r}.", remedy=f"Choose one of {known}.", field="kind") from None


def _head(numbered: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    """Take rows until there are enough good ones to recognise, or too many bad ones."""
    good = size = 0
    for number, row in itertools.islice(numbered, 20 * SAMPLE_ROWS):
        yield number, row
        good += isinstance(row, dict)
        size += len(str(row))
        if good >= SAMPLE_ROWS or size > HELD_CHARACTERS:
            return


def _decide(
    sample: list[dict[str, Any]], *, kind: DatasetKind | None, mapping: Mapping[str, str] | None
) -> tuple[DatasetKind, dict[str, str], str]:
    if mapping:
        final = kind or recognise(sample).kind
        check_mapping(final, mapping)
        return final, dict(mapping), "columns mapped by hand"
    recognition = recognise(sample, kind=kind)
    return recognition.kind, recognition.mapping, recognition.reason


def _convert(
    numbered: Iterable[NumberedRow], *, kind: DatasetKind, mapping: Mapping[str, str], writer: DatasetWriter, rejected: list[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield canonical rows; note the others with their place and reason."""
    for number, row in numbered:
        try:
            if isinstance(row, RowProblem):
                raise row
            yield apply_mapping(row, kind=kind, mapping=mapping)
        except RowProblem as problem:
            writer.reject(number, problem=problem)
            if len(rejected) < SHOWN_REJECTED:
                rejected.append(_shown(number, problem))


def _shown(number: int, problem: RowProblem) -> dict[str, Any]:
    return {"row": number, "reason": problem.reason}


def _reported(rows: Iterable[dict[str, Any]], *, source: RowSource, reporter: Reporter) -> Iterator[dict[str, Any]]:
    """Pass rows on, saying twice a second how far the reading is. Raises JobFailed when asked to stop."""
    last = time.monotonic()
    unit = "row" if source.suffix == ".parquet" else "byte"
    for count, row in enumerate(rows, start=1):
        yield row
        if count % 64 == 0 and time.monotonic() - last > REPORT_EVERY_S:
            last = time.monotonic()
            reporter.progress(source.position, source.size, unit=unit, message=f"{count} rows read")
            if reporter.should_stop():
                raise JobFailed("The import was stopped on request.", remedy="Nothing was kept; import again when you want to.")
    reporter.progress(source.size, source.size, unit=unit, message="all rows read")


def _split_and_write(rows: Iterator[dict[str, Any]], writer: DatasetWriter, *, kind: DatasetKind, val_fraction: float, seed: int) -> None:
    """Send every row to its side. Small datasets are held until the end, so that their split can be exact."""
    held: list[tuple[str, dict[str, Any]]] = []
    size = 0
    is_small = True
    for row in rows:
        row_json = canonical_json(row)
        writer.note_row(row_json)
        if kind in NO_SPLIT:
            writer.add(row, split="train")
            continue
        if is_small:
            held.append((row_json, row))
            size += len(row_json)
            is_small = len(held) <= HELD_ROWS and (size <= HELD_CHARACTERS or _is_few_texts(held, kind=kind))
            if not is_small:
                for old_json, old in held:
                    _add_by_hash(old, writer, row_json=old_json, val_fraction=val_fraction, seed=seed)
                held.clear()
            continue
        _add_by_hash(row, writer, row_json=row_json, val_fraction=val_fraction, seed=seed)
    if _is_few_texts(held, kind=kind):
        _cut_and_write([row["text"] for _, row in held], writer, val_fraction=val_fraction)
        return
    for_val = exact_val_rows([row_json for row_json, _ in held], seed=seed, val_fraction=val_fraction)
    for row_json, row in held:
        writer.add(row, split="val" if row_json in for_val else "train")


def _is_few_texts(held: list[tuple[str, dict[str, Any]]], *, kind: DatasetKind) -> bool:
    return kind is DatasetKind.TEXT and len(held) < MIN_DOCUMENTS


def _add_by_hash(row: dict[str, Any], writer: DatasetWriter, *, row_json: str, val_fraction: float, seed: int) -> None:
    writer.add(row, split="val" if hash_fraction(row_json, seed=seed) < val_fraction else "train")


def _cut_and_write(texts: list[str], writer: DatasetWriter, *, val_fraction: float) -> None:
    for text in dict.fromkeys(texts):  # a second copy would put the validation part of the first into training
        head, tail = cut_text(text, val_fraction=val_fraction)
        writer.add({"text": head}, split="train")
        if tail:
            writer.add({"text": tail}, split="val")


def _nothing_usable(name: str, rejected: list[dict[str, Any]]) -> InvalidInput:
    if not rejected:
        return InvalidInput(f"The file {name!r} holds no rows.", field="source")
    reasons = "; ".join(f"row {item['row']}: {item['reason']}" for item in rejected[:3])
    return InvalidInput(
        f"No row of {name!r} can be used. {reasons}.", remedy="Check the kind and which column is mapped to which field.", field="mapping"
    )


def _summary(result: ImportResult, *, fresh: bool) -> str:
    known = "" if fresh else " The same content was there already."
    return (
        f"{result.rows} rows: {result.train_rows} for training, {result.val_rows} for validation, {result.rejected_count} rejected.{known}"
    )
