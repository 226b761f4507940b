"""Encode rows as the trainer does: its own code renders, tokenises, masks and truncates them, for each kind. And choose
a few to show token by token: the first, random, longest, truncated, without loss.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.reports.report import ReportSample, TokenPiece, Trainer
from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.tool_calls import tools_of
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE, BatchSizes
from jobs.batches.preference import EncodedSide, encode_preferences, encode_rated, read_preference
from jobs.batches.pretrain import PretrainBatches, encode_documents
from jobs.batches.sft import Example, encode_row
from jobs.data.reports.rows import VersionRows
from jobs.modeling.chat import encode_prompt, teach_template
from jobs.modeling.tokenizers import encode_texts, label_tokens


@dataclass(frozen=True)
class TokenStrip:
    """Token ids of the network's input, with a mask of the trained ones. Those from `cut_at` on are truncated."""

    ids: list[int]
    trained: list[bool]
    cut_at: int | None = None
    label: str = ""


@dataclass(frozen=True)
class EncodedRow:
    """A row as the trainer encodes it: one strip of tokens, or two for a pair. `problem` is the reason why no token is
    trained on. `refusal` is the reason why it can't be rendered.
    """

    strips: list[TokenStrip] = field(default_factory=list)
    problem: str = ""
    refusal: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens before truncation."""
        return sum(len(strip.ids) for strip in self.strips)

    @property
    def longest(self) -> int:
        """Tokens of the longer strip, before truncation."""
        return max((len(strip.ids) for strip in self.strips), default=0)

    @property
    def num_kept(self) -> list[int]:
        """Tokens of each strip after truncation; none of a row that is left out."""
        return [] if self.problem or self.refusal else [strip.cut_at or len(strip.ids) for strip in self.strips]

    @property
    def lost_tokens(self) -> int:
        """Truncated tokens."""
        return sum(len(strip.ids) - strip.cut_at for strip in self.strips if strip.cut_at is not None)

    @property
    def loss_tokens(self) -> int:
        """Trained positions."""
        return 0 if self.problem or self.refusal else sum(sum(strip.trained) for strip in self.strips)


class View(Protocol):
    """Encodes rows of a kind as the trainer does."""

    trainer: Trainer

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Return rows as the trainer encodes them."""


def make_view(kind: str, *, tokenizer: PreTrainedTokenizerBase, context: int) -> View:
    """Return the view of a kind. The tokenizer gets the trainer's template."""
    if not tokenizer.is_fast:
        raise InvalidInput("The tokenizer has no fast form (tokenizer.json), which training needs.", field="tokenizer")
    teach_template(tokenizer, chats=kind != DatasetKind.TEXT)
    if kind == DatasetKind.TEXT:
        return TextView(tokenizer)
    if kind in (DatasetKind.INSTRUCTION, DatasetKind.CHAT):
        return FineTuningView(tokenizer, context=context)
    if kind == DatasetKind.PREFERENCE:
        return PairView(tokenizer, context=context)
    if kind == DatasetKind.KTO:
        return RatedView(tokenizer, context=context)
    return UntrainedView(tokenizer, asks=kind == DatasetKind.PROMPTS)


