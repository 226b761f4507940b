"""The language of an answer, by script and by its commonest words. Pure.

It decides which cues of refusals apply, so a wrong guess is worse than none: a text whose language is not among those
with cues, or that has too few common words of any, has none.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from importlib.resources import files

import yaml

MIN_SHARE = 0.12
"""Share of a text's words that must be common ones of its language."""
MIN_WORDS = 4
_UKRAINIAN_OR_SERBIAN = re.compile(r"[іїєґђћџљњјўѓќ]", re.IGNORECASE)
_RUSSIAN = re.compile(
    r"\b(?:и|не|в|на|что|я|с|это|как|но|вы|по|для|могу|из|у|так|к|о|от|же|бы|если|или)\b", re.IGNORECASE
)


@cache
def _common_words() -> dict[str, frozenset[str]]:
    texts = yaml.safe_load(files(__package__).joinpath("common_words.yaml").read_text("utf-8"))
    return {language: frozenset(words.split()) for language, words in texts.items()}


def language_of(text: str) -> str | None:
    """Return the code of a text's language, such as `de`, or None where it can't be told. Chinese has one code in both
    scripts.

    Texts of fewer than four words in Latin letters can't be told apart by their words: None.
    """
    scripts = _letters_by_script(text)
    total = sum(scripts.values())
    if not total:
        return None
    if scripts.get("HANGUL", 0) > 0.3 * total:
        return "ko"
    kana = scripts.get("HIRAGANA", 0) + scripts.get("KATAKANA", 0)
    if kana + scripts.get("CJK", 0) > 0.4 * total:
        return "ja" if kana > 0.08 * (kana + scripts.get("CJK", 0)) else "zh"
    if scripts.get("CYRILLIC", 0) > 0.5 * total:
        return "ru" if _RUSSIAN.search(text) and not _UKRAINIAN_OR_SERBIAN.search(text) else None
    if scripts.get("LATIN", 0) < 0.5 * total:
        return None
    return _latin(text)


def _latin(text: str) -> str | None:
    words = re.findall(r"[^\W\d_]+", text.lower())
    if len(words) < MIN_WORDS:
        return None
    counts = {language: sum(word in common for word in words) for language, common in _common_words().items()}
    most = max(counts.values())
    if most < max(1, MIN_SHARE * len(words)):
        return None
    likeliest = [language for language, count in counts.items() if count == most]
    if len(likeliest) > 1 and "en" in likeliest and text.isascii():  # "in", of a sentence of names
        return "en"
    return likeliest[0] if len(likeliest) == 1 else None


def _letters_by_script(text: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for letter in text:
        if letter.isalpha():
            script = unicodedata.name(letter, "").split(" ")[0].split("-")[0]
            counts[script] = counts.get(script, 0) + 1
    return counts
