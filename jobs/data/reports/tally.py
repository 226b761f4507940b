"""Count tokens, truncated rows, rows without loss and empty rows, and describe an epoch."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.report import (
    Epoch,
    Lengths,
    Packing,
    ReportQuestion,
    RowRef,
    Split,
    SplitReport,
    Trainer,
    ZeroLabelRow,
)
from backend.domain.training.packing import count_sequences, padded_positions
from jobs.batches.base import EpochOrder
from jobs.batches.pretrain import windows_of
from jobs.batches.sft import padded_length, positions_of
from jobs.data.reports.rows import Row, Rows, excerpt, parts_of
from jobs.data.reports.views import EncodedRow

SHOWN = 50
BARS = 40
FAR = 6  # multiple of the 90th percentile; longer rows share one bar
SEED = 1

Array = npt.NDArray[np.int64]


class Tally:
    """Counts of one version. Memory: 8 bytes a row, plus the numbers of rows without loss or text."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._longest: dict[str, array[int]] = {"train": array("i"), "val": array("i")}
        self._kept = array("i")  # of the train split, one entry per trained sequence
        self._counts = {split: dict.fromkeys(SplitReport.model_fields, 0) for split in ("train", "val")}
        self.silent, self.empty, self.refused = array("q"), array("q"), array("q")
        self.silent_rows: list[ZeroLabelRow] = []
        self.empty_rows: list[RowRef] = []
        self.refused_rows: list[RowRef] = []
        self.refusal = ""

    def add(self, split: Split, number: int, row: Row, encoded: EncodedRow) -> None:
        """Count one row."""
        counts = self._counts[split]
        counts["rows"] += 1
        counts["tokens"] += encoded.num_tokens
        counts["kept_tokens"] += sum(encoded.num_kept)
        counts["loss_tokens"] += encoded.loss_tokens
        counts["truncated_rows"] += any(strip.cut_at is not None for strip in encoded.strips)
        counts["lost_tokens"] += encoded.lost_tokens
        self._longest[split].append(encoded.longest)
        if split == "train":
            self._kept.extend(encoded.num_kept)
        if encoded.refusal:
            self._note(self.refused, self.refused_rows, number, row)
            self.refusal = self.refusal or encoded.refusal
        elif encoded.problem:
            counts["zero_label_rows"] += 1
            self.silent.append(number)
            if len(self.silent_rows) < SHOWN:
                ref = self._rows.ref(number, " ".join(parts_of(row)))
                self.silent_rows.append(
                    ZeroLabelRow(split=ref.split, row=ref.row, text=ref.text, reason=encoded.problem)
                )
        if is_empty(row):
            counts["empty_rows"] += 1
            self._note(self.empty, self.empty_rows, number, row)

    def _note(self, numbers: array[int], refs: list[RowRef], number: int, row: Row) -> None:
        numbers.append(number)
        if len(refs) < SHOWN:
            refs.append(self._rows.ref(number, excerpt(" ".join(parts_of(row)))))

    def splits(self) -> dict[str, SplitReport]:
        """Return the numbers of each split that has rows."""
        reports = {}
        for split, counts in self._counts.items():
            if counts["rows"]:
                lengths = summarise(np.array(self._longest[split], dtype=np.int64))
                reports[split] = SplitReport(**{**counts, "lengths": lengths})
        return reports

    def epoch(self, trainer: Trainer, question: ReportQuestion) -> tuple[Epoch, Packing]:
        """Describe one epoch of the train split as the trainer batches it, and its padding."""
        sizes = np.array(self._kept, dtype=np.int64)
        batch = question.micro_batch * question.grad_accum_steps
        if trainer == "pretrain":
            return _windows(sizes, question, batch)
        if trainer == "none" or not len(sizes):
            return Epoch(), Packing()
        if trainer == "sft":
            return _rows(sizes, question, batch)
        return _answers(sizes, question, batch, sides=2 if trainer == "dpo" else 1)


