"""Quality of raters: gold battles, repeats, side, pace, agreement with the others, and tests that find scripts and vote rigging.

A flag states a reason and a chance: how often an honest rater would look so. The chances of all raters and tests share 1 % (Bonferroni),
so a campaign of honest raters has a flag in at most 1 of 100 cases. A flag excludes no one: the caller computes the board with and without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.agreement import Item, canonical_label, gwet_ac1, krippendorff_alpha, pooled_kappa
from backend.domain.battles.votes import VoteRecord
from backend.domain.statistics.estimates import Estimate, proportion_estimate, share_estimate
from backend.domain.wording import plural

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
FlagKind = Literal["gold", "consistency", "side", "streak", "pace", "regular", "replay", "copy", "outlier", "favourite"]

FLAG_LEVEL = 0.01
FASTEST_WORDS_PER_S = 15.0
"""Reading speed that no one reaches: 900 words per minute; adults read 238 (Brysbaert 2019), skimmers up to 700."""

UNREAD_SHARE = 0.2
"""Share of votes faster than reading from which a rater is flagged."""

FEWEST_TIMED = 10
REGULAR_SPREAD = 0.1
"""Standard deviation over mean of the seconds of a vote, below which a program votes; people's is above 0.4."""

NUM_DRAWS = 4000
PRIOR_VOTES = 2.0
LABELS = ("first", "second", "tie")
POINTS = np.array([0.5, -0.5, 0.0])


@dataclass(frozen=True, slots=True)
class RatedVote:
    """A vote with what the ballot recorded: seconds on screen, words shown, and the expected winner (A, B or TIE) of a gold battle."""

    vote: VoteRecord
    seconds: float | None = None
    words: int | None = None
    gold: str | None = None


@dataclass(frozen=True, slots=True)
class Flag:
    """A reason for doubt. `chance` is that of an honest rater to give it, None where no test is behind it; `partner` the rater copied."""

    kind: FlagKind
    reason: str
    chance: float | None = None
    partner: str | None = None


@dataclass(frozen=True, slots=True)
class RaterQuality:
    """Quality of one rater; None where nothing was measured.

    `gold`: share of gold battles answered as expected. `consistency`: share of repeats, with sides swapped, that got the same label.
    `left`: share of side a among decisive votes. `seconds`: median per vote. `unread`: share of votes faster than reading. `agreement`,
    `alpha`, `ac1`, `kappa`: with the other raters' votes on the same items. `outlier`: chance of votes as unlike the others' votes on the
    same pairs of contestants.
    """

    rater: str
    num_votes: int
    gold: Estimate | None
    consistency: Estimate | None
    left: Estimate | None
    seconds: float | None
    unread: Estimate | None
    agreement: Estimate | None
    alpha: Estimate | None
    ac1: Estimate | None
    kappa: Estimate | None
    outlier: float | None
    flags: tuple[Flag, ...]


@dataclass(frozen=True, slots=True)
class _Test:
    """A test of one rater: flagged if `chance` falls below its part of the error."""

    kind: FlagKind
    chance: float
    reason: str
    partner: str | None = None


def rater_quality(votes: Iterable[RatedVote], *, flag_level: float = FLAG_LEVEL, seed: int = 0) -> list[RaterQuality]:
    """Measure each rater, most votes first. Votes must come in the order cast; identical answers are ignored.

    `flag_level` bounds the chance of any false flag over all raters and tests. Raises InvalidInput for an unknown label.
    """
    cast = [vote for vote in votes if not vote.vote.identical]
    by_rater: dict[str, list[RatedVote]] = {}
    for vote in cast:
        by_rater.setdefault(vote.vote.rater, []).append(vote)
    items = _labels(vote for vote in cast if vote.gold is None)
    outliers = _outlier_tests(items, list(by_rater), level=flag_level / (4 * len(by_rater) or 1), seed=seed)
    copies = _copy_tests(items, list(by_rater))
    tests = {rater: [*_own_tests(own), *outliers[rater], *copies[rater]] for rater, own in by_rater.items()}
    level = flag_level / max(1, sum(len(own) for own in tests.values()))
    rows = [_row(rater, own, items, tests[rater], level=level) for rater, own in by_rater.items()]
    return sorted(rows, key=lambda row: (-row.num_votes, row.rater))


