"""An answer as a row of blocks, which the newer APIs are made of: reasoning, text, and calls of tools."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from pydantic_core import from_json

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import FinishEvent, OpenEvent, ScoredToken, TokenEvent, ToolCallDelta

BlockKind = Literal["reasoning", "text", "call"]


@dataclass
class Block:
    """A part of an answer. `text` holds the arguments of a call, as JSON; `tokens` are the probabilities of a text
    where asked for.
    """

    index: int
    kind: BlockKind
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Return the whole text."""
        return "".join(self.pieces)

    def arguments(self) -> JsonObject:
        """Return the arguments of a call; those that are complete where the answer was cut."""
        try:
            read = from_json(self.text or "{}", allow_partial=True)
        except ValueError:
            return {}
        return read if isinstance(read, dict) else {}


@dataclass(frozen=True)
class Opened:
    """A block begins."""

    block: Block


@dataclass(frozen=True)
class Grown:
    """A block has new text, and new probabilities."""

    block: Block
    text: str
    tokens: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Closed:
    """A block is complete."""

    block: Block


Change = Opened | Grown | Closed


class BlockReader:
    """Reads the events of a single answer."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.reasoning_tokens = 0
        self._open: Block | None = None
        self._call: int | None = None

    def read(self, event: OpenEvent | FinishEvent) -> Iterator[Change]:
        """Yield what an event changes."""
        if isinstance(event, FinishEvent):
            yield from self._close()
        if not isinstance(event, TokenEvent):
            return
        if event.reasoning is not None:
            self.reasoning_tokens += len(event.token_ids)
        if event.reasoning:
            yield from self._grow("reasoning", event.reasoning)
        is_scored = bool(event.logprobs) and not event.reasoning and not event.tool_calls
        if event.text or is_scored:  # a token may be no whole character yet
            yield from self._grow("text", event.text, event.logprobs or ())
        for delta in event.tool_calls or ():
            yield from self._grow_call(delta)

    def take(self, event: OpenEvent) -> None:
        """Read an event of an answer that is sent whole."""
        for _ in self.read(event):
            pass

    def _grow(self, kind: BlockKind, text: str, tokens: tuple[ScoredToken, ...] = ()) -> Iterator[Change]:
        if self._open is None or self._open.kind != kind:
            yield from self._start(kind)
        yield from self._add(text, tokens)

    def _grow_call(self, delta: ToolCallDelta) -> Iterator[Change]:
        if self._open is None or self._open.kind != "call" or self._call != delta.index:
            yield from self._start("call", call_id=delta.id or "", name=delta.name or "")
            self._call = delta.index
        if delta.arguments:
            yield from self._add(delta.arguments)

    def _start(self, kind: BlockKind, *, call_id: str = "", name: str = "") -> Iterator[Change]:
        yield from self._close()
        self._open = Block(len(self.blocks), kind, call_id, name)
        self.blocks.append(self._open)
        yield Opened(self._open)

    def _add(self, text: str, tokens: tuple[ScoredToken, ...] = ()) -> Iterator[Change]:
        if self._open is not None:
            self._open.pieces.append(text)
            self._open.tokens += tokens
            yield Grown(self._open, text, tokens)

    def _close(self) -> Iterator[Change]:
        if self._open is not None:
            yield Closed(self._open)
        self._open = None
