"""Whether two configs differ by more than their seeds do. Pure statistics on the last val_loss of runs that differ in nothing but the seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean, stdev

import scipy

LEVEL = 0.95
ENOUGH = 3
"""Two seeds give an interval, but its width is itself a matter of luck: its standard deviation has one degree of freedom."""


@dataclass(frozen=True)
class SeedGroup:
    """The losses of runs of one config, one a seed."""

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
    """`difference` is the second mean less the first, with its interval at 95 % and the two-sided p-value; None where seeds are too few."""

    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    seeds: tuple[int, int]

    @property
    def is_beyond_noise(self) -> bool | None:
        """Whether the interval leaves zero out; None where there is none."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0

    def in_words(self) -> str:
        """Say what may be concluded, and from how many seeds."""
        size = f"{abs(self.difference):.4f}"
        if self.low is None or self.high is None:
            return f"The difference of {size} may be the seed alone: it rests on {self.seeds[0]} and {self.seeds[1]} seeds, and one seed says nothing about noise."
        interval = f"95 % interval {self.low:+.4f} to {self.high:+.4f}, p = {self.p_value:.2g}, {self.seeds[0]} and {self.seeds[1]} seeds"
        few = " Three or more seeds each would make it firmer." if min(self.seeds) < ENOUGH else ""
        if self.is_beyond_noise:
            return f"The difference of {size} is more than seeds explain ({interval}).{few}"
        return f"The difference of {size} is within seed noise ({interval}).{few}"


def compare_seeds(first: SeedGroup, second: SeedGroup, *, level: float = LEVEL) -> SeedComparison:
    """Compare two groups by Welch's t-test, which lets their noise differ (Welch 1947, Biometrika 34, 28-35).

    Groups of one have no interval, nor have groups without any noise whose means are equal.
    """
    seeds, difference = (len(first.losses), len(second.losses)), second.mean - first.mean
    if min(seeds) < 2:
        return SeedComparison(difference, None, None, None, seeds)
    parts = [(group.sd or 0.0) ** 2 / len(group.losses) for group in (first, second)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return SeedComparison(difference, difference, difference, 0.0 if difference else 1.0, seeds)
    df = sum(parts) ** 2 / sum(part**2 / (n - 1) for part, n in zip(parts, seeds, strict=True))
    reach = float(scipy.stats.t.ppf(0.5 + level / 2, df)) * error
    return SeedComparison(
        difference, difference - reach, difference + reach, float(2 * scipy.stats.t.sf(abs(difference) / error, df)), seeds
    )


def seeds_needed(first: SeedGroup, second: SeedGroup, *, most: int = 50) -> int | None:
    """Return how many seeds each would show a difference as large as this one, by a noise as large as this; None for more than `most`."""
    sds = [group.sd for group in (first, second) if group.sd is not None]
    if not sds or first.mean == second.mean:
        return None
    noise, difference = max(sds), abs(first.mean - second.mean)
    for n in range(2, most + 1):
        power = (
            float(scipy.stats.nct.sf(scipy.stats.t.ppf(0.975, 2 * n - 2), 2 * n - 2, difference / (noise * math.sqrt(2 / n))))
            if noise
            else 1.0
        )
        if power >= 0.8:
            return n
    return None
