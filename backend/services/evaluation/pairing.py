"""Paired comparison of two evaluations' items, over all items or subgroup by subgroup, as the metric that is shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

from sqlalchemy import select

from backend.db.tables import EvaluationItem
from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.evaluation.safety.probes import BY_RULE
from backend.domain.evaluation.safety.probes import METRICS as SAFETY_METRICS
from backend.domain.evaluation.safety.task_scores import UNCLEAR
from backend.domain.statistics.paired import PairedComparison, paired_difference, paired_macro, paired_ratio
from backend.domain.statistics.quantiles import LEVEL
from backend.errors import InvalidInput
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.packed_items import packed_key, read_item_values

Pairing = Callable[[float], PairedComparison]
"""A comparison as a function of its level."""
Values = Mapping[int, dict[str, float]]
"""Values of items by their packed keys."""
CORPUS_SIZE = {"bits_per_byte": "bytes", "nll_per_token": "tokens"}
"""Metrics that divide summed nats by summed sizes."""


def values_of_items(ctx: Context, first_id: str, second_id: str) -> tuple[Values, Values]:
    """Return the values of two evaluations' items by their packed keys."""
    values = read_item_values(ctx, (first_id, second_id))
    return values[first_id].rows(), values[second_id].rows()


def comparison_at(ctx: Context, first_id: str, second_id: str, metric: str) -> Callable[[float], PairedComparison]:
    """Return the paired comparison of two like evaluations, second minus first, as a function of its level.

    Raises what `compare` raises about items and metric.
    """
    evaluation = get_evaluation(ctx, first_id)
    before, after = values_of_items(ctx, first_id, second_id)
    pairing = _pairing(evaluation, before, after, metric, subgroups=subgroups_of(ctx, evaluation, metric))
    pairing(LEVEL)
    return cache(pairing)


def count_unclear(
    ctx: Context, first: EvaluationView, second: EvaluationView, metric: str, *, missing: int
) -> tuple[int, int]:
    """Return how many items of a metric of the refusal rules have an unclear answer on either side, and of how many; 0
    for any other metric. `missing` is how many the second's safety report lacks.
    """
    name = item_metric(metric)
    score = second.score(metric)
    if name not in BY_RULE or score is None:
        return 0, 0
    before, after = values_of_items(ctx, first.id, second.id)
    paired = len(common_keys(before, after, name))
    marked = sum(f"{name}{UNCLEAR}" in {**before[key], **after[key]} for key in before if key in after)
    unclear = max(marked, score.n + missing - paired)
    return unclear, paired + unclear


def pair_items(
    evaluation: EvaluationView,
    before: Values,
    after: Values,
    metric: str,
    *,
    subgroups: Mapping[int, str] | None,
) -> PairedComparison:
    """Return the paired comparison of items' values by key, second minus first, of evaluations made as this one
    was.

    `subgroups` are those of the items where the metric is shown as a macro average (`subgroups_of`). Raises what
    `compare` raises about items and metric.
    """
    return _pairing(evaluation, before, after, metric, subgroups=subgroups)(LEVEL)


def subgroups_of(ctx: Context, evaluation: EvaluationView, metric: str) -> dict[int, str] | None:
    """Return each item's subgroup by its packed key where a metric is shown as the mean of the subgroups' means; None
    where items count alike.
    """
    if not evaluation.average_of(metric).startswith("macro"):
        return None
    query = select(EvaluationItem.item_hash, EvaluationItem.shown["subgroup"].as_string())
    with ctx.db.read() as session:
        rows = session.execute(query.where(EvaluationItem.evaluation_id == evaluation.id)).all()
    return {packed_key(item): name or "" for item, name in rows}


def item_metric(metric: str) -> str:
    """Return a metric's name among the values of items, whatever they are averaged by."""
    return metric.removesuffix(":micro").removesuffix(":macro")


def _pairing(
    evaluation: EvaluationView,
    before: Values,
    after: Values,
    metric: str,
    *,
    subgroups: Mapping[int, str] | None,
) -> Pairing:
    """Pair the items that both have: over all items, or of a macro average subgroup by subgroup."""
    name = item_metric(metric)
    common, options = common_keys(before, after, name), _options(evaluation, name)
    parts: dict[str, list[int]] = {}
    for key in common:
        parts.setdefault("" if subgroups is None else subgroups.get(key, ""), []).append(key)
    pairings = [
        _pair(name, [before[key] for key in keys], [after[key] for key in keys], options=options)
        for keys in parts.values()
    ]
    return pairings[0] if subgroups is None else lambda level: paired_macro(pairings, level=level)


