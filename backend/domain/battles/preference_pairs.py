"""Resolve votes to preference pairs: chosen and rejected answer, raters, and agreement. Pure rules, no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CastVote:
    """A valid vote. `winner` and `loser` are contestants; both are None for a tie and for both bad."""

    vote: str
    rater: str
    prompt: str
    contestants: tuple[str, str]
    winner: str | None = None

    @property
    def loser(self) -> str | None:
        """The contestant that lost, or None."""
        if self.winner is None:
            return None
        return self.contestants[1] if self.winner == self.contestants[0] else self.contestants[0]


@dataclass(frozen=True, slots=True)
class Preference:
    """One resolved pair. `agreement` is the winner's share of the decisive votes."""

    prompt: str
    chosen: str
    rejected: str
    votes: tuple[str, ...]
    num_raters: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Resolution:
    """Preferences, votes without a winner, and prompts on which raters split evenly."""

    preferences: tuple[Preference, ...]
    undecided_votes: int
    split_pairs: int

    @property
    def agreement(self) -> float | None:
        """Mean agreement over the preferences; None if there are none."""
        rows = self.preferences
        return sum(row.agreement for row in rows) / len(rows) if rows else None


def resolve_preferences(votes: Iterable[CastVote]) -> Resolution:
    """Keep the majority of the decisive votes on each prompt and pair; ties and both-bad votes are left out."""
    groups: dict[tuple[str, tuple[str, ...]], list[CastVote]] = defaultdict(list)
    undecided = 0
    for vote in votes:
        if vote.winner is None:
            undecided += 1
        else:
            groups[vote.prompt, tuple(sorted(vote.contestants))].append(vote)
    preferences, split = [], 0
    for (prompt, (one, other)), cast in groups.items():
        for_one = [vote for vote in cast if vote.winner == one]
        for_other = [vote for vote in cast if vote.winner == other]
        if len(for_one) == len(for_other):
            split += 1
            continue
        won = max(for_one, for_other, key=len)
        chosen, rejected = (one, other) if won is for_one else (other, one)
        preferences.append(
            Preference(
                prompt=prompt,
                chosen=chosen,
                rejected=rejected,
                votes=tuple(vote.vote for vote in cast),
                num_raters=len({vote.rater for vote in cast}),
                agreement=len(won) / len(cast),
            )
        )
    return Resolution(tuple(preferences), undecided, split)
