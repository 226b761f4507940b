"""`roundhouse rating`: ratings from a file of votes, without a database."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from backend.cli.output import JsonFlag, command, emit
from backend.domain.battles.ratings import ClusterBy, RatingTable, fit_bradley_terry
from backend.domain.battles.vote_files import parse_votes
from backend.errors import InvalidInput, NotFound

app = typer.Typer(no_args_is_help=True)


@app.callback()
def rating() -> None:
    """Ratings from votes."""


@app.command("fit")
@command
def fit(
    votes: Annotated[
        Path,
        typer.Argument(
            help="CSV or JSON lines with the columns prompt,rater,a,b,winner (A, B, TIE or BOTH_BAD), or MT-bench's "
            "question_id,judge,model_a,model_b,winner (model_a, model_b, tie, tie (inconsistent) or tie (bothbad))."
        ),
    ],
    cluster_by: Annotated[str, typer.Option(help="Clusters of dependent votes: prompt, rater, two_way or none.")] = "prompt",
    anchor: Annotated[str | None, typer.Option(help="Fix this contestant at the anchor rating.")] = None,
    anchor_rating: Annotated[float, typer.Option(help="Rating of the anchor; without an anchor the mean is 1000.")] = 1000.0,
    as_json: JsonFlag = False,
) -> None:
    """Rate contestants by Bradley-Terry, with intervals clustered by prompt."""
    if cluster_by not in get_args(ClusterBy):
        raise InvalidInput(f"Intervals can't be clustered by {cluster_by!r}.", remedy=f"Use {', '.join(get_args(ClusterBy))}.")
    if not votes.is_file():
        raise NotFound(f"There is no file {votes}.")
    try:
        text = votes.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{votes.name} is not UTF-8 text.", remedy="Save it as UTF-8.") from error
    table = fit_bradley_terry(parse_votes(text), cluster_by=cluster_by, anchor=anchor, anchor_rating=anchor_rating)  # type: ignore[arg-type]
    emit(to_document(table), as_json=as_json, text=to_text(table))


def to_document(table: RatingTable) -> dict[str, object]:
    """Return a table as the JSON document of `rating fit --json`."""
    keys = ("contestant", "rating", "low", "high", "rank_low", "rank_high", "stderr", "votes", "wins", "losses", "ties", "both_bad")
    return {
        "ratings": [{key: getattr(row, key) for key in keys} for row in table.ratings],
        "position_bias": asdict(table.position_bias) if table.position_bias else None,
        "method": table.method,
        "notes": list(table.notes),
        "votes": table.num_votes,
        "prompts": table.num_prompts,
        "raters": table.num_raters,
    }


def to_text(table: RatingTable) -> str:
    """Return a table as aligned lines."""
    width = max(len("contestant"), *(len(row.contestant) for row in table.ratings))
    lines = [f"{'rank':<7}{'contestant':<{width}}  {'rating':>7}  {'interval':>15}  {'votes':>6}"]
    for row in table.ratings:
        rank = f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}-{row.rank_high}"
        interval = f"{row.low:.0f} to {row.high:.0f}"
        lines.append(f"{rank:<7}{row.contestant:<{width}}  {row.rating:>7.0f}  {interval:>15}  {row.votes:>6}")
    return "\n".join([*lines, table.method, *table.notes])
