"""Score a list of answers with references: value, standard error and interval of a metric. Pure rules, no files."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from backend.domain.evaluation.metrics.overlap import Corpus
from backend.domain.evaluation.metrics.registry import Metric, MetricKind, score_item
from backend.domain.statistics.bootstrap import (
    Resampled,
    resample_corpus,
    resample_difference,
    resample_rows,
)
from backend.domain.statistics.estimates import (
    Estimate,
    clustered_mean_estimate,
    is_binary,
    mean_estimate,
    normal_quantile,
    proportion_estimate,
    wilson_interval,
)
from backend.domain.wording import shorten
from backend.errors import InvalidInput

NUM_RESAMPLES = 1000
DIFFERENCE_RESAMPLES = 2000
"""Draws for a difference; its p value can't be less than 2 / (draws + 1)."""


@dataclass(frozen=True)
class AnswerRow:
    """One answer and its references. `prediction` is a text or a list, as the metric reads it."""

    prediction: Any
    references: tuple[Any, ...]
    cluster: str | None = None


@dataclass(frozen=True)
class MetricScore:
    """A metric's estimate over rows, and its procedure: the library's signature, or how items are averaged."""

    metric: Metric
    estimate: Estimate
    signature: str


def read_answer_rows(lines: Iterable[str], metric: Metric) -> list[AnswerRow]:
    """Read JSON lines {"prediction": ..., "references": [...]} as a metric takes them; `reference` or `references` may
    be one text.

    `cluster` names the document or group that a row belongs to. Raises InvalidInput with the line's number.
    """
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(_read_row(json.loads(line, parse_constant=_refuse_constant), metric))
        except (ValueError, RecursionError) as error:
            raise InvalidInput(
                f"Line {number} is not JSON: {error}.", remedy='Write {"prediction": ..., "references": [...]}.'
            ) from error
        except InvalidInput as error:
            raise InvalidInput(f"Line {number}: {error.message}", remedy=error.remedy, field=error.field) from error
    if not rows:
        raise InvalidInput(
            "There is no row to score.", remedy='Write one line {"prediction": ..., "references": [...]} for each item.'
        )
    if 0 < sum(row.cluster is None for row in rows) < len(rows):
        raise InvalidInput(
            "Some rows name a cluster and others do not.",
            remedy="Give every row its cluster, or none.",
            field="cluster",
        )
    return rows


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _read_row(record: Any, metric: Metric) -> AnswerRow:
    if not isinstance(record, dict):
        raise InvalidInput("the row is not an object.", remedy='Write {"prediction": ..., "references": [...]}.')
    if "prediction" not in record:
        raise InvalidInput(
            "there is no `prediction`.",
            remedy=f"The row has {', '.join(map(repr, record)) or 'nothing'}.",
            field="prediction",
        )
    names = [name for name in ("references", "reference") if name in record]
    if len(names) != 1:
        raise InvalidInput(
            "the row needs either `references` or `reference`.", remedy="Give a list of references.", field="references"
        )
    references = record[names[0]]
    references = references if isinstance(references, list) else [references]
    prediction, cluster = record["prediction"], record.get("cluster")
    if not references and metric.no_answer:
        references = [""]
    _CHECKS[metric.kind](prediction, references)
    if cluster is not None and not isinstance(cluster, str | int):
        raise InvalidInput(
            "`cluster` is neither text nor a number.",
            remedy="Name the document that the row belongs to.",
            field="cluster",
        )
    return AnswerRow(prediction, tuple(references), None if cluster is None else str(cluster))


def _check_text(prediction: Any, references: list[Any]) -> None:
    if not isinstance(prediction, str):
        raise InvalidInput(
            f"`prediction` is {_shown(prediction)}, not a text.", remedy="Give the answer as text.", field="prediction"
        )
    _check_references(references)


