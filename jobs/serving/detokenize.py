"""Incremental detokenization: stream text without partial characters or partial stop strings; the text and bytes of
single tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from tokenizers.decoders import DecodeStream

from backend.domain.serving.protocol import ScoredToken, TokenLogprob
from jobs.modeling.tokenizers import piece_form

PROMPT_TAIL = 6
# tokens; a byte-level character takes at most 4, so bytes still undecodable after 8 are shown as replacement characters
MAX_PENDING = 8


class TokenDecoder(Protocol):
    """Interface of a fast tokenizer for detokenization."""

    @property
    def backend_tokenizer(self) -> Any:
        """Return the `tokenizers.Tokenizer`."""


class TextStream:
    """Incremental text of one completion, one decoding step per token (tokenizers' DecodeStream).

    `marks` are special tokens that show as their text (`[TOOL_CALLS]`); others don't show. Stop strings end nothing in
    what is added while `can_stop` is False.
    """

    def __init__(
        self,
        decoder: TokenDecoder,
        stop: tuple[str, ...] = (),
        *,
        prompt: Sequence[int] = (),
        marks: Mapping[int, str] | None = None,
    ) -> None:
        self._tokenizer = decoder.backend_tokenizer
        self._stop = stop
        self._marks = marks or {}
        self._held = ""  # decoded, but possibly the beginning of a stop string
        self.stopped, self.can_stop = False, True
        self.stop: str | None = None  # the string that ended the text
        # The stream opens on the prompt's end: decoded alone, a first token would lose the space that some tokenizers
        # put before it.
        self._open(list(prompt[-PROMPT_TAIL:]))

    def push(self, token_ids: list[int]) -> str:
        """Add tokens; return the text that can no longer change. After a stop string `stopped` is True."""
        if self.stopped:
            return ""
        return self._release("".join(self._step(token) for token in token_ids), final=False)

    def finish(self) -> str:
        """Return the withheld text at the end of the tokens."""
        if self.stopped:
            return ""
        return self._release(self._flush(), final=True)

    def _open(self, context: list[int]) -> None:
        self._context, self._pending = context, list[int]()
        self._stream = DecodeStream(ids=context, skip_special_tokens=True)

    def _step(self, token: int) -> str:
        if (mark := self._marks.get(token)) is not None:
            return self._flush() + mark
        self._pending.append(token)
        try:
            text = self._stream.step(self._tokenizer, token)
        except Exception:  # the library raises a bare Exception where text before the token changes with it
            return self._flush()
        if text is None:
            return self._flush() if len(self._pending) >= MAX_PENDING else ""
        self._context, self._pending = [*self._context, *self._pending][-PROMPT_TAIL:], []
        return text

    def _flush(self) -> str:
        """Return the text of the pending tokens, complete or not, and continue after them."""
        pending, context = self._pending, self._context
        if not pending:
            return ""
        before: str = self._tokenizer.decode(context, skip_special_tokens=True)
        after: str = self._tokenizer.decode([*context, *pending], skip_special_tokens=True)
        self._open([*context, *pending][-PROMPT_TAIL:])
        return after[len(before) :]

    def _release(self, text: str, *, final: bool) -> str:
        if not self._stop or not self.can_stop:
            return text
        text = self._held + text
        self._held = ""
        matches = [(position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if matches:
            position, self.stop = min(matches)
            self.stopped = True
            return text[:position]
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


class TokenTexts:
    """The text of single tokens, as answers with probabilities show them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._form = piece_form(tokenizer)
        self._special = {
            index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        self._text = lru_cache(maxsize=1 << 16)(self._read)

    def scored(self, token: int, logprob: float | None, top: Sequence[tuple[int, float]] = ()) -> ScoredToken:
        """Return a token with its probability and the most likely ones at its position."""
        text, raw = self._text(token)
        alternatives = []
        for other, value in top:
            other_text, other_raw = self._text(other)
            alternatives.append(
                TokenLogprob.model_construct(token_id=other, token=other_text, logprob=value, raw=other_raw)
            )
        return ScoredToken.model_construct(
            token_id=token, token=text, logprob=logprob, raw=raw, top=tuple(alternatives)
        )

    def _read(self, token: int) -> tuple[str, tuple[int, ...] | None]:
        """Return a token's text; for bytes that are no text, as OpenAI does, `bytes:\\xc3` and the bytes."""
        if token in self._special:
            return self._special[token], None
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the network's vocabulary may be padded beyond the tokenizer's
            return "", ()
        encoded = self._form.bytes_of(piece)
        try:
            return encoded.decode(), None
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in encoded), tuple(encoded)
