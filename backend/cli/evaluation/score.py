"""`roundhouse eval score`: a metric of answers in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from backend.cli.output import command, emit, interval_data, score_data
from backend.domain.evaluation.extraction import Pattern, named_filters
from backend.domain.evaluation.metrics.registry import get_metric
from backend.errors import InvalidInput
from backend.services.evaluation.metric_scores import score_file


@command
def score(
    metric: Annotated[
        str, typer.Option(help="Name, such as exact_match, f1, bleu, rougeL, mcc, pass@10; a wrong name lists all.")
    ],
    file: Annotated[
        Path,
        typer.Option(
            help='JSONL of "prediction" (a text), "references" (a list of texts) and, if any, "cluster" (its document).'
        ),
    ],
    extract: Annotated[
        str | None, typer.Option(help="Find the answer first: a filter's name or a regular expression.")
    ] = None,
    correct: Annotated[
        str | None, typer.Option(help="For pass@k and the like: the metric that decides about one sample.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="The metric's options: tokenize=zh, stemmer=true.")] = None,
    seed: Annotated[int, typer.Option(help="Draws the bootstrap of corpus metrics.")] = 0,
) -> None:
    """Score answers in a file: value, standard error and 95 % interval of a metric."""
    chosen = get_metric(metric, **_read_options(option or []))
    result = score_file(file, metric=chosen, correct=correct, filters=_read_filters(extract), seed=seed)
    estimate = result.score.estimate
    interval = interval_data(estimate)
    data: dict[str, object] = {
        "metric": chosen.name,
        **score_data(estimate),
        "signature": result.score.signature,
        "higher_is_better": chosen.higher_is_better,
    }
    if result.unparsed is not None:
        data["unparsed"] = result.unparsed
    shown = "" if interval is None else f"  [{interval[0]:.4f}, {interval[1]:.4f}]"
    unparsed = "" if result.unparsed is None else f", {result.unparsed} unparsed"
    text = (
        f"{chosen.label}  {estimate.value:.4f}{shown}  n = {estimate.n}{unparsed}\n{result.score.signature};"
        f" {estimate.method}"
    )
    emit(data, text=text)


def _read_filters(extract: str | None) -> tuple[Pattern, ...]:
    if extract is None:
        return ()
    if any(mark in extract for mark in "([\\.*+?"):
        return (Pattern(name="pattern", pattern=extract, take=-1),)
    return named_filters(extract)


def _read_options(options: list[str]) -> dict[str, object]:
    values = {}
    for text in options:
        name, sign, value = text.partition("=")
        if not sign:
            raise InvalidInput(f"The option {text!r} has no value.", remedy="Write name=value.", field="option")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values