def _row(
    rater: str, own: list[RatedVote], items: Mapping[Item, Mapping[str, str]], tests: Sequence[_Test], *, level: float
) -> RaterQuality:
    shared = {item: labels for item, labels in items.items() if rater in labels}
    pairs = [(label, labels[rater]) for labels in shared.values() for name, label in labels.items() if name != rater]
    prompts = [item[0] for item, labels in shared.items() for name in labels if name != rater]
    times = [vote.seconds for vote in own if vote.seconds is not None]
    unread = _unread(own)
    doubts = [Flag(test.kind, test.reason, test.chance, test.partner) for test in tests if test.chance < level]
    return RaterQuality(
        rater=rater,
        num_votes=len(own),
        gold=_gold(own),
        consistency=_consistency(own),
        left=_left(own),
        seconds=median(times) if times else None,
        unread=unread,
        agreement=share_estimate([float(a == b) for a, b in pairs], clusters=prompts) if pairs else None,
        alpha=krippendorff_alpha(pairs, clusters=prompts, num_resamples=200),
        ac1=gwet_ac1(pairs, clusters=prompts, num_resamples=200),
        kappa=pooled_kappa(pairs, clusters=prompts, num_resamples=200),
        outlier=next((test.chance for test in tests if test.kind == "outlier"), None),
        flags=(*doubts, *_timing_flags(own, unread)),
    )


def _unread(own: Sequence[RatedVote]) -> Estimate | None:
    """Share of votes that came faster than their words can be read."""
    fast = [vote.words > FASTEST_WORDS_PER_S * vote.seconds for vote in own if vote.seconds is not None and vote.words]
    return proportion_estimate(sum(fast), len(fast)) if fast else None


def _labels(votes: Iterable[RatedVote]) -> dict[Item, dict[str, str]]:
    """Labels by item and rater; both bad counts as a tie, the first vote of a rater on an item counts."""
    items: dict[Item, dict[str, str]] = {}
    for vote in votes:
        item, label = canonical_label(vote.vote)
        items.setdefault(item, {}).setdefault(vote.vote.rater, label if label in LABELS else "tie")
    return items


def _gold(own: Sequence[RatedVote]) -> Estimate | None:
    answers = [vote.vote.winner == vote.gold for vote in own if vote.gold is not None]
    return proportion_estimate(sum(answers), len(answers)) if answers else None


def _repeats(own: Sequence[RatedVote]) -> list[tuple[VoteRecord, VoteRecord]]:
    """Votes on the same item, one after the other."""
    by_item: dict[Item, list[VoteRecord]] = {}
    for vote in own:
        by_item.setdefault(canonical_label(vote.vote)[0], []).append(vote.vote)
    return [pair for cast in by_item.values() for pair in pairwise(cast)]


def _consistency(own: Sequence[RatedVote]) -> Estimate | None:
    swapped = [(one, other) for one, other in _repeats(own) if one.a == other.b]
    equal = [canonical_label(one)[1] == canonical_label(other)[1] for one, other in swapped]
    return proportion_estimate(sum(equal), len(equal)) if equal else None


def _left(own: Sequence[RatedVote]) -> Estimate | None:
    sides = [vote.vote.winner for vote in own if vote.vote.winner in ("A", "B")]
    return proportion_estimate(sides.count("A"), len(sides)) if sides else None


