"""Extract the answer from a completion by named regular expressions, tried in order. Pure rules.

The same filters as lm-evaluation-harness' `regex` with `take_first`: a pattern, the match to take, and the group of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol

from backend.errors import InvalidInput

TIMEOUT_S = 1.0
"""Longest search of one pattern in one completion, since a pattern may backtrack without end."""


class AnswerFilter(Protocol):
    """One way to find the answer: a regular expression, the match to take (0 is the first, -1 the last) and the group
    of it.

    Without a group the answer is the first group that holds something, or the match if there is none.
    """

    @property
    def name(self) -> str:
        """Name, recorded with each item that this filter matched."""

    @property
    def pattern(self) -> str:
        """Regular expression."""

    @property
    def take(self) -> int:
        """Position of the match that counts."""

    @property
    def group(self) -> int | None:
        """Group that holds the answer."""


@dataclass(frozen=True)
class Pattern:
    """A filter of the table below or of the command line."""

    name: str
    pattern: str
    take: int = 0
    group: int | None = None


@dataclass(frozen=True)
class Extracted:
    """The answer of a completion and the filter that found it. Both None: no filter matched."""

    text: str | None
    filter: str | None


FILTERS: dict[str, tuple[Pattern, ...]] = {
    "gsm8k": (
        Pattern(name="strict", pattern=r"#### (\-?[0-9\.\,]+)"),
        Pattern(name="flexible", pattern=r"(-?[$0-9.,]{2,})|(-?[0-9]+)", take=-1),
    ),
    "boxed": (Pattern(name="boxed", pattern=r"\\boxed\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}", take=-1),),
    "letter": (
        Pattern(name="answer line", pattern=r"(?i:answer)\s*(?i:is)?\s*[:=]\s*[\"'*(\[$]*([A-Z])\b(?!')", take=-1),
        Pattern(name="answer is", pattern=r"(?i:answer)\s+(?i:is)\s+[\"'*(\[$]*([A-Z])\b(?!')", take=-1),
        Pattern(name="letter alone", pattern=r"^\W*([A-Z])\W*$"),
    ),
    "first_line": (Pattern(name="first line", pattern=r"^\s*(\S[^\n]*?)\s*(?:\n|$)"),),
    "cot": (Pattern(name="the answer is", pattern=r"(?<=the answer is )(.*)(?=.)"),),
}
"""Filters by name, for the command line and as a start for tasks."""


def named_filters(name: str) -> tuple[Pattern, ...]:
    """Return the filters of a name. Raises InvalidInput for an unknown one."""
    if name not in FILTERS:
        raise InvalidInput(
            f"There is no answer filter {name!r}.", remedy=f"Filters: {', '.join(FILTERS)}.", field="extract"
        )
    return FILTERS[name]


def extract_answer(completion: str, filters: Sequence[AnswerFilter]) -> Extracted:
    """Return the answer that the first matching filter finds, without outer spaces. A search that takes too long does
    not match.
    """
    for answer_filter in filters:
        text = _search(completion, answer_filter)
        if text is not None:
            return Extracted(text.strip(), answer_filter.name)
    return Extracted(None, None)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> Any:
    import regex

    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise InvalidInput(f"{pattern!r} is not a regular expression: {error}.", field="pattern") from None


def _search(completion: str, answer_filter: AnswerFilter) -> str | None:
    pattern, take = _compiled(answer_filter.pattern), answer_filter.take
    if answer_filter.group is not None and answer_filter.group > pattern.groups:
        raise InvalidInput(
            f"The filter {answer_filter.name!r} has no group {answer_filter.group}.",
            remedy=f"Its pattern has {pattern.groups} groups.",
            field="group",
        )
    try:
        matches = pattern.finditer(completion, timeout=TIMEOUT_S)
        nearest = deque(matches, maxlen=-take) if take < 0 else list(islice(matches, take, take + 1))
    except TimeoutError:
        return None
    if len(nearest) < max(-take, 1):
        return None
    match = nearest[0]
    if answer_filter.group is not None:
        return None if match[answer_filter.group] is None else str(match[answer_filter.group])
    return next((str(group) for group in match.groups() if group), str(match[0]))