class TextView:
    """Pre-training: texts follow each other and are cut into windows, so none is too long and all are trained on."""

    trainer: Trainer = "pretrain"

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Return each text as `<bos> text <eos>`."""
        return [
            EncodedRow(
                [TokenStrip(ids, [True] * len(ids))], problem="" if str(row.get("text", "")) else "the text is empty"
            )
            for ids, row in zip(encode_documents(self._tokenizer, list(rows)), rows, strict=True)
        ]


class _RenderedRows:
    """Rows rendered by a chat template, one at a time: `_encode` encodes one, or raises InvalidInput."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, context: int) -> None:
        self._tokenizer, self._context = tokenizer, context

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Return each row as strips, with the reason if the template refuses it or the trainer leaves it out."""
        return [self._encode_or_refuse(row) for row in rows]

    def _encode_or_refuse(self, row: Row) -> EncodedRow:
        try:
            return self._encode(row)
        except InvalidInput as error:
            return EncodedRow(refusal=error.message)

    def _encode(self, row: Row) -> EncodedRow:
        raise NotImplementedError

    def _full(self, row: Row) -> EncodedRow:
        return EncodedRow([self._prompt_strip(row)], problem=f"the prompt fills the {self._context:,} tokens")

    def _prompt_strip(self, row: Row) -> TokenStrip:
        ids = encode_prompt(self._tokenizer, row["prompt"], tools=tools_of(row))
        return TokenStrip(
            ids, [False] * len(ids), cut_at=self._context if len(ids) > self._context else None, label="prompt"
        )


class FineTuningView(_RenderedRows):
    """Fine-tuning: one conversation per sequence, truncated to the context; answers are trained on."""

    trainer: Trainer = "sft"

    def _encode(self, row: Row) -> EncodedRow:
        examples = encode_row(self._tokenizer, row, context=self._context)
        problem = "" if any(example.teaches for example in examples) else self._problem(row, examples[0])
        return EncodedRow([_strip_of(example) for example in examples if example.teaches or problem], problem=problem)

    def _problem(self, row: Row, example: Example) -> str:
        uncut = (
            encode_row(self._tokenizer, row, context=len(example.untruncated))
            if len(example.untruncated) > self._context
            else []
        )
        if any(longer.teaches for longer in uncut):
            return f"the answer begins behind the first {self._context:,} tokens"
        return "no answer is rendered as the template would generate it"


def _strip_of(example: Example) -> TokenStrip:
    """Return an encoded conversation as a strip: the first token is never trained on, as it has no context."""
    has_loss = example.targets != IGNORE
    has_loss[:1] = False
    rest = len(example.untruncated) - len(has_loss)
    return TokenStrip(
        example.untruncated, [*has_loss.tolist(), *[False] * rest], cut_at=len(has_loss) if rest > 0 else None
    )


class PairView(_RenderedRows):
    """DPO: a pair is two sequences, the prompt with either answer; answers are trained on."""

    trainer: Trainer = "dpo"

    def _encode(self, row: Row) -> EncodedRow:
        pair = read_preference(row)
        sides = encode_preferences([pair], tokenizer=self._tokenizer, context=self._context)[0]
        if sides is None:
            return self._full(row)
        if pair["chosen"] == pair["rejected"]:
            return EncodedRow([self._prompt_strip(row)], problem="both answers are the same")
        return EncodedRow([_side(*named) for named in zip(("chosen", "rejected"), sides, strict=True)])


class RatedView(_RenderedRows):
    """KTO: a prompt with a good or bad answer, which is trained on."""

    trainer: Trainer = "kto"

    def _encode(self, row: Row) -> EncodedRow:
        side = encode_rated(row, tokenizer=self._tokenizer, context=self._context)
        return (
            self._full(row)
            if side is None
            else EncodedRow([_side("good answer" if row["label"] else "bad answer", side)])
        )


def _side(label: str, side: EncodedSide) -> TokenStrip:
    rest = len(side.untruncated) - len(side.ids)
    return TokenStrip(
        side.untruncated, [*side.mask, *[False] * rest], cut_at=len(side.ids) if rest else None, label=label
    )


class UntrainedView:
    """Prompts as in generation; other rows as running text."""

    trainer: Trainer = "none"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, asks: bool) -> None:
        self._tokenizer, self._asks = tokenizer, asks

    def encode(self, rows: Sequence[Row]) -> list[EncodedRow]:
        """Return each row as one strip without trained tokens."""
        if not self._asks:
            return [
                EncodedRow([TokenStrip(ids, [False] * len(ids))])
                for ids in encode_texts(self._tokenizer, [row_text(row) for row in rows])
            ]
        encoded = []
        for row in rows:
            try:
                ids = encode_prompt(self._tokenizer, [{"role": "user", "content": str(row.get("prompt") or "")}])
                encoded.append(EncodedRow([TokenStrip(ids, [False] * len(ids))]))
            except InvalidInput as error:
                encoded.append(EncodedRow(refusal=error.message))
        return encoded


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
