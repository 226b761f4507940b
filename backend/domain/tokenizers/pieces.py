"""Convert vocabulary pieces to bytes of text, in the three common notations.

Byte-level pieces spell each byte as a letter (GPT-2), SentencePiece marks spaces with U+2581 and writes single bytes as
`<0xAB>`, and plain pieces are text. The notation is read from a tokenizer's decoder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from backend.domain.json_values import JsonObject

SPACE_MARK = "\u2581"
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def _letters_of_bytes() -> dict[str, int]:
    """Return letter -> byte of GPT-2's alphabet: printable bytes as they are, others above U+0100, in order."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + place): byte for place, byte in enumerate(moved)}}


BYTE_OF_LETTER = _letters_of_bytes()


@dataclass(frozen=True)
class PieceForm:
    """Notation of a tokenizer's pieces."""

    byte_level: bool = False
    spaces_marked: bool = False
    byte_fallback: bool = False

    @staticmethod
    def of_decoder(decoder: str) -> PieceForm:
        """Read the form from a decoder's JSON (`tokenizer.decoder.__getstate__()`); empty without one."""
        return PieceForm(
            byte_level='"ByteLevel"' in decoder,
            spaces_marked='"Metaspace"' in decoder or SPACE_MARK in decoder or "\\u2581" in decoder,
            byte_fallback='"ByteFallback"' in decoder,
        )

    def bytes_of(self, piece: str) -> bytes:
        """Return the bytes of text of a piece.

        >>> PieceForm(byte_level=True).bytes_of("Ġa")
        b' a'
        """
        if self.byte_level and all(letter in BYTE_OF_LETTER for letter in piece):
            return bytes(BYTE_OF_LETTER[letter] for letter in piece)
        if self.byte_fallback and (match := BYTE_PIECE.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        return (piece.replace(SPACE_MARK, " ") if self.spaces_marked else piece).encode("utf-8", "replace")

    def is_raw_byte(self, piece: str) -> bool:
        """Return whether a piece is one byte of a character outside the vocabulary.

        Byte-level: a byte above 127, which is a part of a character. Otherwise: any byte token (`<0xAB>`).
        """
        if self.byte_level:
            return len(piece) == 1 and BYTE_OF_LETTER.get(piece, 0) > 127
        return self.byte_fallback and BYTE_PIECE.fullmatch(piece) is not None


def unknown_token(state: JsonObject) -> tuple[int, str] | None:
    """Return id and piece of the unknown token; None if a tokenizer has none, or falls back to bytes.

    `state` is a tokenizer's JSON (`tokenizer.json`).
    """
    model = state.get("model") or {}
    if model.get("byte_fallback"):
        return None
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        index = model.get("unk_id")
        return (index, str(vocabulary[index][0])) if isinstance(index, int) and 0 <= index < len(vocabulary) else None
    piece = model.get("unk_token")
    if not isinstance(piece, str) or not isinstance(vocabulary, dict):
        return None
    added = {token.get("content"): token.get("id") for token in state.get("added_tokens") or []}
    token_id = vocabulary.get(piece, added.get(piece))
    return (token_id, piece) if isinstance(token_id, int) else None
