"""Options and result of a rating: a leaderboard with intervals, differences of pairs, the win matrix, and how far the
method decides the order.

Compare two contestants by `RatingTable.pair`, never by overlapping intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import scipy
from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.battles.bradley_terry import FloatArray, Method
from backend.domain.battles.clusters import ClusterBy
from backend.domain.battles.votes import LABELS, Label, VoteColumns
from backend.domain.fields import OPTION_ONLY, setting
from backend.domain.statistics.estimates import Estimate, student_quantile
from backend.domain.validation import read_values
from backend.errors import InvalidInput

Control = Literal["length", "style"]


class RatingOptions(BaseModel):
    """Choices that turn votes into ratings. The same votes, options and seed give the same table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = setting(
        "bradley_terry",
        "Method",
        "Bradley-Terry gives half credit for a tie; Davidson and Rao-Kupper model ties, on scales of their own.",
        shown=OPTION_ONLY,
    )
    cluster_by: ClusterBy = setting(
        "two_way",
        "Clusters",
        "Votes that depend on each other: on the same prompt, by the same rater, or both.",
        shown=OPTION_ONLY,
    )
    control: tuple[Control, ...] = setting(
        (),
        "Hold equal",
        "Features of the answers to hold equal: length; style is headers, lists and bold.",
        shown=OPTION_ONLY,
    )
    reweight: bool = setting(
        False, "Reweight", "Weight votes as if each pair had been drawn equally often.", shown=OPTION_ONLY
    )
    category: str | None = setting(None, "Category", "Only votes on prompts of this category.", shown=OPTION_ONLY)
    level: float = setting(0.95, "Level", "Level of the intervals.", gt=0.0, lt=1.0, shown=OPTION_ONLY)
    anchor: str | None = setting(
        None,
        "Anchor",
        "Fix this contestant at the anchor rating; without an anchor the mean is fixed.",
        shown=OPTION_ONLY,
    )
    anchor_rating: float = setting(
        1000.0,
        "Rating of the anchor",
        "Rating of the anchor; without an anchor the mean is fixed.",
        allow_inf_nan=False,
        shown=OPTION_ONLY,
    )
    seed: int = Field(default=0, ge=0, description="Seed of the draws behind the rank ranges.")
    num_draws: int = Field(default=2000, ge=10, le=100_000, description="Draws behind the rank ranges.")

    @field_validator("control")
    @classmethod
    def _once_each(cls, value: tuple[Control, ...]) -> tuple[Control, ...]:
        return tuple(name for name in ("length", "style") if name in value)

    @classmethod
    def of(cls, **values: Any) -> RatingOptions:
        """Build options. Raises InvalidInput naming the field, the value and what it may be."""
        return read_values(cls, values, remedy="Change the option.")


ELO_PER_UNIT = 400 / math.log(10)
"""Elo points per natural unit of theta: 173.7178."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One contestant's row. Ranks are the best and worst rank consistent with the votes, simultaneous over all pairs.

    `votes` and `ties` include `identical` answers, which no one voted on; `num_cast` leaves them out. `df` are the
    degrees of freedom of the interval; `uncontrolled` is the rating without control of length and style,
    None without control.
    """

    contestant: str
    rating: float
    stderr: float
    low: float
    high: float
    rank_low: int
    rank_high: int
    votes: int
    wins: int
    losses: int
    ties: int
    both_bad: int
    df: float
    uncontrolled: float | None = None
    identical: int = 0

    @property
    def num_cast(self) -> int:
        """Votes that people cast."""
        return self.votes - self.identical

    @property
    def both_bad_rate(self) -> float | None:
        """Share of this contestant's votes that said "both bad"; None if no one cast any."""
        return self.both_bad / self.num_cast if self.num_cast else None


@dataclass(frozen=True, slots=True)
class PairDifference:
    """First minus second in Elo points, fitted over all votes; `share` is the win share that the ratings predict, ties
    as half. `votes` met directly, `identical` answers among them.
    """

    first: str
    second: str
    difference: float
    stderr: float
    low: float
    high: float
    p_value: float
    share: float
    share_low: float
    share_high: float
    votes: int
    df: float
    identical: int = 0

    @property
    def num_cast(self) -> int:
        """Votes that people cast between the two."""
        return self.votes - self.identical


@dataclass(frozen=True, slots=True)
class RankChange:
    """A contestant whose rank depends on the method."""

    contestant: str
    rank: int
    other_rank: int


@dataclass(frozen=True, slots=True)
class MethodFit:
    """One method's fit of the same votes. `log_likelihood` is of the three outcomes (win, tie, loss) under each method,
    so that methods compare; Bradley-Terry, which has no ties, is given a constant chance of a tie and odds of the
    decisive votes in proportion to its gaps.

    `tie_parameter`: nu of Davidson, eta of Rao-Kupper, the share of ties with Bradley-Terry. `kendall_tau` compares its
    order with that of the table (1: the same), `rank_changes` lists who stands elsewhere.
    """

    method: Method
    log_likelihood: float
    tie_parameter: float
    kendall_tau: float
    rank_changes: tuple[RankChange, ...]
    regularised: bool


@dataclass(frozen=True, slots=True)
class ControlEffect:
    """Effect of a feature beside the answers' quality: Elo points per standard deviation of its relative difference."""

    feature: str
    effect: Estimate
    deviation: float


