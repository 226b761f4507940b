"""`roundhouse eval compare`: two evaluations, or several with a baseline."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit, interval_data
from backend.domain.attributes import attributes_of
from backend.domain.evaluation.config import score_name
from backend.errors import NotFound
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.evaluation.baselines import (
    CORRECTION,
    BaselineComparison,
    BenchmarkDifference,
    compare_across,
    compare_with_baseline,
    find_pair,
    unlike_benchmarks,
    void_benchmarks,
)
from backend.services.evaluation.board import void_reason_of
from backend.services.evaluation.comparisons import Comparison
from backend.services.evaluation.comparisons import compare as compare_evaluations


@command
def compare(
    first: Annotated[str, typer.Argument(help="Evaluation's id, or checkpoint: the baseline.")],
    second: Annotated[str, typer.Argument(help="Evaluation's id, or checkpoint.")],
    others: Annotated[list[str] | None, typer.Argument(help="More of them, each compared with the first.")] = None,
    benchmark: Annotated[str | None, typer.Option(help="Benchmark to compare checkpoints on.")] = None,
    metric: Annotated[str | None, typer.Option(help="Metric; the main one without it.")] = None,
    every: Annotated[
        bool, typer.Option("--every-benchmark", help="Two checkpoints on each benchmark that both have.")
    ] = False,
) -> None:
    """Compare item by item: second minus first, with interval and p value; several with Holm's correction."""
    ctx = get_context()
    if every:
        checkpoints = [resolve_checkpoint(ctx, name).id for name in (first, second)]
        unlike = [f"{one}. Evaluate both with the same settings." for one in unlike_benchmarks(ctx, *checkpoints)]
        left_out = [*unlike, *void_benchmarks(ctx, *checkpoints)]
        _emit_across(compare_across(ctx, *checkpoints), left_out=left_out)
        return
    pairs = [find_pair(ctx, first, other, benchmark=benchmark) for other in (second, *(others or []))]
    if len(pairs) == 1:
        comparison = compare_evaluations(ctx, *pairs[0], metric=metric)
        emit(comparison_data(comparison), text=comparison_text(comparison))
        return
    results = compare_with_baseline(ctx, pairs[0][0], [pair[1] for pair in pairs], metric=metric)
    data = [{**comparison_data(one.comparison), **attributes_of(one, "p_holm", "q_value")} for one in results]
    emit({"baseline": pairs[0][0], "comparisons": data}, text="\n".join(map(_line, results)))


def _emit_across(differences: list[BenchmarkDifference], *, left_out: list[str]) -> None:
    if not differences:
        alike = "".join(f" Left out: {one}" for one in left_out)
        raise NotFound(
            f"The two have no benchmark in common.{alike}",
            remedy="Evaluate both on the same benchmark with the same settings.",
        )
    data = [
        {
            "benchmark": one.column.label,
            "metric": one.metric,
            "first": {"evaluation": one.first.id, "checkpoint": one.first.checkpoint},
            "second": {"evaluation": one.second.id, "checkpoint": one.second.checkpoint},
            "n": one.n,
            "difference": one.difference.value,
            "interval": interval_data(one.difference),
            **attributes_of(one, "p_value", "p_adjusted", "better"),
        }
        for one in differences
    ]
    lines = []
    for one in differences:
        better = {"first": one.first.checkpoint, "second": one.second.checkpoint}.get(one.better or "")
        shown = one.difference.bracketed("{:+.4g}".format)
        p_text = "" if one.p_adjusted is None else f", adjusted p = {one.p_adjusted:.3g}"
        verdict = f"{better} is better" if better else "undecided"
        lines.append(
            f"{one.column.label}, {one.metric}: {one.difference.value:+.4g}{shown} on {one.n} items{p_text}: {verdict}"
        )
    lines.append(f"p adjusted for {len(differences)} benchmarks by {CORRECTION}'s correction")
    lines += [f"Left out: {one}" for one in left_out]
    emit({"correction": CORRECTION, "benchmarks": data, "left_out": left_out}, text="\n".join(lines))


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as the command line's JSON."""
    gap = comparison.difference
    return {
        "metric": comparison.metric,
        "first": {"evaluation": comparison.first.id, "checkpoint": comparison.first.checkpoint},
        "second": {"evaluation": comparison.second.id, "checkpoint": comparison.second.checkpoint},
        **attributes_of(comparison, "n", "left_out", "clusters"),
        "difference": gap.value,
        "stderr": gap.stderr,
        "interval": interval_data(gap),
        **attributes_of(comparison, "p_value", "better", "wins", "losses", "ties"),
        "procedure": comparison.method,
        "method": gap.method,
        "differs": list(comparison.differs),
    }


def comparison_text(comparison: Comparison) -> str:
    """Return a comparison as a line for a terminal."""
    gap = comparison.difference
    shown = gap.bracketed("{:+.4g}".format)
    p_text = "" if comparison.p_value is None else f", p = {comparison.p_value:.3g} ({comparison.method})"
    better = {"first": comparison.first.checkpoint, "second": comparison.second.checkpoint}.get(comparison.better or "")
    items = f"{comparison.n} items" + (f" in {comparison.clusters} clusters" if comparison.clusters else "")
    differs = f"\nThey differ in {', '.join(comparison.differs)}." if comparison.differs else ""
    label = score_name(comparison.metric)
    verdict = f"{better} is better" if better else "undecided"
    for side in (comparison.first, comparison.second):
        if reason := void_reason_of(side):
            verdict = f"no comparison, {side.checkpoint}: {reason}"
    return f"{label}: {gap.value:+.4g}{shown} on {items}{p_text}: {verdict}{differs}"


def _line(result: BaselineComparison) -> str:
    adjusted = "" if result.p_holm is None else f"; adjusted p = {result.p_holm:.3g} (Holm)"
    return f"{result.comparison.second.checkpoint}: {comparison_text(result.comparison)}{adjusted}"
