"""Checks of a rater's own votes: side, streak, gold battles, repeats, pace. None of them needs another rater."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.statistics.estimates import Estimate, proportion_estimate
from backend.domain.wording import percent, plural

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
FlagKind = Literal["gold", "consistency", "side", "streak", "pace", "regular", "replay", "copy", "outlier", "favourite"]

FASTEST_WORDS_PER_S = 15.0
"""Reading speed that no one reaches: 900 words per minute; adults read 238 (Brysbaert 2019), skimmers up to 700."""

UNREAD_SHARE = 0.2
"""Share of votes faster than reading from which a rater is flagged."""

MIN_TIMED = 10
REGULAR_SPREAD = 0.1
"""Standard deviation over mean of the seconds of a vote, below which a program votes; people's is above 0.4."""

NO_GOLD = -1
GOLD_PASS, GOLD_ERROR = 0.8, 0.01
"""Share of gold battles from which a rater passes, and the share that a rater who reads answers otherwise."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A reason for doubt. `chance` is an honest rater's to give it, None without a test; `partner` the rater copied."""

    kind: FlagKind
    reason: str
    chance: float | None = None
    partner: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """A test of one rater: flagged if `chance` falls below its part of the error."""

    kind: FlagKind
    chance: float
    reason: str
    partner: str | None = None


@dataclass(frozen=True, slots=True)
class OwnVotes:
    """One rater's votes in the order cast: the label as a code of `votes.LABELS`, item, label in the order of names,
    side a's contestant.

    `seconds` and `words` are NaN where unknown; `gold` is the label expected, or NO_GOLD.
    """

    label: IntArray
    item: IntArray
    preferred: IntArray
    side_a: IntArray
    seconds: FloatArray
    words: FloatArray
    gold: IntArray

    def __len__(self) -> int:
        return len(self.label)

    @property
    def sides(self) -> IntArray:
        """Sides of the decisive votes: 0 is a."""
        return self.label[self.label < 2]

    @property
    def repeats(self) -> tuple[IntArray, IntArray]:
        """Votes on the same item, one and the next."""
        order = np.argsort(self.item, kind="stable")
        again = self.item[order[:-1]] == self.item[order[1:]]
        return order[:-1][again], order[1:][again]

    @property
    def passed_gold(self) -> Estimate | None:
        """Share of gold battles answered as expected."""
        is_gold = self.gold != NO_GOLD
        return _share(self.label[is_gold] == self.gold[is_gold])

    @property
    def consistency(self) -> Estimate | None:
        """Share of repeats with sides swapped that got the same label."""
        first, second = self.repeats
        swapped = self.side_a[first] != self.side_a[second]
        return _share(self.preferred[first[swapped]] == self.preferred[second[swapped]])

    @property
    def left(self) -> Estimate | None:
        """Share of side a among decisive votes."""
        return _share(self.sides == 0)

    @property
    def unread(self) -> Estimate | None:
        """Share of votes that came faster than their words can be read."""
        return unread_share(self.seconds, self.words)

    @property
    def times(self) -> FloatArray:
        """Seconds of the votes that were timed."""
        return self.seconds[~np.isnan(self.seconds)]


def unread_share(seconds: FloatArray, words: FloatArray) -> Estimate | None:
    """Return the share of votes that came faster than their words can be read; None where none was timed."""
    known = ~np.isnan(seconds) & (words > 0)
    return _share(words[known] > FASTEST_WORDS_PER_S * seconds[known])


def is_too_fast(unread: Estimate) -> bool:
    """Return whether a rater with this share of unread votes is flagged for pace."""
    return unread.n >= MIN_TIMED and unread.value > UNREAD_SHARE


def own_checks(own: OwnVotes) -> list[Check]:
    """Test a rater's votes. Sides are shuffled, so an honest rater's decisive votes are coin tosses by side."""
    checks = []
    sides = own.sides
    if len(sides):
        left = int((sides == 0).sum())
        chance = min(1.0, 2 * float(scipy.special.bdtr(min(left, len(sides) - left), len(sides), 0.5)))
        checks.append(Check("side", chance, f"Chose side A in {left} of {plural(len(sides), 'decisive vote')}."))
        changes = np.flatnonzero(np.diff(sides))
        longest = int(np.diff(np.concatenate([[-1], changes, [len(sides) - 1]])).max())
        chance = min(1.0, (len(sides) - longest + 2) * 0.5**longest)
        checks.append(Check("streak", chance, f"Chose the same side {longest} times in a row."))
    gold = own.passed_gold
    if gold is not None:
        right = round(gold.value * gold.n)
        chance = 1.0 if gold.value >= GOLD_PASS else float(scipy.special.bdtr(right, gold.n, 1 - GOLD_ERROR))
        reason = f"Answered {right} of {plural(gold.n, 'gold battle')} as expected; {percent(GOLD_PASS)} pass."
        checks.append(Check("gold", chance, reason))
    consistency = own.consistency
    if consistency is not None:
        same = round(consistency.value * consistency.n)
        chance = float(scipy.special.bdtr(same, consistency.n, 0.6))
        reason = f"Gave the same label to {same} of {plural(consistency.n, 'swapped repeat')}; 60 % pass."
        checks.append(Check("consistency", chance, reason))
    return checks


def timing_flags(own: OwnVotes) -> list[Flag]:
    """Flag what needs no test: votes before reading, intervals of a program, a battle voted on twice alike."""
    flags = []
    unread = own.unread
    if unread is not None and is_too_fast(unread):
        number = f"{percent(unread.value)} of {plural(unread.n, 'vote')}"
        flags.append(Flag("pace", f"{number} came faster than {FASTEST_WORDS_PER_S:g} words a second."))
    times = own.times
    if len(times) >= MIN_TIMED and times.mean() > 0 and times.std() / times.mean() < REGULAR_SPREAD:
        flags.append(
            Flag("regular", f"Each vote took {times.mean():.1f} s, give or take {percent(times.std() / times.mean())}.")
        )
    first, second = own.repeats
    replayed = int((own.side_a[first] == own.side_a[second]).sum())
    if replayed:
        flags.append(Flag("replay", f"{plural(replayed, 'vote')} repeated a battle with the same sides."))
    return flags


def _share(outcomes: NDArray[np.bool_]) -> Estimate | None:
    return proportion_estimate(int(outcomes.sum()), len(outcomes)) if len(outcomes) else None
