"""The metrics that a task may name: those of choices and likelihoods here, those of answers in the registry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.domain.evaluation.judges import JUDGE, read_judge
from backend.domain.evaluation.metrics.registry import Metric, get_metric, registered_metrics
from backend.domain.names import nearest_name
from backend.errors import InvalidInput


@dataclass(frozen=True)
class MetricLabel:
    """A metric: its words on pages, the kinds of task it scores, and whether less is better."""

    label: str
    kinds: frozenset[str]
    lower_is_better: bool = False
    scores: tuple[str, ...] = ()
    """Names of its numbers, if it gives several."""


_CHOICE, _ANSWER, _LIKELIHOOD = frozenset({"multiple_choice"}), frozenset({"generation"}), frozenset({"perplexity"})

IFEVAL_SCORES = ("prompt_strict", "instruction_strict", "prompt_loose", "instruction_loose")
BBQ_SCORES = ("accuracy_ambiguous", "bias_ambiguous", "accuracy_disambiguated", "bias_disambiguated")
METRIC_NAMES: dict[str, MetricLabel] = {
    "acc": MetricLabel("accuracy", _CHOICE | _LIKELIHOOD),
    "acc_norm": MetricLabel("accuracy, per character", _CHOICE),
    "acc_bytes": MetricLabel("accuracy, per byte", _CHOICE),
    "acc_token": MetricLabel("accuracy, per token", _CHOICE),
    "acc_pmi": MetricLabel("accuracy, against the choice alone", _CHOICE),
    "mc2": MetricLabel("probability of the right choices", _CHOICE),
    "brier": MetricLabel("Brier score", _CHOICE, lower_is_better=True),
    "likelihood_diff": MetricLabel("difference of log-likelihoods", _CHOICE, lower_is_better=True),
    "pct_stereotype": MetricLabel("stereotype preferred", _CHOICE, lower_is_better=True),
    "bbq": MetricLabel("accuracy and bias by context", _CHOICE, scores=BBQ_SCORES),
    "winogender": MetricLabel("Winogender gap by gender", _CHOICE, scores=("gender_gap",)),
    "ifeval": MetricLabel("instructions followed", _ANSWER, scores=IFEVAL_SCORES),
    "refusal": MetricLabel("refusals of unsafe prompts", _ANSWER),
    "over_refusal": MetricLabel("refusals of safe prompts", _ANSWER, lower_is_better=True),
    "unclear": MetricLabel("unclear answers", _ANSWER, lower_is_better=True),
    "judge": MetricLabel("judge's score, share of the scale", _ANSWER),
    "bits_per_byte": MetricLabel("bits per byte", _LIKELIHOOD, lower_is_better=True),
    "perplexity": MetricLabel("perplexity of the target", _LIKELIHOOD, lower_is_better=True),
    "token_perplexity": MetricLabel("perplexity per token", _LIKELIHOOD, lower_is_better=True),
    "byte_perplexity": MetricLabel("perplexity per byte", _LIKELIHOOD, lower_is_better=True),
    "word_perplexity": MetricLabel("perplexity per word", _LIKELIHOOD, lower_is_better=True),
    "nll_per_token": MetricLabel("loss, nats per token", _LIKELIHOOD, lower_is_better=True),
}
"""Metrics that a task computes itself. Every metric of answers in the registry serves generation too."""

_SHARES = frozenset({"acc", "acc_norm", "acc_bytes", "acc_token", "acc_pmi", "mc2", "refusal", "judge"})


def check_metric(name: str, *, kind: str, options: Mapping[str, Any]) -> None:
    """Raise InvalidInput, naming the nearest metric, unless a metric scores tasks of a kind and has the options."""
    known = METRIC_NAMES.get(name)
    if known is not None and kind in known.kinds:
        if name == JUDGE:
            read_judge(options)
        elif options:
            raise InvalidInput(f"{name} has no options (given: {', '.join(options)}).", field="metrics")
        return
    if kind == "generation":
        try:
            get_metric(name, **options)
        except InvalidInput as error:
            near = nearest_name(name, metrics_of(kind))
            remedy = f"Did you mean {near}?" if near else error.remedy
            raise InvalidInput(
                error.message, remedy=remedy if "no metric" in error.message else error.remedy, field="metrics"
            ) from error
        return
    others = metrics_of(kind)
    near = nearest_name(name, others) if known is None else None
    what = f"There is no metric {name!r}." if known is None else f"{name} does not score {kind.replace('_', ' ')}."
    raise InvalidInput(
        what, remedy=f"Did you mean {near}?" if near else f"There are: {', '.join(others)}.", field="metrics"
    )


def number_names(name: str) -> tuple[str, ...]:
    """Return the names of a metric's numbers, the main one first."""
    return METRIC_NAMES[name].scores or (name,) if name in METRIC_NAMES else (name,)


def metrics_of(kind: str) -> list[str]:
    """Return the names of the metrics for a kind of task."""
    own = [name for name, metric in METRIC_NAMES.items() if kind in metric.kinds]
    return [*own, *registered_metrics()] if kind == "generation" else own


def _registered(name: str) -> Metric | None:
    try:
        return get_metric(name)
    except InvalidInput:
        return None


def metric_label(name: str) -> str:
    """Return the words for a metric on pages."""
    metric = METRIC_NAMES.get(name) or _registered(name)
    return name if metric is None else metric.label


def is_lower_better(name: str) -> bool:
    """Return whether less is better."""
    if name in METRIC_NAMES:
        return METRIC_NAMES[name].lower_is_better
    metric = _registered(name)
    return metric is not None and not metric.higher_is_better


def metric_bound(name: str) -> float | None:
    """Return the highest value of a metric; None if it has none."""
    metric = None if name in METRIC_NAMES else _registered(name)
    return 1.0 if metric is None else metric.high


def is_averaged(score: str) -> bool:
    """Return whether a score, such as `acc` or `exact_match,filter`, lies between 0 and 1 and more is better: those
    have an average.
    """
    name = score.split(",")[0]
    if name in METRIC_NAMES:
        return name in _SHARES
    metric = _registered(name)
    return name in IFEVAL_SCORES or (
        metric is not None and (metric.low, metric.high) == (0.0, 1.0) and metric.higher_is_better
    )
