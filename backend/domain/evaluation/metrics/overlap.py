"""Overlap of texts with their references: BLEU, chrF and TER by sacreBLEU (Post 2018), with its signature, BLEU of
single sentences without smoothing, ROUGE by rouge-score (Lin 2004), and how much of a text is copied from its source
or reference.

Of a metric over a corpus, the statistics of each document give the value of any selection of documents, as bootstraps
draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FloatArray: TypeAlias = "NDArray[np.float64]"
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Corpus:
    """Statistics of a corpus: `table` has one row per document, `statistic` is the metric of such rows.

    `signature` states the settings that determine the value, as the metric's library writes them.
    """

    table: FloatArray
    statistic: Callable[[FloatArray], float]
    signature: str


Tokenizer = Literal["13a", "intl", "zh", "char", "none"]


def bleu(
    predictions: Sequence[str], references: References, *, tokenize: Tokenizer = "13a", lowercase: bool = False
) -> Corpus:
    """Return the n-gram counts of a corpus for BLEU, 0 to 100 (Papineni et al. 2002). `tokenize` is sacreBLEU's."""
    from sacrebleu.metrics import BLEU

    return _corpus(BLEU(tokenize=tokenize, lowercase=lowercase), predictions, references)


def chrf(predictions: Sequence[str], references: References, *, word_order: int = 0) -> Corpus:
    """Return the character n-gram counts of a corpus for chrF2, 0 to 100 (Popovic 2015). `word_order` 2 is chrF++."""
    from sacrebleu.metrics import CHRF

    return _corpus(CHRF(word_order=word_order), predictions, references)


def ter(predictions: Sequence[str], references: References) -> Corpus:
    """Return edits and reference lengths of a corpus for the translation edit rate, in percent (Snover et al. 2006)."""
    from sacrebleu.metrics import TER

    return _corpus(TER(), predictions, references)


def sentence_bleu(prediction: str, references: Sequence[str], *, order: int) -> float:
    """Return BLEU of one sentence with n-grams up to `order`, 0 to 1, without smoothing: 0 if an order has none."""
    if not prediction.strip():
        return 0.0
    return min(
        1.0,
        float(_sentence_scorer(order).corpus_score([prediction], [[reference] for reference in references]).score)
        / 100,
    )


@lru_cache(maxsize=4)
def _sentence_scorer(order: int) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(max_ngram_order=order, smooth_method="none", effective_order=False)


def _corpus(scorer: Any, predictions: Sequence[str], references: References) -> Corpus:
    import numpy as np

    most = max(map(len, references))
    streams = [[refs[index] if index < len(refs) else None for refs in references] for index in range(most)]
    # the methods under sacreBLEU's own significance tests: statistics by sentence, and the score of their sum
    table = np.array(scorer._extract_corpus_statistics(list(predictions), streams), dtype=np.float64)

    def statistic(rows: FloatArray) -> float:
        return float(scorer._compute_score_from_stats(rows.sum(axis=0).tolist()).score)

    return Corpus(table, statistic, str(scorer.get_signature()))


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
