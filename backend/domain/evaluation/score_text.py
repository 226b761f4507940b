"""Format scores, intervals and p-values. Pure."""

from __future__ import annotations

import re

from backend.domain.evaluation.config import score_name
from backend.domain.evaluation.safety.probes import METRICS as SAFETY_METRICS
from backend.domain.evaluation.tasks.metric_names import is_averaged

_SAFETY_SHARES = frozenset(
    {"unclear", *(name for name, metric in SAFETY_METRICS.items() if metric.is_share and not name.startswith("bias_"))}
)
_SUFFIX = re.compile("[,:]")


def is_share(metric: str) -> bool:
    """Return whether a score is a share of 1, shown in percent. Filters (`exact_match,strict`) change nothing."""
    return metric in _SAFETY_SHARES or is_averaged(_SUFFIX.split(metric, maxsplit=1)[0])


def score_label(metric: str) -> str:
    """Return a score's label as a heading: `Bits per byte`, `Exact match (strict-match)`."""
    name = score_name(metric)
    return name[:1].upper() + name[1:]


def score_text(metric: str, value: float, *, signed: bool = False) -> str:
    """Format a score: shares as percentages, others in four digits. `signed` adds the sign of a difference."""
    if is_share(metric):
        unit = "points" if signed else "%"
        return f"{100 * value:{'+' if signed else ''}.1f} {unit}"
    return f"{value:{'+' if signed else ''}.4g}"


def interval_text(metric: str, low: float | None, high: float | None, *, signed: bool = False) -> str:
    """Format an interval: `55.3 to 69.1 %`; empty without one."""
    if low is None or high is None:
        return ""
    if is_share(metric):
        sign = "+" if signed else ""
        return f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f} {'points' if signed else '%'}"
    return f"{score_text(metric, low, signed=signed)} to {score_text(metric, high, signed=signed)}"


def p_text(p_value: float | None) -> str:
    """Format a p-value: `p = 0.039`, `p < 0.001`; a dash without one."""
    if p_value is None:
        return "–"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
