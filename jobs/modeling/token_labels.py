"""Display form of tokens: their text, or their bytes for a token that is part of a character."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_BYTE_OF = {letter: byte for byte, letter in bytes_to_unicode().items()}


def label_tokens(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> list[str]:
    """Return the text of each token as within a sentence, including its leading space.

    Bytes that are not a whole character are written `\\xe2`; a row of the network's vocabulary without a token of the
    tokenizer is written `[51200]`.
    """
    indices = [int(index) for index in ids]
    known = len(tokenizer)
    pieces = dict(
        zip(indices, tokenizer.convert_ids_to_tokens([index if index < known else 0 for index in indices]), strict=True)
    )
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    byte_level = _is_byte_level(tokenizer)
    labels = []
    for index in indices:
        piece = pieces[index] if index < known else None
        if piece is None:
            labels.append(f"[{index}]")
        elif index in added:
            labels.append(piece)
        else:
            labels.append(_byte_text(piece) if byte_level else _piece_text(piece))
    return labels


def _is_byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()


def _byte_text(piece: str) -> str:
    if any(letter not in _BYTE_OF for letter in piece):
        return piece  # an added token, written as it is
    return bytes(_BYTE_OF[letter] for letter in piece).decode("utf-8", errors="backslashreplace")


def _piece_text(piece: str) -> str:
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)]).decode("utf-8", errors="backslashreplace")
    return piece.replace("\u2581", " ")
