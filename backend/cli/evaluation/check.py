"""`roundhouse eval check`: compute an evaluation's items by another engine as well, and compare."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from backend.bootstrap import get_context
from backend.cli.output import command, emit
from backend.cli.waiting import wait_for_job
from backend.errors import JobFailed
from backend.services.context import LOCAL
from backend.services.evaluation.checks import LABEL, launch_check, read_check


@command
def check(
    evaluation: Annotated[str, typer.Argument(help="Id of a finished evaluation.")],
    against: Annotated[Literal["lm_eval", "plain"], typer.Option(help="The other engine.")] = "lm_eval",
    items: Annotated[int, typer.Option(help="Randomly drawn items; 0: all of them.")] = 0,
) -> None:
    """Compute items of an evaluation by another engine too, and show the largest difference."""
    ctx = get_context()
    wait_for_job(ctx, launch_check(ctx, evaluation, person=LOCAL, against=against, items=items).id)
    result = read_check(ctx, evaluation)
    if result is None:
        raise JobFailed("The check left no result.", remedy="See the job's log.")
    largest = "none" if result.largest_difference is None else f"{result.largest_difference:.2g} nats"
    lines = [
        f"{result.items} items by {result.engine} and by {LABEL[against]}",
        f"  largest difference of a log-likelihood   {largest}",
        f"  items with another choice or answer      {result.other_choices}",
        f"  items with another value                 {result.other_values}",
    ]
    emit({"evaluation": evaluation, **result.model_dump(mode="json")}, text="\n".join(lines))