def _own_tests(own: Sequence[RatedVote]) -> list[_Test]:
    """Tests that need no other rater. Sides are shuffled, so an honest rater's decisive votes are coin tosses by side."""
    tests = []
    sides = [vote.vote.winner for vote in own if vote.vote.winner in ("A", "B")]
    if sides:
        left = sides.count("A")
        chance = float(scipy.stats.binomtest(left, len(sides)).pvalue)
        tests.append(_Test("side", chance, f"Chose side A in {left} of {plural(len(sides), 'decisive vote')}."))
        longest = max(len(list(run)) for _, run in groupby(sides))
        chance = min(1.0, (len(sides) - longest + 2) * 0.5**longest)
        tests.append(_Test("streak", chance, f"Chose the same side {longest} times in a row."))
    gold = _gold(own)
    if gold is not None:
        right = round(gold.value * gold.n)
        chance = float(scipy.stats.binomtest(right, gold.n, 0.8, alternative="less").pvalue)
        tests.append(_Test("gold", chance, f"Answered {right} of {plural(gold.n, 'gold battle')} as expected; 80 % pass."))
    consistency = _consistency(own)
    if consistency is not None:
        same = round(consistency.value * consistency.n)
        chance = float(scipy.stats.binomtest(same, consistency.n, 0.6, alternative="less").pvalue)
        tests.append(
            _Test("consistency", chance, f"Gave the same label to {same} of {plural(consistency.n, 'swapped repeat')}; 60 % pass.")
        )
    return tests


def _timing_flags(own: Sequence[RatedVote], unread: Estimate | None) -> list[Flag]:
    """Flags that need no test: votes before reading, intervals of a program, a battle voted on again with the sides as they were."""
    flags = []
    if unread is not None and unread.n >= FEWEST_TIMED and unread.value > UNREAD_SHARE:
        number = f"{unread.value:.0%} of {plural(unread.n, 'vote')}"
        flags.append(Flag("pace", f"{number} came faster than {FASTEST_WORDS_PER_S:g} words a second."))
    times = np.array([vote.seconds for vote in own if vote.seconds is not None], dtype=np.float64)
    if len(times) >= FEWEST_TIMED and times.mean() > 0 and times.std() / times.mean() < REGULAR_SPREAD:
        flags.append(Flag("regular", f"Each vote took {times.mean():.1f} s, give or take {times.std() / times.mean():.0%}."))
    replayed = sum(one.a == other.a for one, other in _repeats(own))
    if replayed:
        flags.append(Flag("replay", f"{plural(replayed, 'vote')} repeated a battle with the same sides."))
    return flags


def _outlier_tests(items: Mapping[Item, Mapping[str, str]], raters: Sequence[str], *, level: float, seed: int) -> dict[str, list[_Test]]:
    """Test each rater against the other raters' votes on the same pairs of contestants.

    Labels are drawn from the others' (Dirichlet-multinomial, whose prior is a label's share over all pairs), so a tie is as likely as ties
    are, a pair with few other votes says little, and no vote is compared with itself. Two statistics: surprise, -log of the labels'
    chances, and favour, the points that one contestant earned beyond its expectation, in standard deviations. The least likely rater leaves
    the comparison and the others are tested again, lest its votes make theirs look odd.
    """
    counts: dict[tuple[str, str], dict[str, IntArray]] = {}
    for item, labels in items.items():
        for rater, label in labels.items():
            by_rater = counts.setdefault((item[2], item[3]), {})
            by_rater.setdefault(rater, np.zeros(len(LABELS), dtype=np.int64))[LABELS.index(label)] += 1
    total = sum((count for by_rater in counts.values() for count in by_rater.values()), np.zeros(len(LABELS), dtype=np.int64))
    ties = (total[2] + 1) / (total.sum() + 3)
    prior = np.array([(1 - ties) / 2, (1 - ties) / 2, ties]) * PRIOR_VOTES
    rng, tests, excluded = np.random.default_rng(seed), dict[str, list[_Test]](), set[str]()
    while len(excluded) < len(raters):
        trusted = [rater for rater in raters if rater not in excluded]
        tests.update({rater: _compare(rater, counts, excluded, prior, rng) for rater in trusted})
        chances = {rater: min((test.chance for test in tests[rater]), default=1.0) for rater in trusted}
        least = min(trusted, key=chances.__getitem__)
        if chances[least] >= level or len(trusted) < 3:
            break
        excluded.add(least)
    return tests


