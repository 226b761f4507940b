"""Metrics of classes over a corpus: F1 by class or over all, and Matthews' correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from backend.domain.evaluation.metrics.overlap import Corpus, FloatArray, References
from backend.domain.statistics.estimates import cluster_codes
from backend.errors import InvalidInput


def f1_of_classes(predictions: Sequence[str], references: References, *, average: Literal["macro", "micro"]) -> Corpus:
    """Return a corpus for the F1 of classes: the mean over classes (macro) or that of all decisions (micro).

    Classes are the labels of predictions and references, outer spaces aside. Of several references the one that the
    prediction equals counts, else the first.
    """
    return _corpus(
        predictions,
        references,
        statistic=_macro_f1 if average == "macro" else _micro_f1,
        signature=f"average:{average}",
    )


def one_vs_rest(predictions: Sequence[str], references: References, *, num_classes: int = 0) -> Corpus:
    """Return a corpus for the mean over classes of the micro F1 of "this class or another", which is the accuracy of
    that decision.

    Every wrong item makes two of its `num_classes` decisions wrong. 0 classes: those that occur; a class that never
    occurs counts as decided rightly, so the number of classes changes the value and stands in the signature.
    """
    corpus = _corpus(predictions, references, statistic=_macro_f1, signature="")
    present = len(np.unique(corpus.table))
    total = max(num_classes or present, 2)
    if present > total:
        raise InvalidInput(
            f"{present} classes occur, and num_classes is {total}.",
            remedy="Give the number of all classes.",
            field="num_classes",
        )

    def statistic(table: FloatArray) -> float:
        return float(1 - 2 * (table[:, 0] != table[:, 1]).mean() / total)

    return Corpus(corpus.table, statistic, f"average:one-vs-rest micro|classes:{total}")


def matthews(predictions: Sequence[str], references: References) -> Corpus:
    """Return a corpus for Matthews' correlation of predicted and true classes, -1 to 1, of several (Gorodkin 2004)."""
    return _corpus(predictions, references, statistic=_matthews, signature="multiclass R_K")


def _corpus(
    predictions: Sequence[str], references: References, *, statistic: Callable[..., float], signature: str
) -> Corpus:
    labels = [prediction.strip() for prediction in predictions]
    golds = [
        _gold(label, [reference.strip() for reference in refs]) for label, refs in zip(labels, references, strict=True)
    ]
    codes, num_classes = cluster_codes([*golds, *labels])
    table = codes.reshape(2, len(labels)).T.astype(np.float64)
    return Corpus(table, partial(statistic, num_classes=num_classes), f"{signature}|classes:{num_classes}")


def _gold(label: str, references: list[str]) -> str:
    return label if label in references else references[0]


def _counts(table: FloatArray, num_classes: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Count by class: right predictions, references, predictions."""
    gold, label = table.astype(np.int64).T
    right = np.bincount(gold[gold == label], minlength=num_classes)
    counts = (right, np.bincount(gold, minlength=num_classes), np.bincount(label, minlength=num_classes))
    return counts[0].astype(np.float64), counts[1].astype(np.float64), counts[2].astype(np.float64)


def _macro_f1(table: FloatArray, num_classes: int) -> float:
    right, gold, label = _counts(table, num_classes)
    present = gold + label > 0  # a class that a resample lacks has no F1
    return float((2 * right[present] / (gold + label)[present]).mean())


def _micro_f1(table: FloatArray, num_classes: int) -> float:
    right, gold, label = _counts(table, num_classes)
    return float(2 * right.sum() / (gold.sum() + label.sum()))


def _matthews(table: FloatArray, num_classes: int) -> float:
    right, gold, label = _counts(table, num_classes)
    n = gold.sum()
    spread = (n * n - gold @ gold) * (n * n - label @ label)
    return float((right.sum() * n - gold @ label) / np.sqrt(spread)) if spread > 0 else 0.0
