"""Errors of an import whose rows can't be used, with the reasons and where they stand."""

from __future__ import annotations

from backend.domain.data.parsing.text_formats import no_rows
from backend.domain.data.rows.conversations import describe_filtered
from backend.domain.data.rows.problem import BadRow, RejectedRow, describe_rejected, most_frequent, place_of
from backend.errors import InvalidInput
from jobs.data.writing import VersionTally


def bad_rows(name: str, bad: tuple[BadRow, ...]) -> InvalidInput:
    """Return the error of an import that ends at the first bad row."""
    reasons = "; ".join(f"{row.place}: {row.reason}" for row in bad[:3])
    return InvalidInput(
        f"{name!r} has rows that can't be used. {reasons}.",
        remedy="Correct them, or skip bad rows.",
        field="keep_good",
    )


def check_tally(name: str, tally: VersionTally, *, max_rejected: float) -> None:
    """Raise InvalidInput where no row of a source is good, or where more than this share of all is bad."""
    num_dropped = sum(tally.dropped.values())
    if tally.train_rows == 0 and num_dropped:
        raise InvalidInput(
            f"The filters leave no row of {name!r} to train on. {describe_filtered(tally.dropped)}",
            remedy="Allow more languages, shorter or faulty texts.",
            field="languages",
        )
    if tally.train_rows == 0:
        raise nothing_usable(name, tally.rejected)
    if tally.rejected_count > max_rejected * (tally.rows + tally.rejected_count + num_dropped):
        raise too_many(name, tally)


def too_many(name: str, tally: VersionTally) -> InvalidInput:
    """Return the error of an import of which too many rows are bad: how many, why, and where the first is."""
    reasons = "; ".join(most_frequent(tally.reasons.values()))
    return InvalidInput(
        f"{describe_rejected(tally.rejected_count, tally.rows, tally.dropped)} of {name!r} can't be used. {reasons}.",
        remedy="Nothing was imported. Import the others, or correct the kind, the columns or the file.",
        field="rejected",
    )


def nothing_usable(name: str, rejected: list[RejectedRow]) -> InvalidInput:
    """Return the error of a source without a usable row."""
    if not rejected:
        return no_rows(name)
    reasons = "; ".join(f"{place_of(item)}: {item['reason']}" for item in rejected[:3])
    message = f"No row of {name!r} can be used. {reasons}."
    if all(" not UTF-8 (" in item["reason"] or "line contains a NUL" in item["reason"] for item in rejected[:3]):
        return InvalidInput(message, remedy="Choose its encoding: cp1252, utf-16-le or another.", field="encoding")
    return InvalidInput(message, remedy="Check the kind and which column is mapped to which field.", field="mapping")
