"""Votes and raters that a ranking hangs on: the few whose removal changes first place, and the table without each
rater.

The influence of a vote on a difference of two strengths is minus its score times the inverse Hessian; the votes with
the largest influence are removed and the rest rated again, so that a reported change is one that happens. The search is
greedy: fewer votes may do as well. Source: Broderick, Giordano and Meager (2020, arXiv 2011.14999); Huang et al. (2025,
arXiv 2508.11847) for rankings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.bradley_terry import Cells, Fit, IntArray, Method, sum_votes
from backend.domain.battles.clusters import vote_scores
from backend.domain.battles.rating_table import ELO_PER_UNIT
from backend.domain.battles.ratings import connection_note, fit_method, order_of
from backend.domain.battles.votes import VoteColumns, VoteRecord, encode_votes

MAX_RIVALS = 5
"""Contestants below the first that are tried: the cheapest change is nearly always one of the nearest."""
MAX_RATERS = 100
MAX_SHARE = 0.5
"""A change that needs more of the votes than this is no sign of fragility and is not searched for."""


@dataclass(frozen=True, slots=True)
class Removal:
    """The smallest set found whose removal changes first place: `members` are votes (by position, from 0) or raters (by
    name); ties of identical answers stay, since no one cast them.

    `new_first` leads once they are removed and the rest is rated again; `share` is the share of all cast votes.
    """

    members: tuple[int, ...] | tuple[str, ...]
    num_votes: int
    share: float
    first: str
    new_first: str


@dataclass(frozen=True, slots=True)
class Fragility:
    """The fewest votes and the fewest raters that decide first place; None where no half of the votes or less does, and
    where several of equal rating are first: then one vote decides.
    """

    leaders: tuple[str, ...]
    votes: Removal | None
    raters: Removal | None


@dataclass(frozen=True, slots=True)
class WithoutRater:
    """The board without one rater: who leads (several of equal rating), the largest change of a rating (Elo) and whose,
    and changed ranks.
    """

    rater: str
    num_votes: int
    first: tuple[str, ...]
    largest_change: float
    contestant: str
    ranks_changed: int


def first_place_fragility(votes: Iterable[VoteRecord] | VoteColumns, *, method: Method = "bradley_terry") -> Fragility:
    """Search for the few votes and the few raters whose removal changes who is first."""
    columns = votes if isinstance(votes, VoteColumns) else encode_votes(votes)
    if len(columns.contestants) < 2:
        return Fragility(columns.contestants, None, None)
    board = _Board(columns, sum_votes(columns), method)
    leaders = board.leaders(board.fit(board.cells))
    if len(leaders) > 1:
        return Fragility(leaders, None, None)
    return Fragility(
        leaders,
        votes=_removal(board, np.arange(len(columns)), len(columns), names=None),
        raters=_removal(board, columns.rater, columns.num_raters, names=columns.raters),
    )


def without_each_rater(votes: Iterable[VoteRecord] | VoteColumns) -> tuple[WithoutRater, ...]:
    """Rate again without each rater, most influential first: of over 100 those who change most at first order."""
    columns = votes if isinstance(votes, VoteColumns) else encode_votes(votes)
    if columns.num_raters < 2:
        return ()
    board = _Board(columns, sum_votes(columns), "bradley_terry")
    fit = board.fit(board.cells)
    size, names = board.cells.size, columns.contestants
    order = order_of(fit, names)
    scores = vote_scores(fit, board.cells, columns)
    table = np.zeros((columns.num_raters, size))
    for side, sign in ((columns.a, 1.0), (columns.b, -1.0)):
        table += sign * np.bincount(columns.rater * size + side, scores.gap, columns.num_raters * size).reshape(
            -1, size
        )
    estimate = np.abs(table @ fit.inverse_hessian[:size, :size]).max(1)
    sizes = np.bincount(columns.rater[columns.is_cast], minlength=columns.num_raters)
    rows = []
    for rater in np.argsort(-estimate, kind="stable")[:MAX_RATERS]:
        cells = board.without((columns.rater == rater) & columns.is_cast)
        rated = np.flatnonzero(np.bincount(np.concatenate([cells.a, cells.b]), minlength=size))
        again = board.fit(cells)
        changes = ELO_PER_UNIT * (
            again.theta[rated] - again.theta[rated].mean() - fit.theta[rated] + fit.theta[rated].mean()
        )
        largest = int(np.abs(changes).argmax())
        before = [code for code in order if code in set(rated.tolist())]
        after = [code for code in order_of(again, names) if code in set(rated.tolist())]
        rows.append(
            WithoutRater(
                rater=columns.raters[rater],
                num_votes=int(sizes[rater]),
                first=board.leaders(again, among=rated),
                largest_change=float(changes[largest]),
                contestant=names[rated[largest]],
                ranks_changed=sum(one != other for one, other in zip(before, after, strict=True)),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-abs(row.largest_change), row.rater)))


@dataclass(frozen=True, slots=True)
class _Board:
    columns: VoteColumns
    cells: Cells
    method: Method

    def fit(self, cells: Cells) -> Fit:
        note = connection_note(cells, self.columns.contestants)
        return fit_method(cells, method=self.method, penalty=None, connection_note=note).fit

    def leaders(self, fit: Fit, *, among: IntArray | None = None) -> tuple[str, ...]:
        """Return those with the highest strength, of all or of some, by name."""
        codes = range(len(fit.theta)) if among is None else among.tolist()
        strengths = {self.columns.contestants[code]: round(float(fit.theta[code]), 9) for code in codes}
        highest = max(strengths.values())
        return tuple(sorted(name for name, strength in strengths.items() if strength == highest))

    def without(self, votes: NDArray[np.bool_]) -> Cells:
        """Return the cells without some votes: cheap, since no vote is encoded again."""
        weight = self.cells.weight - np.bincount(self.cells.of_vote[votes], minlength=len(self.cells.weight))
        left = weight > 0
        a, b, outcome = self.cells.a[left], self.cells.b[left], self.cells.outcome[left]
        return Cells(self.cells.size, a, b, outcome, weight[left], self.cells.covariates[left], self.cells.of_vote)

    def leader_without(self, votes: NDArray[np.bool_], *, first: int) -> int:
        """Return who leads without some votes: `first` if it shares the lead, or has no vote left, too."""
        cells = self.without(votes)
        if first not in cells.a and first not in cells.b:
            return first
        fit = self.fit(cells)
        shares_lead = self.columns.contestants[first] in self.leaders(fit)
        return first if shares_lead else order_of(fit, self.columns.contestants)[0]


def _removal(board: _Board, codes: IntArray, count: int, *, names: tuple[str, ...] | None) -> Removal | None:
    """Try the nearest rivals; the set with the fewest members wins, at a tie the one with the fewest votes."""
    columns, contestants = board.columns, board.columns.contestants
    fit = board.fit(board.cells)
    scores = vote_scores(fit, board.cells, columns)
    order = order_of(fit, contestants)
    cast = columns.is_cast
    num_cast = int(cast.sum())
    sizes = np.bincount(codes[cast], minlength=count)
    best: tuple[int, int, IntArray, int] | None = None
    for rival in order[1 : 1 + MAX_RIVALS]:
        vector = fit.inverse_hessian[:, order[0]] - fit.inverse_hessian[:, rival]
        influence = scores.gap * (vector[columns.a] - vector[columns.b])
        if scores.tie is not None:
            influence = influence + scores.tie * vector[-1]
        effect = np.bincount(codes[cast], influence[cast], count)
        gap = float(fit.theta[order[0]] - fit.theta[rival])
        ranked = np.argsort(-effect, kind="stable")
        ranked = ranked[effect[ranked] > 0]
        ranked = ranked[: int(np.searchsorted(np.cumsum(sizes[ranked]), MAX_SHARE * num_cast, side="right"))]
        start = int(np.searchsorted(np.cumsum(effect[ranked]), gap)) + 1
        if best is not None:
            ranked = ranked[: best[0]]
        chosen = _fewest(board, codes, ranked, start=start, first=order[0])
        if chosen is None:
            continue
        members, new_first = chosen
        size = int(sizes[members].sum())
        if best is None or (len(members), size) < best[:2]:
            best = (len(members), size, members, new_first)
    if best is None:
        return None
    _, size, members, new_first = best
    labels = tuple(int(code) for code in np.sort(members)) if names is None else tuple(names[code] for code in members)
    return Removal(labels, size, size / num_cast, contestants[order[0]], contestants[new_first])


def _fewest(board: _Board, codes: IntArray, ranked: IntArray, *, start: int, first: int) -> tuple[IntArray, int] | None:
    """Remove the most influential members until first place changes: by the sum of influences, then rated again."""

    def leader(number: int) -> int:
        removed = np.zeros(int(codes.max()) + 1, dtype=np.bool_)
        removed[ranked[:number]] = True
        return board.leader_without(removed[codes] & board.columns.is_cast, first=first)

    if not len(ranked):
        return None
    low, high = 0, min(len(ranked), start)
    while (new_first := leader(high)) == first:
        if high == len(ranked):
            return None
        low, high = high, min(len(ranked), high + max(1, high // 4))
    while high - low > 1:
        middle = (low + high) // 2
        name = leader(middle)
        low, high, new_first = (middle, high, new_first) if name == first else (low, middle, name)
    return ranked[:high], new_first
