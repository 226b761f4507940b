"""Encode rows as the trainer does: its own code renders, tokenises, masks and truncates them, for each kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.reports.report import Trainer
from backend.domain.data.rows.display import row_text
from backend.domain.data.rows.tool_calls import tools_of
from backend.domain.json_values import Row
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE
from jobs.batches.preference import EncodedSide, encode_preferences, encode_rated, read_preference
from jobs.batches.pretrain import encode_documents
from jobs.batches.sft import Example, encode_row
from jobs.modeling.chat import encode_prompt, teach_template
from jobs.modeling.tokenizers import encode_texts


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
        return EncodedRow([strip_of(example) for example in examples if example.teaches or problem], problem=problem)

    def _problem(self, row: Row, example: Example) -> str:
        uncut = (
            encode_row(self._tokenizer, row, context=len(example.untruncated))
            if len(example.untruncated) > self._context
            else []
        )
        if any(longer.teaches for longer in uncut):
            return f"the answer begins behind the first {self._context:,} tokens"
        return "no answer is rendered as the template would generate it"


def strip_of(example: Example) -> TokenStrip:
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
