"""Frozen boards: a document with votes, options and ratings, hashed, to verify and compute again. Pure, no I/O."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backend.domain.battles.rating_table import RatingOptions, RatingTable
from backend.domain.battles.ratings import rate
from backend.domain.battles.votes import AnswerFeatures, VoteRecord, encode_votes
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput

FORMAT = "roundhouse board 1"
TOLERANCE = 1e-6
"""Elo points by which ratings computed again may differ: sums of floats in another order."""

COLUMNS = ("prompt", "rater", "a", "b", "winner", "turn", "identical", "category", "probability", "form_a", "form_b")


@dataclass(frozen=True)
class Verification:
    """Result of a verification. `digest_matches` is None if no digest was given; `differences` name what came out
    otherwise. `num_votes` were cast by people.
    """

    digest: str
    digest_matches: bool | None
    reproduced: bool
    differences: tuple[str, ...]
    num_votes: int
    version: str
    same_version: bool

    @property
    def passed(self) -> bool:
        """Return whether the document is the one that was frozen and its ratings follow from its votes."""
        return self.reproduced and self.digest_matches is not False


def freeze_document(
    votes: Sequence[VoteRecord],
    options: RatingOptions,
    *,
    campaign: str,
    name: str,
    at: datetime,
    version: str,
    excluded: Iterable[dict[str, str]] = (),
) -> tuple[JsonObject, RatingTable]:
    """Rate votes and return the document of the board with its table. Prompts and raters are numbered, not named.

    `version` is the program's; `excluded` are raters left out, with reasons. Raises InvalidInput without votes.
    """
    prompts = {
        prompt: f"prompt {number}"
        for number, prompt in enumerate(dict.fromkeys(vote.prompt for vote in votes), start=1)
    }
    raters = {
        rater: f"rater {number}" for number, rater in enumerate(dict.fromkeys(vote.rater for vote in votes), start=1)
    }
    rows = [
        [
            prompts[vote.prompt],
            raters[vote.rater],
            vote.a,
            vote.b,
            str(vote.winner),
            vote.turn,
            vote.identical,
            vote.category,
            vote.probability,
            _form(vote.form_a),
            _form(vote.form_b),
        ]
        for vote in votes
    ]
    document = {
        "format": FORMAT,
        "name": name,
        "campaign": campaign,
        "frozen_at": at.isoformat(),
        "version": version,
        "options": options.model_dump(mode="json"),
        "excluded": list(excluded),
        "columns": list(COLUMNS),
        "votes": rows,
    }
    table = rate(encode_votes(read_records(document)), options)
    document["method"] = table.method
    document["notes"] = list(table.notes)
    document["ratings"] = _ratings(table)
    return document, table


def document_digest(document: Mapping[str, object]) -> str:
    """Return the SHA-256 of a document, in hexadecimal: of its JSON with sorted keys and no spaces."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def count_cast(document: JsonObject) -> int:
    """Return how many votes of a board people cast; ties of identical answers are none."""
    return sum(1 for _ in _of_identical(document, identical=False))


def identical_by_contestant(document: JsonObject) -> Counter[str]:
    """Return each contestant's ties of identical answers, which its row of the ratings counts as votes."""
    a, b = (COLUMNS.index(side) for side in ("a", "b"))
    return Counter(row[side] for row in _of_identical(document, identical=True) for side in (a, b))


def _of_identical(document: JsonObject, *, identical: bool) -> Iterable[list[Any]]:
    place = COLUMNS.index("identical")
    return (row for row in document["votes"] if bool(row[place]) is identical)


def read_records(document: JsonObject) -> list[VoteRecord]:
    """Return the votes of a document. Raises InvalidInput if it is not a board or a vote has not the columns of one."""
    if document.get("format") != FORMAT or document.get("columns") != list(COLUMNS):
        raise InvalidInput(
            f"This is not a frozen board: its format is {document.get('format')!r}.",
            remedy="Give a file that `rating freeze` wrote.",
        )
    records = []
    for number, row in enumerate(document.get("votes") or (), start=1):
        if not isinstance(row, list) or len(row) != len(COLUMNS):
            raise InvalidInput(
                f"Vote {number} of the board has not {len(COLUMNS)} columns.", remedy="Export the board again."
            )
        values = dict(zip(COLUMNS, row, strict=True))
        forms = {side: _read_form(values.pop(side)) for side in ("form_a", "form_b")}
        records.append(VoteRecord(form_a=forms["form_a"], form_b=forms["form_b"], **values))
    return records


def verify_document(document: JsonObject, *, digest: str | None, version: str) -> Verification:
    """Compute a board's ratings again from its votes and options, and compare. Raises InvalidInput for no board."""
    records = read_records(document)
    options = RatingOptions.of(**document.get("options", {}))
    again = _ratings(rate(encode_votes(records), options))
    stored = document.get("ratings", [])
    differences = [f"{len(stored)} contestants are stored, {len(again)} come out"] if len(stored) != len(again) else []
    for row, computed in zip(stored, again, strict=False):
        for key, value in computed.items():
            known = row.get(key)
            same = (
                abs(known - value) <= TOLERANCE
                if isinstance(value, float) and isinstance(known, int | float)
                else known == value
            )
            if not same:
                differences.append(f"{row.get('contestant')}: {key} is {known}, and comes out as {value}")
    actual = document_digest(document)
    return Verification(
        digest=actual,
        digest_matches=None if digest is None else digest == actual,
        reproduced=not differences,
        differences=tuple(differences),
        num_votes=count_cast(document),
        version=str(document.get("version", "")),
        same_version=document.get("version") == version,
    )


def _ratings(table: RatingTable) -> list[dict[str, object]]:
    keys = (
        "contestant",
        "rating",
        "low",
        "high",
        "rank_low",
        "rank_high",
        "votes",
        "wins",
        "losses",
        "ties",
        "both_bad",
    )
    return [{key: getattr(row, key) for key in keys} for row in table.ratings]


def _form(form: AnswerFeatures | None) -> list[float | None] | None:
    return None if form is None else [value if value == value else None for value in form]  # NaN is not JSON


def _read_form(values: list[float | None] | None) -> AnswerFeatures | None:
    return None if values is None else AnswerFeatures(*(float("nan") if value is None else value for value in values))
