"""`roundhouse rating`: ratings from a file of votes; named, hashed boards, and the proof that one is unchanged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.battles.vote_columns import ColumnOption, WinnerOption, read_column_option, read_winners
from backend.cli.evaluation import rating_verdicts
from backend.cli.exit_status import FAILED
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, command, emit
from backend.db.base import utc_now
from backend.domain.battles.frozen import Verification, count_cast, document_digest, freeze_document, verify_document
from backend.domain.battles.rating_table import RatingOptions, RatingTable
from backend.domain.battles.ratings import rate
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.vote_files.tables import read_vote_file
from backend.domain.wording import plural
from backend.errors import InvalidInput, NotFound
from backend.infra.files.paths import text_file
from backend.services.battles.frozen_boards import export_board, freeze_board, get_frozen_board, program_version
from backend.services.battles.views import resolve_campaign
from backend.services.context import LOCAL


@command
@model_options(RatingOptions, only=("method", "cluster_by", "control", "reweight"))
def freeze(
    source: Annotated[str, typer.Argument(help="A campaign's name or id, or a file of votes.")],
    name: Annotated[str, typer.Option(help="Name of the board.")],
    to: Annotated[Path | None, typer.Option(help="Write the board to this file; needed for a file of votes.")] = None,
    column: ColumnOption = None,
    winner: WinnerOption = None,
    *,
    options: Mapping[str, object],
) -> None:
    """Freeze a leaderboard with its votes, options, seed and version."""
    chosen = RatingOptions.of(**options)
    if Path(source).is_file():
        if to is None:
            raise InvalidInput(
                "A board of a file is not stored here.", remedy="Name a file to write: --to board.json.", field="to"
            )
        at, version = utc_now(), program_version()
        text = Path(source).read_text(encoding="utf-8-sig")
        votes = parse_votes(text, mapping=read_column_option(column), labels=read_winners(winner))
        document, _ = freeze_document(votes, chosen, campaign=Path(source).name, name=name, at=at, version=version)
        board_id, digest = None, document_digest(document)
        text = json.dumps({"digest": digest, "document": document}, ensure_ascii=False)
    else:
        ctx = get_context()
        board = freeze_board(ctx, resolve_campaign(ctx, source).id, name=name, options=chosen, person=LOCAL)
        board_id, digest, document, text = board.id, board.digest, board.document, export_board(board, form="json")
    if to is not None:
        to.write_text(text, encoding="utf-8")
    result = {
        "board": board_id,
        "name": name,
        "digest": digest,
        "votes": count_cast(document),
        "file": str(to) if to else None,
    }
    emit(
        {**result, "ratings": document["ratings"]},
        text=f"{name}: {plural(count_cast(document), 'vote')}, SHA-256 {digest}",
    )


@command
def verify(
    board: Annotated[str, typer.Argument(help="A file that `rating freeze` wrote, or the id of a stored board.")],
) -> None:
    """Compute a frozen board's hash and ratings again. Exit status 1 if they differ."""
    document, digest = _read_board(board)
    result = verify_document(document, digest=digest, version=program_version())
    emit({"passed": result.passed, **asdict(result)}, text=_describe(result))
    if not result.passed:
        raise typer.Exit(FAILED)


def _read_board(board: str) -> tuple[dict[str, object], str | None]:
    file = Path(board)
    if not file.is_file():
        if file.suffix:
            raise NotFound(f"There is no file {board}.")
        stored = get_frozen_board(get_context(), board)
        return stored.document, stored.digest
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["document"]), content.get("digest")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{file.name} holds no frozen board.", remedy="Give a file that `rating freeze` wrote."
        ) from error


def _describe(result: Verification) -> str:
    if result.passed:
        return f"Verified: {plural(result.num_votes, 'vote')} give the same ratings, SHA-256 {result.digest}."
    lines = [f"The hash is {result.digest}, not the stored one."] if result.digest_matches is False else []
    return "\n".join([*lines, *result.differences])


app = CommandGroup(no_args_is_help=True)
app.command("verdict")(rating_verdicts.verdict)
app.command("agreement")(rating_verdicts.agreement)

