"""Count tokens, truncated rows, rows without loss and empty rows, and describe an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.domain.data.reports.report import (
    Epoch,
    Lengths,
    Packing,
    ReportQuestion,
    RowRef,
    SplitReport,
    Trainer,
    ZeroLabelRow,
)
from backend.domain.data.splits import SPLITS, Split
from backend.domain.json_values import Row
from backend.domain.training.packing import count_sequences, padded_positions
from jobs.batches.base import EpochOrder
from jobs.batches.pretrain import windows_of
from jobs.batches.sft import padded_length, positions_of
from jobs.data.reports.row_arrays import RowArray, RowList
from jobs.data.reports.rows import VersionRows, excerpt, parts_of
from jobs.data.reports.views import EncodedRow

SHOWN = 50
BARS = 40
FAR = 6  # multiple of the 90th percentile; longer rows share one bar
SEED = 1
PENDING = 4096
PADDED_ITEMS = 1 << 20

Array = npt.NDArray[np.int64]


class ReportTally:
    """Counts of one version. A file in `folder` holds the lengths of trained sequences.

    Memory: a counter entry for each different length, and the first million rows of each finding.
    """

    def __init__(self, rows: VersionRows, folder: Path) -> None:
        self._rows = rows
        self._longest: dict[str, Counter[int]] = {"train": Counter(), "val": Counter()}
        self._kept = RowArray(folder / "kept", np.int32)  # train split; one entry per trained sequence
        self._kept_counts: Counter[int] = Counter()
        self._pending: list[int] = []
        self._counts = {split: dict.fromkeys(SplitReport.model_fields, 0) for split in SPLITS}
        self.silent, self.empty, self.refused = RowList(), RowList(), RowList()
        self.silent_rows: list[ZeroLabelRow] = []
        self.empty_rows: list[RowRef] = []
        self.refused_rows: list[RowRef] = []
        self.refusal = ""

    def close(self) -> None:
        """Close the file of lengths."""
        self._kept.close()

    def add(self, split: Split, number: int, row: Row, text: str, encoded: EncodedRow) -> None:
        """Count one row, of which `text` is all text."""
        counts = self._counts[split]
        counts["rows"] += 1
        counts["text_bytes"] += len(text.encode("utf-8", "surrogatepass"))
        counts["tokens"] += encoded.num_tokens
        counts["kept_tokens"] += sum(encoded.num_kept)
        counts["loss_tokens"] += encoded.loss_tokens
        counts["truncated_rows"] += any(strip.cut_at is not None for strip in encoded.strips)
        counts["lost_tokens"] += encoded.lost_tokens
        self._longest[split][encoded.longest] += 1
        if split == "train":
            self._pending += encoded.num_kept
            if len(self._pending) >= PENDING:
                self._store()
        if encoded.refusal:
            self._note(self.refused, self.refused_rows, number, row)
            self.refusal = self.refusal or encoded.refusal
        elif encoded.problem:
            counts["zero_label_rows"] += 1
            self.silent.add(number)
            if len(self.silent_rows) < SHOWN:
                ref = self._rows.ref(number, " ".join(parts_of(row)))
                self.silent_rows.append(
                    ZeroLabelRow(split=ref.split, row=ref.row, text=ref.text, reason=encoded.problem)
                )
        if is_empty(row):
            counts["empty_rows"] += 1
            self._note(self.empty, self.empty_rows, number, row)

    def _store(self) -> None:
        self._kept.append(self._pending)
        self._kept_counts.update(self._pending)
        self._pending = []

    def _note(self, numbers: RowList, refs: list[RowRef], number: int, row: Row) -> None:
        numbers.add(number)
        if len(refs) < SHOWN:
            refs.append(self._rows.ref(number, excerpt(" ".join(parts_of(row)))))

    def splits(self) -> dict[str, SplitReport]:
        """Return the numbers of each split that has rows."""
        reports: dict[str, SplitReport] = {}
        for split, counts in self._counts.items():
            if counts["rows"]:
                lengths = summarise_lengths(*_table(self._longest[split]))
                reports[split] = SplitReport(**{**counts, "lengths": lengths})
        return reports

    def epoch(self, trainer: Trainer, question: ReportQuestion) -> tuple[Epoch, Packing]:
        """Describe one epoch of the train split as the trainer batches it, and its padding."""
        self._store()
        batch = question.micro_batch * question.grad_accum_steps
        if trainer == "pretrain":
            return self._windows(question, batch)
        if trainer == "none" or not len(self._kept):
            return Epoch(), Packing()
        if trainer == "sft":
            return self._conversations(question, batch)
        return self._answers(question, batch, sides=2 if trainer == "dpo" else 1)

    def _conversations(self, question: ReportQuestion, batch: int) -> tuple[Epoch, Packing]:
        """Rows fill sequences together, laid end to end."""
        sizes, counts = _table(self._kept_counts)
        lengths = positions_of(sizes)
        packed, real = count_sequences(lengths, question.context, counts=counts), int(lengths @ counts)
        padded, note = self._padded_share(question, sides=1)
        packing = Packing(
            trainer=1.0 if packed else None,
            padded=padded,
            packed=real / (packed * question.context) if packed else None,
            packed_sequences=packed,
            method=(
                f"rows are packed end to end into sequences of {question.context:,}, without padding; with packing off"
                f" they are padded{note}"
            ),
        )
        return Epoch(tokens=int(sizes @ counts), sequences=packed, steps=-(-packed // batch)), packing

    def _answers(self, question: ReportQuestion, batch: int, *, sides: int) -> tuple[Epoch, Packing]:
        """All answers of a micro-batch, of pairs (2 sides) or rated one by one, are padded to the longest of them."""
        sizes, counts = _table(self._kept_counts)
        sequences, tokens = len(self._kept) // sides, int(sizes @ counts)
        packed = count_sequences(sizes, question.context, counts=counts)
        padded, note = self._padded_share(question, sides=sides)
        packing = Packing(
            trainer=padded,
            padded=padded,
            packed=tokens / (packed * question.context),
            packed_sequences=packed,
            method=(
                f"one answer a sequence, padded to the longest of {question.micro_batch}"
                f" {'pairs' if sides == 2 else 'answers'}{note}"
            ),
        )
        return Epoch(tokens=tokens, sequences=sequences, steps=-(-sequences // batch)), packing

    def _windows(self, question: ReportQuestion, batch: int) -> tuple[Epoch, Packing]:
        """Texts run together and are cut into windows, which are always full."""
        sizes, counts = _table(self._kept_counts)
        windows = max(0, windows_of(int(sizes @ counts), question.context))
        real, positions = int(np.minimum(sizes, question.context) @ counts), 0
        alone = np.empty(0, dtype=np.int64)
        for _, block in self._kept.blocks():
            alone = np.concatenate([alone, np.minimum(block[block > 0], question.context)])
            aligned = len(alone) - len(alone) % question.micro_batch
            positions += padded_positions(alone[:aligned], batch=question.micro_batch, padded=lambda most: most)
            alone = alone[aligned:]
        positions += padded_positions(alone, batch=question.micro_batch, padded=lambda most: most)
        packed = count_sequences(sizes, question.context, counts=counts)
        packing = Packing(
            trainer=1.0 if windows else None,
            padded=real / positions if positions else None,
            packed=real / (packed * question.context) if packed else None,
            packed_sequences=packed,
            method=f"texts follow each other and are cut into windows of {question.context:,}: no position is empty",
        )
        return Epoch(tokens=windows * question.context, sequences=windows, steps=-(-windows // batch)), packing

    def _padded_share(self, question: ReportQuestion, *, sides: int) -> tuple[float | None, str]:
        """Return the share of positions that hold tokens when the items of a micro-batch are padded to their longest.

        Up to 2^20 items come in the order of the first epoch. Of more, that many are drawn; the words returned say so,
        with the error.
        """
        num_items = len(self._kept) // sides
        if num_items <= PADDED_ITEMS:
            _, items = EpochOrder(num_items, seed=SEED).take(0, num_items)
        else:
            items = np.random.default_rng(SEED).integers(0, num_items, PADDED_ITEMS)
        sizes = np.stack([self._kept.take(sides * items + side) for side in range(sides)], axis=1).astype(np.int64)
        longest, real = sizes.max(axis=1), positions_of(sizes).sum(axis=1)
        positions = sides * padded_positions(longest, batch=question.micro_batch, padded=padded_length)
        share = int(real.sum()) / positions if positions else None
        if num_items <= PADDED_ITEMS or share is None:
            return share, ""
        firsts = np.arange(0, len(items), question.micro_batch)
        widths = np.diff(firsts, append=len(items)) * sides
        each = widths * np.array([padded_length(int(most)) for most in np.maximum.reduceat(longest, firsts)])
        error = 1.96 * float(np.sqrt(((np.add.reduceat(real, firsts) - share * each) ** 2).sum())) / positions
        return share, f"; padding is that of {PADDED_ITEMS:,} drawn at random (± {100 * error:.2f} %)"


def _table(counts: Counter[int]) -> tuple[Array, Array]:
    """Return the different lengths, ascending, and the number of each."""
    lengths = np.array(sorted(counts), dtype=np.int64)
    return lengths, np.array([counts[length] for length in lengths.tolist()], dtype=np.int64)


def summarise_lengths(lengths: Array, counts: Array) -> Lengths:
    """Return the distribution of lengths, with at most 41 bars of equal width; the last includes outliers.

    `counts` are the rows of each length; lengths ascend.
    """
    if not len(lengths):
        return Lengths()
    total, below = int(counts.sum()), np.cumsum(counts)
    p90, p99 = (int(lengths[np.searchsorted(100 * below, share * total)]) for share in (90, 99))
    low, high = lengths[np.searchsorted(below, [(total + 1) // 2, total // 2 + 1])].tolist()
    longest = int(lengths[-1])
    shown = min(longest, FAR * max(1, p90))
    width = max(1, -(-(shown + 1) // BARS))
    edges = np.arange(0, shown + width + 1, width)
    edges[-1] = max(int(edges[-1]), longest + 1)
    bars, _ = np.histogram(lengths, bins=edges, weights=counts)
    return Lengths(
        mean=int(lengths @ counts) / total,
        min=int(lengths[0]),
        p50=(low + high + 1) // 2,  # of an even number the mean of the two in the middle
        p90=p90,
        p99=p99,
        max=longest,
        edges=edges.tolist(),
        counts=bars.astype(np.int64).tolist(),
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