def _check_references(references: list[Any]) -> None:
    if not references:
        raise InvalidInput(
            "`references` is empty.",
            remedy='Give at least one; [""] means that the question has no answer.',
            field="references",
        )
    for reference in references:
        if not isinstance(reference, str):
            raise InvalidInput(
                f"the reference {_shown(reference)} is not a text.", remedy="Give texts.", field="references"
            )


def _check_samples(prediction: Any, references: list[Any]) -> None:
    samples = prediction if isinstance(prediction, list) else []
    if samples and all(isinstance(sample, bool) for sample in samples):
        return
    if not samples or not all(isinstance(sample, str) for sample in samples):
        raise InvalidInput(
            f"`prediction` is {_shown(prediction)}, not a list of sampled answers.",
            remedy="Give a list of texts, or of true and false.",
            field="prediction",
        )
    _check_references(references)


def _check_ranking(prediction: Any, references: list[Any]) -> None:
    if not isinstance(prediction, list) or not prediction or not all(_is_finite(score) for score in prediction):
        raise InvalidInput(
            f"`prediction` is {_shown(prediction)}, not a list of numbers.",
            remedy="Give the score of each choice.",
            field="prediction",
        )
    for reference in references or [None]:
        if type(reference) is not int or not 0 <= reference < len(prediction):
            raise InvalidInput(
                f"the reference {_shown(reference)} is not an index of {len(prediction)} choices.",
                remedy="Give the positions of the right choices, from 0.",
                field="references",
            )


def _check_logprobs(prediction: Any, references: list[Any]) -> None:
    if (
        not isinstance(prediction, list)
        or not prediction
        or not all(_is_finite(value) and value <= 0 for value in prediction)
    ):
        raise InvalidInput(
            f"`prediction` is {_shown(prediction)}, not a list of log-probabilities.",
            remedy="Give those of the text's tokens, in nats, 0 or less.",
            field="prediction",
        )
    _check_references(references)
    if not references[0]:
        raise InvalidInput("the text is empty.", remedy="Leave the row out.", field="references")


_CHECKS = {
    MetricKind.MEAN: _check_text,
    MetricKind.CORPUS: _check_text,
    MetricKind.SAMPLES: _check_samples,
    MetricKind.RANKING: _check_ranking,
    MetricKind.LIKELIHOOD: _check_logprobs,
}


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    return shorten(json.dumps(value, ensure_ascii=False), 40)


def score_rows(
    metric: Metric, rows: Sequence[AnswerRow], *, correct: Metric | None = None, seed: int = 0
) -> MetricScore:
    """Return a metric over rows. A corpus metric is resampled by document (or cluster) for its interval.

    Raises InvalidInput with the item's number if a row does not fit, such as one with fewer than k samples.
    """
    clusters = [row.cluster for row in rows] if rows[0].cluster is not None else None
    if metric.kind is MetricKind.LIKELIHOOD:
        texts = [row.references[0] for row in rows]
        likelihood: Estimate = metric.function([row.prediction for row in rows], texts, clusters=clusters)
        return MetricScore(metric, _without_certainty(likelihood), f"{metric.name}|nats|words:\\s+")
    if metric.kind is MetricKind.CORPUS:
        corpus: Corpus = metric.function([row.prediction or "" for row in rows], [row.references for row in rows])
        return MetricScore(metric, estimate_corpus(metric, corpus, clusters=clusters, seed=seed), corpus.signature)
    values = []
    for number, row in enumerate(rows, start=1):
        try:
            values.append(score_item(metric, row.prediction, row.references, correct=correct))
        except InvalidInput as error:
            raise InvalidInput(f"Item {number}: {error.message}", remedy=error.remedy, field=error.field) from error
    return MetricScore(metric, estimate_mean(values, metric=metric, clusters=clusters), procedure(metric, correct))


