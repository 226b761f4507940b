"""Ratings from votes: Bradley-Terry strengths on the Elo-like scale, with intervals that account for correlated votes on the same prompt.

Half credit for a tie and for "both bad" (which keeps its own count). Intervals are clustered by prompt unless asked otherwise: on a fixed
set of prompts an interval that ignores this is about 1.6 times too narrow. Compare two contestants by `RatingTable.pair`, never by
overlapping intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import scipy

from backend.domain.battles.bradley_terry import (
    ClusterBy,
    Fit,
    FloatArray,
    Tally,
    maximise,
    sandwich,
    strong_components,
    tally_votes,
    weak_components,
)
from backend.domain.battles.votes import LABELS, Label, VoteColumns, VoteRecord, encode_votes
from backend.domain.statistics.estimates import Estimate, percent, student_quantile
from backend.errors import InvalidInput

__all__ = [
    "ELO_PER_UNIT",
    "ClusterBy",
    "PairDifference",
    "Rating",
    "RatingTable",
    "VoteRecord",
    "WinMatrix",
    "elo_share",
    "fit_bradley_terry",
]

ELO_PER_UNIT = 400 / math.log(10)
"""Elo points per natural unit of theta: 173.7178."""

FEW_CLUSTERS = 40
PRIOR_SD = 2.5
"""Standard deviation of the prior, natural units, which keeps ratings finite if votes do not connect all contestants (434 Elo)."""


@dataclass(frozen=True, slots=True)
class Rating:
    """One contestant's row. Ranks are the best and worst rank consistent with the votes, simultaneous over all pairs."""

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

    @property
    def both_bad_rate(self) -> float:
        """Share of this contestant's votes that said "both bad"."""
        return self.both_bad / self.votes


@dataclass(frozen=True, slots=True)
class PairDifference:
    """First minus second in Elo points, fitted over all votes; `share` is the win share that the ratings predict. `votes` met directly."""

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


@dataclass(frozen=True, slots=True)
class WinMatrix:
    """Raw counts in the order of the table: `wins[i][j]` votes preferred i to j; `ties` and `both_bad` are symmetric."""

    contestants: tuple[str, ...]
    wins: tuple[tuple[int, ...], ...]
    ties: tuple[tuple[int, ...], ...]
    both_bad: tuple[tuple[int, ...], ...]

    def votes(self, row: int, column: int) -> int:
        """Number of votes between the two."""
        return self.wins[row][column] + self.wins[column][row] + self.ties[row][column] + self.both_bad[row][column]

    def share(self, row: int, column: int) -> float | None:
        """Win share of the row's contestant against the column's, ties and both bad as half; None if they never met."""
        votes = self.votes(row, column)
        halves = self.ties[row][column] + self.both_bad[row][column]
        return (self.wins[row][column] + halves / 2) / votes if votes else None


@dataclass(frozen=True)
class RatingTable:
    """A leaderboard, best first. `notes` must be shown with it: on regularised ratings and few clusters."""

    ratings: tuple[Rating, ...]
    wins: WinMatrix
    position_bias: Estimate | None
    method: str
    notes: tuple[str, ...]
    regularised: bool
    level: float
    num_votes: int
    num_prompts: int
    num_raters: int
    df: float
    _gaps: FloatArray = field(repr=False, compare=False)
    _gap_errors: FloatArray = field(repr=False, compare=False)

    @property
    def contestants(self) -> tuple[str, ...]:
        """Names, best first."""
        return self.wins.contestants

    def rating(self, contestant: str) -> Rating:
        """The row of one contestant; InvalidInput if it has no votes."""
        return self.ratings[self._place(contestant)]

    def pair(self, first: str, second: str) -> PairDifference:
        """Compare two contestants: difference with its own interval and p value (not adjusted for looking at many pairs)."""
        row, column = self._place(first), self._place(second)
        if row == column:
            raise InvalidInput(f"{first!r} can't be compared with itself.", remedy="Choose two contestants.", field="second")
        gap, error = float(self._gaps[row, column]), float(self._gap_errors[row, column])
        margin = student_quantile(self.level, df=self.df) * error
        return PairDifference(
            first=first,
            second=second,
            difference=gap,
            stderr=error,
            low=gap - margin,
            high=gap + margin,
            p_value=float(2 * scipy.stats.t.sf(abs(gap) / error, self.df)),
            share=elo_share(gap),
            share_low=elo_share(gap - margin),
            share_high=elo_share(gap + margin),
            votes=self.wins.votes(row, column),
        )

    def _place(self, contestant: str) -> int:
        if contestant not in self.contestants:
            raise InvalidInput(
                f"No vote names the contestant {contestant!r}.", remedy=f"Choose one of {', '.join(self.contestants)}.", field="contestant"
            )
        return self.contestants.index(contestant)


