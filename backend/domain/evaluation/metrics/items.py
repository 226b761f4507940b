"""Values of one generated answer under a task's metrics, and the scores of all items from their values alone.

An item's values are plain numbers, so that a score can be computed again from stored items. Corpus metrics store what
they sum up (`bleu:0`, `bleu:1`, ...); with several filters each metric is also scored by each filter alone
(`numeric,strict-match`), as lm-evaluation-harness does, beside the score by the first filter that matches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from backend.domain.evaluation.extraction import AnswerFilter, extract_answer
from backend.domain.evaluation.instructions import INSTRUCTION_LABEL, check_row, estimate_followed, followed_values
from backend.domain.evaluation.metrics.mathematics import Equal
from backend.domain.evaluation.metrics.overlap import Corpus
from backend.domain.evaluation.metrics.registry import (
    NO_ANSWER,
    Metric,
    MetricKind,
    bind_checker,
    get_metric,
    score_item,
)
from backend.domain.evaluation.metrics.score import MetricScore, estimate_corpus, estimate_mean, procedure
from backend.errors import InvalidInput

INSTRUCTIONS = "ifeval"


class MetricChoice(Protocol):
    """A metric of a task with its options."""

    @property
    def name(self) -> str:
        """Name in the registry, or `ifeval`."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Options of the metric."""


@dataclass(frozen=True)
class AnswerValues:
    """Values of an item by name, what its filters found, and how many of its answers no filter matched."""

    values: dict[str, float]
    extracted: tuple[str | None, ...] = ()
    filters: tuple[str | None, ...] = ()
    unparsed: int = 0
    shown: dict[str, Any] = field(default_factory=dict)


def score_answers(
    metrics: Sequence[MetricChoice],
    answers: Sequence[str],
    references: Sequence[str],
    *,
    row: Mapping[str, Any],
    filters: Sequence[AnswerFilter] = (),
    outcomes: Sequence[bool] | None = None,
    equal: Equal | None = None,
) -> AnswerValues:
    """Return the values of one item with one or more sampled answers.

    A metric of single answers is averaged over the samples. `outcomes` says which samples passed their tests, for code;
    `equal` decides about mathematical expressions.
    Raises InvalidInput for options that a metric does not take, and for a row without what its metric reads.
    """
    extractions = [extract_answer(answer, filters) for answer in answers] if filters else []
    parsed: list[str | None] = [each.text for each in extractions] if filters else list(answers)
    values: dict[str, float] = {}
    for choice in metrics:
        if choice.name == INSTRUCTIONS:
            values |= _mean_values([followed_values(check_row(answer, row)) for answer in answers])
            continue
        metric = get_metric(choice.name, **choice.options)
        metric = metric if equal is None else bind_checker(metric, equal)
        values |= _values_of(metric, choice.name, parsed if outcomes is None else list(outcomes), references)
        if len(filters) > 1 and outcomes is None:
            for each in filters:
                alone = [extract_answer(answer, [each]).text for answer in answers]
                values |= _values_of(
                    metric, f"{choice.name},{each.name}", [NO_ANSWER if a is None else a for a in alone], references
                )
    return AnswerValues(
        values,
        extracted=tuple(each.text for each in extractions),
        filters=tuple(each.filter for each in extractions),
        unparsed=sum(each.text is None for each in extractions),
    )


def _mean_values(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(values[name] for values in samples) / len(samples) for name in samples[0]}


def _values_of(
    metric: Metric, name: str, answers: Sequence[str | bool | None], references: Sequence[str]
) -> dict[str, float]:
    if metric.kind is MetricKind.SAMPLES:
        return {name: score_item(metric, answers, references)}
    if metric.kind is MetricKind.MEAN:
        scores = [
            float(answer) if isinstance(answer, bool) else score_item(metric, answer, references) for answer in answers
        ]
        return {name: sum(scores) / len(scores)}
    if metric.kind is not MetricKind.CORPUS or len(answers) != 1 or isinstance(answers[0], bool):
        raise InvalidInput(
            f"{metric.name} does not score {len(answers)} sampled answers.", remedy="Draw one sample.", field="metrics"
        )
    missing = "" if metric.higher_is_better else NO_ANSWER  # else no answer would beat a wrong one
    corpus: Corpus = metric.function([missing if answers[0] is None else answers[0]], [references])
    if metric.of_classes:
        gold, label = corpus.table[0]
        texts = (answers[0] or "").strip(), references[0].strip()
        return {
            name: float(gold == label),
            f"{name}:0": _code(texts[0] if gold == label else texts[1]),
            f"{name}:1": _code(texts[0]),
        }
    parts = {f"{name}:{index}": float(part) for index, part in enumerate(corpus.table[0])}
    return {name: corpus.statistic(corpus.table), **parts, f"{name}:references": float(len(references))}


def _code(label: str) -> float:
    """Number a label so that equal labels of different items have the same number, exact as a float."""
    return float(int.from_bytes(hashlib.sha256(label.encode("utf-8", "surrogatepass")).digest()[:6], "big"))


def estimate_answers(
    metrics: Sequence[MetricChoice], items: Sequence[Mapping[str, float]], *, clusters: Sequence[str] | None = None
) -> dict[str, MetricScore]:
    """Return the score of each metric, and of each filter alone, from the values of all items.

    Raises InvalidInput if there is no item.
    """
    if not items:
        raise InvalidInput("No item was scored.", remedy="Check that the benchmark has rows.")
    scores: dict[str, MetricScore] = {}
    for choice in metrics:
        if choice.name == INSTRUCTIONS:
            for name, estimate in estimate_followed(items).items():
                metric = Metric(name, INSTRUCTION_LABEL[name], MetricKind.MEAN, followed_values)
                scores[name] = MetricScore(metric, estimate, "IFEval, 25 instructions, langdetect seed 0")
            continue
        metric = get_metric(choice.name, **choice.options)
        for name in [
            key for key in items[0] if key == choice.name or (key.startswith(f"{choice.name},") and ":" not in key)
        ]:
            scores[name] = _estimate(metric, name, items, clusters)
    return scores


def _estimate(
    metric: Metric, name: str, items: Sequence[Mapping[str, float]], clusters: Sequence[str] | None
) -> MetricScore:
    if metric.kind is not MetricKind.CORPUS:
        return MetricScore(
            metric, estimate_mean([item[name] for item in items], metric=metric, clusters=clusters), procedure(metric)
        )
    corpus = corpus_of(metric, name, items)
    return MetricScore(metric, estimate_corpus(metric, corpus, clusters=clusters), corpus.signature)


def corpus_of(metric: Metric, name: str, items: Sequence[Mapping[str, float]]) -> Corpus:
    """Return the corpus of a corpus metric from what its items store under a name."""
    if metric.of_classes:
        golds, labels = ([str(int(item[f"{name}:{part}"])) for item in items] for part in (0, 1))
        corpus: Corpus = metric.function(labels, [[gold] for gold in golds])
        return corpus
    counts = [int(item[f"{name}:references"]) for item in items]
    blank: Corpus = metric.function(["a"] * len({*counts}), [["a"] * count for count in {*counts}])
    table = np.array([[item[f"{name}:{part}"] for part in range(blank.table.shape[1])] for item in items])
    return Corpus(table, blank.statistic, blank.signature)
