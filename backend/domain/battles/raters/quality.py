"""Quality of raters: gold battles, repeats, side, pace, agreement with the others, and tests that find scripts and vote
rigging.

A flag states a reason and a chance: how often an honest rater would look so. The chances of all raters and tests share
1 % (Bonferroni), and three parts of it go to side and gold, the tests of few votes. So a campaign of honest raters has
a flag in at most 1 of 100 cases, also where each has tastes of a standard deviation up to 0.8 and misses 1 of 100 gold
battles. A flag excludes no one: the caller computes the board with and without.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.agreement import canonical_labels, items_of, judged_items
from backend.domain.battles.raters.checks import NO_GOLD, Flag, FlagKind, OwnVotes, own_checks, timing_flags
from backend.domain.battles.raters.peers import copy_checks, outlier_checks, peer_agreement
from backend.domain.battles.votes import VoteColumns
from backend.domain.statistics.estimates import Estimate

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

FLAG_LEVEL = 0.01
"""Chance of any false flag over all raters and tests."""

PARTS: dict[FlagKind, int] = {"side": 3, "gold": 3}
"""Parts of the level that a test gets, others one: 12 of 12 votes for a side are enough among five raters."""


@dataclass(frozen=True, slots=True)
class RatedColumns:
    """Votes in the order cast with what the ballot recorded of each: seconds and words, NaN where unknown, the label
    that a gold battle expects, else NO_GOLD, and whether it repeats a battle. `excluded` are raters off the board.
    """

    votes: VoteColumns
    seconds: FloatArray
    words: FloatArray
    gold: IntArray
    is_repeat: NDArray[np.bool_]
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class RaterQuality:
    """Quality of one rater; None where nothing was measured.

    `gold`: share of gold battles answered as expected. `consistency`: share of repeats, with sides swapped, that got
    the same label. `left`: share of side a among decisive votes. `seconds`: median per vote. `unread`: share of votes
    faster than reading. `agreement`, `alpha`, `ac1`, `kappa`: with the votes on the same items by the other raters on
    the board, and counted as there. `outlier`: chance of votes as unlike the others' votes on the same pairs of
    contestants. `is_excluded`: the board leaves the rater's votes out.
    """

    rater: str
    num_votes: int
    gold: Estimate | None
    consistency: Estimate | None
    left: Estimate | None
    seconds: float | None
    unread: Estimate | None
    agreement: Estimate | None
    alpha: float | None
    ac1: float | None
    kappa: float | None
    outlier: float | None
    flags: tuple[Flag, ...]
    is_excluded: bool = False


def rate_raters(rated: RatedColumns) -> list[RaterQuality]:
    """Measure each rater, most votes first; none of the votes may be on identical answers."""
    columns = rated.votes
    if not len(columns):
        return []
    names = columns.raters
    every = np.arange(len(columns))
    item, preferred = items_of(columns, every)[0], canonical_labels(columns, every)
    items = judged_items(columns, among=(rated.gold == NO_GOLD) & ~rated.is_repeat)
    on_board = np.array([name not in rated.excluded for name in names], dtype=bool)
    counts = items.counts_among(on_board[items.rater])
    outliers = outlier_checks(items, columns, level=FLAG_LEVEL / (4 * len(names) or 1))
    copies = copy_checks(items, columns)
    own, checks = {}, {}
    order = np.argsort(columns.rater, kind="stable")
    for rater, votes in enumerate(np.split(order, np.cumsum(np.bincount(columns.rater, minlength=len(names)))[:-1])):
        own[rater] = OwnVotes(
            label=columns.label[votes],
            item=item[votes],
            preferred=preferred[votes],
            side_a=columns.a[votes],
            seconds=rated.seconds[votes],
            words=rated.words[votes],
            gold=rated.gold[votes],
        )
        checks[rater] = [*own_checks(own[rater]), *outliers[rater], *([copies[rater]] if rater in copies else [])]
    num_parts = sum(PARTS.get(check.kind, 1) for tests in checks.values() for check in tests)
    rows = []
    for rater, cast in own.items():
        peers, times = peer_agreement(items, counts, rater, is_counted=bool(on_board[rater])), cast.times
        doubts = [
            Flag(check.kind, check.reason, check.chance, check.partner)
            for check in checks[rater]
            if check.chance < FLAG_LEVEL * PARTS.get(check.kind, 1) / num_parts
        ]
        row = RaterQuality(
            rater=names[rater],
            num_votes=len(cast),
            gold=cast.passed_gold,
            consistency=cast.consistency,
            left=cast.left,
            seconds=float(np.median(times)) if len(times) else None,
            unread=cast.unread,
            agreement=peers.share if peers else None,
            alpha=peers.alpha if peers else None,
            ac1=peers.ac1 if peers else None,
            kappa=peers.kappa if peers else None,
            outlier=next((check.chance for check in checks[rater] if check.kind == "outlier"), None),
            flags=(*doubts, *timing_flags(cast)),
            is_excluded=names[rater] in rated.excluded,
        )
        rows.append(row)
    return sorted(rows, key=lambda row: (-row.num_votes, row.rater))