def elo_share(elo: float) -> float:
    """The win share that a gap in Elo points predicts: 35 -> 0.550."""
    return 1 / (1 + 10 ** (-elo / 400))


def fit_bradley_terry(
    votes: Iterable[VoteRecord],
    *,
    cluster_by: ClusterBy = "prompt",
    anchor: str | None = None,
    anchor_rating: float = 1000.0,
    level: float = 0.95,
    seed: int = 0,
    num_draws: int = 2000,
) -> RatingTable:
    """Rate every contestant that the votes name.

    `cluster_by`: whose votes move together: "prompt", "rater", "two_way" (both) or "none" (all independent: too narrow).
    `anchor`: fix this contestant at `anchor_rating`; without it the mean is 1000. `seed` and `num_draws` affect only the rank ranges.
    Raises InvalidInput for no votes, an unknown label, an unknown anchor. A million votes on 50 contestants take about a second.
    """
    columns = encode_votes(votes)
    if not len(columns.a):
        raise InvalidInput(
            "There are no votes to rate.", remedy="Cast votes on battles between at least two contestants first.", field="votes"
        )
    anchor_at = _anchor_index(anchor, columns)
    cluster_by, df, cluster_words, notes = _choose_clusters(columns, cluster_by)
    tally = tally_votes(columns)
    gap_note = _connection_note(tally, columns.contestants)
    fit = maximise(tally, precision=PRIOR_SD**-2 if gap_note else 0.0)
    if fit is None:
        raise ArithmeticError("a fit without a side's advantage always exists here")
    covariance = sandwich(fit, columns, cluster_by=cluster_by)
    gap_errors, own_errors, floored = _errors(fit, covariance, anchor_at=anchor_at)
    if floored:
        notes.append("Some votes never differ or are too few to show their spread; there the intervals rest on the number of votes alone.")
    bias = _position_bias(tally, columns, cluster_by=cluster_by, precision=fit.precision, df=df, level=level)
    if bias is None:
        notes.append("These votes can't determine the advantage of a side.")
    ranks = _rank_ranges(fit.theta, covariance, gap_errors, df=df, level=level, seed=seed, num_draws=num_draws)
    order = sorted(range(len(fit.theta)), key=lambda place: (-round(float(fit.theta[place]), 9), columns.contestants[place]))
    origin = fit.theta[anchor_at] if anchor_at is not None else 0.0
    ratings = (anchor_rating if anchor_at is not None else 1000.0) + ELO_PER_UNIT * (fit.theta - origin)
    wins = _win_matrix(columns, order)
    regularised = f"regularised (prior sd {PRIOR_SD} units), " if gap_note else ""
    return RatingTable(
        ratings=_rows(wins, ratings[order], ELO_PER_UNIT * own_errors[order], ranks[order], critical=student_quantile(level, df=df)),
        wins=wins,
        position_bias=bias,
        method=f"Bradley-Terry, half credit for ties, {regularised}sandwich {cluster_words}, {percent(level)}",
        notes=tuple(([gap_note] if gap_note else []) + notes),
        regularised=bool(gap_note),
        level=level,
        num_votes=len(columns.a),
        num_prompts=columns.num_prompts,
        num_raters=columns.num_raters,
        df=df,
        _gaps=ELO_PER_UNIT * (fit.theta[order][:, None] - fit.theta[order][None, :]),
        _gap_errors=ELO_PER_UNIT * gap_errors[np.ix_(order, order)],
    )


