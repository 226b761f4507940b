"""Parse untrusted YAML (recipes, architectures, front matter): bounded and without aliases, so that it can't expand."""

from __future__ import annotations

import re
from typing import Any

import yaml

from backend.errors import InvalidInput

MAX_CHARACTERS = 200_000


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases: nine lines of them expand to a billion values ("billion laughs")."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not read; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)


_PlainLoader.add_implicit_resolver(  # YAML 1.2: `1e5` is a number; in 1.1 it is text without a dot and a sign
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]{1,3}$"), list("-+0123456789")
)


def parse_yaml(text: str, *, what: str) -> Any:
    """Read one YAML document. `what` names it in messages, as in "The recipe".

    Raises InvalidInput, with the line at fault where there is one, if it is no YAML, uses aliases, is nested too
    deeply, or is longer than 200,000 characters.
    """
    if len(text) > MAX_CHARACTERS:
        raise InvalidInput(f"{what} has {len(text):,} characters.", remedy=f"At most {MAX_CHARACTERS:,} are read.")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a SafeLoader that reads less
    except yaml.YAMLError as error:
        raise InvalidInput(f"{what} is not YAML: {_words(error)}.", remedy="Write one `name: value` a line.") from error
    except RecursionError:
        raise InvalidInput(
            f"{what} is nested too deeply.", remedy="Its fields hold plain values, or mappings of them."
        ) from None
    except ValueError as error:  # a number of thousands of digits, a 13th month
        raise InvalidInput(f"{what} holds a value that can't be read: {error}.") from error


def field_lines(text: str) -> dict[str, tuple[int, bool]]:
    """Return for every field of a YAML mapping, as `fewshot.count`, its line counted from 1 and whether its value is a
    block below it.

    Empty for a text that is no YAML.
    """
    try:
        root = yaml.compose(text, Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    lines: dict[str, tuple[int, bool]] = {}
    waiting: list[tuple[str, yaml.Node | None]] = [("", root)]
    while waiting:
        prefix, node = waiting.pop()
        parts: list[tuple[str, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            parts = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            parts = [(str(index), value, value) for index, value in enumerate(node.value)]
        for name, key, value in parts:
            path = f"{prefix}{name}"
            lines[path] = (key.start_mark.line + 1, isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"))
            waiting.append((f"{path}.", value))
    return lines


def _words(error: yaml.YAMLError) -> str:
    """Return a one-line description of the error with its position."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return (
            f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}:"
            f" {error.problem or error.context}"
        )
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character U+{int(error.character):04X} at position {error.position + 1:,} is not allowed"
    return " ".join(str(error).split())
