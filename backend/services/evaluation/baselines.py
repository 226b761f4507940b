"""Find the evaluations that two names mean; compare several with a baseline, or two on every benchmark, corrected for
their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.domain.evaluation.config import is_score_lower_better
from backend.domain.jobs.states import Status
from backend.domain.statistics.estimates import Estimate
from backend.domain.statistics.paired import benjamini_hochberg, holm
from backend.errors import InvalidInput, NotFound
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation.board import LIMIT, Column, read_columns, void_reason_of
from backend.services.evaluation.comparisons import (
    Comparison,
    better_of,
    column_key,
    compare,
    refuse_unlike,
    unlike_ways,
)
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation, list_evaluations
from backend.services.evaluation.packed_items import read_item_values
from backend.services.evaluation.pairing import pair_items, subgroups_of

CORRECTION = "Holm"


@dataclass(frozen=True)
class BaselineComparison:
    """A comparison with the baseline. `p_holm` supports "beats the baseline", `q_value` (BH) a list worth exploring."""

    comparison: Comparison
    p_holm: float | None
    q_value: float | None


def find_pair(ctx: Context, first: str, second: str, *, benchmark: str | None = None) -> tuple[str, str]:
    """Return the ids of two evaluations, given as such or as checkpoints: of those the newest two made alike on the
    benchmark.

    Raises NotFound where a name means nothing, InvalidInput where several benchmarks are in common, Conflict, naming
    what differs, where no two evaluations were made alike.
    """
    try:
        return get_evaluation(ctx, first).id, get_evaluation(ctx, second).id
    except NotFound:
        pass
    sides = [_finished(ctx, name, benchmark) for name in (first, second)]
    by_key = {column_key(evaluation): evaluation for evaluation in reversed(sides[0])}
    pairs = {
        column_key(other): (by_key[column_key(other)], other)
        for other in reversed(sides[1])
        if column_key(other) in by_key
    }
    benchmarks = sorted({pair[0].benchmark for pair in pairs.values()})
    if len(benchmarks) > 1:
        raise InvalidInput(
            f"Both have scores on {', '.join(benchmarks)}.", remedy="Name one with --benchmark.", field="benchmark"
        )
    if pairs:
        one, other = list(pairs.values())[-1]
        return one.id, other.id
    for one in sides[0]:
        for other in sides[1]:
            if one.version_id == other.version_id:
                refuse_unlike(one, other)
    raise NotFound(
        f"“{first}” and “{second}” have no benchmark in common.", remedy="Evaluate both on the same benchmark."
    )


def compare_with_baseline(
    ctx: Context, baseline: str, others: Sequence[str], *, metric: str | None = None
) -> list[BaselineComparison]:
    """Compare evaluations with a baseline's; p values are adjusted over those that have one, without those of results
    that are no score of the benchmark. Raises as `compare`.
    """
    comparisons = [compare(ctx, baseline, other, metric=metric) for other in others]
    tested = [None if any(map(void_reason_of, (one.first, one.second))) else one.p_value for one in comparisons]
    known = [p_value for p_value in tested if p_value is not None]
    adjusted = iter(zip(holm(known), benjamini_hochberg(known), strict=True))
    return [
        BaselineComparison(comparison, *(next(adjusted) if p_value is not None else (None, None)))
        for comparison, p_value in zip(comparisons, tested, strict=True)
    ]


def _finished(ctx: Context, name: str, benchmark: str | None) -> list[EvaluationView]:
    checkpoint = resolve_checkpoint(ctx, name)
    version_id = resolve_version(ctx, benchmark).id if benchmark else None
    evaluations = list_evaluations(ctx, checkpoint_id=checkpoint.id, version_id=version_id)
    return [evaluation for evaluation in evaluations if evaluation.status is Status.FINISHED and evaluation.scores]


@dataclass(frozen=True)
class BenchmarkDifference:
    """Second minus first on one benchmark. `p_adjusted` is corrected by Holm for the list; `better` follows it."""

    column: Column
    first: EvaluationView
    second: EvaluationView
    metric: str
    n: int
    difference: Estimate
    p_value: float | None
    p_adjusted: float | None
    better: str | None


def compare_across(ctx: Context, first_id: str, second_id: str) -> list[BenchmarkDifference]:
    """Compare the newest like evaluations of two subjects, checkpoints or endpoints, on every benchmark, by each one's
    main metric.

    Benchmarks that can't be paired (other items, a metric of pairs) are left out, and those of `void_benchmarks`. Reads
    packed values, no items.
    """
    pairs = [pair for pair in _newest_pairs(ctx, first_id, second_id) if not any(map(void_reason_of, pair[1:]))]
    values = read_item_values(ctx, [one.id for _, *both in pairs for one in both])
    compared = []
    for column, first, second in pairs:
        metric = (first.main_score or first.scores[0]).metric
        try:
            sides = values[first.id].rows(), values[second.id].rows()
            paired = pair_items(first, *sides, metric, subgroups=subgroups_of(ctx, first, metric))
            compared.append((column, first, second, metric, paired))
        except InvalidInput:
            continue
    adjusted = iter(holm([paired.p_value for *_, paired in compared if paired.p_value is not None]))
    differences = []
    for column, first, second, metric, paired in compared:
        p_adjusted = next(adjusted) if paired.p_value is not None else None
        better = better_of(p_adjusted, paired.difference, lower=is_score_lower_better(metric))
        differences.append(
            BenchmarkDifference(
                column, first, second, metric, paired.n, paired.difference, paired.p_value, p_adjusted, better
            )
        )
    return differences


def _newest_pairs(ctx: Context, first_id: str, second_id: str) -> list[tuple[Column, EvaluationView, EvaluationView]]:
    evaluations = [one for one in list_evaluations(ctx, limit=LIMIT) if one.subject_id in (first_id, second_id)]
    pairs = []
    for column, members in read_columns(evaluations):
        first, second = (
            next((one for one in members if one.subject_id == side), None) for side in (first_id, second_id)
        )
        if first is not None and second is not None and first.id != second.id:
            pairs.append((column, first, second))
    return pairs


def void_benchmarks(ctx: Context, first_id: str, second_id: str) -> list[str]:
    """Return the benchmarks on which a subject's newest result is no score, since its context cut every item: `gsm8k@1,
    Oak: All 59 items were truncated to the context...`. Tested with the others, they would weaken every p value.
    """
    return [
        f"{column.label}, {one.checkpoint}: {reason}"
        for column, *both in _newest_pairs(ctx, first_id, second_id)
        for one in both
        if (reason := void_reason_of(one))
    ]


def unlike_benchmarks(ctx: Context, first_id: str, second_id: str) -> list[str]:
    """Return the benchmarks that two subjects were evaluated on by the same task, but never in the same way, with what
    differs between the newest: `facts@1, whose evaluations differ in the number of items (all and 50)`.
    """
    sides: dict[tuple[str, str], tuple[list[EvaluationView], list[EvaluationView]]] = {}
    for one in list_evaluations(ctx, limit=LIMIT):
        if one.subject_id in (first_id, second_id) and one.status is Status.FINISHED and one.scores:
            task = one.config.task.name if one.config.task else one.kind.value
            sides.setdefault((one.version_id, task), ([], []))[one.subject_id == second_id].append(one)
    return [
        f"{firsts[0].benchmark}, whose evaluations differ in {', and in '.join(unlike_ways(firsts[0], seconds[0]))}"
        for firsts, seconds in sides.values()
        if firsts and seconds and all(unlike_ways(first, second) for first in firsts for second in seconds)
    ]
