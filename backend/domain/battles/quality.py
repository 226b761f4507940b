"""Quality of raters: gold battles, repeats, side, pace, agreement with the others, and tests that find scripts and vote
rigging.

A flag states a reason and a chance: how often an honest rater would look so. The chances of all raters and tests share
1 % (Bonferroni), and three parts of it go to side and gold, the tests of few votes. So a campaign of honest raters has
a flag in at most 1 of 100 cases, also where each has tastes of a standard deviation up to 0.8 and misses 1 of 100 gold
battles. A flag excludes no one: the caller computes the board with and without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy
from numpy.typing import NDArray

from backend.domain.battles.agreement import JudgedItems, canonical_labels, items_of, judged_items
from backend.domain.battles.votes import VoteColumns
from backend.domain.statistics.estimates import Estimate, counted_share_estimate, proportion_estimate, student_quantile
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


NUM_DRAWS = 4000
PRIOR_VOTES = 2.0
NUM_LABELS = 3
POINTS = np.array([0.5, -0.5, 0.0])
MAX_TASTE = 0.8
"""Standard deviation of honest raters' tastes up to which flags keep their level: log-odds of each contestant."""
MIN_FOR_TASTE = 5
TASTE_LEVEL = 0.98
"""Two-sided level of the interval whose upper end a taste is granted."""
FEW_VOTES = 200
NORMAL_UP_TO = {True: (1.5, 2.2), False: (2.5, 3.0)}
"""Standard deviations of surprise and favour, for few and many votes, that need a simulation. A flag needs four."""


@dataclass(frozen=True, slots=True)
class PeerAgreement:
    """A rater's agreement with the others' votes on the same items: share of equal labels, and corrected for chance."""

    share: Estimate
    alpha: float | None
    ac1: float | None
    kappa: float | None


def peer_agreement(items: JudgedItems, counts: FloatArray, rater: int, *, is_counted: bool) -> PeerAgreement | None:
    """Compare a rater with the others; `counts` are the items' labels, the rater's own among them if it `is_counted`.
    None without a shared item.
    """
    own = items.rater == rater
    item, label = items.item[own], items.label[own]
    others = counts[item]
    others[np.arange(len(item)), label] -= is_counted
    shared = others.sum(1) > 0
    item, label, others = item[shared], label[shared], others[shared]
    if not len(item):
        return None
    table = np.zeros((NUM_LABELS, NUM_LABELS))
    np.add.at(table, label, others)
    equal = others[np.arange(len(item)), label]
    share = counted_share_estimate(equal, others.sum(1), clusters=items.prompt_of_item[item])
    return PeerAgreement(share, *chance_corrected(table))


