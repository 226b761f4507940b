"""Tokenize a text at once: each token's text and id, and counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer

from backend.domain.tokenizers.counts import count_words
from backend.domain.tokenizers.pieces import PieceForm, unknown_token
from backend.errors import InvalidInput, NotFound
from backend.services.context import Context
from backend.services.tokenizers.sources import TokenizerSource

MAX_TEXT = 50_000
MAX_FILE_BYTES = 200_000_000
TokenKind = Literal["text", "byte", "special", "unknown"]
_loading = threading.Lock()


@dataclass(frozen=True)
class Token:
    """One token. `text` is its text, or the hexadecimal digits (`E2 9C`) of a `byte` that is not a whole character."""

    id: int
    text: str
    piece: str
    kind: TokenKind


@dataclass(frozen=True)
class Tokenization:
    """A tokenized text. `decoded` is the round trip; `cut`: only the first 50,000 characters were tokenized."""

    source: TokenizerSource
    tokens: list[Token]
    text: str
    decoded: str
    words: int
    cut: bool

    @property
    def characters(self) -> int:
        """Characters that were tokenized."""
        return len(self.text)

    @property
    def bytes(self) -> int:
        """Their UTF-8 bytes."""
        return len(self.text.encode())

    @property
    def same(self) -> bool:
        """Return whether decoding returns the text."""
        return self.decoded == self.text

    @property
    def bytes_per_token(self) -> float | None:
        """Bytes of text per token; None without tokens."""
        return self.bytes / len(self.tokens) if self.tokens else None

    @property
    def fertility(self) -> float | None:
        """Tokens per word (backend.domain.tokenizers.counts); None without words."""
        return len(self.tokens) / self.words if self.words else None


def tokenize(ctx: Context, source: TokenizerSource, text: str, *, specials: bool = False) -> Tokenization:
    """Tokenize a text. With `specials`, text that spells a special token (`<|end|>`) is that token, as in a chat
    template; without, it is text, as in training data.

    A lone surrogate is read as U+FFFD. Raises NotFound or InvalidInput if the tokenizer can't be loaded or
    can't read the text.
    """
    cut = len(text) > MAX_TEXT
    text = text[:MAX_TEXT].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    loaded = _load(ctx.artifacts.small_files(source.folder), specials=specials)
    try:
        encoding = loaded.tokenizer.encode(text, add_special_tokens=False)
        back = loaded.tokenizer.decode(encoding.ids, skip_special_tokens=False)
    except BaseException as error:
        raise _translate_errors(error, f"The tokenizer of “{source.name}” can't read the text") from error
    tokens = [
        loaded.token(index, piece, text[start:end])
        for index, piece, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
    ]
    return Tokenization(source, tokens, text, back, count_words(text), cut)


def count_tokens(ctx: Context, source: TokenizerSource, texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text, with special tokens as text.

    Raises NotFound or InvalidInput if the tokenizer can't be loaded or can't encode them.
    """
    loaded = _load(ctx.artifacts.small_files(source.folder), specials=False)
    try:
        return [
            len(encoding.ids) for encoding in loaded.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]
    except BaseException as error:
        raise _translate_errors(error, f"The tokenizer of “{source.name}” can't read the text") from error


def token_spans(ctx: Context, source: TokenizerSource, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Return where each token of each text begins and ends, in characters, with special tokens as text.

    Raises what `count_tokens` raises.
    """
    loaded = _load(ctx.artifacts.small_files(source.folder), specials=False)
    try:
        return [encoding.offsets for encoding in loaded.tokenizer.encode_batch(list(texts), add_special_tokens=False)]
    except BaseException as error:
        raise _translate_errors(error, f"The tokenizer of “{source.name}” can't read the text") from error


@dataclass(frozen=True)
class _Loaded:
    tokenizer: Tokenizer
    form: PieceForm
    special: frozenset[int]
    unknown: tuple[int, str] | None

    def token(self, index: int, piece: str, span: str) -> Token:
        if index in self.special:
            return Token(index, piece, piece, "special")
        if self.unknown is not None and index == self.unknown[0] and span != self.unknown[1]:
            return Token(index, span, piece, "unknown")
        data = self.form.bytes_of(piece)
        try:
            return Token(index, data.decode(), piece, "byte" if self.form.is_raw_byte(piece) else "text")
        except UnicodeDecodeError:
            return Token(index, data.hex(" ").upper(), piece, "byte")


def _load(folder: Path, *, specials: bool) -> _Loaded:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise NotFound(
            f"{folder.name} holds no tokenizer.json.", remedy="Save its tokenizer in the fast form, with AutoTokenizer."
        )
    status = file.stat()
    if status.st_size > MAX_FILE_BYTES:
        raise InvalidInput(f"{file.name} has {status.st_size:,} bytes: too much for a tokenizer.")
    with _loading:  # one at a time: reading a large vocabulary takes hundreds of megabytes
        return _load_file(str(file), status.st_mtime_ns, specials)


@lru_cache(maxsize=12)
def _load_file(file: str, _changed: int, specials: bool) -> _Loaded:
    try:
        data = Path(file).read_text(encoding="utf-8")
        state: dict[str, object] = json.loads(data)
        tokenizer = Tokenizer.from_str(data)
    except BaseException as error:
        raise _translate_errors(error, "The tokenizer can't be loaded") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not specials
    special = frozenset(index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    return _Loaded(
        tokenizer, PieceForm.of_decoder(json.dumps(state.get("decoder") or "")), special, unknown_token(state)
    )


def _translate_errors(error: BaseException, what: str) -> BaseException:
    """Translate the library's errors; its panics are no Exceptions. Other errors pass."""
    if isinstance(error, Exception) or type(error).__name__ == "PanicException":
        return InvalidInput(
            f"{what}: {str(error)[:300]}", remedy="Add the checkpoint again, or train another tokenizer."
        )
    return error
