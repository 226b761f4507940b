"""Preview of a file of votes as its columns are read, before any of it is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.battles.campaign import LONGEST_CATEGORY
from backend.domain.battles.vote_files.rows import (
    COLUMNS,
    FALLBACKS,
    TEXTS,
    FileVote,
    file_columns,
    guess_columns,
    read_vote_rows,
    standard_rows,
)
from backend.domain.battles.votes import Label, VoteRecord
from backend.domain.names import require_length
from backend.domain.wording import list_first, plural
from backend.errors import InvalidInput

NUM_SHOWN = 5
LONGEST_RATER, LONGEST_CONTESTANT, LONGEST_TURN = 80, 120, 20


@dataclass(frozen=True)
class VotePreview:
    """The votes of a file by a mapping of fields to columns.

    `num_identical` counts ties of identical answers, which no one cast; no other count holds them. `labels` counts each
    label, `num_with_texts` the votes with both answers, `num_repeats` a rater's further votes on one prompt, turn and
    pair. `left_out` is where votes stand that compare a contestant with itself, `words` are those for the winner
    without a known meaning, whose votes no count holds. `shown` are the first votes; `notes` say what the file lacks.
    """

    mapping: dict[str, str]
    num_votes: int
    num_prompts: int
    num_turns: int
    num_raters: int
    contestants: tuple[str, ...]
    labels: dict[str, int]
    num_with_texts: int
    num_repeats: int
    num_identical: int
    left_out: tuple[str, ...]
    words: tuple[str, ...]
    shown: tuple[FileVote, ...]

    @property
    def summary(self) -> str:
        """The counts as a sentence."""
        turns = f" in {self.num_turns:,} turns" if self.num_turns > self.num_prompts else ""
        return (
            f"{plural(self.num_votes, 'vote')} by {plural(self.num_raters, 'rater')} on"
            f" {plural(self.num_prompts, 'prompt')}{turns}, {plural(len(self.contestants), 'contestant')}"
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what the votes lack."""
        notes = []
        if not self.mapping.get("prompt"):
            notes.append(
                "No column names the prompt, so each vote counts as a prompt of its own: intervals are too narrow if"
                " prompts recur."
            )
        if not self.mapping.get("rater"):
            notes.append(
                "No column names the rater, so all votes count as one rater's: they say nothing about other raters."
            )
        if not self.num_with_texts:
            notes.append("No answers: the votes can be rated, not read beside the texts nor trained on.")
        elif self.num_with_texts < self.num_votes:
            notes.append(f"{plural(self.num_votes - self.num_with_texts, 'vote')} without the answers.")
        if self.num_identical:
            ties = "tie" if self.num_identical == 1 else "ties"
            notes.append(f"{self.num_identical:,} more {ties} of identical answers, on which no one voted.")
        if self.left_out:
            places = list_first(self.left_out, NUM_SHOWN)
            count = plural(len(self.left_out), "vote")
            notes.append(f"Left out, since a contestant would meet itself: {count} ({places}).")
        if self.num_repeats:
            turns = "" if self.mapping.get("turn") else " Is there a column of turns?"
            notes.append(f"{plural(self.num_repeats, 'repeated vote')} of a rater on the same prompt and pair.{turns}")
        return tuple(notes)


def propose_mapping(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return a file's columns as `file_columns`, and the column that each field is read from; "" where none is found by
    name.
    """
    columns = file_columns(text)
    guessed = guess_columns(columns)
    return columns, {field: guessed.get(field, "") for field in (*COLUMNS, "turn", "category", *TEXTS)}


def looks_like_votes(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether rows name two contestants and a winner, by their columns."""
    first = [("the first row", {str(name).strip().lower(): value for name, value in row.items()}) for row in rows[:1]]
    try:
        return any(is_mapping_complete(guess_columns(tuple(row))) for _, row in standard_rows(first))
    except InvalidInput:
        return False


def is_mapping_complete(mapping: Mapping[str, str]) -> bool:
    """Return whether a mapping names what every vote needs."""
    return all(mapping.get(field) for field in COLUMNS if field not in FALLBACKS)


def preview_votes(read: StorableVotes) -> VotePreview:
    """Count the votes of a file."""
    rows = [row for row in read.votes if not row.vote.identical]
    votes = [row.vote for row in rows]
    return VotePreview(
        mapping=dict(read.mapping),
        num_votes=len(votes),
        num_prompts=len({vote.prompt for vote in votes}),
        num_turns=len({(vote.prompt, vote.turn) for vote in votes}),
        num_raters=len({vote.rater for vote in votes}),
        contestants=tuple(sorted({name for vote in votes for name in (vote.a, vote.b)})),
        labels={str(label): number for label, number in Counter(vote.winner for vote in votes).most_common()},
        num_with_texts=sum("answer_a" in row.texts and "answer_b" in row.texts for row in rows),
        num_repeats=len(votes) - len({_item(vote) for vote in votes}),
        num_identical=len(read.votes) - len(rows),
        left_out=read.left_out,
        words=read.words,
        shown=tuple(rows[:NUM_SHOWN]),
    )


@dataclass(frozen=True)
class StorableVotes:
    """The votes of a file that can be stored; the other fields are as in a `VotePreview`."""

    votes: tuple[FileVote, ...]
    mapping: Mapping[str, str]
    left_out: tuple[str, ...]
    words: tuple[str, ...]


def read_storable_votes(
    text: str,
    *,
    mapping: Mapping[str, str] | None = None,
    labels: Mapping[str, Label] | None = None,
    asks: bool = False,
) -> StorableVotes:
    """Read a whole file; `mapping` and `labels` are as in `parse_votes`. Votes that compare a contestant with itself
    are left out, unless all do: then the columns are wrong. Where it `asks`, unknown words for the winner are returned,
    and rows at fault are refused once their meaning is known.

    Raises what `read_vote_rows` and `require_storable` raise.
    """
    left_out: list[str] = []
    words: dict[str, None] = {}
    votes = tuple(
        read_vote_rows(text, mapping=mapping, labels=labels, left_out=left_out, words=words if asks else None)
    )
    if left_out and not votes and not words:
        votes = tuple(read_vote_rows(text, mapping=mapping, labels=labels))
    require_storable(row.vote for row in votes)
    return StorableVotes(votes, mapping or {}, tuple(left_out), tuple(words))


def require_storable(votes: Iterable[VoteRecord]) -> None:
    """Raise InvalidInput for a name, a turn or a category that is longer than what is stored."""
    for vote in votes:
        for what, text, limit, field in (
            ("The rater", vote.rater, LONGEST_RATER, "rater"),
            ("The contestant", vote.a, LONGEST_CONTESTANT, "a"),
            ("The contestant", vote.b, LONGEST_CONTESTANT, "b"),
            ("The turn", vote.turn, LONGEST_TURN, "turn"),
            ("The category", vote.category, LONGEST_CATEGORY, "category"),
        ):
            require_length(text, what=what, limit=limit, field=field)


def _item(vote: VoteRecord) -> tuple[str, ...]:
    return (vote.rater, vote.prompt, vote.turn, *sorted((vote.a, vote.b)))