@dataclass(frozen=True, slots=True)
class WinMatrix:
    """Raw counts in the order of the table: `wins[i][j]` votes preferred i to j; the other tables are symmetric.
    `ties` include `identical` answers, which no one voted on.
    """

    contestants: tuple[str, ...]
    wins: tuple[tuple[int, ...], ...]
    ties: tuple[tuple[int, ...], ...]
    both_bad: tuple[tuple[int, ...], ...]
    identical: tuple[tuple[int, ...], ...]

    def num_cast(self, row: int, column: int) -> int:
        """Number of votes that people cast between the two."""
        decisive = self.wins[row][column] + self.wins[column][row]
        return decisive + self.ties[row][column] + self.both_bad[row][column] - self.identical[row][column]

    def share(self, row: int, column: int) -> float | None:
        """Share of the votes between the two that the row's contestant earned, ties as half; None without votes."""
        votes = self.num_cast(row, column)
        halves = self.ties[row][column] + self.both_bad[row][column] - self.identical[row][column]
        return (self.wins[row][column] + halves / 2) / votes if votes else None


@dataclass(frozen=True)
class RatingTable:
    """A leaderboard, best first. `notes` must be shown with it: on regularised ratings, few clusters and intervals that
    may not hold.

    `log_likelihood` is the maximum that the method reached, with half credit for ties under Bradley-Terry; `fits`
    compares the methods.
    """

    ratings: tuple[Rating, ...]
    wins: WinMatrix
    position_bias: Estimate | None
    controls: tuple[ControlEffect, ...]
    fits: tuple[MethodFit, ...]
    log_likelihood: float
    tie_parameter: float | None
    method: str
    notes: tuple[str, ...]
    regularised: bool
    options: RatingOptions
    num_votes: int
    num_prompts: int
    num_raters: int
    _gaps: FloatArray = field(repr=False, compare=False)
    _gap_errors: FloatArray = field(repr=False, compare=False)
    _gap_df: FloatArray = field(repr=False, compare=False)

    @property
    def level(self) -> float:
        """Level of the intervals, such as 0.95."""
        return self.options.level

    @property
    def contestants(self) -> tuple[str, ...]:
        """Names, best first."""
        return self.wins.contestants

    def rating(self, contestant: str) -> Rating:
        """The row of one contestant; InvalidInput if it has no votes."""
        return self.ratings[self._row(contestant)]

    def shown_gap(self, first: str, second: str) -> int:
        """First minus second as a reader of the board subtracts them: ratings are shown without decimals."""
        return round(self.rating(first).rating) - round(self.rating(second).rating)

    def pair(self, first: str, second: str) -> PairDifference:
        """Compare two contestants: difference with its own interval and p value (not adjusted for many pairs)."""
        row, column = self._row(first), self._row(second)
        if row == column:
            raise InvalidInput(
                f"{first!r} can't be compared with itself.", remedy="Choose two contestants.", field="second"
            )
        gap, error, df = (float(table[row, column]) for table in (self._gaps, self._gap_errors, self._gap_df))
        margin = student_quantile(self.level, df=df) * error
        return PairDifference(
            first=first,
            second=second,
            difference=gap,
            stderr=error,
            low=gap - margin,
            high=gap + margin,
            p_value=float(2 * scipy.special.stdtr(df, -abs(gap) / error)),
            share=self.share_of(gap),
            share_low=self.share_of(gap - margin),
            share_high=self.share_of(gap + margin),
            votes=self.wins.num_cast(row, column) + self.wins.identical[row][column],
            df=df,
            identical=self.wins.identical[row][column],
        )

    def neighbours(self) -> tuple[PairDifference, ...]:
        """Compare each contestant with the next one below it."""
        return tuple(self.pair(above, below) for above, below in pairwise(self.contestants))

    def share_of(self, gap: float) -> float:
        """The win share that a gap in Elo points predicts under the method, ties as half."""
        return share_of_gap(gap, method=self.options.method, tie_parameter=self.tie_parameter)

    def _row(self, contestant: str) -> int:
        if contestant not in self.contestants:
            raise InvalidInput(
                f"No vote names the contestant {contestant!r}.",
                remedy=f"Choose one of {', '.join(self.contestants)}.",
                field="contestant",
            )
        return self.contestants.index(contestant)


def elo_share(elo: float) -> float:
    """The win share that a gap in Elo points predicts: 35 -> 0.550."""
    return 1 / (1 + 10 ** (-elo / 400))


def share_of_gap(elo: float, *, method: Method, tie_parameter: float | None) -> float:
    """The win share that a gap predicts under a method with its tie parameter (nu or eta), ties as half."""
    gap = elo / ELO_PER_UNIT
    if tie_parameter is None or method == "bradley_terry":
        return elo_share(elo)
    if method == "davidson":
        half = math.exp(-abs(gap) / 2)  # of the weaker against the stronger, so that nothing overflows
        share = (1 + tie_parameter * half / 2) / (1 + tie_parameter * half + half**2)
        return share if gap >= 0 else 1 - share
    win, loss = (float(scipy.special.expit(side * gap - tie_parameter)) for side in (1, -1))
    return win + (1 - win - loss) / 2


def count_wins(columns: VoteColumns, order: Sequence[int]) -> WinMatrix:
    """Count votes by pair and label, contestants in this order."""
    size = len(order)
    cell = (columns.label * size + columns.a) * size + columns.b
    by_label = np.bincount(cell, minlength=len(LABELS) * size * size).reshape(len(LABELS), size, size)
    equal = np.bincount(cell[~columns.is_cast], minlength=len(LABELS) * size * size).reshape(by_label.shape).sum(0)
    tables = {label: by_label[code] for code, label in enumerate(LABELS)}
    wins = tables[Label.A] + tables[Label.B].T
    ties, both_bad = (tables[label] + tables[label].T for label in (Label.TIE, Label.BOTH_BAD))

    def ordered(table: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(int(cell) for cell in row) for row in table[np.ix_(order, order)])

    return WinMatrix(
        tuple(columns.contestants[place] for place in order),
        ordered(wins),
        ordered(ties),
        ordered(both_bad),
        ordered(equal + equal.T),
    )