def chance_corrected(table: FloatArray) -> tuple[float | None, float | None, float | None]:
    """Return Krippendorff's alpha, Gwet's AC1 and Cohen's kappa of pairs of labels, counted by a rater's label and the
    other's.

    The definitions are those of `domain.statistics.agreement`, of units with two labels each.
    """
    pairs, equal = float(table.sum()), float(np.trace(table))
    given, received = table.sum(1), table.sum(0)
    totals = given + received
    used = totals[totals > 0] / (2 * pairs)
    if len(used) < 2:
        return None, None, None
    expected = (2 * pairs) ** 2 - float((totals**2).sum())
    alpha = 1 - (2 * pairs - 1) * 2 * (pairs - equal) / expected
    by_chance = float((used * (1 - used)).sum()) / (len(used) - 1)
    same = float(given @ received) / pairs**2
    return (
        alpha,
        (equal / pairs - by_chance) / (1 - by_chance),
        (equal / pairs - same) / (1 - same) if same < 1 else None,
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Contestants of each pair, and every vote's pair, rater and label. `sign` maps its points to its contestants."""

    names: tuple[str, ...]
    sign: FloatArray
    pair: IntArray
    rater: IntArray
    label: IntArray

    def counts(self, votes: NDArray[np.bool_] | None = None) -> IntArray:
        """Pairs x labels, of some of the votes."""
        cells = self.pair * NUM_LABELS + self.label
        return np.bincount(cells if votes is None else cells[votes], minlength=len(self.sign) * NUM_LABELS).reshape(
            -1, NUM_LABELS
        )


def outlier_checks(items: JudgedItems, columns: VoteColumns, *, level: float) -> dict[int, list[Check]]:
    """Test each rater against the other raters' votes on the same pairs of contestants.

    Labels are drawn from the others' (Dirichlet-multinomial, whose prior is a label's share over all pairs), so a tie
    is as likely as ties are, a pair with few other votes says little, and no vote is compared with itself. Taste is no
    cheating: each draw has a taste of its own, a normal log-odds for each contestant, as spread as the other raters'
    may be (`_taste`). Two statistics: surprise, -log of the labels' chances, and favour, the points that one contestant
    earned beyond its expectation, in standard deviations. The least likely rater leaves the comparison and the others
    are tested again, lest its votes make theirs look odd. Who that is, normal chances without taste say; only when its
    own test lets it stay are all others tested, so that many odd raters cost as many tests, not their square.
    """
    pairs = _pairs(items, columns)
    total = pairs.counts()
    labels = total.sum(0)
    ties = (labels[2] + 1) / (labels.sum() + 3)
    prior = np.array([(1 - ties) / 2, (1 - ties) / 2, ties]) * PRIOR_VOTES
    own = {rater: pairs.counts(pairs.rater == rater) for rater in range(columns.num_raters)}
    rng, checks, trusted = np.random.default_rng(0), dict[int, list[Check]](), list(own)
    while trusted:
        compared = {rater: _Comparison.of(pairs, own[rater], total - own[rater], prior) for rater in trusted}

        def test(rater: int, compared: dict[int, _Comparison] = compared) -> float:
            others = np.array([float(own[other].sum()) for other in compared if other != rater])
            taste = _taste([one for other, one in compared.items() if other != rater])
            shared = float((others**2).sum() / others.sum() ** 2) if others.any() else 0.0  # variance of their mean
            checks[rater] = compared[rater].checks(taste * math.sqrt(1 + shared), rng)
            return min((check.chance for check in checks[rater]), default=1.0)

        oddest = min(trusted, key=lambda rater: compared[rater].log_normal_chance)
        chances = {oddest: test(oddest)}
        if chances[oddest] >= level or len(trusted) < 3:
            chances |= {rater: test(rater) for rater in trusted if rater != oddest}
            oddest = min(trusted, key=chances.__getitem__)
            if chances[oddest] >= level or len(trusted) < 3:
                break
        trusted.remove(oddest)
        total = total - own[oddest]
    return checks


def _taste(others: list[_Comparison]) -> float:
    """Standard deviation of tastes, log-odds per contestant, that the other raters' votes allow: the upper end of its
    interval.

    By moments: a rater's points beyond expectation vary by chance and by taste. Never more than `MAX_TASTE`, lest
    cheaters hide behind each other, which is also what few raters get.
    """
    if len(others) < MIN_FOR_TASTE:
        return MAX_TASTE
    excess, weight = (np.array([getattr(other, name) for other in others]) for name in ("excess", "weight"))
    if not weight.sum():
        return MAX_TASTE
    variance = float(excess.sum() / weight.sum())
    error = math.sqrt(float(((excess - variance * weight) ** 2).sum())) / float(weight.sum())
    upper = variance + student_quantile(TASTE_LEVEL, df=len(others) - 1) * error
    return min(math.sqrt(max(upper, 0.0)), MAX_TASTE)


def _pairs(items: JudgedItems, columns: VoteColumns) -> _Pairs:
    size = len(columns.contestants)
    a, b = columns.a[items.vote], columns.b[items.vote]
    codes, pair = np.unique(np.minimum(a, b) * size + np.maximum(a, b), return_inverse=True)
    sign = np.zeros((len(codes), size))
    sign[np.arange(len(codes)), codes // size] = 1.0
    sign[np.arange(len(codes)), codes % size] = -1.0
    return _Pairs(columns.contestants, sign, pair, items.rater, items.label)


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A rater's label counts by pair beside the others' chances, on the pairs that both met.

    `excess` is what the squares of the points beyond expectation have over chance, `weight` what a taste with variance
    1 adds to it.
    """

    own: IntArray
    others: FloatArray
    sign: FloatArray
    names: tuple[str, ...]
    excess: float
    weight: float

    @classmethod
    def of(cls, pairs: _Pairs, own: IntArray, rest: IntArray, prior: FloatArray) -> _Comparison:
        """Compare a rater's counts with the rest's."""
        met = (own.sum(1) > 0) & (rest.sum(1) > 0)
        own, others, sign = own[met], rest[met] + prior, pairs.sign[met]
        played = np.abs(sign).sum(0) > 0
        names = tuple(name for name, plays in zip(pairs.names, played, strict=True) if plays)
        compared = cls(own, others, sign[:, played], names, 0.0, 0.0)
        gained, chance = compared.gained
        explained = compared.sign.T @ ((own.sum(1) * compared.spread_of_points)[:, None] * compared.sign)
        return replace(compared, excess=float(gained @ gained - chance.sum()), weight=float((explained**2).sum()))

    @property
    def expected(self) -> FloatArray:
        """Chances of the labels by pair."""
        return np.asarray(self.others / self.others.sum(1, keepdims=True))

    @property
    def spread_of_points(self) -> FloatArray:
        """Variance of a vote's points by pair, which is also how fast its expectation rises with the log-odds."""
        return np.asarray(self.expected @ POINTS**2 - (self.expected @ POINTS) ** 2)

    @property
    def spread(self) -> FloatArray:
        """Votes by pair, enlarged by what the others' few votes leave open."""
        number, weight = self.own.sum(1), self.others.sum(1)
        return np.asarray(number * (number + weight) / (1 + weight))

    @property
    def gained(self) -> tuple[FloatArray, FloatArray]:
        """Points of each contestant beyond expectation, and their variance by chance."""
        beyond = self.own - self.own.sum(1, keepdims=True) * self.expected
        return beyond @ POINTS @ self.sign, (self.spread * self.spread_of_points) @ self.sign**2

    @property
    def favour(self) -> FloatArray:
        """Points of each contestant beyond expectation, in standard deviations."""
        gained, variance = self.gained
        return np.divide(gained, np.sqrt(variance), out=np.zeros(len(self.names)), where=variance > 0)

    @property
    def unlike(self) -> float:
        """Surprise of the rater's labels beyond its expectation, in standard deviations."""
        surprise = -np.log(self.expected)
        moments = (self.expected * surprise**2).sum(1) - (self.expected * surprise).sum(1) ** 2
        deviation = float(np.sqrt((self.spread * moments).sum()))
        beyond = float(((self.own - self.own.sum(1)[:, None] * self.expected) * surprise).sum())
        return beyond / deviation if deviation else 0.0

    @property
    def log_normal_chance(self) -> float:
        """Logarithm of the lesser chance of the rater's surprise and favour, both taken as normal, without taste."""
        if not len(self.own):
            return 0.0
        return float(scipy.special.log_ndtr(-np.array([self.unlike, float(self.favour.max())])).min())

    @property
    def _normal_chances(self) -> tuple[float, float]:
        highest = float(self.favour.max())
        return (
            float(scipy.special.ndtr(-self.unlike)),
            float(1 - scipy.special.ndtr(highest) ** len(self.names)),
        )

    def checks(self, taste: float, rng: np.random.Generator) -> list[Check]:
        """Test the rater. Chances that a flag needs are simulated with tastes, the others are normal and without."""
        if not len(self.own):
            return []
        number = self.own.sum(1)
        unlike, favour = self.unlike, self.favour
        favourite = int(favour.argmax())
        limits = NORMAL_UP_TO[int(number.sum()) < FEW_VOTES]
        if unlike > limits[0] or favour[favourite] > limits[1]:
            chances = self._simulated(-np.log(self.expected), taste, rng)
        else:
            chances = self._normal_chances
        reason = (
            f"{plural(int(number.sum()), 'vote')} differ from other raters' on the same pairs more than chance and"
            " taste allow."
        )
        return [
            Check("outlier", chances[0], reason),
            Check("favourite", chances[1], f"Favoured {self.names[favourite]} beyond other raters and their tastes."),
        ]

    def _simulated(self, surprise: FloatArray, taste: float, rng: np.random.Generator) -> tuple[float, float]:
        """Chances of a surprise and of a favour at least as large, by drawing tastes and labels."""
        number = self.own.sum(1)
        middle = number[:, None] * self.expected
        num_draws = max(200, NUM_DRAWS // (1 + len(self.own) // 20))
        chances = rng.gamma(np.broadcast_to(self.others, (num_draws, *self.others.shape)))
        tilt = taste * rng.standard_normal((num_draws, len(self.names))) @ self.sign.T
        chances *= np.exp(tilt[:, :, None] * POINTS)
        chances /= chances.sum(2, keepdims=True)
        drawn = rng.multinomial(np.broadcast_to(number, chances.shape[:2]), chances)
        gained = (drawn - middle) @ POINTS @ self.sign
        scale = gained.std(0)
        scale[scale == 0] = np.inf
        observed = (self.own - middle) @ POINTS @ self.sign / scale
        return _tail((drawn * surprise).sum((1, 2)), float((self.own * surprise).sum())), _tail(
            (gained / scale).max(1), float(observed.max())
        )


def _tail(draws: FloatArray, value: float) -> float:
    """Chance of a draw at least as high: (1 + #) / (1 + n), or Pearson's type III tail where that is too coarse."""
    share = (1 + int((draws >= value - 1e-9).sum())) / (1 + len(draws))
    deviation = float(draws.std())
    if share > 5 / len(draws) or deviation == 0:
        return share
    gap, skew = (value - float(draws.mean())) / deviation, float(((draws - draws.mean()) ** 3).mean()) / deviation**3
    if skew < 1e-3:
        return min(share, float(scipy.special.ndtr(-gap)))
    shape = 4 / skew**2
    return min(share, float(scipy.special.gammaincc(shape, max(0.0, shape + gap * math.sqrt(shape)))))


def _at_least(equal: FloatArray, trials: FloatArray, chance: FloatArray) -> FloatArray:
    """Chance of at least this many successes."""
    return np.where(equal > 0, scipy.special.bdtrc(np.maximum(equal - 1, 0), trials.astype(np.int64), chance), 1.0)


def _own_labels(items: JudgedItems, columns: VoteColumns) -> tuple[IntArray, FloatArray, FloatArray]:
    """Return each vote's rater, the labels that it gave this pair of contestants, and the number of these votes."""
    pair = _pairs(items, columns).pair
    group = np.unique(items.rater * (int(pair.max(initial=0)) + 1) + pair, return_inverse=True)[1]
    table = np.bincount(group * NUM_LABELS + items.label, minlength=(int(group.max(initial=-1)) + 1) * NUM_LABELS)
    labels = table.reshape(-1, NUM_LABELS).astype(np.float64)[group]
    return items.rater, labels, labels.sum(1)


def copy_checks(items: JudgedItems, columns: VoteColumns) -> dict[int, Check]:
    """Test each rater against the one it copies most: one person under two names, or a script.

    The chance of an equal label is the share of the item's other raters who gave the partner's label, shrunk towards
    the average agreement, or, where that is larger on average, the share of this label among the rater's other votes on
    the same contestants: two who favour one contestant agree by taste. Equal labels are then at most as spread as a
    binomial of the average chance (Hoeffding 1956); the closest of m partners counts m-fold.
    """
    raters, counts = columns.raters, items.counts
    sizes = counts.sum(1)
    judged = (counts * (counts - 1)).sum(), (sizes * (sizes - 1)).sum()
    if not judged[1]:
        return {}
    average = judged[0] / judged[1]
    shape = (len(raters), items.num_items)
    given = counts[items.item, items.label]
    equal, weighted, by_taste = (np.zeros(2 * (len(raters),)) for _ in range(3))
    of_rater, of_label, on_pair = _own_labels(items, columns)
    present = scipy.sparse.csr_array((np.ones(len(items.item)), (items.rater, items.item)), shape=shape)
    for label in range(NUM_LABELS):
        own = items.label == label
        votes = (items.rater[own], items.item[own])
        gave = scipy.sparse.csr_array((np.ones(int(own.sum())), votes), shape=shape)
        usual = (of_label[:, label] - own + PRIOR_VOTES * float((items.label == label).mean())) / (
            on_pair - 1 + PRIOR_VOTES
        )
        by_taste += (scipy.sparse.csr_array((usual, (of_rater, items.item)), shape=shape) @ gave.T).toarray()
        share = (given[own] - 1 + PRIOR_VOTES * average) / (sizes[votes[1]] - 2 + PRIOR_VOTES)
        alike = 1 / (sizes[votes[1]] - 2 + PRIOR_VOTES)
        equal += (gave @ gave.T).toarray()
        weighted += (present @ scipy.sparse.csr_array((share, votes), shape=shape).T).toarray()
        weighted -= (gave @ scipy.sparse.csr_array((alike, votes), shape=shape).T).toarray()
    shared = (present @ present.T).toarray()
    np.fill_diagonal(shared, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        tails = np.where(
            shared > 0, _at_least(equal, shared, np.minimum(np.maximum(weighted, by_taste) / shared, 1.0)), np.inf
        )
    partners = (shared > 0).sum(1)
    checks = {}
    for rater in np.flatnonzero(partners).tolist():
        partner = min(np.flatnonzero(tails[rater] == tails[rater].min()).tolist(), key=raters.__getitem__)
        number = plural(int(shared[rater, partner]), "shared battle")
        reason = f"Gave the same label as another rater on {int(equal[rater, partner])} of {number}."
        checks[rater] = Check("copy", min(1.0, float(tails[rater, partner] * partners[rater])), reason, raters[partner])
    return checks


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
