"""Incremental detokenization: stream text without partial characters or partial stop strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
PROMPT_TAIL = 6
MAX_PENDING = 8  # tokens; a byte-level character takes at most 4, so bytes still undecodable after 8 are shown as replacement characters


class Decoder(Protocol):
    """Interface of a tokenizer for detokenization."""

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
        """Return the text of tokens."""


class TextStream:
    """Incremental text of one completion.

    Decodes a short window that starts at a character border, as vLLM and TGI do, so the cost per token does not grow with the
    completion and tokenizers that swallow a leading space still give the whole text.
    """

    def __init__(self, decoder: Decoder, stop: tuple[str, ...] = (), *, prompt: Sequence[int] = ()) -> None:
        self._decoder = decoder
        self._stop = stop
        # The window opens on the prompt's end: decoded alone, a first token would lose the space that some tokenizers put before it.
        self._ids: list[int] = list(prompt[-PROMPT_TAIL:])
        self._prefix = 0  # start of the window
        self._read = len(self._ids)  # tokens whose text has been emitted
        self._held = ""  # decoded, but possibly the beginning of a stop string
        self.stopped = False

    def push(self, token_ids: list[int]) -> str:
        """Add tokens; return the text that can no longer change. After a stop string `stopped` is True and no text follows."""
        if self.stopped:
            return ""
        self._ids.extend(token_ids)
        return self._release(self._decode_new(final=False), final=False)

    def finish(self) -> str:
        """Return the withheld text at the end of the tokens."""
        if self.stopped:
            return ""
        return self._release(self._decode_new(final=True), final=True)

    def _decode(self, start: int, end: int) -> str:
        return self._decoder.decode(self._ids[start:end], skip_special_tokens=True)

    def _decode_new(self, *, final: bool) -> str:
        if self._read == len(self._ids):
            return ""
        before = self._decode(self._prefix, self._read)
        after = self._decode(self._prefix, len(self._ids))
        incomplete = after.endswith(REPLACEMENT) and len(self._ids) - self._read < MAX_PENDING
        if (incomplete or len(after) < len(before)) and not final:
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return after[len(before) :]

    def _release(self, text: str, *, final: bool) -> str:
        text = self._held + text
        self._held = ""
        if not self._stop:
            return text
        matches = [(position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if matches:
            self.stopped = True
            return text[: min(matches)[0]]
        if final:
            return text
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-size:]):
            return size
    return 0
