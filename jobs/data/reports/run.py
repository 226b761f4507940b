"""The job of a data report: rows as the trainer will see them, and their problems."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.languages import language_name
from backend.domain.data.reports.report import ROW_TOKENS, DataReport, Language, ReportQuestion
from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.jobs.reports import DataReportPayload
from backend.domain.jobs.results import DataReportResult
from backend.domain.wording import format_bytes
from backend.errors import InvalidInput, JobFailed
from backend.infra.processes import peak_memory_bytes
from jobs.batches.pretrain import encode_documents
from jobs.data.reports.duplicates import (
    DuplicateFinder,
    SimilarRows,
    describe_duplicates,
    describe_leakage,
    rows_to_drop,
)
from jobs.data.reports.overlaps import FaultCounter, ForgeryCounter, OverlapFinder, PromptFinder, read_benchmark_items
from jobs.data.reports.row_arrays import BLOCK, Numbers, RowArray
from jobs.data.reports.rows import RowBatch, VersionRows
from jobs.data.reports.tally import ReportTally
from jobs.data.reports.views import EncodedRow, SampleChooser, View, first_window, make_view
from jobs.modeling.languages import LanguageGuesser
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import byte_tokenizer
from jobs.reporter import JobSpec, Reporter

REPORT_EVERY_S = 0.5
ENCODED_AHEAD = 2  # batches
COMPARING = 0.2  # share of the progress bar for the comparison of near duplicates


def run(spec: JobSpec[DataReportPayload], reporter: Reporter) -> DataReportResult:
    """Read the version's rows once, compare likely duplicates, and write the report to `out`.

    Payload: `dataset`, `dataset_kind`, `tokenizer` (a tokenizer's or checkpoint's folder, None for plain bytes),
    `tokenizer_name`, `question`, `benchmarks` ([{name, folder}]), `out`. Returns `{"folder"}`, which holds
    `report.json`, `samples.json` and `rows.json` (the rows that could be dropped, by reason, counted from 0 in each
    split).
    """
    payload = spec.payload
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    started = time.monotonic()
    tokenizer = load_tokenizer(spec.path(payload.tokenizer)) if payload.tokenizer else byte_tokenizer()
    work = spec.folder / "near"
    try:
        with closing(
            ReportBuilder(
                VersionRows(spec.path(payload.dataset)),
                kind=payload.dataset_kind,
                question=payload.question,
                tokenizer=tokenizer,
                benchmarks=[(entry.name, spec.path(entry.folder)) for entry in payload.benchmarks],
                folder=work,
                reporter=reporter,
            )
        ) as builder:
            builder.read()
            alike = builder.compare()
            out = spec.path(payload.out)
            out.mkdir(parents=True, exist_ok=True)
            droppable = builder.rows_to_drop(alike)
            counts = {reason: sum(map(len, by_split.values())) for reason, by_split in droppable.items()}
            report = builder.report(alike, payload, droppable=counts, seconds=time.monotonic() - started)
            _write(out / "samples.json", [sample.model_dump() for sample in builder.samples()])
            _write_rows(out / "rows.json", droppable)
            _write(out / "report.json", report.model_dump())
            builder.keep_tokens(out / ROW_TOKENS)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    reporter.log(
        f"Read {builder.rows.total:,} rows in {report.seconds:.1f} s, at most {format_bytes(report.peak_memory_bytes)}"
        " of memory."
    )
    return DataReportResult(folder=payload.out)


class ReportBuilder:
    """A report in progress: passes every row once to every finder, whose files are in `folder`."""

    def __init__(
        self,
        rows: VersionRows,
        *,
        kind: str,
        question: ReportQuestion,
        tokenizer: PreTrainedTokenizerBase,
        benchmarks: list[tuple[str, Path]],
        folder: Path,
        reporter: Reporter,
    ) -> None:
        if not rows.total:
            raise InvalidInput("The dataset has no rows.", field="dataset")
        self.rows, self._kind, self._question, self._tokenizer, self._reporter = (
            rows,
            kind,
            question,
            tokenizer,
            reporter,
        )
        self._view: View = make_view(kind, tokenizer=tokenizer, context=question.context)
        self._folder = folder
        self._duplicates, self._prompts, self._tally = (
            DuplicateFinder(folder),
            PromptFinder(folder),
            ReportTally(rows, folder),
        )
        self._chooser = SampleChooser()
        self._languages, self._faults = LanguageCounter(rows.total), FaultCounter()
        self._overlaps = OverlapFinder(read_benchmark_items(benchmarks))
        self._forgeries = ForgeryCounter(tokenizer, renders=kind != DatasetKind.TEXT)
        self._head: list[int] = []  # the first tokens of a text, for the first window
        self._tokens = RowArray(folder / ROW_TOKENS, np.int32)
        self._last_report = 0.0

    def close(self) -> None:
        """Close the files."""
        for finder in (self._duplicates, self._prompts, self._tally, self._tokens):
            finder.close()

    def keep_tokens(self, file: Path) -> None:
        """Keep the tokens of each row, four bytes each, by which the page of rows sorts."""
        self._tokens.close()
        shutil.copyfile(self._folder / ROW_TOKENS, file)

    def read(self) -> None:
        """Read all rows once. Raises JobFailed on a stop request."""
        for batch, encoded in self._encoded():
            self._consider(batch, encoded)
            self._tell(
                (1 - COMPARING) * (batch.first + len(batch.rows)) / self.rows.total,
                f"{batch.first + len(batch.rows):,} rows read",
            )

    def _encoded(self) -> Iterator[tuple[RowBatch, list[EncodedRow]]]:
        """Yield all rows with their tokens. A thread encodes the next batches, on all cores, while one is processed."""
        waiting: deque[tuple[RowBatch, Future[list[EncodedRow]]]] = deque()
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode") as pool:
            for batch in self.rows.batches():
                waiting.append((batch, pool.submit(self._view.encode, batch.rows)))
                if len(waiting) > ENCODED_AHEAD:
                    first, encoded = waiting.popleft()
                    yield first, encoded.result()
            for last, encoded in waiting:
                yield last, encoded.result()

    def _consider(self, batch: RowBatch, encoded_rows: list[EncodedRow]) -> None:
        texts = [row_text(row) for row in batch.rows]
        self._duplicates.add([canonical_json(row) for row in batch.rows], texts)
        self._overlaps.add(batch, self.rows)
        self._prompts.add(batch)
        self._tokens.append([encoded.num_tokens for encoded in encoded_rows])
        for place, (row, encoded) in enumerate(zip(batch.rows, encoded_rows, strict=True)):
            number = batch.first + place
            self._tally.add(batch.split, number, row, texts[place], encoded)
            self._chooser.offer(number, row, encoded)
            self._languages.add(number, texts[place])
            self._faults.add(number, row, self.rows)
            self._forgeries.add(number, row, self.rows)
            if (
                self._view.trainer == "pretrain"
                and batch.split == "train"
                and len(self._head) <= 2 * self._question.context
            ):
                self._head += encoded.strips[0].ids[: 2 * self._question.context + 1]

    def compare(self) -> SimilarRows:
        """Find equal and nearly equal rows."""

        def read(numbers: Numbers) -> Iterator[tuple[int, str]]:
            for number, row in self.rows.stream(numbers):
                yield number, row_text(row)
                share = number / self.rows.total
                self._tell(1 - COMPARING + COMPARING * (0.5 + 0.25 * share), "Comparing rows that look alike")

        def tick(share: float) -> None:
            self._tell(1 - COMPARING + COMPARING * share, "Comparing rows that look alike")

        return self._duplicates.finish(num_train=self.rows.num_train, read=read, tick=tick)

    def _tell(self, share: float, message: str) -> None:
        now = time.monotonic()
        if now - self._last_report >= REPORT_EVERY_S:
            self._last_report = now
            self._reporter.progress(round(share * self.rows.total), self.rows.total, unit="row", message=message)
            if self._reporter.should_stop():
                raise JobFailed("The report was stopped on request.", remedy="Run it again to retry.")

    def report(
        self, alike: SimilarRows, payload: DataReportPayload, *, droppable: dict[str, int], seconds: float
    ) -> DataReport:
        """Return the report."""
        tally = self._tally
        epoch, packing = tally.epoch(self._view.trainer, self._question)
        languages, looked_at = self._languages.languages()
        benchmarks = self._overlaps.checked()
        return DataReport(
            kind=self._kind,
            trainer=self._view.trainer,
            tokenizer=payload.tokenizer_name,
            own_bytes_per_token=payload.bytes_per_token,
            added_per_row=len(encode_documents(self._tokenizer, [{"text": ""}])[0]),
            question=self._question,
            splits=tally.splits(),
            epoch=epoch,
            packing=packing,
            zero_label=tally.silent_rows,
            empty=tally.empty_rows,
            duplicates=describe_duplicates(alike, self.rows, folder=self._folder),
            leakage=describe_leakage(alike, self.rows, same_prompt=self._prompts.shared()),
            contamination=self._overlaps.shown,
            contaminated_rows=self._overlaps.rows.count,
            contaminated_items=sum(benchmark.found for benchmark in benchmarks),
            benchmarks=benchmarks,
            languages=languages,
            languages_of=looked_at,
            faults=self._faults.faults(),
            refused=tally.refused_rows,
            refused_rows=tally.refused.count,
            refusal=tally.refusal,
            forged=self._forgeries.shown,
            forged_rows=self._forgeries.rows.count,
            droppable=droppable,
            seconds=seconds,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def samples(self) -> Iterator[Any]:
        """Yield the rows to show."""
        window = (
            first_window(self._head, context=self._question.context, tokenizer=self._tokenizer) if self._head else None
        )
        if window is not None:
            yield window
        yield from self._chooser.samples(self.rows, self._view, self._tokenizer)

    def rows_to_drop(self, alike: SimilarRows) -> dict[str, dict[str, Numbers]]:
        """Return the rows that each finding would drop."""
        return rows_to_drop(
            alike,
            self.rows,
            {
                "zero_label": self._tally.silent,
                "empty": self._tally.empty,
                "refused": self._tally.refused,
                "contamination": self._overlaps.rows,
                "forged": self._forgeries.rows,
            },
            folder=self._folder,
        )


def _write(path: Path, data: Any) -> None:
    path.write_text(
        json.dumps(data, ensure_ascii=False, separators=(",", ":")), encoding="utf-8", errors="backslashreplace"
    )


def _write_rows(path: Path, droppable: Mapping[str, Mapping[str, Numbers]]) -> None:
    """Write lists of rows a few thousand at a time: as Python's numbers a million take 40 MB."""
    with path.open("w", encoding="utf-8") as out:
        for place, (reason, by_split) in enumerate(droppable.items()):
            out.write(f'{"," if place else "{"}"{reason}":{{')
            for split_place, (split, numbers) in enumerate(by_split.items()):
                out.write(f'{"," if split_place else ""}"{split}":[')
                for at in range(0, len(numbers), BLOCK):
                    out.write(("," if at else "") + ",".join(map(str, numbers[at : at + BLOCK].tolist())))
                out.write("]")
            out.write("}")
        out.write("}")


LOOKED_AT = 10_000


class LanguageCounter:
    """Guesses the language of at most 10,000 evenly spaced rows."""

    def __init__(self, num_rows: int) -> None:
        self._every = max(1, -(-num_rows // LOOKED_AT))
        self._found: Counter[str] = Counter()
        self._guesser = LanguageGuesser()

    def add(self, number: int, text: str) -> None:
        """Process a row."""
        if number % self._every == 0:
            self._found[self._guesser.guess(text)] += 1

    def languages(self) -> tuple[list[Language], int]:
        """Return the languages, the most frequent first, and the number of sampled rows."""
        total = sum(self._found.values())
        return [
            Language(code=code, name=language_name(code), rows=count, share=count / total)
            for code, count in self._found.most_common()
        ], total
