"""The metrics that compare answers with references: name, label, range, direction, kind and function of each, in one
table.

Libraries are imported when a metric is first computed, not with this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import partial
from typing import Any, Literal, get_args

from backend.domain.evaluation.metrics import answers, likelihood, mathematics, numbers, overlap, samples
from backend.errors import InvalidInput

NO_ANSWER = "[invalid]"
"""The answer by a filter that does not match, as lm-evaluation-harness writes it."""


class MetricKind(StrEnum):
    """The way in which a metric is computed from items."""

    MEAN = "mean"
    """Mean over items; one answer each."""
    SAMPLES = "samples"
    """Mean over items; several sampled answers each."""
    RANKING = "ranking"
    """Mean over items; a score for each choice, and the positions of the right ones."""
    LIKELIHOOD = "likelihood"
    """Ratio of sums over texts; log-probabilities of the tokens of each text."""
    CORPUS = "corpus"
    """Computed over all items at once, such as BLEU."""


@dataclass(frozen=True)
class Metric:
    """A metric. `function` takes an answer (of a corpus metric all answers) and references; see `MetricKind`.

    `outcomes` marks a metric of samples that needs only whether each sample is right. `low` and `high` bound its value.
    """

    name: str
    label: str
    kind: MetricKind
    function: Callable[..., Any]
    low: float = 0.0
    high: float | None = 1.0
    higher_is_better: bool = True
    outcomes: bool = False
    options: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Its options with their values; an option without values takes a list of regular expressions."""
    correct: Metric | None = None
    """For a metric of several samples: the metric that decides whether one is right; None: label equality."""
    of_classes: bool = False
    """True for corpus metrics over classes, which are not a function of sums over items."""
    no_answer: bool = False
    """True if a missing reference means that the question has no answer."""


def _mean(name: str, label: str, function: Callable[..., float], **facts: Any) -> Metric:
    return Metric(name, label, MetricKind.MEAN, function, **facts)


def _corpus(name: str, label: str, function: Callable[..., Any], **facts: Any) -> Metric:
    return Metric(name, label, MetricKind.CORPUS, function, **facts)


def _f1_of_classes(*answers_and_references: Any, average: Literal["macro", "micro"]) -> Any:
    from backend.domain.evaluation.metrics.classes import f1_of_classes

    return f1_of_classes(*answers_and_references, average=average)


def _one_vs_rest(*answers_and_references: Any, num_classes: int = 0) -> Any:
    from backend.domain.evaluation.metrics.classes import one_vs_rest

    return one_vs_rest(*answers_and_references, num_classes=num_classes)


def _matthews(*answers_and_references: Any) -> Any:
    from backend.domain.evaluation.metrics.classes import matthews

    return matthews(*answers_and_references)


