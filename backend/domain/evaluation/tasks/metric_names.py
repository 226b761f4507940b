"""The metrics that a task may name, and the kinds of task each one scores."""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.names import nearest


@dataclass(frozen=True)
class MetricName:
    """A metric: its words on pages, the kinds of task it scores, and whether less is better."""

    label: str
    kinds: frozenset[str]
    lower_is_better: bool = False


_CHOICE, _TEXT, _LIKELIHOOD = frozenset({"multiple_choice"}), frozenset({"generation"}), frozenset({"perplexity"})

METRIC_NAMES: dict[str, MetricName] = {
    "acc": MetricName("accuracy", _CHOICE | _LIKELIHOOD),
    "acc_norm": MetricName("accuracy, per character", _CHOICE),
    "acc_bytes": MetricName("accuracy, per byte", _CHOICE),
    "acc_token": MetricName("accuracy, per token", _CHOICE),
    "acc_pmi": MetricName("accuracy, against the choice alone", _CHOICE),
    "mc2": MetricName("probability of the right choices", _CHOICE),
    "brier": MetricName("Brier score", _CHOICE, lower_is_better=True),
    "mcc": MetricName("Matthews correlation", _CHOICE),
    "likelihood_diff": MetricName("difference of log-likelihoods", _CHOICE, lower_is_better=True),
    "pct_stereotype": MetricName("stereotype preferred", _CHOICE, lower_is_better=True),
    "bbq": MetricName("BBQ accuracy and bias", _CHOICE),
    "winogender": MetricName("Winogender accuracy by gender", _CHOICE),
    "exact_match": MetricName("exact match", _TEXT),
    "contains": MetricName("answer contained", _TEXT),
    "numeric": MetricName("number right", _TEXT),
    "f1": MetricName("F1 of words", _TEXT),
    "bleu": MetricName("BLEU", _TEXT),
    "chrf": MetricName("chrF", _TEXT),
    "ter": MetricName("TER", _TEXT, lower_is_better=True),
    "rouge1": MetricName("ROUGE-1", _TEXT),
    "rouge2": MetricName("ROUGE-2", _TEXT),
    "rougeL": MetricName("ROUGE-L", _TEXT),
    "rougeLsum": MetricName("ROUGE-Lsum", _TEXT),
    "pass_at_k": MetricName("pass@k", _TEXT),
    "avg_at_k": MetricName("average of k samples", _TEXT),
    "ifeval": MetricName("instructions followed", _TEXT),
    "refusal": MetricName("refused", _TEXT),
    "over_refusal": MetricName("refused though safe", _TEXT, lower_is_better=True),
    "judge": MetricName("judge", _TEXT),
    "bits_per_byte": MetricName("bits per byte", _LIKELIHOOD, lower_is_better=True),
    "perplexity": MetricName("perplexity", _LIKELIHOOD, lower_is_better=True),
    "byte_perplexity": MetricName("perplexity per byte", _LIKELIHOOD, lower_is_better=True),
    "word_perplexity": MetricName("perplexity per word", _LIKELIHOOD, lower_is_better=True),
    "nll_per_token": MetricName("loss, nats per token", _LIKELIHOOD, lower_is_better=True),
}


def suggest_metric(name: str, *, kind: str | None = None) -> str:
    """Return what may have been meant, as the end of a sentence: the nearest metric, or those of a kind."""
    known = [other for other, metric in METRIC_NAMES.items() if kind is None or kind in metric.kinds]
    near = nearest(name, known) if name else None
    return f"; did you mean {near}?" if near else f"; there are {', '.join(known)}"