def common_keys(before: Values, after: Values, metric: str) -> list[int]:
    """Return the items that both have. Raises InvalidInput where too few, or for a metric not of items."""
    if metric == "gender_gap":
        raise InvalidInput(
            "The gap by gender is one of pairs of items, so it is not compared item by item.", remedy="Compare acc."
        )
    partial = metric in SAFETY_METRICS  # measured on some items: refusals of unsafe prompts, say
    common = [
        key
        for key in before
        if key in after and not (partial and (metric not in before[key] or metric not in after[key]))
    ]
    if len(common) < 2:
        raise InvalidInput(
            f"The two evaluations have {len(common)} items in common, so nothing can be compared.",
            remedy="Texts of few documents are cut into windows by the tokenizer: use a dataset of several documents.",
        )
    return common


def _pair(
    metric: str, before: list[dict[str, float]], after: list[dict[str, float]], *, options: Mapping[str, object]
) -> Pairing:
    """Pair two lists of item values, by cluster where the items have one.

    Of bits per byte the difference is that of the corpus: summed over summed bytes. So it is of BLEU and its like, from
    stored parts.
    """
    clusters = next(
        ([item[CLUSTER] for item in side] for side in (before, after) if all(CLUSTER in item for item in side)), None
    )
    if metric in CORPUS_SIZE:
        size = CORPUS_SIZE[metric]
        if any(a[size] != b[size] for a, b in zip(before, after, strict=True)):
            raise InvalidInput(
                f"The two tokenizers count {size} differently, so {metric} can't be paired.",
                remedy="Compare bits per byte.",
            )
        scale = math.log(2) if size == "bytes" else 1.0  # nats in a bit
        gaps = [(b["sum_nll"] - a["sum_nll"]) / scale for a, b in zip(before, after, strict=True)]
        return lambda level: paired_ratio(gaps, [a[size] for a in before], clusters=clusters, level=level)
    if before and f"{metric}:0" in before[0]:
        return _pair_corpus(metric, before, after, options=options, clusters=clusters)
    if any(metric not in values for values in (*before, *after)):
        raise InvalidInput(f"These evaluations have no metric {metric!r}.", field="metric")
    sides = [item[metric] for item in before], [item[metric] for item in after]
    return lambda level: paired_difference(*sides, clusters=clusters, level=level)


def _pair_corpus(
    metric: str,
    before: list[dict[str, float]],
    after: list[dict[str, float]],
    *,
    options: Mapping[str, object],
    clusters: list[float] | None,
) -> Pairing:
    """Pair a corpus metric by bootstrap; its p value is that of the interval, inverted."""
    from backend.domain.evaluation.metrics.items import corpus_of  # scorers load when they are needed
    from backend.domain.evaluation.metrics.registry import get_metric
    from backend.domain.evaluation.metrics.score import resample_corpus_difference

    known = get_metric(metric.split(",")[0], **options)
    if any(f"{metric}:0" not in values for values in (*before, *after)):
        raise InvalidInput(
            f"Some items have no parts of {metric}.", remedy="Run both evaluations again.", field="metric"
        )
    first, second = corpus_of(known, metric, before), corpus_of(known, metric, after)
    resampled = resample_corpus_difference(known, first, second, clusters=clusters)
    gaps = [b.get(metric, 0.0) - a.get(metric, 0.0) for a, b in zip(before, after, strict=True)]
    wins, losses = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    counts = (wins, losses, len(gaps) - wins - losses)
    p_value, count = resampled.p_value(), len(set(clusters)) if clusters else None

    def compared(level: float) -> PairedComparison:
        difference = resampled.estimate(level)
        return PairedComparison(len(gaps), difference, p_value, *counts, difference.method, count)

    return compared


def _options(evaluation: EvaluationView, metric: str) -> dict[str, object]:
    """Return the options that an evaluation's task gives a metric."""
    uses = evaluation.config.task.metric_uses if evaluation.config.task else ()
    return next((dict(use.options) for use in uses if use.name == metric.split(",")[0]), {})
