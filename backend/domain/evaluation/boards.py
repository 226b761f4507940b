"""Rules of the board: which metric a column shows, what must be said beside a score, which names are the same benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from backend.domain.evaluation.config import is_lower_better
from backend.domain.wording import plural


def choose_metric(main: str, values: Mapping[str, Sequence[float]]) -> str:
    """Return the metric that a column shows until another is chosen: the main one, unless all its scores are 0 and another's are not.

    Exact match of answers in sentences is 0 for everyone while many contain the right answer: a board of zeros would order nothing.

    Example:
        >>> choose_metric("exact_match", {"exact_match": [0.0, 0.0], "contains": [0.34, 0.2]})
        'contains'
    """
    if main not in values:
        return next(iter(values), main)
    if is_lower_better(main) or any(values[main]):
        return main
    return next((metric for metric, scores in values.items() if not is_lower_better(metric) and any(scores)), main)


AVERAGES = ("macro", "micro")
"""Names of averages over all subgroups: `acc:micro` beside the task's own average `acc`."""


def describe_average(metric: str, totals: Sequence[str], *, num_subgroups: int) -> str:
    """Return over what a metric is averaged, from the names of the scores over all items; empty where there are no subgroups.

    Example:
        >>> describe_average("acc", ["acc", "acc:micro"], num_subgroups=2)
        'macro over 2 subgroups'
    """
    name, _, part = metric.partition(":")
    other = next((average for average in AVERAGES if f"{name}:{average}" in totals), "")
    if not other:
        return ""
    average = part or next(one for one in AVERAGES if one != other)
    return f"macro over {plural(num_subgroups, 'subgroup')}" if average == "macro" else "micro over items"


def caveats(*, lost_bytes: int, truncated: int, missing: int = 0, capped: int = 0, unjudged: int = 0) -> tuple[str, ...]:
    """Return why a score must not be read as it stands: text that the tokenizer lost, items that were cut or have no result."""
    texts = [
        f"{plural(lost_bytes, 'byte')} lost by the tokenizer" if lost_bytes else "",
        f"{plural(truncated, 'item')} truncated to the context" if truncated else "",
        f"{plural(capped, 'answer')} cut by the context" if capped else "",
        f"{plural(missing, 'item')} without a result" if missing else "",
        f"{plural(unjudged, 'answer')} without a judge's verdict" if unjudged else "",
    ]
    return tuple(text for text in texts if text)


def same_benchmark(first: str, second: str) -> bool:
    """Return whether two names mean one benchmark: without version, case and punctuation.

    Example:
        >>> same_benchmark("arc_easy", "ARC easy@2")
        True
    """
    return _bare(first) == _bare(second)


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.partition("@")[0]).casefold()
