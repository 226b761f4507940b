"""Render chat templates, which are untrusted programs, to the same text as transformers but within limits.

The environment is that of transformers (Jinja's immutable sandbox: no attribute that begins with an underscore, no change to an
argument), so the text is the same. On top, a template has a budget: every turn of a loop, every call, and every
character that is put together costs, and a clock stands behind it. One that would run for hours or fill the memory is stopped.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
import jinja2.ext
import jinja2.visitor
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_TEMPLATE_CHARACTERS = 256 * 1024
MAX_STEPS = 2_000_000
MAX_PIECE_CHARACTERS = 8 * 10**6
MAX_TOTAL_CHARACTERS = 256 * 10**6
MAX_SECONDS = 10.0
MAX_NUMBER = 10**18
_NOT_FOR_CHATS = ("urlize", "wordwrap", "wordcount", "striptags", "pprint", "xmlattr", "random")
_ODD_FORMAT = re.compile(r"\d{5,}|\*|\{[^{}]*\{")  # a width of five digits, or one that comes from somewhere else


class TemplateTooCostly(jinja2.TemplateError):
    """The template used up its budget."""


class _Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self._steps = self._characters = 0
        self._ends = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        """Account for a turn of a loop or a call."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TemplateTooCostly(f"it takes more than {MAX_STEPS:,} steps")
        if self._steps % 64 == 0 and time.monotonic() > self._ends:
            raise TemplateTooCostly(f"it takes longer than {MAX_SECONDS:g} seconds")

    def make(self, characters: int) -> None:
        """Account for text about to be put together."""
        self.step()
        self._characters += characters
        if characters > MAX_PIECE_CHARACTERS or self._characters > MAX_TOTAL_CHARACTERS:
            raise TemplateTooCostly(f"it puts together more than {MAX_PIECE_CHARACTERS // 10**6} million characters")


_budget: ContextVar[_Budget] = ContextVar("template_budget")


def _size(value: Any) -> int:
    """Return about how many bytes a value takes when it is copied or written."""
    if isinstance(value, str):
        return len(value)
    return 8 * len(value) if isinstance(value, list | tuple | dict) else 24