def _rows(sizes: Array, question: ReportQuestion, batch: int) -> tuple[Epoch, Packing]:
    """Rows fill sequences together, laid end to end."""
    _, order = EpochOrder(len(sizes), seed=SEED).take(0, len(sizes))
    positions = padded_positions(sizes[order], batch=question.micro_batch, padded=padded_length)
    lengths = positions_of(sizes)
    packed, real = count_sequences(lengths, question.context), int(lengths.sum())
    packing = Packing(
        trainer=1.0 if packed else None,
        padded=real / positions if positions else None,
        packed=real / (packed * question.context) if packed else None,
        packed_sequences=packed,
        method=(
            f"rows are packed end to end into sequences of {question.context:,}, without padding; with packing off they"
            " are padded"
        ),
    )
    return Epoch(tokens=int(sizes.sum()), sequences=packed, steps=-(-packed // batch)), packing


def _answers(sizes: Array, question: ReportQuestion, batch: int, *, sides: int) -> tuple[Epoch, Packing]:
    """All answers of a micro-batch, of pairs (2 sides) or rated one by one, are padded to the longest of them."""
    longest = sizes.reshape(-1, sides).max(axis=1)
    _, order = EpochOrder(len(longest), seed=SEED).take(0, len(longest))
    positions = sides * padded_positions(longest[order], batch=question.micro_batch, padded=padded_length)
    share, packed = int((sizes - 1).sum()) / positions if positions else None, count_sequences(sizes, question.context)
    packing = Packing(
        trainer=share,
        padded=share,
        packed=int(sizes.sum()) / (packed * question.context),
        packed_sequences=packed,
        method=(
            f"one answer a sequence, padded to the longest of {question.micro_batch}"
            f" {'pairs' if sides == 2 else 'answers'}"
        ),
    )
    return Epoch(tokens=int(sizes.sum()), sequences=len(longest), steps=-(-len(longest) // batch)), packing


def _windows(sizes: Array, question: ReportQuestion, batch: int) -> tuple[Epoch, Packing]:
    """Texts run together and are cut into windows, which are always full."""
    total = int(sizes.sum())
    windows = max(0, windows_of(total, question.context))
    alone = np.minimum(sizes[sizes > 0], question.context)
    positions = padded_positions(alone, batch=question.micro_batch, padded=lambda most: most)
    packed = count_sequences(sizes[sizes > 0], question.context)
    packing = Packing(
        trainer=1.0 if windows else None,
        padded=int(alone.sum()) / positions if positions else None,
        packed=int(alone.sum()) / (packed * question.context) if packed else None,
        packed_sequences=packed,
        method=f"texts follow each other and are cut into windows of {question.context:,}: no position is empty",
    )
    return Epoch(tokens=windows * question.context, sequences=windows, steps=-(-windows // batch)), packing


def summarise(lengths: Array) -> Lengths:
    """Return the distribution of lengths, with at most 41 bars of equal width; the last includes outliers."""
    if not len(lengths):
        return Lengths()
    p50, p90, p99 = (int(value) for value in np.percentile(lengths, [50, 90, 99], method="inverted_cdf"))
    longest = int(lengths.max())
    shown = min(longest, FAR * max(1, p90))
    width = max(1, -(-(shown + 1) // BARS))
    edges = np.arange(0, shown + width + 1, width)
    edges[-1] = max(int(edges[-1]), longest + 1)
    counts, _ = np.histogram(lengths, bins=edges)
    return Lengths(
        mean=float(lengths.mean()),
        min=int(lengths.min()),
        p50=p50,
        p90=p90,
        p99=p99,
        max=int(lengths.max()),
        edges=edges.tolist(),
        counts=counts.tolist(),
    )


def is_empty(row: Mapping[str, Any]) -> bool:
    """Return whether a row has no text, or lacks its answer."""
    if not any(part.strip() for part in parts_of(row)):
        return True
    if isinstance(row.get("messages"), list):
        return not any(_says(message) for message in row["messages"] if message["role"] == "assistant")
    answers = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    return any(
        not (answer.strip() if isinstance(answer, str) else any(_says(message) for message in answer))
        for answer in answers
    )


def _says(message: Mapping[str, Any]) -> bool:
    return bool(str(message.get("content") or "").strip() or message.get("tool_calls"))
