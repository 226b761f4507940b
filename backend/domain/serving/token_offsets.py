"""Offsets of tokens in a text, in characters: `text_offset` of OpenAI's text completions."""

from __future__ import annotations

import re
from collections.abc import Iterable

RESUMES_WITHIN = 32
"""Bytes of a text that may differ from its tokens, as where a tokenizer normalises, until a token is found again."""
CONTINUATIONS = bytes(range(0x80, 0xC0))
"""Bytes of UTF-8 that begin no character."""
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


class TokenOffsets:
    """Count the characters before each token of a text, and of what is generated after it.

    A token that the text does not contain, such as one that the tokenizer puts before every text, takes none of its
    characters; nor does the space that some tokenizers add in front. A token that begins within a character stands
    where that character does.
    """

    def __init__(self, text: str | None = None) -> None:
        self._rest = None if text is None else text.encode(errors="replace")
        self._at, self._characters, self._is_first = 0, 0, True

    @property
    def is_complete(self) -> bool:
        """True once tokens have covered the text."""
        return self._rest is None or self._at == len(self._rest)

    def end_text(self) -> None:
        """End the text: tokens from here on are generated, and are their own text."""
        if self._rest is not None:
            self._pass(self._rest[self._at :])
            self._rest = None

    def of(self, pieces: Iterable[bytes]) -> list[int]:
        """Return where the next tokens begin, by the bytes of each."""
        return [self._begin(piece) for piece in pieces]

    def _begin(self, piece: bytes) -> int:
        if self._rest is not None:
            if self._at == 0 and piece[:1] == b" " and self._rest.startswith(piece[1:]):
                piece = piece[1:]
            begins_at = self._rest.find(piece, self._at, self._at + len(piece) + RESUMES_WITHIN)
            # a begin token that the text names too, but later, is one that the tokenizer put before it
            is_before, self._is_first = self._is_first and begins_at > 0, False
            if begins_at < 0 or is_before or self.is_complete:
                return self._characters
            self._pass(self._rest[self._at : begins_at])
            self._at = begins_at
        is_within = piece[:1] in CONTINUATIONS and piece != b""
        begins = self._characters - 1 if is_within and self._characters else self._characters
        self._pass(piece)
        self._at += len(piece)
        return begins

    def _pass(self, piece: bytes) -> None:
        self._characters += len(piece.translate(None, CONTINUATIONS))


def token_bytes(shown: str) -> bytes:
    r"""Return the bytes of a token as APIs show it: its text, or `bytes:\xc3` where it is not whole characters."""
    escaped = shown.removeprefix("bytes:")
    if escaped not in ("", shown) and not _ESCAPED.sub("", escaped):
        return bytes(int(digits, 16) for digits in _ESCAPED.findall(escaped))
    return shown.encode(errors="replace")
