"""Templates and expressions of a task, rendered for a row of a dataset within the limits of
`backend.domain.template_guard`.

Text is what lm-evaluation-harness renders: a trailing line break stays, blocks leave their line breaks, and a name that
is no column is an error. On top come the filter `regex_replace`, and expressions whose value keeps its type.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any

import jinja2
import regex
from jinja2 import StrictUndefined, meta, nodes

from backend.domain import template_costs as costs
from backend.domain.json_values import RowMapping
from backend.domain.names import nearest_name
from backend.domain.template_guard import GuardedEnvironment, check_length, join_pieces, limited
from backend.domain.wording import shorten
from backend.errors import InvalidInput

RESULT = "value_of_the_expression"
MAX_REGEX_S = 1.0
_UNDEFINED = re.compile(r"'(?P<name>[^']+)' is undefined|has no attribute '(?P<attribute>[^']+)'")


class TemplateFault(InvalidInput):
    """A template or expression of a task fails. `path` names its field, `line` counts from 1 inside the template."""

    def __init__(self, message: str, *, path: str, line: int | None = None, remedy: str = "") -> None:
        super().__init__(message, remedy=remedy, field=path)
        self.path = path
        self.line = line


def _regex_replace(text: str, pattern: str, repl: str = "", count: int = 0) -> str:
    """Replace every match of a pattern, as `re.sub` does, within the budget."""
    limits, pieces, end = costs.budget.get(), [], 0
    for number, match in enumerate(regex.finditer(pattern, text, timeout=MAX_REGEX_S)):
        if count and number >= count:
            break
        longest = max((len(group) for group in (match[0], *match.groups("")) if group), default=0)
        limits.make(len(repl) + longest * repl.count("\\"))
        pieces += [text[end : match.start()], match.expand(repl)]
        end = match.end()
    pieces.append(text[end:])
    limits.make(costs.joined(pieces))
    return "".join(pieces)


class _TaskEnvironment(GuardedEnvironment):
    def __init__(self) -> None:
        super().__init__(keep_trailing_newline=True, undefined=StrictUndefined)
        self.filters["regex_replace"] = _regex_replace

    def parse_expression(self, source: str) -> nodes.Template:
        """Parse an expression, in braces or bare, to a template that assigns its value to `RESULT`; other templates
        stay text.
        """
        text = source.strip()
        if "{{" not in text and "{%" not in text:
            text = f"{{{{ {text} }}}}"
        tree = self._parse(text, None, None)
        written = [part for node in tree.body if isinstance(node, nodes.Output) for part in node.nodes]
        values = [part for part in written if not (isinstance(part, nodes.TemplateData) and not part.data.strip())]
        if len(values) == 1 and not isinstance(values[0], nodes.TemplateData):
            value = nodes.Assign(nodes.Name(RESULT, "store", lineno=1), values[0], lineno=1)
            tree.body = [value if isinstance(n, nodes.Output) and values[0] in n.nodes else n for n in tree.body]
        tree.set_environment(self)
        return tree


_ENVIRONMENT = _TaskEnvironment()


@lru_cache(maxsize=512)
def _compile_text(source: str) -> jinja2.Template:
    check_length(source)
    return _ENVIRONMENT.from_string(source)


@lru_cache(maxsize=512)
def _compile_expression(source: str) -> jinja2.Template:
    check_length(source)
    return _ENVIRONMENT.from_string(_ENVIRONMENT.parse_expression(source))


def check_template(source: str, *, path: str, expression: bool = False) -> None:
    """Raise TemplateFault, with the line, for a template that does not compile."""
    try:
        with limited(None, source=source):
            (_compile_expression if expression else _compile_text)(source)
    except jinja2.TemplateError as error:
        raise _fault(error, source=source, path=path, row={}) from error


def names_in(source: str) -> frozenset[str]:
    """Return the names that a template looks up: columns, and what the task itself provides."""
    return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(source))) - {RESULT}


def render_text(source: str, row: RowMapping, *, path: str) -> str:
    """Return the text of a template for a row. Raises TemplateFault naming the missing column and the nearest one."""
    try:
        with limited(dict(row), source=source):
            return join_pieces(_compile_text(source).generate(row))
    except jinja2.TemplateError as error:
        raise _fault(error, source=source, path=path, row=row) from error


def evaluate(source: str, row: RowMapping, *, path: str) -> Any:
    """Return the value of an expression for a row, of plain JSON types; of a template with text around it the text.

    Raises TemplateFault like `render_text`.
    """
    try:
        with limited(dict(row), source=source):
            template = _compile_expression(source)
            context = template.new_context(dict(row))
            text = join_pieces(template.root_render_func(context))
            return _plain(context.vars[RESULT]) if RESULT in context.vars else text
    except jinja2.TemplateError as error:
        raise _fault(error, source=source, path=path, row=row) from error


def _plain(value: Any) -> Any:
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises UndefinedError with the name that is missing
    costs.check_nesting(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence):
        return [_plain(part) for part in value]
    if hasattr(value, "__iter__"):
        limits, parts = costs.budget.get(), []
        for part in value:
            limits.step()
            parts.append(_plain(part))
        return parts
    raise jinja2.TemplateError(f"it gives a {type(value).__name__}, which is not a JSON value")


def _fault(error: jinja2.TemplateError, *, source: str, path: str, row: RowMapping) -> TemplateFault:
    line = error.lineno if isinstance(error, jinja2.TemplateSyntaxError) else _line_of(error.__traceback__)
    shown = _shown_line(source, line)
    at = (
        f"`{path}`"
        + (f", line {line}" if line and source.strip().count("\n") else "")
        + (f" ({shown})" if shown else "")
    )
    missing = _UNDEFINED.search(str(error.message or "")) if isinstance(error, jinja2.UndefinedError) else None
    if missing and missing["name"]:
        columns = [str(name) for name in row]
        near = nearest_name(missing["name"], columns)
        return TemplateFault(
            f"{at} reads the column `{missing['name']}`, and the row has none of that name.",
            path=path,
            line=line,
            remedy=(f"Use `{near}`? " if near else "") + f"The row has: {', '.join(columns[:20]) or 'no column'}.",
        )
    if missing and missing["attribute"]:
        return TemplateFault(
            f"{at} reads `{missing['attribute']}` of a value that has none of that name.",
            path=path,
            line=line,
            remedy="Look at the row: the dataset may be another one than the task was written for.",
        )
    words = " ".join(str(error.message or error).split()).rstrip(".") or type(error).__name__
    if isinstance(error, jinja2.TemplateSyntaxError):
        return TemplateFault(
            f"{at} is not a template: {words}.", path=path, line=line, remedy="Templates are Jinja: {{ column }}."
        )
    return TemplateFault(f"{at} fails: {words}.", path=path, line=line, remedy="Correct the template, or the row.")


def _line_of(traceback: TracebackType | None) -> int | None:
    """Return the line of a template that was reached last."""
    line = None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == "<template>":
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _shown_line(source: str, line: int | None) -> str:
    lines = source.strip().splitlines()
    text = lines[line - 1].strip() if line and 0 < line <= len(lines) else (lines[0].strip() if len(lines) == 1 else "")
    return shorten(text, 80)
