"""Freeze a campaign's leaderboard under a name, read it by its address, verify and export it."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import Campaign, FrozenBoard, User
from backend.domain.battles.frozen import (
    Verification,
    count_cast,
    document_digest,
    freeze_document,
    identical_by_contestant,
    verify_document,
)
from backend.domain.battles.rating_table import RatingOptions
from backend.domain.csv_text import write_csv
from backend.domain.json_values import JsonObject
from backend.domain.names import clean_name
from backend.domain.wording import plural
from backend.errors import Conflict, InvalidInput
from backend.services.battles.quality import list_exclusions
from backend.services.battles.standings import read_vote_records
from backend.services.battles.views import find_campaign
from backend.services.context import Context, Person, require_builder
from backend.services.lookups import find_row


@dataclass(frozen=True)
class FrozenBoardLine:
    """A frozen board in a list."""

    id: str
    name: str
    digest: str
    created_at: datetime


@dataclass(frozen=True)
class FrozenBoardView:
    """A frozen board. `document` is what `domain.battles.frozen` describes; `digest` its SHA-256 when it was frozen."""

    id: str
    campaign_id: str
    campaign: str
    name: str
    digest: str
    document: JsonObject
    by: str | None
    created_at: datetime

    @property
    def ratings(self) -> list[dict[str, Any]]:
        """Rows of the leaderboard, best first; `votes` and `ties` of each without its `identical` answers."""
        identical = identical_by_contestant(self.document)
        rows = []
        for row in self.document["ratings"]:
            equal = identical[row["contestant"]]
            rows.append({**row, "votes": row["votes"] - equal, "ties": row["ties"] - equal, "identical": equal})
        return rows

    @property
    def num_votes(self) -> int:
        """Number of votes that people cast."""
        return count_cast(self.document)


def program_version() -> str:
    """Return the version of this program, as a frozen board stores it."""
    return version("roundhouse")


@retry_races
def freeze_board(
    ctx: Context, campaign_id: str, *, name: str, options: RatingOptions, person: Person
) -> FrozenBoardView:
    """Store the board of this moment under a name. Raises InvalidInput without votes, Conflict for a name that is
    taken, NotAllowed.
    """
    require_builder(person)
    name = clean_name(name, what="A snapshot")
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        if session.scalar(
            select(FrozenBoard.id).where(FrozenBoard.campaign_id == campaign_id, FrozenBoard.name == name)
        ):
            raise Conflict(
                f"This campaign has a snapshot “{name}” already.", remedy="Choose another name.", field="name"
            )
        title = campaign.name
        votes = read_vote_records(session, campaign_id, with_forms=True)
    if not votes:
        raise InvalidInput("There are no votes to keep in a snapshot.", remedy="Vote first.", field="campaign")
    decisions = list_exclusions(ctx, campaign_id)
    newest = {decision.rater_id: decision for decision in reversed(decisions)}
    excluded = [{"reason": decision.reason} for decision in newest.values() if decision.excluded]
    at = ctx.now()
    document, _ = freeze_document(
        votes, options, campaign=title, name=name, at=at, version=program_version(), excluded=excluded
    )
    with ctx.db.write() as session:
        row = FrozenBoard(
            campaign_id=campaign_id,
            name=name,
            digest=document_digest(document),
            document=document,
            created_by=person.id,
            created_at=at,
        )
        session.add(row)
        session.flush()
        return _view(session, row)


def list_frozen_boards(ctx: Context, campaign_id: str) -> list[FrozenBoardLine]:
    """Return a campaign's frozen boards, newest first, without their documents: one of 100,000 votes has 10 MB."""
    columns = (FrozenBoard.id, FrozenBoard.name, FrozenBoard.digest, FrozenBoard.created_at)
    with ctx.db.read() as session:
        rows = session.execute(
            select(*columns).where(FrozenBoard.campaign_id == campaign_id).order_by(FrozenBoard.created_at.desc())
        )
        return [FrozenBoardLine(*row) for row in rows]


def get_frozen_board(ctx: Context, board_id: str) -> FrozenBoardView:
    """Return a frozen board. Raises NotFound."""
    with ctx.db.read() as session:
        remedy = "The page of its campaign lists all."
        return _view(session, find_row(session, FrozenBoard, board_id, what="snapshot", remedy=remedy))


def verify_board(ctx: Context, board_id: str) -> Verification:
    """Compute a frozen board's digest and ratings again. Raises NotFound."""
    board = get_frozen_board(ctx, board_id)
    return verify_document(board.document, digest=board.digest, version=program_version())


def export_board(board: FrozenBoardView, *, form: str) -> str:
    """Return a frozen board as `json` (the document, which `rating verify` reads), `csv` (its ratings) or `html` (a
    page of its own).
    """
    if form == "json":
        return json.dumps({"digest": board.digest, "document": board.document}, ensure_ascii=False)
    if form == "csv":
        return write_csv(board.ratings)
    if form == "html":
        return _html(board)
    raise InvalidInput(f"A board can't be exported as {form!r}.", remedy="Use json, csv or html.", field="format")


def _html(board: FrozenBoardView) -> str:
    document = board.document
    lines = []
    for row in board.ratings:
        low, high = row["rank_low"], row["rank_high"]
        cells = [
            str(low) if low == high else f"{low}–{high}",
            str(row["contestant"]),
            f"{row['rating']:.0f}",
            f"{row['low']:.0f} to {row['high']:.0f}",
            f"{row['votes']:,}",
        ]
        lines.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("Rank", "Contestant", "Rating", "Interval", "Votes"))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in document["notes"])
    title = html.escape(f"{board.name}: {board.campaign}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>'
        "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem}"
        "table{border-collapse:collapse;width:100%}"
        "th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid #ccc}code{overflow-wrap:anywhere}"
        "@media(prefers-color-scheme:dark){body{background:#1b1a18;color:#eee}}"
        f"</style></head><body><h1>{title}</h1>"
        f"<p>Snapshot of {board.created_at:%Y-%m-%d %H:%M} UTC, {plural(board.num_votes, 'vote')}.</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
        f"<p>{html.escape(document['method'])}</p><ul>{notes}</ul><p>SHA-256 <code>{board.digest}</code>, "
        f"version {html.escape(document['version'])}</p></body></html>"
    )


def _view(session: Session, row: FrozenBoard) -> FrozenBoardView:
    campaign = session.get_one(Campaign, row.campaign_id)
    by = session.get(User, row.created_by) if row.created_by else None
    return FrozenBoardView(
        row.id, campaign.id, campaign.name, row.name, row.digest, row.document, by.name if by else None, row.created_at
    )
