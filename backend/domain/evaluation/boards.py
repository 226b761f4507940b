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