def _anchor_index(anchor: str | None, columns: VoteColumns) -> int | None:
    if anchor is None:
        return None
    if anchor not in columns.contestants:
        raise InvalidInput(
            f"The anchor {anchor!r} has no votes.", remedy=f"Choose one of {', '.join(columns.contestants)}.", field="anchor"
        )
    return columns.contestants.index(anchor)


def _choose_clusters(columns: VoteColumns, cluster_by: ClusterBy) -> tuple[ClusterBy, float, str, list[str]]:
    """Return the clustering that the votes allow, its degrees of freedom, its description, and warnings."""
    sizes: dict[str, tuple[int, str]] = {
        "prompt": (columns.num_prompts, f"clustered by prompt ({columns.num_prompts})"),
        "rater": (columns.num_raters, f"clustered by rater ({columns.num_raters})"),
        "two_way": (
            min(columns.num_prompts, columns.num_raters),
            f"clustered by prompt ({columns.num_prompts}) and rater ({columns.num_raters})",
        ),
    }
    if cluster_by == "none":
        return "none", math.inf, "over independent votes", []
    if cluster_by not in sizes:
        raise InvalidInput(
            f"Intervals can't be clustered by {cluster_by!r}.", remedy="Use prompt, rater, two_way or none.", field="cluster_by"
        )
    count, words = sizes[cluster_by]
    few = "raters" if cluster_by == "rater" or (cluster_by == "two_way" and columns.num_raters < columns.num_prompts) else "prompts"
    if count < 2:
        note = f"All votes come from one of the {few}: intervals treat votes as independent and say nothing about other {few}."
        return "none", math.inf, "over independent votes", [note]
    warnings = [f"Only {count} {few}: intervals use t({count - 1}) and may still be too narrow; add {few}."] if count < FEW_CLUSTERS else []
    return cluster_by, float(count - 1), f"{words}, t({count - 1})", warnings


def _connection_note(tally: Tally, contestants: tuple[str, ...]) -> str:
    """Return why the maximum does not exist; empty if it does (Ford 1957)."""
    strong = strong_components(tally)
    if strong.max() == 0:
        return ""
    weak = weak_components(tally)
    tail = "Ratings are regularised: a weak prior pulls them to the mean."
    if weak.max() > 0:
        apart = [contestants[place] for place in np.flatnonzero(weak != np.bincount(weak).argmax())]
        return f"{_list(apart)} never met the rest, even through others, so the gap between them is the prior's. {tail}"
    earned = tally.points.sum(1) + (tally.counts - tally.points).sum(0)
    met = tally.counts.sum(1) + tally.counts.sum(0)
    unbeaten = [contestants[place] for place in np.flatnonzero(earned == met)]
    winless = [contestants[place] for place in np.flatnonzero(earned == 0)]
    causes = ([f"{_list(unbeaten)} lost no vote"] if unbeaten else []) + ([f"{_list(winless)} won no vote"] if winless else [])
    return f"{' and '.join(causes) or 'One group won every vote against the others'}, so the votes set no bound to the gap. {tail}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _errors(fit: Fit, covariance: FloatArray, *, anchor_at: int | None) -> tuple[FloatArray, FloatArray, bool]:
    """Standard errors of all differences and of each rating, natural units; where the sandwich is empty (only ties), the model's."""
    size = len(fit.theta)

    def variances(matrix: FloatArray) -> tuple[FloatArray, FloatArray]:
        block = matrix[:size, :size]
        diagonal = np.diag(block)
        gaps = diagonal[:, None] + diagonal[None, :] - 2 * block
        centre = np.eye(size) - 1 / size
        own = np.diag(centre @ block @ centre) if anchor_at is None else gaps[anchor_at]
        return np.maximum(gaps, 0.0), np.maximum(own, 0.0)

    (gaps, own), (model_gaps, model_own) = variances(covariance), variances(fit.inverse_hessian)
    empty_gaps, empty_own = gaps < 1e-9 * model_gaps, own < 1e-9 * model_own
    gap_errors, own_errors = np.sqrt(np.where(empty_gaps, model_gaps, gaps)), np.sqrt(np.where(empty_own, model_own, own))
    return gap_errors, own_errors, bool(empty_gaps.any() or empty_own.any())


