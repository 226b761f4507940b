"""Aggregate the items of a task to its scores: by metric, subgroup and group, each with error and interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from backend.domain.attributes import view_of
from backend.domain.evaluation.clusters import CLUSTER
from backend.domain.evaluation.metrics.items import INSTRUCTIONS, estimate_answers
from backend.domain.evaluation.metrics.registry import get_metric
from backend.domain.evaluation.metrics.score import estimate_mean
from backend.domain.evaluation.safety.task_scores import allow_for_unclear, estimate_bias
from backend.domain.evaluation.tasks.definition import MetricUse, TaskDefinition
from backend.domain.evaluation.tasks.metric_names import METRIC_NAMES
from backend.domain.jobs.results import ScoreRow
from backend.domain.statistics.estimates import (
    Estimate,
    bits_per_byte_estimate,
    macro_average,
    micro_average,
    perplexity_estimate,
    ratio_estimate,
    share_estimate,
)
from backend.errors import InvalidInput
from jobs.evaluation.ledger import ItemLedger
from jobs.evaluation.task_questions import answer_metrics

Items = Sequence[dict[str, float]]
RATIOS = {
    "bits_per_byte": "bytes",
    "byte_perplexity": "bytes",
    "word_perplexity": "words",
    "nll_per_token": "tokens",
    "token_perplexity": "tokens",
    "perplexity": "",
}
"""Divisor of the summed log-likelihoods; for the perplexity of targets their number (lm-evaluation-harness)."""


def estimate_task(task: TaskDefinition, ledger: ItemLedger) -> list[ScoreRow]:
    """Return the scores of a task, its main metric first; items without a value are left out and counted among the
    facts.

    A task of subgroups has a score for each of them and each of its groups too. Raises InvalidInput without any value.
    """
    rows: list[ScoreRow] = []
    for name in dict.fromkeys(use.name for use in task.metric_uses):
        if name in ("bbq", "winogender"):
            rows += [_row(score, one) for score, one in estimate_bias(name, list(ledger.values.values())).items()]
            rows += _bias_by_category(name, ledger)
            continue
        items = [values for values in ledger.values.values() if _has(name, values)]
        if items and name in METRIC_NAMES and name != INSTRUCTIONS:
            rows += _metric_rows(task, ledger, name, partial(_estimate, name))
    answered = [values for values in ledger.values.values() if "missing" not in values]
    if answered and (metrics := answer_metrics(task)):
        for name in estimate_answers(metrics, answered, clusters=_clusters(answered)):
            rows += _metric_rows(task, ledger, name, partial(_answers, metrics, name))
    if not rows:
        raise InvalidInput(
            f"None of the {len(ledger.values)} items has a value of {', '.join(use.name for use in task.metric_uses)}.",
            remedy="See the items for the reason, or raise the item limit.",
        )
    return rows


def _bias_by_category(name: str, ledger: ItemLedger) -> list[ScoreRow]:
    """Return the bias scores of each category of BBQ, such as religion; none of one category."""
    parts: dict[str, list[dict[str, float]]] = {}
    for item_hash, category in ledger.categories.items():
        parts.setdefault(category, []).append(ledger.values[item_hash])
    if len(parts) < 2:
        return []
    scores = [(category, estimate_bias(name, part)) for category, part in sorted(parts.items())]
    return [
        _row(score, one, subgroup=category)
        for category, part in scores
        for score, one in part.items()
        if score.startswith("bias_")
    ]


def _has(name: str, values: dict[str, float]) -> bool:
    return ("sum_nll" if name in RATIOS else name) in values


def _answers(metrics: Sequence[MetricUse], name: str, items: Items) -> Estimate:
    return estimate_answers(metrics, items, clusters=_clusters(items))[name].estimate


def _metric_rows(
    task: TaskDefinition, ledger: ItemLedger, name: str, estimate: Callable[[Items], Estimate]
) -> list[ScoreRow]:
    """Return a metric's score over all items and, where the task has subgroups, over each of them and of its groups."""
    parts: dict[str, list[dict[str, float]]] = {}
    for item_hash, values in ledger.values.items():
        if _has(name, values):
            parts.setdefault(ledger.subgroups.get(item_hash, ""), []).append(values)
    overall = allow_for_unclear(
        name, estimate([values for part in parts.values() for values in part]), list(ledger.values.values())
    )
    if not ledger.subgroups:
        return [_row(name, overall)]
    by_part = {part: estimate(own) for part, own in parts.items()}
    is_macro = task.average == "macro"
    macro = macro_average(list(by_part.values()))
    rows = [
        _row(name, macro if is_macro else overall),
        _row(f"{name}:{'micro' if is_macro else 'macro'}", overall if is_macro else macro),
    ]
    average = macro_average if is_macro else micro_average
    for group, members in task.groups.items():
        own = [by_part[part] for part in members if part in by_part]
        rows += [_row(name, average(own), subgroup=group)] if own else []
    return rows + [_row(name, one, subgroup=part) for part, one in by_part.items()]


def _estimate(name: str, items: Items) -> Estimate:
    clusters = _clusters(items)
    if name in RATIOS:
        nlls = [item["sum_nll"] for item in items]
        sizes = RATIOS[name]
        counts = [item[sizes] if sizes else 1.0 for item in items]
        if name == "bits_per_byte":
            return bits_per_byte_estimate(nlls, counts, clusters=clusters)
        if name == "nll_per_token":
            return ratio_estimate(nlls, counts, clusters=clusters)
        return perplexity_estimate(nlls, counts, clusters=clusters)
    values = [item[name] for item in items]
    if all(0 <= value <= 1 for value in values):
        return share_estimate(values, clusters=clusters)
    return estimate_mean(values, metric=replace(get_metric("exact_match"), low=-math.inf, high=None), clusters=clusters)


def _clusters(items: Items) -> list[str] | None:
    return [str(item[CLUSTER]) for item in items] if all(CLUSTER in item for item in items) else None


def _row(name: str, estimate: Estimate, *, subgroup: str = "") -> ScoreRow:
    return view_of(ScoreRow, estimate, metric=name, subgroup=subgroup)
