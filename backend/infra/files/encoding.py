"""Read text in other encodings as UTF-8: UTF-16 by its byte order mark, others by name. Guess the encoding of bytes
that are not UTF-8.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

from backend.domain.data.parsing.encodings import ENCODINGS
from backend.errors import InvalidInput

_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe\x00\x00": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def _keep_bytes(error: UnicodeError) -> tuple[str, int]:
    """Keep undecodable bytes, so that their row is reported later."""
    assert isinstance(error, UnicodeDecodeError)
    return (
        "".join(chr(0xDC00 + byte) if byte > 127 else chr(byte) for byte in error.object[error.start : error.end]),
        error.end,
    )


codecs.register_error("roundhouse.keep", _keep_bytes)


def check_encoding(name: str) -> str:
    """Return an encoding's Python name. Raises InvalidInput for one that is not in ENCODINGS under any alias."""
    known = {codecs.lookup(encoding).name: encoding for encoding in ENCODINGS}
    try:
        return known[codecs.lookup(name).name]
    except (LookupError, ValueError):
        raise InvalidInput(
            f"{name[:40]!r} is not an encoding that can be read.",
            remedy=f"Choose one of {', '.join(ENCODINGS)}.",
            field="encoding",
        ) from None


def guess_encoding(data: bytes) -> str | None:
    """Guess the encoding of bytes that are not UTF-8, Windows-1252 first; None if nothing fits."""
    from charset_normalizer import from_bytes

    # encodings that read these bytes alike are one match
    fitting = [name for match in from_bytes(data[: 64 * 2**10]) for name in match.could_be_from_charset]
    if "cp1252" in fitting:
        return "cp1252"
    known = {codecs.lookup(encoding).name: encoding for encoding in ENCODINGS}
    names = [codecs.lookup(encoding).name for encoding in fitting]
    return next((known[name] for name in names if name in known), None)


def guess_wide_encoding(data: bytes) -> str | None:
    """Guess UTF-16 without a byte order mark, if the same one of two bytes is zero in most characters; else None."""
    zeros = [data[place : 4 * 2**10 : 2].count(0) for place in (0, 1)]
    half = len(data[: 4 * 2**10]) // 2
    if half and max(zeros) > 0.6 * half and min(zeros) < 0.1 * half:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def own_encoding(read: Callable[[int], bytes], encoding: str) -> str | None:
    """Return the encoding of one of several files: None if it is UTF-8, as other text with accents hardly ever is, else
    `encoding`, the one chosen for those that are not. `read(size)` gives the next bytes, nothing at the end.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while data := read(2**20):
            if b"\x00" in data:  # UTF-16 without a mark is UTF-8 with zeros
                return encoding
            decoder.decode(data)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return encoding
    return None


class Utf8Stream:
    """A stream of UTF-8 from a stream of bytes, without the byte order mark."""

    def __init__(
        self, read: Callable[[int], bytes], *, encoding: str | None = None, skip: Callable[[int], None] | None = None
    ) -> None:
        """`read(size)` gives the next bytes, nothing at the end; `skip(size)` skips bytes, if that is faster. Raises
        InvalidInput for an encoding that is not known, and for UTF-16 and UTF-32 without their mark.
        """
        self._read, self._skip = read, skip
        head = b""
        while len(head) < 4 and (more := read(4 - len(head))):
            head += more
        mark = next((mark for mark in _MARKS if head.startswith(mark)), b"")
        name = _MARKS[mark] if mark else check_encoding(encoding) if encoding else "utf-8"
        if not mark and head and name in ("utf-16", "utf-32"):
            wide = ", utf-16-le or utf-16-be" if name == "utf-16" else ""
            raise InvalidInput(
                f"The file does not begin with the mark that {name} begins with.",
                remedy=f"Choose another encoding{wide}.",
                field="encoding",
            )
        if name == "utf-8":
            self._decoder, self._head = None, head[len(mark) :]
        else:
            self._decoder, self._head = codecs.getincrementaldecoder(name)("roundhouse.keep"), head
        self._ended = False
        self._ready = b""

    def read(self, size: int) -> bytes:
        """Return about `size` bytes of UTF-8; nothing at the end."""
        if self._ready:
            data, self._ready = self._ready, b""
            return data
        if self._decoder is None:
            data, self._head = self._head, b""
            return data or self._read(size)
        while not self._ended:
            data, self._head = self._head or self._read(size), b""
            self._ended = not data
            text = self._decoder.decode(data, not data)
            if text:
                return text.encode("utf-8", "surrogateescape")
        return b""

    def read_into(self, view: memoryview, read_into: Callable[[memoryview], int]) -> int:
        """Fill a buffer with the next UTF-8 and return the number of bytes, 0 at the end. `read_into` fills a buffer
        from the source.
        """
        if self._decoder is None and not self._head and not self._ready:
            return read_into(view)
        data = self.read(len(view))
        fitting = min(len(data), len(view))
        view[:fitting], self._ready = data[:fitting], data[fitting:]
        return fitting

    def skip(self, size: int) -> None:
        """Skip the next `size` bytes of UTF-8, at most to the end."""
        if self._decoder is None and self._skip is not None:
            from_head = min(size, len(self._head))
            self._head = self._head[from_head:]
            self._skip(size - from_head)
            return
        while size > 0 and (data := self.read(min(size, 2**20))):
            self._ready = data[size:]
            size -= len(data)
