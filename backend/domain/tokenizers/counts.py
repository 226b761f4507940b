"""Measures of a tokenizer on texts: fertility, bytes per token, unknown tokens. Pure.

Fertility is tokens per word (Acs 2019; Rust et al. 2021, doi:10.18653/v1/2021.acl-long.243). A word is a run of
characters without space that holds a letter or digit; in scripts without spaces between words (Han, kana, Thai, Lao,
Khmer, Burmese) each character counts as one. So fertility reads as tokens per word in English and as tokens per
character in Chinese, and a mixed text adds up.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af"
)
"""Thai and Lao, Burmese, Khmer, kana, Han: the blocks of scripts in which a character counts as a word."""

_UNSPACED = re.compile(f"[{UNSPACED}]")
_RUN = re.compile(rf"[^\s{UNSPACED}]+")
_LETTER = re.compile(r"[^\W_]")


def count_words(text: str) -> int:
    """Count words, and characters of scripts without spaces.

    >>> count_words("Don't panic - it is 東京!")
    6
    """
    return sum(1 for _ in _UNSPACED.finditer(text)) + sum(1 for run in _RUN.finditer(text) if _LETTER.search(run[0]))


@dataclass
class TokenCounts:
    """Counts over a set of texts.

    `unknown`: unknown tokens, whose text is lost; `raw_bytes`: bytes of characters outside the vocabulary;
    `single_bytes`: tokens of one byte, letters included; `changed`: texts that do not round-trip.
    """

    rows: int = 0
    bytes: int = 0
    characters: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    raw_bytes: int = 0
    single_bytes: int = 0
    changed: int = 0

    def add(self, other: TokenCounts) -> None:
        """Add another's counts to these."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def measures(self) -> dict[str, float | None]:
        """Return the counts and their ratios; a ratio without a denominator is None."""
        return {
            **asdict(self),
            "fertility": _ratio(self.tokens, self.words),
            "bytes_per_token": _ratio(self.bytes, self.tokens),
            "characters_per_token": _ratio(self.characters, self.tokens),
            "unknown_share": _ratio(self.unknown, self.tokens),
            "raw_byte_share": _ratio(self.raw_bytes, self.tokens),
            "single_byte_share": _ratio(self.single_bytes, self.tokens),
        }


def _ratio(part: float, total: float) -> float | None:
    return part / total if total else None


def small_languages(bytes_of: dict[str, int], *, share: float, most: int) -> set[str]:
    """Return the languages to be shown together as "other": those with less than `share` of the bytes, and all after
    the first `most`.
    """
    total = sum(bytes_of.values())
    ranked = sorted(bytes_of, key=lambda code: (-bytes_of[code], code))
    return {code for place, code in enumerate(ranked) if place >= most or bytes_of[code] < share * total}
