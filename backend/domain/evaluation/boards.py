"""Rules of the board: a column's metric, what must be said beside a score, which names are the same benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.wording import plural


def telling_metric(headline: str, values: Mapping[str, Sequence[float]]) -> str | None:
    """Return a metric that orders what the headline does not, since all its scores are 0; None where the headline does.

    Exact match of answers in sentences is 0 for everyone while many contain the right answer. The headline stays, and
    this one is named.

    Example:
        >>> telling_metric("exact_match", {"exact_match": [0.0, 0.0], "contains": [0.34, 0.2]})
        'contains'
    """
    if is_score_lower_better(headline) or any(values.get(headline, (1.0,))):
        return None
    return next(
        (metric for metric, scores in values.items() if not is_score_lower_better(metric) and any(scores)), None
    )


AVERAGES = ("macro", "micro")
"""Names of averages over all subgroups: `acc:micro` beside the task's own average `acc`."""


def describe_average(metric: str, totals: Sequence[str], *, num_subgroups: int) -> str:
    """Return over what a metric is averaged, from the names of the scores over all items; empty where there are fewer
    than two subgroups, of which the averages are one.

    Example:
        >>> describe_average("acc", ["acc", "acc:micro"], num_subgroups=2)
        'macro over 2 subgroups'
    """
    name, _, part = metric.partition(":")
    other = next((average for average in AVERAGES if f"{name}:{average}" in totals), "")
    if not other or num_subgroups == 1:
        return ""
    average = part or next(one for one in AVERAGES if one != other)
    return f"macro over {plural(num_subgroups, 'subgroup')}" if average == "macro" else "micro over items"


def caveats(
    *, lost_bytes: int, truncated: int, missing: int = 0, capped: int = 0, unjudged: int = 0
) -> tuple[str, ...]:
    """Return why a score must not be read as it stands: text that the tokenizer lost, items cut or without result."""
    texts = [
        f"{plural(lost_bytes, 'byte')} lost by the tokenizer" if lost_bytes else "",
        f"{plural(truncated, 'item')} truncated to the context" if truncated else "",
        f"{plural(capped, 'answer')} cut by the context" if capped else "",
        f"{plural(missing, 'item')} without a result" if missing else "",
        f"{plural(unjudged, 'answer')} without a judge's verdict" if unjudged else "",
    ]
    return tuple(text for text in texts if text)


def void_reason(*, items: int, truncated: int, capped: int = 0) -> str:
    """Say why scores are none of the benchmark: every prompt, or every answer, was cut by the context. Else empty."""
    if items and truncated >= items:
        return (
            f"All {plural(items, 'item')} were truncated to the context: no prompt was read whole, so this is not a"
            " score of the benchmark."
        )
    if items and capped >= items:
        return f"All {plural(items, 'answer')} were cut by the context, so this is not a score of the benchmark."
    return ""


@dataclass(frozen=True)
class Cuts:
    """One side of a comparison: items, the context's length in tokens, prompts and answers that it cut."""

    items: int
    context: int | None
    truncated: int
    capped: int


def unequal_cuts(champion: Cuts, candidate: Cuts) -> tuple[str, ...]:
    """Return what of a difference may be the contexts' and not the networks': cut items, unequal contexts."""
    texts = []
    for what, first, second in (
        ("prompts", champion.truncated, candidate.truncated),
        ("answers", champion.capped, candidate.capped),
    ):
        if first or second:
            cut = (
                f"{first:,} of {champion.items:,} for the champion, {second:,} of {candidate.items:,} for the candidate"
            )
            texts.append(f"{what} were cut by the context: {cut}")
    if champion.context and candidate.context and champion.context != candidate.context:
        texts.append(
            f"contexts are unequal: {champion.context:,} tokens of the champion, {candidate.context:,} of the candidate"
        )
    return tuple(texts)


def same_benchmark(first: str, second: str) -> bool:
    """Return whether two names mean one benchmark: without version, case and punctuation.

    Example:
        >>> same_benchmark("arc_easy", "ARC easy@2")
        True
    """
    return _bare(first) == _bare(second)


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.partition("@")[0]).casefold()
