"""A few rows token by token, with their trained tokens: the first, random, longest, truncated, without loss."""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.reports.report import ReportSample, TokenPiece
from backend.domain.json_values import Row
from jobs.batches.base import BatchSizes
from jobs.batches.pretrain import PretrainBatches
from jobs.data.reports.rows import VersionRows
from jobs.data.reports.views import EncodedRow, TokenStrip, View
from jobs.modeling.tokenizers import label_tokens

FIRST, RANDOM, LONGEST, TRUNCATED, SILENT = 3, 6, 3, 3, 5
SHOWN_TOKENS = 2400
BEFORE = 200  # tokens of a shortened prompt shown before the first trained one
SEED = 1


class SampleChooser:
    """Samples a few rows of a stream."""

    def __init__(self) -> None:
        self._draw = random.Random(SEED)
        self._first: list[tuple[int, Row]] = []
        self._random: list[tuple[int, Row]] = []
        self._longest: list[tuple[int, int, Row]] = []
        self._truncated: list[tuple[int, Row]] = []
        self._silent: list[tuple[int, Row]] = []
        self._passed = 0

    def offer(self, number: int, row: Row, encoded: EncodedRow) -> None:
        """Process a row."""
        self._passed += 1
        if len(self._first) < FIRST:
            self._first.append((number, row))
        elif len(self._random) < RANDOM:
            self._random.append((number, row))
        elif (place := self._draw.randrange(self._passed - FIRST)) < RANDOM:  # reservoir sampling
            self._random[place] = (number, row)
        entry = (encoded.longest, -number, row)
        if len(self._longest) < LONGEST:
            heapq.heappush(self._longest, entry)
        elif entry[:2] > self._longest[0][:2]:
            heapq.heapreplace(self._longest, entry)
        if len(self._truncated) < TRUNCATED and any(strip.cut_at is not None for strip in encoded.strips):
            self._truncated.append((number, row))
        if len(self._silent) < SILENT and encoded.problem:
            self._silent.append((number, row))

    def samples(self, rows: VersionRows, view: View, tokenizer: PreTrainedTokenizerBase) -> list[ReportSample]:
        """Return the sampled rows."""
        groups = (
            ("first", self._first),
            ("random", sorted(self._random, key=lambda entry: entry[0])),
            (
                "longest",
                [(-minus, row) for _, minus, row in sorted(self._longest, key=lambda entry: (-entry[0], -entry[1]))],
            ),
            ("truncated", self._truncated),
            ("zero-label", self._silent),
        )
        chosen = {number: row for _, entries in groups for number, row in entries}
        encoded_rows = dict(zip(chosen, view.encode(list(chosen.values())), strict=True))
        shown = []
        for group, entries in groups:
            for number, _ in entries:
                encoded, (split, place) = encoded_rows[number], rows.place(number)
                shown.append(
                    ReportSample.model_validate(
                        {
                            "group": group,
                            "split": split,
                            "row": place + 1,
                            "num_tokens": encoded.num_tokens,
                            "loss_tokens": encoded.loss_tokens,
                            "note": encoded.problem or encoded.refusal,
                            "pieces": [piece for strip in encoded.strips for piece in strip_pieces(strip, tokenizer)],
                        }
                    )
                )
        return shown


def first_window(head: Sequence[int], *, context: int, tokenizer: PreTrainedTokenizerBase) -> ReportSample | None:
    """Return the first pretraining window of these tokens, cut by the trainer's code."""
    if len(head) < 2 * context + 1:
        return None
    tokens = np.asarray(head[: 2 * context + 1], dtype=np.uint32)
    sizes = BatchSizes(micro_batch=1, items_per_step=1, val_items=1, seed=SEED)
    batch = PretrainBatches(tokens, None, context=context, sizes=sizes).at_step(1)[0]
    ids = [int(batch.inputs[0, 0]), *batch.targets[0].tolist()]
    pieces = strip_pieces(TokenStrip(ids, [False, *[True] * context]), tokenizer)
    return ReportSample(group="window", num_tokens=len(ids), loss_tokens=batch.trained, pieces=pieces)


def strip_pieces(strip: TokenStrip, tokenizer: PreTrainedTokenizerBase) -> list[TokenPiece]:
    """Return a strip as tokens to draw: of a long one its beginning and, if later, that of its trained tokens."""
    total = len(strip.ids)
    if total <= SHOWN_TOKENS:
        return [_piece(strip, 0, total, tokenizer, left_out=0)]
    begin = next((place for place, trained in enumerate(strip.trained) if trained), 0)
    half = SHOWN_TOKENS // 2
    if begin < SHOWN_TOKENS - BEFORE:
        return [_piece(strip, 0, SHOWN_TOKENS, tokenizer, left_out=total - SHOWN_TOKENS)]
    second = begin - BEFORE
    end = min(total, second + half)
    return [
        _piece(strip, 0, half, tokenizer, left_out=second - half),
        _piece(strip, second, end, tokenizer, left_out=total - end),
    ]


def _piece(strip: TokenStrip, begin: int, end: int, tokenizer: PreTrainedTokenizerBase, *, left_out: int) -> TokenPiece:
    ids = strip.ids[begin:end]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    cut = strip.cut_at
    return TokenPiece(
        label=strip.label,
        tokens=label_tokens(tokenizer, ids),
        ids=ids,
        trained=strip.trained[begin:end],
        special=[index in special for index in ids],
        cut_at=cut - begin if cut is not None and begin <= cut < end else None,
        left_out=left_out,
    )
