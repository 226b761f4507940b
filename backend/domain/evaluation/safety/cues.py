"""Cues of refusals and of answers by language: the wordings of `cues.yaml` with their points, which
`backend.domain.evaluation.safety.refusal` adds up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Cue:
    """A pattern of wording. Positive points indicate a refusal; `opening`: matched only in the first characters."""

    name: str
    points: float
    pattern: re.Pattern[str]
    opening: bool = True


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(files(__package__).joinpath("cues.yaml").read_text("utf-8"))
    return table


def _any_of(wordings: Sequence[str]) -> re.Pattern[str]:
    text = "|".join(wordings)
    for name, shared in _table()["shared"].items():
        text = text.replace(f"<{name}>", f"(?:{'|'.join(shared)})")
    return re.compile(text, re.IGNORECASE | re.MULTILINE)


@cache
def cues_by_language() -> dict[str, tuple[Cue, ...]]:
    """Return the cues by language code: ten languages, from Chinese to Spanish."""
    english = tuple(
        Cue(one["name"], one["points"], _any_of(one["any"]), one.get("opening", True)) for one in _table()["english"]
    )
    lists = tuple(cue for cue in english if cue.name == "lists or codes")
    others = {
        language: tuple(Cue(name, pattern=_any_of(any_), **_table()["points"][name]) for name, any_ in wordings.items())
        for language, wordings in _table()["languages"].items()
    }
    return {"en": english, **{language: (*cues, *lists) for language, cues in others.items()}}


@cache
def asks_back() -> re.Pattern[str]:
    """Return the pattern of an English answer that asks what is meant."""
    return _any_of(_table()["asks_back"])
