"""Stream JSON rows: arrays of objects or strings, objects one after another, or one wrapped list."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from backend.domain.data.rows.conversations import is_message
from backend.domain.data.rows.problem import RowProblem
from backend.domain.json_values import Row

STRING_COLUMN = "string"
"""The column of a row that is a bare string, as in a JSON list of strings."""

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[\s,]*")
_WRAPPED_LIST = re.compile(r'"[^"\\]{1,80}"\s*:\s*\[\s*(?=\{)')


def parse_json_row(text: str) -> dict[str, object]:
    """Parse one JSON object; a bare string is a row of one column. Raises RowProblem for other values and no JSON."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise RowProblem("the JSON is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise RowProblem(f"not JSON: {error.msg} (column {error.colno})") from None
    except ValueError as error:  # an integer of thousands of digits
        raise RowProblem(f"not usable JSON: {str(error)[:100]}") from None
    return _object(value)


def _object(value: Any) -> dict[str, object]:
    if isinstance(value, str):
        return {STRING_COLUMN: value}
    if not isinstance(value, dict):
        shown = json.dumps(value, ensure_ascii=True)[:40]
        raise RowProblem(f"expected an object with named columns, found {type(value).__name__} {shown}")
    return value


class _Buffer:
    """Text that is not parsed yet."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        # bytes that are not UTF-8 become lone surrogates, which the check of the finished row reports in its place
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
        self.text, self.position, self.ended = "", 0, False

    def more(self) -> None:
        """Read until the unparsed text has doubled, or to the end."""
        parts = [self.text[self.position :]]
        missing = max(1, len(parts[0]))
        while missing > 0 and not self.ended:
            chunk = next(self._chunks, None)
            self.ended = chunk is None
            parts.append(self._decoder.decode(chunk or b"", self.ended))
            missing -= len(parts[-1])
        self.text, self.position = "".join(parts), 0

    def peek(self) -> str:
        """Skip spaces and commas; return the next character, or nothing at the end."""
        while True:
            match = _SPACE.match(self.text, self.position)
            self.position = match.end() if match else self.position
            if self.position < len(self.text) or self.ended:
                return self.text[self.position : self.position + 1]
            self.more()

    def value(self, *, longest: int) -> Any:
        """Parse the next value. Raises RowProblem if it is broken or longer than `longest` characters."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.position)
            except RecursionError:
                raise RowProblem("the JSON is nested too deeply") from None
            except ValueError as error:
                size = len(self.text) - self.position
                if self.ended or size > longest:
                    why = f"longer than {longest / 2**20:g} MB, or broken: " if size > longest else ""
                    raise RowProblem(
                        f"not JSON: {why}{str(error)[:100]}; nothing after this place can be read"
                    ) from None
            else:
                if end < len(self.text) or self.ended:  # else a number may continue in the next chunk
                    self.position = end
                    return value
            self.more()


def _values(buffer: _Buffer, *, longest: int, first: int = 1) -> Iterator[tuple[int, Row | RowProblem]]:
    """Yield the values of an array, or of objects one after another, until the array or the text ends."""
    number = first
    while buffer.peek() not in ("", "]"):
        try:
            value = buffer.value(longest=longest)
        except RowProblem as problem:
            yield number, problem
            return
        try:
            yield number, _object(value)
        except RowProblem as problem:
            yield number, problem
        number += 1


def iter_json_rows(chunks: Iterable[bytes], *, longest: int) -> Iterator[tuple[int, dict[str, object] | RowProblem]]:
    """Yield numbered rows of a .json file in any of its usual shapes."""
    buffer = _Buffer(chunks)
    start = buffer.peek()
    if start == "[":
        buffer.position += 1
        yield from _values(buffer, longest=longest)
    elif start == "{":
        yield from _from_object(buffer, longest=longest)
    elif start:
        yield 1, RowProblem(f"not JSON rows: the file begins with {start!r}, expected [ or {{")


def _from_object(buffer: _Buffer, *, longest: int) -> Iterator[tuple[int, dict[str, object] | RowProblem]]:
    try:
        value = buffer.value(longest=longest)
    except RowProblem as problem:
        # a long wrapper such as {"version": 1, "examples": [{...}, ...]}, or a file that is cut off
        match = _WRAPPED_LIST.search(buffer.text, buffer.position)
        if match is None:
            yield 1, problem
            return
        buffer.position = match.end()
        yield from _values(buffer, longest=longest)
        return
    if buffer.peek():  # objects one after another: JSON Lines under the name .json
        yield 1, value
        yield from _values(buffer, longest=longest, first=2)
        return
    lists: list[list[Any]] = [
        part
        for part in value.values()
        if isinstance(part, list) and part and isinstance(part[0], dict) and not is_message(part[0])
    ]
    if lists:
        rows: list[Any] = max(lists, key=len)
        for number, row in enumerate(rows, start=1):
            try:
                yield number, _object(row)
            except RowProblem as problem:
                yield number, problem
        return
    yield 1, value
