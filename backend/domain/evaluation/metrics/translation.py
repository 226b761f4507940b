"""BLEU, chrF and TER by sacreBLEU (Post 2018), with its signature; BLEU of single sentences without smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from backend.domain.evaluation.metrics.corpus import Corpus, FloatArray, References

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
