"""Upper bounds of the bytes that an operation of a chat template makes, and the budget of a rendering. Every bound is
computed from the operands' sizes before the operation runs. Operations without a bound are not available to templates.
"""

from __future__ import annotations

import re
import string
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sized
from contextvars import ContextVar
from typing import Any

import jinja2
from jinja2.utils import Namespace

MAX_STEPS = 2_000_000
MAX_SECONDS = 10.0
MAX_PIECE_BYTES = 32 * 2**20
BASE_TOTAL_BYTES, BYTES_PER_INPUT_BYTE, MAX_TOTAL_BYTES = 64 * 2**20, 64, 256 * 2**20
"""Budget of a rendering in bytes: a constant, plus a share for a long conversation, up to a maximum."""
MAX_NODES, MAX_DEPTH = 200_000, 100
"""Maximum of nested values, each counted as often as it is reached: nested references can grow exponentially."""
MAX_NUMBER = 10**18
MAX_GROUPS = 10_000
MAX_FIELD_WIDTH = 999
FIELD_BYTES = 2000
"""Upper bound of the length of a formatted number with a width and precision of three digits."""
OBJECT_BYTES = 64
ESCAPED = 6
"""Longest escape of an ASCII character in HTML and JSON; other characters take up to twice as much."""

_PERCENT = re.compile(r"%(\([^()]*\))?[-#0 +]*(\*|\d*)(\.(\*|\d*))?")
_CONTAINERS: tuple[type, ...] = (list, tuple, dict, Namespace, type({}.keys()), type({}.values()), type({}.items()))
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


class TemplateTooCostly(jinja2.TemplateError):
    """The template exceeded its budget."""


