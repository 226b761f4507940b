"""Split the text of an answer, as it streams, into reasoning, calls of tools and the rest."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from backend.domain.serving.protocol import ToolCallDelta
from backend.domain.serving.tool_calls import (
    ARGUMENTS_MARK,
    PYTHON_TAG,
    TOOL_CALL,
    TOOL_CALL_END,
    TOOL_CALLS,
    CallReader,
    CallStyle,
)

THINK, THINK_END = "<think>", "</think>"
OPENINGS = {CallStyle.HERMES: TOOL_CALL, CallStyle.MISTRAL: TOOL_CALLS, CallStyle.LLAMA: PYTHON_TAG}


@dataclass(frozen=True)
class AnswerPiece:
    """New parts of an answer."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCallDelta, ...] = ()


class AnswerSplitter:
    """Splits one answer. `style` is None where no tools are offered; `names` are their names.

    `is_reasoning` if the prompt opened the reasoning, `is_calling` if it opened a call. Text that begins like a call
    and is none stays text.
    """

    def __init__(
        self,
        style: CallStyle | None,
        *,
        names: Collection[str] = (),
        is_reasoning: bool = False,
        is_calling: bool = False,
    ) -> None:
        self._style, self._names = style, frozenset(names)
        self._buffer = ""
        self._state = "thinking" if is_reasoning else "between" if is_calling else "start"
        self._reader: CallReader | None = None
        self.num_calls = 0
        self.num_complete = 0

    def push(self, text: str) -> AnswerPiece:
        """Read more text; return the parts that are certain."""
        self._buffer += text
        return self._run(final=False)

    def finish(self) -> AnswerPiece:
        """Return the withheld parts at the end of the answer."""
        return self._run(final=True)

    def _run(self, *, final: bool) -> AnswerPiece:
        texts, reasonings, calls = list[str](), list[str](), list[ToolCallDelta]()
        while True:
            before = (self._state, len(self._buffer))
            if self._state == "start":
                self._begin(final=final)
            elif self._state == "thinking":
                self._buffer = self._buffer.lstrip("\n")
                self._state = "reasoning" if self._buffer else "thinking"
            elif self._state == "reasoning":
                reasonings.append(self._until(THINK_END, then="after", final=final))
            elif self._state == "after":
                self._buffer = self._buffer.lstrip()
                self._state = "start" if self._buffer else "after"
            elif self._state == "text":
                opening = OPENINGS[self._style] if self._style is not None else None
                texts.append(self._buffer if opening is None else self._until(opening, then="between", final=final))
                self._buffer = "" if opening is None else self._buffer
            elif self._state == "between":
                texts.append(self._between(final=final))
            elif self._state == "call":
                calls += self._call(texts, final=final)
            if (self._state, len(self._buffer)) == before:
                break
        return AnswerPiece("".join(texts), "".join(reasonings), tuple(calls))

    def _begin(self, *, final: bool) -> None:
        """Decide what an answer, or what follows its reasoning, begins with."""
        bare = self._buffer.lstrip()
        if bare.startswith(THINK):
            self._buffer, self._state = bare[len(THINK) :], "thinking"
        elif not final and (not bare or THINK.startswith(bare)):
            return
        elif self._style is CallStyle.LLAMA and bare.startswith("{"):
            self._buffer, self._state, self._reader = bare, "call", CallReader(self.num_calls)
        else:
            self._state = "text"

    def _until(self, mark: str, *, then: str, final: bool) -> str:
        """Take the text before a mark, and what can't be the beginning of one."""
        at = self._buffer.find(mark)
        if at >= 0:
            text, self._buffer, self._state = self._buffer[:at], self._buffer[at + len(mark) :], then
            return text.rstrip("\n")
        size = next(
            (n for n in range(min(len(self._buffer), len(mark) - 1), 0, -1) if mark.startswith(self._buffer[-n:])), 0
        )
        # line breaks before a mark belong to it
        size = len(self._buffer) - len(self._buffer[: len(self._buffer) - size].rstrip("\n"))
        text = self._buffer if final else self._buffer[: len(self._buffer) - size]
        self._buffer = self._buffer[len(text) :]
        return text

    def _between(self, *, final: bool) -> str:
        """Find where the next call begins, or the text after the last one."""
        bare = self._buffer.lstrip()
        closers = {CallStyle.HERMES: (TOOL_CALL_END, TOOL_CALL), CallStyle.MISTRAL: ("[", ",", "]")}.get(
            self._style or CallStyle.LLAMA, (";",)
        )
        mark = next((closer for closer in closers if bare.startswith(closer)), None)
        if mark is not None:
            self._buffer = bare[len(mark) :]
        elif bare.startswith("{"):
            self._buffer, self._state, self._reader = bare, "call", CallReader(self.num_calls)
        elif not bare or (not final and any(closer.startswith(bare) for closer in closers)):
            self._buffer = "" if final else self._buffer
        elif self._style is CallStyle.MISTRAL and ("{" in bare or not final):
            name, brace, rest = bare.partition("{")
            if brace:
                reader = CallReader(self.num_calls, name=name.removesuffix(ARGUMENTS_MARK).strip())
                self._buffer, self._state, self._reader = brace + rest, "call", reader
        else:
            self._state = "text"
            self._buffer = bare
        return ""

    def _call(self, texts: list[str], *, final: bool) -> list[ToolCallDelta]:
        """Read the running call; one of no offered tool becomes text again."""
        reader = self._reader
        if reader is None:
            raise RuntimeError("a call is read without its reader")
        deltas = reader.push(self._buffer)
        self._buffer = ""
        is_unknown = bool(deltas and deltas[0].name and self._names and deltas[0].name not in self._names)
        if reader.has_failed or is_unknown or (final and not reader.is_done and not self._is_open(deltas)):
            texts.append(reader.raw + reader.rest)
            self._state, self._style, self._reader = "text", None, None
            return []
        self.num_calls = max(self.num_calls, *(delta.index + 1 for delta in deltas)) if deltas else self.num_calls
        if reader.is_done:
            self.num_complete += 1
            self._buffer, self._state, self._reader = reader.rest, "between", None
        return deltas

    def _is_open(self, deltas: list[ToolCallDelta]) -> bool:
        """Return whether the client already knows of the running call."""
        return bool(deltas) or self.num_calls > self.num_complete
