"""Metrics of lm-evaluation-harness 0.4.13 beside ours: a name is shared only where the definition is.

docs/metrics.md holds the audit of every metric against the harness, sacreBLEU, SQuAD and HELM.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES: dict[str, str] = {
    **{name: name for name in ("acc", "acc_norm", "acc_bytes", "bleu", "chrf", "chrf++", "ter", "mcc")},
    **{
        name: name
        for name in (
            "perplexity",
            "word_perplexity",
            "byte_perplexity",
            "bits_per_byte",
            "likelihood_diff",
            "pct_stereotype",
        )
    },
    "acc_pmi": "acc_mutual_info",
    "brier": "brier_score",
    "exact_match_verbatim": "exact_match",
    "prompt_strict": "prompt_level_strict_acc",
    "instruction_strict": "inst_level_strict_acc",
    "prompt_loose": "prompt_level_loose_acc",
    "instruction_loose": "inst_level_loose_acc",
    "accuracy_ambiguous": "accuracy_amb",
    "accuracy_disambiguated": "accuracy_disamb",
}
"""Our name and the harness's of metrics with one definition. The harness's are one for one."""
_OURS = {theirs: ours for ours, theirs in NAMES.items()}
_TAKEN = frozenset({"exact_match", "f1"})
"""Our names that the harness gives to something else: the verbatim match, and the F1 of class 1 by scikit-learn."""
_VERBATIM = frozenset({"exact_match_verbatim"})
OWN, FOREIGN = "roundhouse_", "harness_"


def to_harness(name: str, options: Mapping[str, Any] | None = None) -> str | None:
    """Return the harness's name of a metric with its options; None where it has none of this definition."""
    if options and name not in _VERBATIM:
        return None
    return NAMES.get(name)


def exported_name(score: str, options: Mapping[str, Any] | None = None) -> str:
    """Return the key of a score in a results file, filter included.

    Example:
        >>> exported_name("exact_match_verbatim,strict"), exported_name("exact_match"), exported_name("nll_per_token")
        ('exact_match,strict', 'roundhouse_exact_match,none', 'nll_per_token,none')
    """
    name, _, filter_name = score.partition(",")
    base, _, average = name.partition(":")
    shared = to_harness(base, options)
    own = f"{OWN}{base}" if base in _TAKEN or base in NAMES else base
    return f"{shared or own}{f':{average}' if average else ''},{filter_name or 'none'}"


def read_name(metric: str, filter_name: str) -> str:
    """Return our name of a metric in a results file; one that means something else here is marked as the harness's.

    Example:
        >>> read_name("exact_match", "strict"), read_name("f1", "none"), read_name("roundhouse_f1", "none")
        ('exact_match_verbatim,strict', 'harness_f1', 'f1')
    """
    if metric.startswith(OWN):
        name = metric.removeprefix(OWN)
    else:
        name = _OURS.get(metric) or (f"{FOREIGN}{metric}" if metric in _TAKEN else metric)
    return name if filter_name in ("", "none") else f"{name},{filter_name}"
