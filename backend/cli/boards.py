"""`roundhouse rating freeze|verify`: a named, hashed board of a campaign or of a file of votes, and the proof that it
is unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.exit_status import FAILED
from backend.cli.options import model_options
from backend.cli.output import command, emit
from backend.db.base import utc_now
from backend.domain.battles.frozen import Verification, count_votes, document_digest, freeze_document, verify_document
from backend.domain.battles.options import RatingOptions
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.wording import plural
from backend.errors import InvalidInput, NotFound
from backend.services.battles.frozen_boards import export_board, freeze_board, get_frozen_board, program_version
from backend.services.battles.views import resolve_campaign
from backend.services.context import LOCAL


@command
@model_options(RatingOptions, only=("method", "cluster_by", "control", "reweight"))
def freeze(
    source: Annotated[str, typer.Argument(help="A campaign's name or id, or a file of votes.")],
    name: Annotated[str, typer.Option(help="Name of the board.")],
    to: Annotated[Path | None, typer.Option(help="Write the board to this file; needed for a file of votes.")] = None,
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
        votes = parse_votes(Path(source).read_text(encoding="utf-8-sig"))
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
        "votes": count_votes(document),
        "file": str(to) if to else None,
    }
    emit(
        {**result, "ratings": document["ratings"]},
        text=f"{name}: {plural(count_votes(document), 'vote')}, SHA-256 {digest}",
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
