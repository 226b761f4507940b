"""Comparisons of runs: whether their val_loss can be compared (same objective, loss settings, validation data and
tokenizer), and whether two configs differ by more than seed noise, from last losses of runs that differ in the seed.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from statistics import mean, stdev
from typing import NamedTuple

import scipy

from backend.domain.statistics.quantiles import LEVEL
from backend.domain.wording import list_first


class Aspect(StrEnum):
    """A property in which runs must agree for their val_loss to be comparable."""

    OBJECTIVE = "objective"
    LOSS = "loss"
    DATA = "data"
    TOKENIZER = "tokenizer"


TITLES: dict[Aspect, str] = {
    Aspect.OBJECTIVE: "Different objectives",
    Aspect.LOSS: "Different loss settings",
    Aspect.DATA: "Different validation data",
    Aspect.TOKENIZER: "Different tokenizers",
}
WHY: dict[Aspect, str] = {
    Aspect.LOSS: "They weight the same answers differently.",
    Aspect.TOKENIZER: "val_loss is per token, and a token of one holds more text than a token of the other.",
}


class Side(NamedTuple):
    """A dataset version, tokenizer, ... of a run: `id` says which are the same (None: unknown), `name` is shown."""

    id: str | None
    name: str


@dataclass(frozen=True)
class LossBasis:
    """The objective, loss, data and tokenizer that a val_loss is measured with."""

    objective: Side
    loss: Side
    data: Side
    tokenizer: Side

    @property
    def key(self) -> tuple[str | None, ...]:
        """Return a key that is equal for runs whose val_loss is comparable."""
        return tuple(self.side(aspect).id for aspect in Aspect)

    def side(self, aspect: Aspect) -> Side:
        """Return one of its sides."""
        sides: dict[Aspect, Side] = {
            Aspect.OBJECTIVE: self.objective,
            Aspect.LOSS: self.loss,
            Aspect.DATA: self.data,
            Aspect.TOKENIZER: self.tokenizer,
        }
        return sides[aspect]


@dataclass(frozen=True)
class Obstacle:
    """A reason why val_loss is not comparable: `sides` are (name, the runs that have it)."""

    aspect: Aspect
    sides: tuple[tuple[str, tuple[str, ...]], ...]

    def sentence(self) -> str:
        """Return the reason, with the names of at most four runs a side."""
        sides = ", ".join(f"{name} ({list_first(runs, 4)})" for name, runs in self.sides)
        return f"{TITLES[self.aspect]}: {sides}. {WHY.get(self.aspect, '')}".rstrip()


def find_obstacles(bases: Mapping[str, LossBasis]) -> tuple[Obstacle, ...]:
    """Return the reasons why the val_loss of runs is not comparable; empty if it is. An unknown value differs from
    every other value, unknown ones included.
    """
    obstacles = []
    for aspect in Aspect:
        sides: dict[str | None, tuple[str, list[str]]] = {}
        for run, basis in bases.items():
            side = basis.side(aspect)
            sides.setdefault(side.id, (side.name, []))[1].append(run)
        if len(sides) > 1 or len(sides.get(None, ("", []))[1]) > 1:
            obstacles.append(Obstacle(aspect, tuple((name, tuple(runs)) for name, runs in sides.values())))
    return tuple(obstacles)


MIN_SEEDS = 3
"""Seeds for a reliable interval: with two, the standard deviation has one degree of freedom."""


@dataclass(frozen=True)
class SeedGroup:
    """Losses of one config's runs, one per seed."""

    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return mean(self.losses)

    @property
    def sd(self) -> float | None:
        """Their standard deviation (n - 1); None of a single one."""
        return stdev(self.losses) if len(self.losses) > 1 else None


@dataclass(frozen=True)
class SeedComparison:
    """Difference of means, second minus first, with its 95 % interval and two-sided p-value.

    Interval and p-value are None with fewer than two seeds, or where each config's seeds all gave the same loss: that
    is no certainty.
    """

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    seeds: tuple[int, int]

    @property
    def is_beyond_noise(self) -> bool | None:
        """Return whether the interval excludes zero; None without an interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def conclusion(self, metric: str = "last validation loss") -> str:
        """Return the conclusion about a metric with the number of seeds."""
        size = f"a difference in {metric} of {abs(self.difference):.4f}"
        if (self.low is None or self.high is None) and min(self.seeds) > 1:
            equal = "the seeds of each config gave equal losses, which is not an estimate of noise"
            return f"{size}, undecided: {equal}. Check that the seed has an effect."
        if self.low is None or self.high is None:
            return (
                f"{size}, which may be seed noise: with {self.seeds[0]} and {self.seeds[1]} seeds there is no estimate"
                " of noise."
            )
        interval = (
            f"95 % interval {self.low:+.4f} to {self.high:+.4f}, p = {self.p_value:.2g}, {self.seeds[0]} and"
            f" {self.seeds[1]} seeds"
        )
        few = " Three or more seeds each would narrow the interval." if min(self.seeds) < MIN_SEEDS else ""
        verdict = "more than seed noise" if self.is_beyond_noise else "within seed noise"
        return f"{size}, {verdict} ({interval}).{few}"


def compare_seeds(first: SeedGroup, second: SeedGroup) -> SeedComparison:
    """Compare two groups by Welch's t-test, which lets their noise differ (Welch 1947, Biometrika 34, 28-35).

    Groups of one have no interval, nor have two groups without any variance.
    """
    seeds, difference = (len(first.losses), len(second.losses)), second.mean - first.mean
    if min(seeds) < 2:
        return SeedComparison(difference, None, None, None, seeds)
    parts = [(group.sd or 0.0) ** 2 / len(group.losses) for group in (first, second)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return SeedComparison(difference, None, None, None, seeds)
    df = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, seeds, strict=True))
    reach = float(scipy.special.stdtrit(df, 0.5 + LEVEL / 2)) * error
    return SeedComparison(
        difference,
        difference - reach,
        difference + reach,
        float(2 * scipy.special.stdtr(df, -abs(difference) / error)),
        seeds,
    )


def seeds_needed(first: SeedGroup, second: SeedGroup) -> int | None:
    """Return the number of seeds each that would show a difference of this size at this noise; None above 50."""
    sds = [group.sd for group in (first, second) if group.sd is not None]
    noise, difference = max(sds, default=0.0), abs(first.mean - second.mean)
    if not noise or not difference:
        return None
    for n in range(2, 51):
        df, distance = 2 * n - 2, difference / (noise * math.sqrt(2 / n))
        if scipy.special.nctdtr(df, distance, scipy.special.stdtrit(df, 0.975)) <= 0.2:  # a power of 80 %
            return n
    return None
