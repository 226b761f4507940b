"""The battles that a campaign can serve, in memory: answers, votes and open battles counted incrementally, and the draw
of the next one. Pure, no I/O; the database decides whether a drawn battle may be stored.

Active sampling after Chiang et al. 2024 (arXiv 2403.04132, section 5): a pair's weight is the expected reduction, by
one more vote, of the variances of the rating differences that are still undecided. Weights are above zero, and the
probability of every draw is logged, because it can't be reconstructed.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random

import numpy as np
from numpy.typing import NDArray

from backend.domain.battles.campaign import CampaignConfig

Pair = tuple[str, str]
FloatArray = NDArray[np.float64]

PRIOR_SD = 2.5
"""Standard deviation of a rating before any vote, natural units."""

CLEAR = 2.5
"""A difference of this many standard errors counts as decided."""

NEWTON_STEPS = 8
MIN_WEIGHT = 1e-6


@dataclass(frozen=True, slots=True)
class PairCount:
    """Votes of a pair in the order of its names: wins of the first, of the second, the rest; and its open battles."""

    first: int = 0
    second: int = 0
    halves: int = 0
    open: int = 0

    @property
    def total(self) -> int:
        """All votes."""
        return self.first + self.second + self.halves


def pair_of(one: str, other: str) -> Pair:
    """Return two contestants in their fixed order."""
    return (one, other) if one < other else (other, one)


def all_pairs(contestants: Iterable[str]) -> list[Pair]:
    """Return every pair of contestants in its fixed order."""
    return list(itertools.combinations(sorted(contestants), 2))


def information_weights(contestants: Sequence[str], counts: Mapping[Pair, PairCount]) -> dict[Pair, float]:
    """Return for each pair of contestants the expected reduction of the undecided differences' variances by one more
    vote.

    The ratings' covariance V is the inverse of the Bradley-Terry information with a normal prior; open battles count as
    votes to come. One vote on (i, j) with win probability p adds h = p(1 - p) in the direction i - j, and takes h c^2 /
    (1 + h v) off the variance of any difference whose covariance with that of i and j is c, where v is the variance of
    the latter (Sherman and Morrison 1950).
    """
    names = sorted(contestants)
    pairs = all_pairs(names)
    if not pairs:
        return {}
    index = {name: number for number, name in enumerate(names)}
    first = np.array([index[one] for one, _ in pairs])
    second = np.array([index[other] for _, other in pairs])
    tallies = [counts.get(pair, PairCount()) for pair in pairs]
    votes = np.array([tally.total for tally in tallies], dtype=np.float64)
    points = np.array([tally.first + tally.halves / 2 for tally in tallies])
    pending = np.array([tally.open for tally in tallies], dtype=np.float64)
    theta = _fit(first, second, votes, points, len(names))
    win = 1 / (1 + np.exp(-(theta[first] - theta[second])))
    spread = win * (1 - win)
    covariance = np.linalg.inv(_information(first, second, (votes + pending) * spread, len(names)))
    differences = (
        covariance[first][:, first]
        + covariance[second][:, second]
        - covariance[first][:, second]
        - covariance[second][:, first]
    )
    variance = np.diag(differences)
    undecided = np.abs(theta[first] - theta[second]) < CLEAR * np.sqrt(variance)
    if not undecided.any():
        undecided[:] = True
    gains = spread / (1 + spread * variance) * (differences[:, undecided] ** 2).sum(axis=1)
    return {pair: max(float(gain), MIN_WEIGHT) for pair, gain in zip(pairs, gains, strict=True)}


def _fit(
    first: NDArray[np.int64], second: NDArray[np.int64], votes: FloatArray, points: FloatArray, size: int
) -> FloatArray:
    """Return the posterior mode of the ratings by Newton's method."""
    theta = np.zeros(size)
    for _ in range(NEWTON_STEPS):
        win = 1 / (1 + np.exp(-(theta[first] - theta[second])))
        surprise = points - votes * win
        gradient = np.bincount(first, surprise, size) - np.bincount(second, surprise, size) - theta / PRIOR_SD**2
        step = np.linalg.solve(_information(first, second, votes * win * (1 - win), size), gradient)
        theta = theta + np.clip(step, -2.0, 2.0)
        if float(np.abs(step).max()) < 1e-6:
            break
    return theta


def _information(first: NDArray[np.int64], second: NDArray[np.int64], weight: FloatArray, size: int) -> FloatArray:
    matrix = np.eye(size) / PRIOR_SD**2
    np.add.at(matrix, (first, first), weight)
    np.add.at(matrix, (second, second), weight)
    np.add.at(matrix, (first, second), -weight)
    np.add.at(matrix, (second, first), -weight)
    return matrix


EPSILON = 0.15
"""Share of battles that are drawn uniformly, so that every battle's probability is above zero."""

REWEIGH_SHARE = 0.01
"""Weights of pairs are computed again after this many new votes and open battles, relative to all."""