_BOOLEAN = (False, True)
_VERBATIM = {
    "ignore_case": _BOOLEAN,
    "ignore_punctuation": _BOOLEAN,
    "ignore_numbers": _BOOLEAN,
    "regexes_to_ignore": (),
}
_BLEU = {"tokenize": get_args(overlap.Tokenizer), "lowercase": _BOOLEAN}
_ROUGE = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L", "rougeLsum": "ROUGE-L, by line"}
_COPIED: tuple[tuple[str, str, Callable[..., float], float | None], ...] = (
    ("coverage", "extractive coverage", overlap.coverage, 1.0),
    ("density", "extractive density", overlap.density, None),
    ("compression", "compression", overlap.compression, None),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        _mean("exact_match", "exact match", answers.exact_match, no_answer=True),
        _mean("f1", "token F1", answers.f1, no_answer=True),
        _mean("contains", "answer contained", answers.contains),
        _mean("exact_match_verbatim", "exact match, verbatim", answers.verbatim_match, options=_VERBATIM),
        _mean("numeric", "number right", numbers.numeric_match),
        _mean("math_equal", "expression equal", mathematics.math_equal),
        _mean("accuracy", "accuracy", answers.label_match),
        _corpus("f1_macro", "macro F1 of classes", partial(_f1_of_classes, average="macro"), of_classes=True),
        _corpus("f1_micro", "micro F1 of classes", partial(_f1_of_classes, average="micro"), of_classes=True),
        _corpus(
            "f1_one_vs_rest",
            "F1 of one class against the rest",
            _one_vs_rest,
            of_classes=True,
            options={"num_classes": range(2, 1001)},
        ),
        _corpus("mcc", "Matthews correlation", _matthews, low=-1.0, of_classes=True),
        _corpus("bleu", "BLEU", overlap.bleu, high=100.0, options=_BLEU),
        _corpus("chrf", "chrF2", overlap.chrf, high=100.0),
        _corpus("chrf++", "chrF2++", partial(overlap.chrf, word_order=2), high=100.0),
        _corpus("ter", "TER", overlap.ter, high=None, higher_is_better=False),
        *(_mean(f"bleu_{n}", f"BLEU-{n} by sentence", partial(overlap.sentence_bleu, order=n)) for n in range(1, 5)),
        *(
            _mean(name, label, partial(overlap.rouge, variant=name), options={"stemmer": _BOOLEAN})
            for name, label in _ROUGE.items()
        ),
        _mean("edit_similarity", "edit similarity", overlap.edit_similarity),
        _mean("common_prefix", "common prefix, words", overlap.common_prefix, high=None),
        _mean("edit_distance", "edit distance, words", overlap.edit_distance_to, high=None, higher_is_better=False),
        *(_mean(name, label, function, high=high) for name, label, function, high in _COPIED),
        *(
            Metric(
                name,
                label,
                MetricKind.LIKELIHOOD,
                partial(likelihood.estimate_likelihood, unit=name),
                high=None,
                higher_is_better=False,
            )
            for name, label in likelihood.UNITS.items()
        ),
        Metric("mrr", "mean reciprocal rank", MetricKind.RANKING, samples.reciprocal_rank),
        Metric("best_choice", "accuracy of the best choice", MetricKind.RANKING, samples.best_choice),
        Metric("probability", "probability of right choices", MetricKind.RANKING, samples.probability_of_golds),
    )
}

_AT_K: dict[str, tuple[str, MetricKind, Callable[..., float], bool]] = {
    "pass": ("pass@{k}", MetricKind.SAMPLES, samples.pass_at, True),
    "avg": ("avg@{k}", MetricKind.SAMPLES, samples.average_at, True),
    "maj": ("maj@{k}", MetricKind.SAMPLES, samples.majority_at, False),
    "g-pass": ("G-Pass@{k}", MetricKind.SAMPLES, samples.g_pass_at, True),
    "mg-pass": ("mG-Pass@{k}", MetricKind.SAMPLES, samples.mean_g_pass_at, True),
    "recall": ("recall@{k}", MetricKind.RANKING, samples.recall_at, False),
}
_DECIDING = ("accuracy", "exact_match", "exact_match_verbatim", "numeric", "math_equal")
"""Metrics that can decide whether one sample is right, the default first."""
_AT_K_NAME = re.compile(r"(?P<family>[a-z-]+)@(?P<k>[1-9]\d{0,3})(?:_(?P<threshold>[01](?:\.\d+)?))?")

ALIASES: dict[str, str] = {
    "em": "exact_match",
    "latex_equal": "math_equal",
    "math_verify": "math_equal",
    "mf1": "f1_one_vs_rest",
    "acc": "accuracy",
    "squad_em": "exact_match",
    "squad_f1": "f1",
    "f1_score_macro": "f1_macro",
    "f1_score_micro": "f1_micro",
    "matthews_correlation": "mcc",
    "chrf_plus": "chrf++",
    "chrfpp": "chrf++",
    "sacrebleu": "bleu",
    "rouge_l": "rougeL",
    "rouge": "rougeL",
}


def registered_metrics() -> list[str]:
    """Return the name of every metric; `@k` stands for any number of samples or choices."""
    return [*METRICS, *(f"{family}@k" for family in _AT_K)]