def estimate_corpus(
    metric: Metric, corpus: Corpus, *, clusters: Sequence[str | None] | None = None, seed: int = 0
) -> Estimate:
    """Return a corpus metric with a bootstrap interval over documents or clusters, cut at the metric's bounds."""
    if metric.of_classes:
        resampled = resample_rows(
            corpus.table, statistic=corpus.statistic, clusters=clusters, num_resamples=NUM_RESAMPLES, seed=seed
        )
    else:
        resampled = resample_corpus(
            corpus.table,
            lambda sums: np.array([corpus.statistic(row[None, :]) for row in sums]),
            clusters=clusters,
            num_resamples=NUM_RESAMPLES,
            seed=seed,
        )
    return _cut(_without_certainty(resampled.estimate()), metric)


def resample_corpus_difference(
    metric: Metric, first: Corpus, second: Corpus, *, clusters: Sequence[Hashable] | None = None
) -> Resampled:
    """Resample a corpus metric's difference on the same documents, second minus first, which are drawn together."""
    width = first.table.shape[1]
    if metric.of_classes:
        return resample_rows(
            np.hstack([first.table, second.table]),
            statistic=lambda rows: second.statistic(rows[:, width:]) - first.statistic(rows[:, :width]),
            clusters=clusters,
            num_resamples=DIFFERENCE_RESAMPLES,
        )
    return resample_difference(
        first.table,
        second.table,
        lambda sums: np.array([first.statistic(row[None, :]) for row in sums]),
        clusters=clusters,
        num_resamples=DIFFERENCE_RESAMPLES,
    )


def estimate_mean(values: Sequence[float], *, metric: Metric, clusters: Sequence[str | None] | None = None) -> Estimate:
    """Average items' values: Wilson's interval for values of 0 and 1, else Student's t, clustered if clusters are
    given.

    Where all values are equal the plug-in error is 0, which is false: a metric between 0 and 1 then gets Wilson's
    width. The interval is cut at the bounds of the metric.
    """
    array = np.asarray(values, dtype=np.float64)
    if clusters is not None:
        estimate = clustered_mean_estimate(array, clusters)
    elif is_binary(array) and metric.high == 1.0:
        return proportion_estimate(int(array.sum()), len(array))
    else:
        estimate = mean_estimate(array)
    if estimate.stderr is not None and estimate.stderr > 1e-12:
        return _cut(estimate, metric)
    if (metric.low, metric.high) != (0.0, 1.0):
        return _without_certainty(estimate)
    critical = normal_quantile(0.95)
    n = len(array) if clusters is None else len(set(clusters))
    low, high = wilson_interval(min(max(estimate.value, 0.0), 1.0), n, critical=critical)
    return replace(
        estimate, stderr=(high - low) / (2 * critical), low=low, high=high, method="Wilson 95 %, all values equal"
    )


def _without_certainty(estimate: Estimate) -> Estimate:
    """Drop an error of 0, which says that the data do not vary, not that the value is certain."""
    if estimate.stderr is None or estimate.stderr > 1e-12:
        return estimate
    return replace(estimate, stderr=None, low=None, high=None, method="all items equal: no interval")


def _cut(estimate: Estimate, metric: Metric) -> Estimate:
    low, high = estimate.low, estimate.high
    return replace(
        estimate,
        value=estimate.value if metric.high is None else min(estimate.value, metric.high),
        low=None if low is None else max(low, metric.low),
        high=high if high is None or metric.high is None else min(high, metric.high),
    )


def procedure(metric: Metric, correct: Metric | None = None) -> str:
    """Return what determines the value of a metric that is averaged over items."""
    if metric.name.startswith("rouge"):
        from importlib.metadata import version

        stemmer = "yes" if getattr(metric.function, "keywords", {}).get("stemmer", False) else "no"
        return f"{metric.name}|measure:f|stemmer:{stemmer}|refs:best|rouge-score:{version('rouge-score')}"
    if metric.kind is MetricKind.SAMPLES:
        deciding = correct or metric.correct
        return f"{metric.name}|correct:{deciding.name if deciding else 'accuracy'}"
    if metric.name == "math_equal":
        from importlib.metadata import version

        return f"{metric.name}|refs:best|math-verify:{version('math-verify')}"
    return f"{metric.name}|refs:best" if metric.kind is MetricKind.MEAN else metric.name