class RenderingBudget:
    """Remaining budget of one rendering. `input_bytes` is the size of its input values."""

    def __init__(self, input_bytes: int) -> None:
        self._steps = self._bytes = 0
        self._max_bytes = min(MAX_TOTAL_BYTES, BASE_TOTAL_BYTES + BYTES_PER_INPUT_BYTE * input_bytes)
        self._ends = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        """Account for a loop iteration or a call."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TemplateTooCostly(f"it takes more than {MAX_STEPS:,} steps")
        if self._steps % 64 == 0:
            self.check_clock()

    def make(self, size: int) -> None:
        """Account for an object of this size before it is made."""
        self.step()
        self._bytes += size + OBJECT_BYTES
        if size > MAX_PIECE_BYTES or self._bytes > self._max_bytes:
            raise TemplateTooCostly(f"it builds more than {min(size, self._max_bytes) // 2**20} MB")
        if size > 2**17:
            self.check_clock()

    def check_clock(self) -> None:
        """Stop a rendering that takes too long."""
        if time.monotonic() > self._ends:
            raise TemplateTooCostly(f"it takes longer than {MAX_SECONDS:g} seconds")


budget: ContextVar[RenderingBudget] = ContextVar("template_budget")


def is_container(value: Any) -> bool:
    """Return whether a value is a container."""
    return isinstance(value, _CONTAINERS)


def written(value: Any) -> int:
    """Return an upper bound of the bytes of a value as text. Raises TemplateTooCostly for one that is nested too widely
    or deeply.
    """
    if isinstance(value, str):
        return sys.getsizeof(value)
    if not is_container(value):
        return _digits(value)
    characters, nodes = 0, 0
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        nodes += 1
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            raise TemplateTooCostly("it nests values too widely or too deeply")
        if isinstance(item, str):
            characters += bound_escaped(item)
        elif is_container(item):
            characters += 2
            inside = list(_inside(item))
            if nodes + len(waiting) + len(inside) > MAX_NODES:
                raise TemplateTooCostly("it nests values too widely or too deeply")
            waiting.extend((child, depth + 1) for child in inside)
        else:
            characters += _digits(item)
        characters += 4
    return characters


def check_nesting(value: Any) -> Any:
    """Return a value if it can be compared, hashed or sorted in bounded time."""
    if is_container(value):
        written(value)
    return value


def bound_escaped(text: str) -> int:
    """Return an upper bound of the characters of a quoted text."""
    return len(text) * (ESCAPED if text.isascii() else 2 * ESCAPED) + 2


def size(value: Any) -> int:
    """Return the bytes of a shallow copy of a value."""
    if isinstance(value, str):
        return sys.getsizeof(value)
    return 16 * len(value) + OBJECT_BYTES if isinstance(value, Sized) else OBJECT_BYTES


def joined(parts: Iterable[Any], separator: Any = "") -> int:
    """Return an upper bound of the bytes of concatenated texts."""
    count = characters = 0
    width = 1
    for part in parts:
        count += 1
        if isinstance(part, str):
            characters += len(part)
            width = width if part.isascii() else 4
        else:
            characters += written(part)
            width = 4 if is_container(part) else width
    between = separator if isinstance(separator, str) else " " * min(written(separator), MAX_PIECE_BYTES)
    return (characters + count * len(between)) * (width if between.isascii() else 4)


def product(left: Any, right: Any) -> int:
    """Return the bytes of a repeated sequence; 0 for a product of numbers."""
    sequence, number = (right, left) if isinstance(right, str | list | tuple) else (left, right)
    if not isinstance(sequence, str | list | tuple) or not isinstance(number, int):
        return 0
    item = 8 if not isinstance(sequence, str) else 1 if sequence.isascii() else 4
    return item * len(sequence) * max(0, number)


def total(left: Any, right: Any) -> int:
    """Return the bytes of two concatenated sequences; 0 for a sum of numbers."""
    if isinstance(left, str) and isinstance(right, str):
        return joined((left, right))
    return size(left) + size(right) if isinstance(left, list | tuple) else 0


def percent_format(text: str, values: Any) -> int:
    """Return an upper bound of the bytes of `text % values`. Raises TemplateTooCostly for a wide or computed field."""
    fields = 0
    for spec in _PERCENT.finditer(text):
        fields += 1
        _check_widths(spec[2], spec[4])
        if spec[1] is None and text.startswith("(", spec.start() + 1):
            raise TemplateTooCostly("it uses an unsupported format")
    return _formatted(text, fields, values if isinstance(values, tuple) else (values,))


def brace_format(text: str, values: Iterable[Any]) -> int:
    """Return an upper bound of the bytes of `text.format(*values)`. Raises TemplateTooCostly like `percent_format`."""
    fields = 0
    for _, name, spec, _ in string.Formatter().parse(text):
        if name is not None:
            fields += 1
            if "{" in (spec or ""):
                raise TemplateTooCostly("it formats text to a computed width")
            _check_widths(*re.findall(r"\d+", spec or ""))
    return _formatted(text, fields, values)


def time_format(form: str) -> int:
    """Return an upper bound of the bytes of a formatted date. glibc also pads to a width."""
    for width in re.findall(r"%[-_0^#+EO]*(\d+)", form):
        _check_widths(width)
    return 4 * len(form) + form.count("%") * FIELD_BYTES


def json_text(value: Any, indent: Any, separators: Any) -> int:
    """Return an upper bound of the bytes of a value as JSON."""
    step = indent if isinstance(indent, int) else len(indent or "")
    marks = sum(len(str(mark)) for mark in separators or ())
    if not 0 <= step <= 16 or marks > 16:
        raise TemplateTooCostly("it indents JSON by more than 16 characters")
    text = written(value)
    return text if not step and not marks else text + (text // 4 + 1) * (step * _depth(value) + marks + 1)


def _formatted(text: str, fields: int, values: Iterable[Any]) -> int:
    longest = max((written(value) for value in values), default=0)
    return 4 * len(text) + fields * (FIELD_BYTES + longest)


def _check_widths(*widths: str | None) -> None:
    for width in widths:
        if width == "*" or (width and int(width[:9]) > MAX_FIELD_WIDTH):
            raise TemplateTooCostly(
                f"it formats text to a width beyond {MAX_FIELD_WIDTH}, which templates have no need of"
            )


def _digits(value: Any) -> int:
    return value.bit_length() // 3 + 24 if isinstance(value, int) else 2 * OBJECT_BYTES


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Namespace):
        value = object.__getattribute__(value, "_Namespace__attrs")
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    else:
        yield from value


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level and depth < MAX_DEPTH:
        level = [child for item in level if is_container(item) for child in _inside(item)]
        depth += 1
    return depth


def _cased(text: str) -> int:
    return len(text) if text.isascii() else 12 * len(text)  # three characters at most, of four bytes each


def _padded(text: Any, width: Any = 80, *_fill: Any) -> int:
    return 4 * (len(str(text)) + (width if isinstance(width, int) else 0))


def _expanded(text: str, tabsize: int = 8) -> int:
    return 4 * (len(text) + text.count("\t") * max(0, tabsize))


def _indented(text: Any, width: Any = 4, *_args: Any, **_options: Any) -> int:
    lines = 1 + sum(str(text).count(end) for end in _LINE_ENDS)
    return (
        4 * (len(str(text)) + lines * (width if isinstance(width, int) else len(str(width)))) + 2 * OBJECT_BYTES * lines
    )


def _replaced(text: Any, old: Any, new: Any, *_args: Any, **_options: Any) -> int:
    text, old = str(text), str(old)
    times = text.count(old) if old else len(text) + 1
    width = 1 if text.isascii() and str(new).isascii() else 4
    return width * (len(text) + times * written(new))


def _split(text: str, sep: Any = None, *_args: Any, **_options: Any) -> int:
    parts = text.count(sep) + 1 if isinstance(sep, str) and sep else len(text) // 2 + 1
    return sys.getsizeof(text) + parts * OBJECT_BYTES * 2


def _lines(text: str, *_args: Any, **_options: Any) -> int:
    return sys.getsizeof(text) + (1 + sum(text.count(end) for end in _LINE_ENDS)) * OBJECT_BYTES * 2


def _listed(value: Any, *_args: Any, **_options: Any) -> int:
    check_nesting(value)
    if isinstance(value, str):
        return len(value) * (16 if value.isascii() else 2 * OBJECT_BYTES)
    return size(value) + (OBJECT_BYTES * len(value) if isinstance(value, range) else 0)


def _grouped(value: Any, *args: Any, **options: Any) -> int:
    count = args[0] if args else options.get("linecount", options.get("slices"))
    if not isinstance(count, int) or not 0 < count <= MAX_GROUPS:
        raise TemplateTooCostly(f"it builds groups of more than {MAX_GROUPS:,}")
    return 2 * _listed(value) + OBJECT_BYTES * count


def _rounded(_value: Any, precision: Any = 0, *_args: Any, **_options: Any) -> int:
    if not isinstance(precision, int) or abs(precision) > 100:
        raise TemplateTooCostly("it rounds to more than 100 digits")
    return 0


def _summed(value: Any, *args: Any, start: Any = 0, **_options: Any) -> int:
    start = args[1] if len(args) > 1 else start
    if not isinstance(start, int | float):
        raise TemplateTooCostly("it sums values that are not numbers")
    return _listed(value)


def _to_number(value: Any, *_args: Any, **_options: Any) -> int:
    if isinstance(value, str) and len(value) > 400:
        raise TemplateTooCostly("it reads a number of more than 400 characters")
    return 0


def _nothing(*_args: Any, **_options: Any) -> int:
    return 0


def _same(value: Any, *_args: Any, **_options: Any) -> int:
    return written(value)


def _marked_up(value: Any) -> int:
    return 2 * ESCAPED * written(value)


Cost = Callable[..., int]

FILTERS: Mapping[str, Cost] = {
    **dict.fromkeys(("abs", "attr", "count", "length", "d", "default", "filesizeformat", "first", "last"), _nothing),
    **dict.fromkeys(("map", "reject", "rejectattr", "select", "selectattr"), _nothing),
    **dict.fromkeys(("dictsort", "groupby", "items", "list", "max", "min", "reverse", "sort", "unique"), _listed),
    **dict.fromkeys(("e", "escape", "forceescape", "safe"), _marked_up),
    **dict.fromkeys(
        ("capitalize", "lower", "upper"), lambda value: _cased(value) if isinstance(value, str) else 4 * written(value)
    ),
    **dict.fromkeys(("batch", "slice"), _grouped),
    **dict.fromkeys(("float", "int"), _to_number),
    "center": _padded,
    "format": lambda text, *args, **values: percent_format(str(text), values or args),
    "indent": _indented,
    "join": lambda value, d="", *_args, **_options: joined(
        value if is_container(value) or isinstance(value, str | range) else (), d
    ),
    "replace": _replaced,
    "round": _rounded,
    "string": _same,
    "sum": _summed,
    "title": lambda value: written(value) * OBJECT_BYTES,  # splits into words
    "trim": _same,
    "truncate": lambda *values, **options: sum(map(written, (*values, *options.values()))),
}
"""Filters available to templates, with the size of their results."""

METHODS: Mapping[type, Mapping[str, Cost]] = {
    str: {
        **dict.fromkeys(("capitalize", "casefold", "lower", "swapcase", "title", "upper"), _cased),
        **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
        **dict.fromkeys(("count", "endswith", "find", "index", "rfind", "rindex", "startswith"), _nothing),
        **dict.fromkeys(
            (
                "isalnum",
                "isalpha",
                "isascii",
                "isdecimal",
                "isdigit",
                "isidentifier",
                "islower",
                "isnumeric",
                "isprintable",
                "isspace",
            ),
            _nothing,
        ),
        **dict.fromkeys(("istitle", "isupper"), _nothing),
        **dict.fromkeys(("lstrip", "removeprefix", "removesuffix", "rstrip", "strip"), _same),
        **dict.fromkeys(("partition", "rpartition"), lambda text, _sep: 2 * written(text)),
        **dict.fromkeys(("rsplit", "split"), _split),
        "expandtabs": _expanded,
        "join": lambda text, parts: joined(parts, text),
        "replace": _replaced,
        "splitlines": _lines,
    },
    list: {"copy": size, "count": lambda values, value: written(values), "index": lambda values, *_: written(values)},
    tuple: {"count": lambda values, value: written(values), "index": lambda values, *_: written(values)},
    dict: {
        **dict.fromkeys(("items", "keys", "values"), _nothing),
        "copy": size,
        "get": lambda _values, key, _default=None: written(key),
    },
    float: {"is_integer": _nothing},
    int: {"is_integer": _nothing},
}
"""Methods of built-in values available to templates, with the size of their results. `format` is the sandbox's own."""
