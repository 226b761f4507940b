"""Render templates, which are untrusted programs, within limits; chat templates give the same text as transformers.

The environment of chat templates is that of transformers (Jinja's immutable sandbox: no attribute that begins with an
underscore, no change to an argument). The environment of task templates derives from it
(backend.domain.evaluation.tasks.templates). A template has a budget for loop iterations, calls and bytes, charged in
advance, and a time limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.visitor
from jinja2 import nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from backend.domain import template_costs as costs
from backend.domain.template_costs import MAX_NUMBER, RenderingBudget, TemplateTooCostly, budget, check_nesting, written

MAX_TEMPLATE_CHARACTERS = 256 * 1024
MAX_TEMPLATE_NODES = 10_000
CHEAP_TESTS = frozenset(
    [
        "defined",
        "undefined",
        "none",
        "boolean",
        "false",
        "true",
        "integer",
        "float",
        "number",
        "string",
        "mapping",
        "iterable",
        "sequence",
        "callable",
        "sameas",
        "filter",
        "test",
        "escaped",
        "odd",
        "even",
        "divisibleby",
    ]
)
"""Tests of a value that do not read its contents."""
OBJECTS = 8
"""Size of a dictionary entry as a multiple of a list entry."""


class GuardedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with every operation charged to a budget. `options` are Jinja's, those of transformers
    when left out.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, **options: Any) -> None:
        # unoptimized and context-dependent, so that constants are not evaluated while the template is compiled
        super().__init__(
            **(options or {"trim_blocks": True, "lstrip_blocks": True}),
            optimized=False,
            finalize=_write_out,
            extensions=[_Generation, jinja2.ext.loopcontrols],
        )
        self.filters = {
            name: _accounted(filter_, costs.FILTERS[name])
            for name, filter_ in self.filters.items()
            if name in costs.FILTERS
        }
        self.filters |= {
            "tojson": _to_json,
            "guarded_loop": _guarded_loop,
            "guarded_concat": _guarded_concat,
            "guarded_source": _guarded_source,
            "guarded_value": check_nesting,
        }
        self.tests = {
            name: test if name in CHEAP_TESTS else _accounted(test, _read_all) for name, test in self.tests.items()
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
        tree = super()._parse(source, name, filename)
        if sum(1 for _ in tree.find_all(nodes.Node)) > MAX_TEMPLATE_NODES:
            raise TemplateTooCostly(f"it has more than {MAX_TEMPLATE_NODES:,} parts")
        return _Guard().visit(tree)  # type: ignore[no-any-return]

    def concat(self, parts: Iterable[str]) -> str:
        """Join the output of a macro or a block."""
        pieces = list(parts)
        budget.get().make(costs.joined(pieces))
        return "".join(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Evaluate an operator, unless its result would be too large."""
        if operator == "**":
            raise TemplateTooCostly("it raises to a power, which templates have no need of")
        _check_number(left)
        _check_number(right)
        if operator == "%" and isinstance(left, str):
            budget.get().make(_with_markup(left, right) * costs.percent_format(left, right))
        elif operator == "*":
            budget.get().make(costs.product(left, right))
        elif operator == "+":
            budget.get().make(_with_markup(left, right) * costs.total(left, right))
        else:
            budget.get().step()
        return _check_number(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Wrap a text's `format` so that each call is charged."""
        call = super().wrap_str_format(value)
        if call is None:
            return None

        @wraps(call)
        def accounted(*args: Any, **kwargs: Any) -> str:
            text = value.__self__
            budget.get().make(_with_markup(text) * costs.brace_format(text, (*args, *kwargs.values())))
            return call(*args, **kwargs)

        del accounted.__wrapped__
        return accounted

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function whose result has a known bound."""
        owner, method = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        kind = next((kind for kind in costs.METHODS if isinstance(owner, kind)), None)
        if kind is None and owner is not None and type(owner).__module__ == "builtins":
            raise SecurityError(f"it calls a method of {type(owner).__name__}, which templates have no need of")
        if kind is None:
            budget.get().step()
            if method == "changed":  # `loop.changed` compares with the previous iteration
                for value in args:
                    check_nesting(value)
        else:
            args = tuple(_read(value) for value in args)
            cost = costs.METHODS[kind].get(method)
            if cost is None:
                raise SecurityError(f"it calls {kind.__name__}.{method[:40]}, which templates have no need of")
            budget.get().make(_with_markup(owner, *args) * cost(owner, *args, **kwargs))
        return super().call(__context, __obj, *args, **kwargs)


@pass_context
def _write_out(_context: Any, value: Any) -> str:
    """Convert a printed value to text."""
    budget.get().make(written(value))
    return value if type(value) is str else str(value)


def _with_markup(*values: Any) -> int:
    """Return the factor by which text grows next to text marked as safe, because it is escaped."""
    return costs.ESCAPED if any(hasattr(value, "__html__") for value in values) else 1


def _check_number(value: Any) -> Any:
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise TemplateTooCostly("it computes with huge numbers")
    return value


def _read(value: Any) -> Any:
    """Return a list in place of an iterator."""
    return list(_guarded_loop(value)) if isinstance(value, Iterator) else value


def _read_all(*values: Any, **_options: Any) -> int:
    for value in values:
        check_nesting(value)
    return sum(written(value) for value in values if isinstance(value, str))


def _accounted(function: Any, cost: Callable[..., int]) -> Callable[..., Any]:
    """Wrap one of Jinja's filters or tests so that its result is charged."""
    context = 1 if hasattr(function, "jinja_pass_arg") else 0  # some take the environment or context first

    @wraps(function)
    def accounted(*args: Any, **kwargs: Any) -> Any:
        values = [_read(value) for value in args[context:]]
        budget.get().make(_with_markup(*values) * cost(*values, **kwargs))
        return _check_number(function(*args[:context], *values, **kwargs))

    return accounted


def _guarded_loop(values: Any) -> Iterable[Any]:
    limits = budget.get()
    for value in values:
        limits.step()
        yield value


def _guarded_concat(parts: list[Any]) -> str:
    budget.get().make(_with_markup(*parts) * costs.joined(parts))
    return "".join([str(part) for part in parts])


def _length(value: Any) -> int:
    """Return the number of characters in plain values."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return _length(list(value.values()))
    return sum(map(_length, value)) if isinstance(value, list | tuple) else 8


def _guarded_source(value: Any) -> Any:
    budget.get().make(costs.size(value))
    return value


class _Guard(jinja2.visitor.NodeTransformer):
    """Adds a charge to every loop, `~`, slice, comparison and key of a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered("guarded_loop", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered("guarded_concat", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered("guarded_source", node.node)
        else:
            node.arg = _checked(node.arg)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _checked(node.expr)
        for operand in node.ops:
            operand.expr = _checked(operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        self.generic_visit(node)
        node.key = _checked(node.key)
        return node


def _checked(node: Any) -> Any:
    return node if isinstance(node, nodes.Const) else _filtered("guarded_value", node)


def _filtered(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


class _Generation(jinja2.ext.Extension):
    """transformers' `{% generation %}` around an assistant's text, which leaves the text unchanged."""

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
    budget.get().make(costs.time_format(form))
    return datetime.now().strftime(form)  # local time, as in transformers


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Write JSON without the escapes that Jinja's own filter adds for HTML."""
    budget.get().make(costs.json_text(value, indent, separators))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _PlainDict:
    """`dict` without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*self._charged(args), **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*self._charged(args))

    def _charged(self, args: tuple[Any, ...]) -> list[Any]:
        values = [check_nesting(_read(value)) for value in args]
        budget.get().make(sum(OBJECTS * costs.size(value) for value in values))
        return values


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
    check_length(source)
    return GuardedEnvironment().from_string(source)


@lru_cache(maxsize=32)
def variables_of(source: str) -> frozenset[str]:
    """Return the names of the values that a template reads. Raises jinja2.TemplateError for one that can't be read."""
    check_length(source)
    environment = GuardedEnvironment()
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source)) - environment.globals.keys())


def check_length(source: str) -> None:
    """Raise TemplateTooCostly for a template that is too long to be compiled."""
    if len(source) > MAX_TEMPLATE_CHARACTERS:
        raise TemplateTooCostly(f"it has {len(source):,} characters, and at most {MAX_TEMPLATE_CHARACTERS:,} are read")


@contextmanager
def limited(values: Any, *, source: str = "") -> Iterator[None]:
    """Run the body with a budget that suits these values. Raises jinja2.TemplateError for a template's faults."""
    token = budget.set(RenderingBudget(input_bytes=len(source) + _length(values)))
    try:
        yield
    except jinja2.TemplateError:
        raise
    except RecursionError:
        raise TemplateTooCostly("it is nested too deeply") from None
    except MemoryError:
        raise TemplateTooCostly("it needs more memory than available") from None
    except Exception as error:  # an untrusted program, which may fail in any way
        words = re.sub(r"\s+", " ", str(error))[:200]
        raise jinja2.TemplateError(f"{type(error).__name__}: {words}") from error
    finally:
        budget.reset(token)


def join_pieces(pieces: Iterable[str]) -> str:
    """Return the text that a template writes. Raises TemplateTooCostly for one that never ends."""
    written_pieces, length = [], 0
    for piece in pieces:
        budget.get().step()
        length += len(piece)
        if length > costs.MAX_PIECE_BYTES // 4:
            raise TemplateTooCostly(f"it writes more than {costs.MAX_PIECE_BYTES // 4 // 2**20} million characters")
        written_pieces.append(piece)
    return "".join(written_pieces)


def render_template(source: str, **values: Any) -> str:
    """Render a template with plain values (JSON types) within its budget.

    Raises jinja2.TemplateError for any failure of the template, with a message that fits into a sentence.
    """
    with limited(values, source=source):
        return join_pieces(_compiled(source).generate(**values))