Item = tuple[str, Pair]
"""A prompt and a pair of contestants; in a campaign that rates single answers, both are the same."""

HALVES = frozenset({"TIE", "BOTH_BAD", "RATED"})


@dataclass(frozen=True, slots=True)
class PooledAnswer:
    """A completion and the hash of its text."""

    completion: str
    digest: str


@dataclass(frozen=True, slots=True)
class BattleDraw:
    """A battle to serve: answers on side a and side b. `probability` is of prompt and pair; each order has half."""

    prompt: str
    pair: Pair
    a: PooledAnswer
    b: PooledAnswer
    probability: float

    @property
    def is_identical(self) -> bool:
        """Return whether two contestants gave the same answer."""
        return self.pair[0] != self.pair[1] and self.a.digest == self.b.digest


@dataclass(slots=True)
class _Battle:
    item: Item
    a_is_first: bool
    expires_at: datetime
    revision: int = 0
    label: str | None = None
    counted_as: str | None = None


@dataclass
class BattlePool:
    """Answers, battles and votes of one campaign."""

    config: CampaignConfig
    answers: dict[str, dict[str, list[PooledAnswer]]] = field(default_factory=lambda: defaultdict(dict))
    prompts: dict[Pair, list[str]] = field(default_factory=lambda: defaultdict(list))
    num_votes: int = 0
    _same: set[Item] = field(default_factory=set)
    _battles: dict[str, _Battle] = field(default_factory=dict)
    _items: Counter[Item] = field(default_factory=Counter)
    _per_prompt: Counter[str] = field(default_factory=Counter)
    _tallies: dict[Pair, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _pending: set[Item] = field(default_factory=set)
    _expiries: list[tuple[datetime, str]] = field(default_factory=list)
    _weights: dict[Pair, float] = field(default_factory=dict)
    _changes: int = 0
    _counted: int = 0

    @property
    def num_pairs(self) -> int:
        """Prompts and pairs of contestants that both answered."""
        return self.num_available(())

    @property
    def num_identical(self) -> int:
        """Those of `num_pairs` whose answers are identical, so that no rater sees them."""
        return len(self._same)

    def add_answer(self, prompt: str, contestant: str, answer: PooledAnswer) -> None:
        """Add a contestant's answer to a prompt."""
        answers = self.answers[prompt]
        if contestant in answers:
            answers[contestant].append(answer)
            same = {pair_of(contestant, rival) for rival in answers if rival != contestant}
            self._same -= {
                (prompt, pair)
                for pair in same
                if any(a.digest != answer.digest for name in pair for a in answers[name])
            }
            return
        rivals = [contestant] if self.config.is_single else list(answers)
        for rival in rivals:
            self.prompts[pair_of(contestant, rival)].append(prompt)
            if rival != contestant and all(other.digest == answer.digest for other in answers[rival]):
                self._same.add((prompt, pair_of(contestant, rival)))
        answers[contestant] = [answer]
        self._weights = {}

    def add_battle(self, battle: str, item: Item, *, a: str, expires_at: datetime, now: datetime) -> None:
        """Count a battle that was served: `a` is the contestant on side a."""
        if battle not in self._battles:
            self._battles[battle] = _Battle(item, a == item[1][0], expires_at)
            heapq.heappush(self._expiries, (expires_at, battle))
            self._count(self._battles[battle], now)

    def add_vote(self, battle: str, *, label: str, revision: int, now: datetime) -> None:
        """Count a vote, unless a newer revision is counted already."""
        held = self._battles.get(battle)
        if held is not None and revision > held.revision:
            held.label, held.revision = label, revision
            self._count(held, now)

    def renew(self, battle: str, *, expires_at: datetime, now: datetime) -> None:
        """Count a battle that was served again as open until its new end."""
        held = self._battles.get(battle)
        if held is not None:
            held.expires_at = expires_at
            heapq.heappush(self._expiries, (expires_at, battle))
            self._count(held, now)

    def expire(self, now: datetime) -> None:
        """Release the battles of raters who did not come back in time."""
        while self._expiries and self._expiries[0][0] <= now:
            self._count(self._battles[heapq.heappop(self._expiries)[1]], now)

    def num_available(self, done: Collection[Item]) -> int:
        """Return how many prompts and pairs a rater who has met `done` can still get."""
        return max(0, sum(map(len, self.prompts.values())) - len(done))

    def num_distinct(self, done: Collection[Item]) -> int:
        """Return how many of these hold two different answers, at least: those that a rater can be shown."""
        same = sum(item not in done for item in self._same)
        return max(0, self.num_available(done) - same)

    def votes_on(self, item: Item) -> int:
        """Return the number of votes and open battles on a prompt and pair."""
        return self._items[item]

    def draw(self, done: Collection[Item], *, rng: Random) -> BattleDraw | None:
        """Draw a battle for a rater who has met the prompts and pairs in `done`; None if nothing is left.

        With chance 1 - epsilon: a prompt and pair that waits for its further raters, else a pair by its weight and its
        prompt with the fewest votes, of these one that the rater did not meet with another pair: raters and prompts
        cross. With chance epsilon: uniformly among all.
        """
        left = self._left(done)
        if not left:
            return None
        total = sum(left.values())
        waiting = _least_met(sorted(self._pending.difference(done)), done)
        if rng.random() < EPSILON:
            pair = rng.choices(list(left), weights=list(left.values()))[0]
            item = (rng.choice([prompt for prompt in self.prompts[pair] if (prompt, pair) not in done]), pair)
        elif waiting:
            item = rng.choice(waiting)
        else:
            weights = self._pair_weights(left)
            pair = rng.choices(list(weights), weights=list(weights.values()))[0]
            item = (rng.choice(self._least_voted(pair, done)), pair)
        return self._completed(item, EPSILON / total + (1 - EPSILON) * self._chance(item, left, waiting, done), rng)

    def _chance(self, item: Item, left: dict[Pair, int], waiting: list[Item], done: Collection[Item]) -> float:
        """Return the probability of an item among draws that are not uniform."""
        if waiting:
            return (item in waiting) / len(waiting)
        weights = self._pair_weights(left)
        best = self._least_voted(item[1], done)
        return (item[0] in best) / len(best) * weights[item[1]] / sum(weights.values())

    def _completed(self, item: Item, probability: float, rng: Random) -> BattleDraw:
        prompt, pair = item
        if pair[0] == pair[1]:
            answer = rng.choice(self.answers[prompt][pair[0]])
            return BattleDraw(prompt, pair, answer, answer, probability)
        sides = [rng.choice(self.answers[prompt][contestant]) for contestant in pair]
        rng.shuffle(sides)
        return BattleDraw(prompt, pair, sides[0], sides[1], probability)

    def _left(self, done: Collection[Item]) -> dict[Pair, int]:
        met = Counter(pair for _, pair in done)
        return {pair: number for pair, prompts in self.prompts.items() if (number := len(prompts) - met[pair]) > 0}

    def _least_voted(self, pair: Pair, done: Collection[Item]) -> list[str]:
        met = Counter(prompt for prompt, _ in done)
        costs = {
            prompt: (self._items[prompt, pair], met[prompt], self._per_prompt[prompt])
            for prompt in self.prompts[pair]
            if (prompt, pair) not in done
        }
        least = min(costs.values())
        return [prompt for prompt, cost in costs.items() if cost == least]

    def _pair_weights(self, left: dict[Pair, int]) -> dict[Pair, float]:
        if self.config.is_single or self.config.pairing == "uniform":
            return dict.fromkeys(left, 1.0)
        if not self._weights or self._changes > REWEIGH_SHARE * self._counted:
            contestants = {name for pair in self.prompts for name in pair}
            counts = {
                pair: PairCount(t["first"], t["second"], t["half"], t["open"]) for pair, t in self._tallies.items()
            }
            self._weights, self._changes = information_weights(sorted(contestants), counts), 0
        return {pair: self._weights[pair] for pair in left}

    def _count(self, battle: _Battle, now: datetime) -> None:
        """Bring the counts up to date with a battle's state."""
        counts_as = _kind(battle, now)
        if counts_as == battle.counted_as:
            return
        prompt, pair = battle.item
        self._changes += 1
        for kind, step in ((battle.counted_as, -1), (counts_as, 1)):
            if kind is not None:
                self._tallies[pair][kind] += step
                self._items[battle.item] += step
                self._per_prompt[prompt] += step
                self._counted += step
                self.num_votes += step * (kind != "open")
        battle.counted_as = counts_as
        if 0 < self._items[battle.item] < self.config.overlap_raters and self._overlaps(battle.item):
            self._pending.add(battle.item)
        else:
            self._pending.discard(battle.item)

    def _overlaps(self, item: Item) -> bool:
        """Return whether an item is among the share that several raters judge: fixed by the seed in every process."""
        digest = hashlib.sha256(f"{self.config.seed}:{item[0]}:{item[1][0]}:{item[1][1]}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < self.config.overlap_share * 2**32


def _least_met(items: list[Item], done: Collection[Item]) -> list[Item]:
    """Return the items on the prompts that a rater has met least."""
    met = Counter(prompt for prompt, _ in done)
    least = min((met[prompt] for prompt, _ in items), default=0)
    return [item for item in items if met[item[0]] == least]


def _kind(battle: _Battle, now: datetime) -> str | None:
    if battle.label == "A":
        return "first" if battle.a_is_first else "second"
    if battle.label == "B":
        return "second" if battle.a_is_first else "first"
    if battle.label in HALVES:
        return "half"
    if battle.label == "SKIPPED":
        return None
    return "open" if battle.expires_at > now else None