ROW_KEYS = (
    "contestant",
    "rating",
    "low",
    "high",
    "rank_low",
    "rank_high",
    "stderr",
    "votes",
    "wins",
    "losses",
    "ties",
    "both_bad",
    "df",
)


@app.command("fit")
@model_options(RatingOptions)
def fit(
    votes: Annotated[
        Path,
        typer.Argument(
            help="CSV or JSON lines with the columns prompt,rater,a,b,winner (A, B, TIE or BOTH_BAD), or MT-bench's "
            "question_id,judge,model_a,model_b,winner (model_a, model_b, tie, tie (inconsistent) or tie (bothbad))."
            " Optional columns: "
            "category, probability, length_a, length_b, and headers, lists and bold of both sides."
        ),
    ],
    column: ColumnOption = None,
    winner: WinnerOption = None,
    *,
    options: Mapping[str, object],
) -> None:
    """Rate contestants by Bradley-Terry, Davidson or Rao-Kupper, with intervals clustered by prompt and rater."""
    rating_options = RatingOptions.of(**options)
    with text_file(votes):
        read = read_vote_file(votes.read_bytes(), mapping=read_column_option(column), labels=read_winners(winner))
        table = rate(read, rating_options)
    emit(rating_data(table), text=rating_text(table))


app.command("freeze")(freeze)
app.command("verify")(verify)


def rating_data(table: RatingTable) -> dict[str, object]:
    """Return a table as the JSON document of `rating fit --json`. Endless degrees of freedom are null."""
    rows = [{key: getattr(row, key) for key in ROW_KEYS} for row in table.ratings]
    if table.controls:
        for entry, row in zip(rows, table.ratings, strict=True):
            entry["uncontrolled"] = row.uncontrolled
    return {
        "ratings": rows,
        "position_bias": asdict(table.position_bias) if table.position_bias else None,
        "method": table.options.method,
        "description": table.method,
        "log_likelihood": table.log_likelihood,
        "tie_parameter": table.tie_parameter,
        "fits": [asdict(row) for row in table.fits],
        "controls": [asdict(row) for row in table.controls],
        "differences": [asdict(row) for row in table.neighbours()],
        "options": table.options.model_dump(mode="json"),
        "notes": list(table.notes),
        "regularised": table.regularised,
        "votes": table.num_votes,
        "prompts": table.num_prompts,
        "raters": table.num_raters,
    }


def rating_text(table: RatingTable) -> str:
    """Return a table as aligned lines."""
    width = max(len("contestant"), *(len(row.contestant) for row in table.ratings))
    lines = [
        f"{'rank':<7}{'contestant':<{width}}  {'rating':>7}  {'interval':>15}  {'votes':>6}  {'above the next by':>22}"
    ]
    gaps = [f"{table.shown_gap(gap.first, gap.second)} ({gap.low:.0f} to {gap.high:.0f})" for gap in table.neighbours()]
    for row, gap in zip(table.ratings, [*gaps, ""], strict=True):
        rank = f"{row.rank_low}" if row.rank_low == row.rank_high else f"{row.rank_low}-{row.rank_high}"
        interval = f"{row.low:.0f} to {row.high:.0f}"
        line = f"{rank:<7}{row.contestant:<{width}}  {row.rating:>7.0f}  {interval:>15}  {row.num_cast:>6}  {gap:>22}"
        lines.append(line.rstrip())
    bias = table.position_bias
    extra = [f"Side A gains {bias.value:+.0f} points ({bias.low:+.0f} to {bias.high:+.0f})."] if bias else []
    extra += [
        f"{feature.capitalize()}: {effect.value:+.0f} points per standard deviation ({effect.low:+.0f} to"
        f" {effect.high:+.0f})."
        for feature, effect in ((row.feature, row.effect) for row in table.controls)
    ]
    extra += [
        f"{row.method}: log-likelihood {row.log_likelihood:,.1f}, order {row.kendall_tau:.3f} (Kendall's tau)"
        for row in table.fits
    ]
    return "\n".join([*lines, table.method, *extra, *table.notes])
