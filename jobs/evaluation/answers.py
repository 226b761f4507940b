"""Comparing what a network wrote with the answers that count. Pure text."""

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
    """Return text without case, punctuation, articles and extra spaces, as SQuAD's scorer does (Rajpurkar et al. 2016).

    Points and signs inside numbers stay, and 1,000 becomes 1000.
    """
    text = _THOUSANDS.sub("", unicodedata.normalize("NFKC", text).lower())
    text = re.sub(r"(?<!\d)\.|\.(?!\d)|-(?!\d)|(?<=\w)-", " ", text.translate(_PUNCTUATION))
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(completion: str, answers: Sequence[str]) -> float:
    """1 if the completion is one of the answers after normalisation. Answers of punctuation alone are compared as they are."""
    said = normalise(completion)
    return float(any(said == normalise(a) if normalise(a) else completion.strip() == a.strip() for a in answers))


def contains(completion: str, answers: Sequence[str]) -> float:
    """1 if one of the answers stands in the completion, as whole words, after normalisation."""
    said = f" {normalise(completion)} "
    return float(any(f" {normalise(a)} " in said if normalise(a) else a.strip() in completion for a in answers))


def last_number(text: str) -> float | None:
    """Return the last number in a text."""
    found = _NUMBER.findall(_THOUSANDS.sub("", text))
    return float(found[-1]) if found else None


def numeric_match(completion: str, answers: Sequence[str]) -> float:
    """1 if the completion's last number is the last number of one of the answers."""
    said = last_number(completion)
    return float(said is not None and any(said == last_number(answer) for answer in answers))