def _compare(
    rater: str, counts: Mapping[tuple[str, str], Mapping[str, IntArray]], excluded: set[str], prior: FloatArray, rng: np.random.Generator
) -> list[_Test]:
    """Monte-Carlo tests of a rater's label counts against those of the others who are not excluded."""
    pairs, mine, theirs = [], [], []
    for pair, by_rater in counts.items():
        rest = [count for name, count in by_rater.items() if name != rater and name not in excluded]
        if rater in by_rater and rest:
            pairs.append(pair)
            mine.append(by_rater[rater])
            theirs.append(np.sum(rest, axis=0) + prior)
    if not pairs:
        return []
    own, others = np.array(mine), np.array(theirs)
    expected = others / others.sum(1, keepdims=True)
    names = sorted({name for pair in pairs for name in pair})
    sign = np.array([[(pair[0] == name) - (pair[1] == name) for name in names] for pair in pairs], dtype=np.float64)
    chances = rng.gamma(np.broadcast_to(others, (max(200, NUM_DRAWS // (1 + len(pairs) // 20)), *others.shape)))
    chances /= chances.sum(2, keepdims=True)
    drawn = rng.multinomial(np.broadcast_to(own.sum(1), chances.shape[:2]), chances)
    middle = own.sum(1)[:, None] * expected
    gained = (drawn - middle) @ POINTS @ sign
    scale = gained.std(0)
    scale[scale == 0] = np.inf
    observed = ((own - middle) @ POINTS @ sign) / scale
    favourite = int(observed.argmax())
    surprise = -np.log(expected)
    chance = _tail((drawn * surprise).sum((1, 2)), float((own * surprise).sum()))
    return [
        _Test("outlier", chance, f"{plural(int(own.sum()), 'vote')} differ from other raters' on the same pairs more than chance allows."),
        _Test("favourite", _tail((gained / scale).max(1), float(observed[favourite])), f"Favoured {names[favourite]} beyond other raters."),
    ]


def _tail(draws: FloatArray, value: float) -> float:
    """Chance of a draw at least as high: (1 + #) / (1 + n), or Pearson's type III tail of the same moments where that is too coarse."""
    share = (1 + int((draws >= value - 1e-9).sum())) / (1 + len(draws))
    deviation = float(draws.std())
    if share > 5 / len(draws) or deviation == 0:
        return share
    skew = max(0.0, float(scipy.stats.skew(draws)))
    return min(share, float(scipy.stats.pearson3.sf((value - draws.mean()) / deviation, skew)))


def _copy_tests(items: Mapping[Item, Mapping[str, str]], raters: Sequence[str]) -> dict[str, list[_Test]]:
    """Test each rater against the one it copies most: one person under two names, or a script.

    The chance of an equal label is the share of the item's other raters who gave the partner's label, shrunk towards the average
    agreement. Equal labels are then at most as spread as a binomial of the average chance (Hoeffding 1956); the closest of m partners
    counts m-fold.
    """
    shared: dict[tuple[str, str], list[tuple[bool, float]]] = {}
    judged = [list(labels.items()) for labels in items.values() if len(labels) > 1]
    matches = [(one[1] == other[1]) for labels in judged for one in labels for other in labels if one[0] < other[0]]
    average = sum(matches) / len(matches) if matches else 0.5
    for labels in judged:
        given = Counter(label for _, label in labels)
        for rater, own in labels:
            for partner, label in labels:
                if partner != rater:
                    rest = given[label] - 1 - (own == label)
                    chance = (rest + PRIOR_VOTES * average) / (len(labels) - 2 + PRIOR_VOTES)
                    shared.setdefault((rater, partner), []).append((own == label, chance))
    tests: dict[str, list[_Test]] = {rater: [] for rater in raters}
    partners: dict[str, list[tuple[float, str, int, int]]] = {}
    for (rater, partner), battles in shared.items():
        equal, chance = sum(same for same, _ in battles), sum(chance for _, chance in battles) / len(battles)
        tail = float(scipy.stats.binom.sf(equal - 1, len(battles), min(chance, 1.0)))
        partners.setdefault(rater, []).append((tail, partner, equal, len(battles)))
    for rater, rows in partners.items():
        tail, partner, equal, number = min(rows)
        reason = f"Gave the same label as another rater on {equal} of {plural(number, 'shared battle')}."
        tests[rater] = [_Test("copy", min(1.0, tail * len(rows)), reason, partner)]
    return tests
