"""Mask a model's self-identification in an answer before a rater sees it. Pure, no I/O.

A distinctive name, such as `story-12M` or `PaLM`, is masked wherever it stands alone. A plain word, such as `palm`, is
masked only where the text identifies its author by it ("As Palm, I ...", "I am Palm"), so that a palm tree stays one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

MASK = "[name]"
_IS_PLAIN = re.compile(r"[A-Z]?[a-z]+")
_IS_DISTINCTIVE = re.compile(r"[\d_@/.:-]|\s")
_BEFORE = (
    r"(?P<before>\b(?:as|(?:I\s+am|I'm|I’m|this\s+is|my\s+name\s+is|my\s+name's|call\s+me|called|named|known\s+as)"
    r"(?:\s+(?:a|an|the))?)\s+)"
)


class Masker:
    """Replaces names by `[name]`."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names that raters must not see: contestants, runs, ids, and the team's own list."""
        cleaned = sorted({name.strip() for name in names if len(name.strip()) > 2}, key=lambda name: (-len(name), name))
        self._names = [(name.split()[0].casefold(), name) for name in cleaned]

    def mask(self, text: str) -> str:
        """Return the text without the names."""
        folded = text.casefold()
        # most answers hold none, and a plain search is fast
        names = tuple(name for first, name in self._names if first in folded)
        if not names:
            return text
        anywhere, identified, speaker = _patterns(names)
        if anywhere is not None:
            text = anywhere.sub(MASK, text)
        return speaker.sub(rf"\1{MASK}", identified.sub(_hide, text))


@lru_cache(maxsize=256)
def _patterns(names: tuple[str, ...]) -> tuple[re.Pattern[str] | None, re.Pattern[str], re.Pattern[str]]:
    """Return what finds a name anywhere, a name after words such as "I am", and a name in front of a colon."""
    anywhere = [_pattern(name) for name in names if not _IS_PLAIN.fullmatch(name)]
    named = "|".join(_words(name) for name in names)
    return (
        re.compile("|".join(anywhere)) if anywhere else None,
        re.compile(_BEFORE + rf"(?:{named})(?!\w)(?P<after>,?)", re.IGNORECASE),
        re.compile(rf"^(\W*)(?:{named})(?=\s*:)", re.IGNORECASE),
    )


def _hide(match: re.Match[str]) -> str:
    """Keep "as oak" in running text: "as" alone identifies no one unless a comma follows, as in "As Oak, I think"."""
    if match["before"].split()[0].lower() == "as" and not match["after"]:
        return match[0]
    return f"{match['before']}{MASK}{match['after']}"


def _pattern(name: str) -> str:
    """Match a distinctive name alone; in any case with a digit, a sign or several words, else as written."""
    flag = "(?i:{})" if _IS_DISTINCTIVE.search(name) else "{}"
    return rf"(?<!\w){flag.format(_words(name))}(?!\w)"


def _words(name: str) -> str:
    return r"\s+".join(re.escape(part) for part in name.split())