class _GuardedEnvironment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # unoptimized: constants must not be worked out while the template is compiled, outside of any budget
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, jinja2.ext.loopcontrols])
        self.filters = {name: _accounted(name, filter_) for name, filter_ in self.filters.items() if name not in _NOT_FOR_CHATS}
        self.filters |= {
            "tojson": _to_json,
            "guarded_loop": _guarded_loop,
            "guarded_concat": _guarded_concat,
            "guarded_copy": _guarded_copy,
        }
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _PlainDict(),
            "namespace": _PlainNamespace,
        }
        for name in ("lipsum", "cycler", "joiner"):
            self.globals.pop(name, None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Guard().visit(super()._parse(source, name, filename))  # type: ignore[no-any-return]

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Work out an operator, unless its result would be huge."""
        if operator == "**":
            raise TemplateTooCostly("it raises to a power, which chat templates have no need of")
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        texts = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        if operator == "*" and texts:
            _budget.get().make(_size(texts[0]) * max([0, *(value for value in (left, right) if isinstance(value, int))]))
        elif texts:
            _budget.get().make(sum(map(_size, texts)))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise TemplateTooCostly("it computes with huge numbers")
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Hand out a text's `format`, unless the text asks for a width."""
        if getattr(value, "__name__", "") in ("format", "format_map") and isinstance(getattr(value, "__self__", None), str):
            _check_format(value.__self__)
        return super().wrap_str_format(value)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something, unless it is a text's method whose result would be huge."""
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            _budget.get().make(_result_size(owner, method, args))
        else:
            _budget.get().step()
        return super().call(__context, __obj, *args, **kwargs)


def _check_format(text: str) -> None:
    if _ODD_FORMAT.search(text):
        raise TemplateTooCostly("it formats text to a width, which chat templates have no need of")


def _result_size(text: str, method: str, args: tuple[Any, ...]) -> int:
    """Return at most how many characters a method of a text, or the filter of that name, gives back."""
    numbers = [arg for arg in args if isinstance(arg, int)]
    if method in ("center", "ljust", "rjust", "zfill"):
        return len(text) + max(numbers, default=0)
    if method in ("expandtabs", "indent"):
        return len(text) + (1 + text.count("\n") + text.count("\t")) * max([8, *numbers, *(len(a) for a in args if isinstance(a, str))])
    if method == "replace" and len(args) > 1:
        return len(text) + (text.count(str(args[0])) if str(args[0]) else len(text) + 1) * len(str(args[1]))
    if method == "join" and args and isinstance(args[0], list | tuple):
        return sum(len(str(part)) + len(text) for part in args[0])
    return 8 * len(text) if method in ("list", "split", "splitlines") else len(text)


def _accounted(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap one of Jinja's filters so that what it makes is paid for."""
    context = 1 if hasattr(filter_, "jinja_pass_arg") else 0  # some are handed the environment or context first

    @wraps(filter_)
    def accounted(*args: Any, **kwargs: Any) -> Any:
        values = [*args[context:], *kwargs.values()]
        if not values:
            return filter_(*args, **kwargs)
        if name == "format":
            _check_format(str(values[0]))
        if isinstance(values[0], Iterator):
            values[0] = list(values[0])
            args = (*args[:context], values[0], *args[context + 1 :])
        if name == "join" and isinstance(values[0], list | tuple | dict):
            mark = max((len(str(value)) for value in values[1:]), default=0)
            _budget.get().make(sum(len(str(part)) + mark for part in values[0]))
        elif isinstance(values[0], str):
            _budget.get().make(_result_size(values[0], name, tuple(values[1:])))
        else:
            _budget.get().make(_size(values[0]))
        return filter_(*args, **kwargs)

    return accounted


def _guarded_loop(values: Any) -> Iterable[Any]:
    budget = _budget.get()
    for value in values:
        budget.step()
        yield value


def _guarded_concat(parts: list[Any]) -> str:
    texts = [str(part) for part in parts]
    _budget.get().make(sum(map(len, texts)))
    return "".join(texts)


def _guarded_copy(value: Any) -> Any:
    _budget.get().make(_size(value))
    return value


class _Guard(jinja2.visitor.NodeTransformer):
    """Puts a counter into every loop, every `~` and every slice of a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered("guarded_loop", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("guarded_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("guarded_copy", node) if isinstance(node.arg, nodes.Slice) else node


def _filtered(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(jinja2.ext.Extension):
    """transformers' `{% generation %}` around what an assistant wrote; it only marks, and changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        """Read up to `endgeneration`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Any) -> Any:
        return caller()


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    _check_format(form)
    return datetime.now().strftime(form)  # local time, as transformers has it


def _to_json(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Write JSON without the escapes that Jinja's own filter adds for HTML."""
    if len(str(indent)) > 16 or (isinstance(indent, int) and indent > 16):
        raise TemplateTooCostly("it indents JSON by more than 16 characters")
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    _budget.get().make(len(text))
    return text


class _PlainDict:
    """`dict` without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _PlainNamespace(Namespace):
    """A namespace that stores nothing under a name that begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        own, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _refuse_underscore(name)
        Namespace.__init__(own, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace can't hold {str(name)[:40]!r}: it begins with an underscore")


@lru_cache(maxsize=32)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateTooCostly(f"it has {len(source):,} characters, and at most {MAX_TEMPLATE_CHARACTERS:,} are read")
    return _GuardedEnvironment().from_string(source)


def render_template(source: str, **values: Any) -> str:
    """Render a template with plain values (JSON types) within its budget.

    Raises jinja2.TemplateError for anything that a template can do wrong, with words that fit into a sentence.
    """
    token = _budget.set(_Budget())
    try:
        pieces = []
        for piece in _compiled(source).generate(**values):
            _budget.get().make(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    except jinja2.TemplateError:
        raise
    except RecursionError:
        raise TemplateTooCostly("it is nested too deeply") from None
    except MemoryError:
        raise TemplateTooCostly("it needs more memory than there is") from None
    except Exception as error:  # somebody else's program, which may fail in any way
        words = re.sub(r"\s+", " ", str(error))[:200]
        raise jinja2.TemplateError(f"{type(error).__name__}: {words}") from error
    finally:
        _budget.reset(token)
