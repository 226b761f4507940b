"""Compare completions with reference answers: exact match, containment, numeric match. Pure text."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation if mark not in ".-"})


def normalise(text: str) -> str:
    """Lower-case a text and drop punctuation, articles and extra spaces, as SQuAD's scorer does (Rajpurkar et al. 2016).

    Decimal points and signs inside numbers stay, and 1,000 becomes 1000.
    """
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|-(?!\d)|(?<=\w)-", " ", text.translate(_PUNCTUATION))
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(completion: str, answers: Sequence[str]) -> float:
    """Return 1 if the completion equals one of the answers after normalisation. Answers of punctuation alone are compared verbatim."""
    normalised = normalise(completion)
    return float(any(normalised == normalise(a) if normalise(a) else completion.strip() == a.strip() for a in answers))


def contains(completion: str, answers: Sequence[str]) -> float:
    """Return 1 if the completion contains one of the answers as complete words, after normalisation."""
    normalised = f" {normalise(completion)} "
    return float(any(f" {normalise(a)} " in normalised if normalise(a) else a.strip() in completion for a in answers))


def last_number(text: str) -> float | None:
    """Return the last number of a text, or None without one."""
    numbers = _NUMBER.findall(_THOUSANDS.sub("", text))
    return float(numbers[-1]) if numbers else None


def numeric_match(completion: str, answers: Sequence[str]) -> float:
    """Return 1 if the completion's last number is the last number of one of the answers."""
    number = last_number(completion)
    return float(number is not None and any(number == last_number(answer) for answer in answers))
