"""ROUGE by rouge-score (Lin 2004), and how much of a text is copied from its source or reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def rouge(prediction: str, references: Sequence[str], *, variant: str, stemmer: bool = False) -> float:
    """Return the F-measure of `rouge1`, `rouge2`, `rougeL` or `rougeLsum`, best over the references."""
    return float(_rouge_scorer(variant, stemmer).score_multi(list(references), prediction)[variant].fmeasure)


@lru_cache(maxsize=8)
def _rouge_scorer(variant: str, stemmer: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([variant], use_stemmer=stemmer)


def edit_similarity(prediction: str, references: Sequence[str]) -> float:
    """Return 1 minus the edit distance of the words over the longer length, best over the references."""
    return max(_edit_similarity(prediction.split(), reference.split()) for reference in references)


def _edit_similarity(first: list[str], second: list[str]) -> float:
    longest = max(len(first), len(second))
    return 1 - edit_distance(first, second) / longest if longest else 1.0


def edit_distance_to(prediction: str, references: Sequence[str]) -> float:
    """Return the edit distance to the nearest reference, counted by words."""
    return float(min(edit_distance(prediction.split(), reference.split()) for reference in references))


def edit_distance(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of insertions, deletions and substitutions between two sequences (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for index, item in enumerate(first, start=1):
        previous, row[0] = row[0], index
        for at, other in enumerate(second, start=1):
            previous, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, previous + (item != other))
    return row[-1]


def common_prefix(prediction: str, references: Sequence[str]) -> float:
    """Return the number of words with which the prediction begins as a reference does, longest over the references."""
    return float(max(_common_prefix(prediction.split(), reference.split()) for reference in references))


def _common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    return next(
        (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def coverage(prediction: str, references: Sequence[str]) -> float:
    """Return the share of a summary's tokens that lie in fragments copied from the source (Grusky et al. 2018)."""
    summary, source = _tokens(prediction), _tokens(references[0])
    return sum(copied_fragments(summary, source)) / len(summary) if summary else 0.0


def density(prediction: str, references: Sequence[str]) -> float:
    """Return the mean over a summary's tokens of the length of the copied fragment around each (Grusky et al. 2018)."""
    summary, source = _tokens(prediction), _tokens(references[0])
    return sum(length**2 for length in copied_fragments(summary, source)) / len(summary) if summary else 0.0


def compression(prediction: str, references: Sequence[str]) -> float:
    """Return the source's tokens per token of the summary; of an empty summary 0 (Grusky et al. 2018)."""
    summary = _tokens(prediction)
    return len(_tokens(references[0])) / len(summary) if summary else 0.0


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def copied_fragments(summary: Sequence[str], source: Sequence[str]) -> list[int]:
    """Return the lengths of the fragments that a summary shares with its source, greedily (Grusky et al. 2018)."""
    positions: dict[str, list[int]] = {}
    for index, token in enumerate(source):
        positions.setdefault(token, []).append(index)
    lengths, at = [], 0
    while at < len(summary):
        longest = max(
            (_common_prefix(summary[at:], source[start:]) for start in positions.get(summary[at], ())), default=0
        )
        if longest:
            lengths.append(longest)
        at += longest or 1
    return lengths