def _position_bias(
    tally: Tally, columns: VoteColumns, *, cluster_by: ClusterBy, precision: float, df: float, level: float
) -> Estimate | None:
    """Return the Elo advantage of being shown as side a, an intercept in the same regression."""
    fit = maximise(tally, with_side=True, precision=precision)
    if fit is None:
        return None
    covariance = sandwich(fit, columns, cluster_by=cluster_by)
    variance = float(covariance[-1, -1])
    stderr = ELO_PER_UNIT * math.sqrt(variance if variance > 1e-9 * fit.inverse_hessian[-1, -1] else float(fit.inverse_hessian[-1, -1]))
    value, margin = ELO_PER_UNIT * fit.side, student_quantile(level, df=df) * stderr
    return Estimate(
        value, stderr, value - margin, value + margin, len(columns.a), f"Elo for side a, intercept of Bradley-Terry, {percent(level)}"
    )


def _rank_ranges(
    theta: FloatArray, covariance: FloatArray, gap_errors: FloatArray, *, df: float, level: float, seed: int, num_draws: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Best and worst rank from simultaneous intervals of all differences: the critical value is a quantile of simulated max |t| (max-t)."""
    size = len(theta)
    rows, columns = np.triu_indices(size, 1)
    values, vectors = np.linalg.eigh(covariance[:size, :size])
    rng = np.random.default_rng(seed)
    draws = rng.standard_normal((num_draws, size)) @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
    if math.isfinite(df):
        draws /= np.sqrt(rng.chisquare(df, num_draws) / df)[:, None]
    largest = np.empty(num_draws)
    chunk = max(1, 4_000_000 // len(rows))
    for start in range(0, num_draws, chunk):
        part = draws[start : start + chunk]
        largest[start : start + chunk] = (np.abs(part[:, rows] - part[:, columns]) / gap_errors[rows, columns]).max(1)
    critical = max(float(np.quantile(largest, level)), student_quantile(level, df=df))
    gaps = theta[:, None] - theta[None, :]
    clearly_above = gaps > critical * np.where(gap_errors > 0, gap_errors, np.inf)
    return np.column_stack([1 + clearly_above.sum(0), size - clearly_above.sum(1)]).astype(np.int64)


def _win_matrix(columns: VoteColumns, order: list[int]) -> WinMatrix:
    size = len(order)
    by_label = np.bincount((columns.label * size + columns.a) * size + columns.b, minlength=len(LABELS) * size * size).reshape(
        len(LABELS), size, size
    )
    tables = {label: by_label[code] for code, label in enumerate(LABELS)}
    wins = tables[Label.A] + tables[Label.B].T
    ties, both_bad = (tables[label] + tables[label].T for label in (Label.TIE, Label.BOTH_BAD))

    def ordered(table: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(int(cell) for cell in row) for row in table[np.ix_(order, order)])

    return WinMatrix(tuple(columns.contestants[place] for place in order), ordered(wins), ordered(ties), ordered(both_bad))


def _rows(
    wins: WinMatrix, ratings: FloatArray, errors: FloatArray, ranks: np.ndarray[tuple[int, int], np.dtype[np.int64]], *, critical: float
) -> tuple[Rating, ...]:
    rows = []
    for place, contestant in enumerate(wins.contestants):
        won, tied, bad = sum(wins.wins[place]), sum(wins.ties[place]), sum(wins.both_bad[place])
        lost = sum(row[place] for row in wins.wins)
        value, error = float(ratings[place]), float(errors[place])
        rows.append(
            Rating(
                contestant=contestant,
                rating=value,
                stderr=error,
                low=value - critical * error,
                high=value + critical * error,
                rank_low=int(ranks[place, 0]),
                rank_high=int(ranks[place, 1]),
                votes=won + lost + tied + bad,
                wins=won,
                losses=lost,
                ties=tied,
                both_bad=bad,
            )
        )
    return tuple(rows)
