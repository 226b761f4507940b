"""Prompts of a team: a system prompt and a message with variables, `{{name}}`. Templates are those of tasks, so that a
prompt and the task made of it ask the same.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from itertools import islice, takewhile
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from backend.domain.evaluation.tasks.templates import check_template, names_in, render_text
from backend.domain.json_values import Row
from backend.domain.validation import is_stored
from backend.errors import InvalidInput

MAX_SYSTEM, MAX_TEXT = 20_000, 50_000
MAX_COMPARED, CONTEXT = 2_000, 200
"""Lines that are compared one by one, and equal ones that are shown around a difference."""
FIELDS = {"system": "System prompt", "text": "Message"}


class PromptText(BaseModel):
    """System prompt and message of a version. `system` may be empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str = Field(default="", max_length=MAX_SYSTEM)
    text: str = Field(min_length=1, max_length=MAX_TEXT)

    @field_validator("system", "text")
    @classmethod
    def _is_template(cls, value: str, info: ValidationInfo) -> str:
        if not is_stored(info):
            if info.field_name == "text" and not value.strip():
                raise ValueError("write what the prompt asks")
            check_template(value, path=FIELDS[str(info.field_name)])
        return value

    @property
    def variables(self) -> tuple[str, ...]:
        """Names that a row fills in, in the order in which they are written."""
        written = f"{self.system}\n{self.text}"
        return tuple(sorted(names_in(self.system) | names_in(self.text), key=written.find))

    def fill(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Return system prompt and message for a row. Raises TemplateFault naming a variable that the row lacks."""
        system = render_text(self.system, row, path=FIELDS["system"]) if self.system.strip() else ""
        return system, render_text(self.text, row, path=FIELDS["text"])

    def lines(self) -> list[str]:
        """Return the prompt as lines of text, the system prompt first, for a comparison."""
        head = ["System prompt:", *self.system.splitlines(), ""] if self.system.strip() else []
        return [*head, "Message:", *self.text.splitlines()]


def prompt_diff(before: PromptText, after: PromptText) -> str:
    """Return the lines that differ among the others, in the form of `diff -u` without its heads; empty for equal
    prompts. Of more than MAX_COMPARED lines, all from the first to the last that differ are removed and added: time
    grows with the cube of lines that repeat.
    """
    old, new = before.lines(), after.lines()
    if len(old) + len(new) > MAX_COMPARED and old != new:
        head = _num_shared(old, new)
        tail = _num_shared(old[head:][::-1], new[head:][::-1])
        end = len(old) - tail
        marked = {
            " ": old[max(0, head - CONTEXT) : head],
            "-": old[head:end],
            "+": new[head : len(new) - tail],
        }
        parts = [f"{mark}{line}" for mark, some in marked.items() for line in some]
        return "\n".join([*parts, *(f" {line}" for line in old[end : end + CONTEXT])])
    lines = difflib.unified_diff(old, new, lineterm="", n=CONTEXT)
    return "\n".join(line for line in islice(lines, 2, None) if not line.startswith("@@"))


def _num_shared(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many lines are the same from the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def read_typed_rows(text: str, variables: tuple[str, ...]) -> list[Row]:
    """Return the rows that a person typed: with one variable a value a line, else a JSON object a line; one row without
    variables.

    Raises InvalidInput naming the line, its text and the remedy.
    """
    if not variables:
        return [{}]
    example = json.dumps(dict.fromkeys(variables, "…"), ensure_ascii=False)
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not (written := line.strip()):
            continue
        if len(variables) == 1 and not written.startswith("{"):
            rows.append({variables[0]: written})
            continue
        rows.append(_read_object(written, number=number, example=example))
        if missing := [name for name in variables if name not in rows[-1]]:
            raise InvalidInput(
                f"Line {number} has no {', '.join(missing)}.", remedy=f"Write each line as {example}", field="rows"
            )
    if not rows:
        raise InvalidInput(
            "There is no row to try.",
            remedy="Write a value a line." if len(variables) == 1 else f"Write a line for each row, as {example}",
            field="rows",
        )
    return rows


def _read_object(line: str, *, number: int, example: str) -> Row:
    try:
        value = json.loads(line)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()  # NaN and lone surrogates can't be stored
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"Line {number} is not JSON: {line[:60]!r}.", remedy=f"Write each line as {example}", field="rows"
        ) from error
    if not isinstance(value, dict):
        raise InvalidInput(
            f"Line {number} is not a JSON object: {line[:60]!r}.", remedy=f"Write each line as {example}", field="rows"
        )
    return value
