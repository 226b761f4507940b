"""`roundhouse eval export` and `roundhouse eval import`: results for other tools, and of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit
from backend.domain.attributes import attributes_of
from backend.errors import Conflict, NotFound
from backend.services.context import LOCAL
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.evaluation.exports import ExportFormat, board_html, export_evaluation, scores_csv
from backend.services.evaluation.imported import import_results


@command
def export(
    to: Annotated[Path, typer.Option(help="File to write; refused where it exists.")],
    evaluation: Annotated[str | None, typer.Argument(help="Id of an evaluation; left out: the scores of all.")] = None,
    form: Annotated[ExportFormat, typer.Option("--format", help="lm-eval: a zip of results and samples.")] = "csv",
) -> None:
    """Write an evaluation, or the scores of all, as CSV, as an HTML report or in the form of lm-evaluation-harness."""
    ctx = get_context()
    if to.exists():
        raise Conflict(f"{to} exists already.", remedy="Give another name.")
    if evaluation is not None:
        content = export_evaluation(ctx, evaluation, form=form)
    elif form == "lm-eval":
        raise NotFound("lm-evaluation-harness has a file for each evaluation.", remedy="Name an evaluation.")
    else:
        content = (board_html(ctx) if form == "html" else scores_csv(list_evaluations(ctx, limit=5000))).encode()
    to.write_bytes(content)
    emit(
        {"file": str(to), "bytes": len(content), "format": form},
        text=f"Wrote {to} ({len(content):,} bytes).",
    )


@command
def import_(
    files: Annotated[
        list[Path], typer.Argument(help="Results files of lm-evaluation-harness, or JSON of the same form.")
    ],
) -> None:
    """Import scores that other programs measured, to be shown beside ours and never tested against them."""
    imported = []
    for file in files:
        if not file.is_file():
            raise NotFound(f"There is no file {file}.")
        imported += import_results(get_context(), file.read_bytes(), source=file.name, person=LOCAL)
    rows = [
        {
            **attributes_of(one, "id", "model", "benchmark"),
            "scores": [score.model_dump() for score in one.scores],
            "source": one.source,
        }
        for one in imported
    ]
    lines = [f"{one.model} on {one.benchmark}: {len(one.scores)} scores" for one in imported]
    emit({"imported": rows}, text="\n".join(lines))