def get_metric(name: str, **options: Any) -> Metric:
    """Return the metric of a name such as `f1`, `pass@10` or `g-pass@5_0.5`, with options such as `tokenize="zh"`.

    `pass_at_k` with the option `k` is the same as `pass@k`.

    Raises InvalidInput for an unknown name or option; the message names the nearest.
    """
    if name.endswith("_at_k") and type(options.get("k")) is int:
        name = f"{name.removesuffix('_at_k')}@{options.pop('k')}"
    metric = _find(name)
    unknown = sorted(set(options) - set(metric.options))
    if unknown:
        allowed = ", ".join(metric.options) or "none"
        raise InvalidInput(
            f"{metric.name} has no option {unknown[0]!r}.", remedy=f"Its options: {allowed}.", field=unknown[0]
        )
    for option, value in options.items():
        _check_option(option, value, metric.options[option])
    if metric.kind is MetricKind.SAMPLES and "correct" in options:
        metric = replace(metric, correct=METRICS[options.pop("correct")])
    return replace(metric, function=partial(metric.function, **options)) if options else metric


def bind_checker(metric: Metric, equal: mathematics.Equal) -> Metric:
    """Return a metric with the judge of equal expressions, where it or what decides about its samples needs one."""
    if metric.name == "math_equal":
        return replace(metric, function=partial(metric.function, equal=equal))
    return metric if metric.correct is None else replace(metric, correct=bind_checker(metric.correct, equal))


def _check_option(option: str, value: Any, values: Sequence[Any]) -> None:
    if values and (type(value) is not type(values[0]) or value not in values):
        shown = ", ".join(str(v).lower() if isinstance(v, bool) else str(v) for v in values)
        remedy = (
            f"Choose a number from {values[0]} to {values[-1]}."
            if isinstance(values, range)
            else f"Choose one of: {shown}."
        )
        raise InvalidInput(f"{option} can't be {value!r}.", remedy=remedy, field=option)
    if not values:
        try:
            [re.compile(pattern) for pattern in value]
        except (re.error, TypeError) as error:
            raise InvalidInput(
                f"{option} holds {value!r}: {error}.", remedy="Give a list of regular expressions.", field=option
            ) from None


def _find(name: str) -> Metric:
    spelled = name.strip().lower()
    by_lower = {known.lower(): known for known in METRICS}
    known = by_lower.get(ALIASES.get(spelled, spelled).lower())
    if known is not None:
        return METRICS[known]
    match = _AT_K_NAME.fullmatch(spelled)
    if (
        match is None
        or match["family"] not in _AT_K
        or (match["threshold"] is not None) != (match["family"] == "g-pass")
    ):
        near = get_close_matches(spelled, [*by_lower, *ALIASES, *(f"{family}@k" for family in _AT_K)], n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise InvalidInput(
            f"There is no metric {name!r}.", remedy=f"{hint}Metrics: {', '.join(registered_metrics())}.", field="metric"
        )
    label, kind, function, outcomes = _AT_K[match["family"]]
    bound: dict[str, object] = {"k": int(match["k"])}
    shown = label.format(k=match["k"])
    if match["threshold"] is not None:
        bound["threshold"] = float(match["threshold"])
        shown = f"{shown}, threshold {match['threshold']}"
    options = {"correct": _DECIDING} if kind is MetricKind.SAMPLES else {}
    return Metric(spelled, shown, kind, partial(function, **bound), outcomes=outcomes, options=options)


def score_item(metric: Metric, prediction: Any, references: Sequence[Any], *, correct: Metric | None = None) -> float:
    """Return one item's value of a metric that is not a corpus metric.

    `prediction` is a text; for metrics of samples a list of texts, or of booleans (whether each is right); for rankings
    a list of scores with `references` the positions of the right choices. None, an answer that could not be extracted,
    is wrong: the least value, or, if less is better, that of the text `NO_ANSWER`. `correct` decides whether one sample
    is right, else what the metric's option names, else label equality.
    """
    if prediction is None and metric.higher_is_better:
        return metric.low
    prediction = NO_ANSWER if prediction is None else prediction
    if metric.kind is not MetricKind.SAMPLES:
        return float(metric.function(prediction, references))
    judge = (correct or metric.correct or METRICS["accuracy"]).function
    if not metric.outcomes:
        return float(metric.function(prediction, references, correct=judge))
    return float(metric.function([_is_right(sample, references, judge) for sample in prediction]))


def _is_right(sample: str | bool | None, references: Sequence[Any], judge: Callable[..., float]) -> bool:
    return judge(sample, references) == 1 if isinstance(sample, str) else bool(sample)
