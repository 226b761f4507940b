"""Verdicts in simulation: `python -m tests.benchmarks.bench_verdicts [false|power|plans|judge] [--repeats 1000]`.

Prompts favour a side by a beta distribution (standard deviation 0.2), a fifth of the votes are ties, and the e-value is
inspected after every vote. `false` prints how often two equal contestants got a winner, by the process in use and by
one that revises a prompt's score; `power` the median number of votes to a verdict; `plans` the power that planned
campaigns reach; `judge` coverage of the share with a judge's help. Raters are taken as they are: `battles.bench_raters`
has those who lean.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np

from backend.domain.battles.inference.evidence import (
    FloatArray,
    IntArray,
    confidence_sequence,
    e_value_path,
    mixture_e_value,
)
from backend.domain.battles.inference.plans import VoteSpread, checked_gap, prompts_for
from backend.domain.battles.inference.prediction_powered import assisted_mean

TIES, DEVIATION = 0.2, 0.2
ORDERS = ("rounds", "prompts", "random")
Campaign = tuple[FloatArray, IntArray]


def favours(rng: np.random.Generator, mean: float, deviation: float, size: int) -> FloatArray:
    """Return chances to favour the first contestant."""
    if not deviation:
        return np.full(size, mean)
    total = mean * (1 - mean) / deviation**2 - 1
    chances: FloatArray = rng.beta(mean * total, (1 - mean) * total, size)
    return chances


def campaign(
    rng: np.random.Generator,
    prompts: int,
    raters: int,
    *,
    order: str = "rounds",
    mean: float = 0.5,
    deviation: float = DEVIATION,
) -> Campaign:
    """Return points and prompts of all votes, in the order in which they arrive."""
    chance = favours(rng, mean, deviation, prompts)[:, None]
    points = (rng.random((prompts, raters)) < chance).astype(np.float64)
    points[rng.random((prompts, raters)) < TIES] = 0.5
    prompt = np.repeat(np.arange(prompts), raters).reshape(prompts, raters)
    if order == "rounds":
        return points.T.ravel(), prompt.T.ravel()
    arrival = rng.permutation(points.size) if order == "random" else np.arange(points.size)
    return points.ravel()[arrival], prompt.ravel()[arrival]


def highest_revised(points: FloatArray, prompt: IntArray) -> float:
    """Return the highest value of the process that revises a prompt's score with every vote (not valid)."""
    size = int(prompt.max()) + 1
    sums, best, won, lost = np.zeros(size), 0.0, 0, 0
    for score, code in zip(points - 0.5, prompt, strict=True):
        before = sums[code]
        sums[code] += score
        won += int(sums[code] > 0) - int(before > 0)
        lost += int(sums[code] < 0) - int(before < 0)
        best = max(best, mixture_e_value(won, lost))
    return best


def false_winners(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    """Compare the rates of false winners, at a nominal 5 %."""
    yield (
        f"{'prompts':>7} {'raters':>6}" + "".join(f"{order:>10}" for order in ORDERS) + f"{'misses':>10}{'revised':>10}"
    )
    for prompts in (8, 30, 100, 200):
        for raters in (1, 2, 5, 10, 20, 50):
            rates = [
                np.mean(
                    [e_value_path(*campaign(rng, prompts, raters, order=order)).max() >= 20 for _ in range(repeats)]
                )
                for order in ORDERS
            ]
            ends = [
                confidence_sequence(*campaign(rng, prompts, raters, mean=0.6), alpha=0.05) for _ in range(repeats // 4)
            ]
            missed = np.mean([not low <= 0.5 + (1 - TIES) * 0.1 <= high for low, high in ends])
            revised = np.mean(
                [highest_revised(*campaign(rng, prompts, raters, deviation=0.0)) >= 20 for _ in range(repeats // 4)]
            )
            yield f"{prompts:>7} {raters:>6}" + "".join(f"{rate:>10.1%}" for rate in (*rates, missed, revised))


def votes_to_verdict(path: FloatArray) -> float:
    """Return the number of votes at which a path first decides."""
    above = np.flatnonzero(path >= 20)
    return float(above[0] + 1) if len(above) else np.inf


def power(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    """Compare the median votes to a verdict of the process in use and of first votes alone."""
    yield f"{'prompts':>7} {'raters':>6} {'share':>6} {'median votes':>13} {'decided':>8}   first votes alone"
    for prompts, raters, mean in (
        (4000, 1, 0.55),
        (1000, 1, 0.6),
        (400, 1, 0.65),
        (400, 3, 0.6),
        (200, 3, 0.65),
        (100, 10, 0.65),
        (50, 20, 0.7),
    ):
        campaigns = [campaign(rng, prompts, raters, mean=mean) for _ in range(repeats // 4)]
        stops = np.array([votes_to_verdict(e_value_path(*one)) for one in campaigns])
        firsts = np.array(
            [votes_to_verdict(e_value_path(points[:prompts], prompt[:prompts])) for points, prompt in campaigns]
        )
        share = 0.5 + (1 - TIES) * (mean - 0.5)
        yield (
            f"{prompts:>7} {raters:>6} {share:>6.3f} {np.median(stops):>13,.0f} {np.isfinite(stops).mean():>8.0%}"
            f"   {np.median(firsts):,.0f} votes, {np.isfinite(firsts).mean():.0%}"
        )


def plans(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    """Measure the power of planned campaigns, 80 % by design."""
    yield f"{'gap':>5} {'raters':>6} {'prompts':>8} {'votes':>8} {'power':>7}"
    for gap in (35.0, 50.0, 100.0, 150.0):
        for raters in (1, 3, 9):
            spread, delta = VoteSpread(vote=0.25 * (1 - TIES)), checked_gap(gap)
            prompts = prompts_for(spread.of_prompt(raters), delta=delta, alpha=0.05, raters=raters)
            deviation = float(np.sqrt(spread.likeness * spread.vote)) / (1 - TIES)
            settled = [
                e_value_path(*campaign(rng, prompts, raters, mean=0.5 + delta / (1 - TIES), deviation=deviation)).max()
                >= 20
                for _ in range(repeats // 4)
            ]
            yield f"{gap:>5g} {raters:>6} {prompts:>8,} {prompts * raters:>8,} {np.mean(settled):>7.0%}"


def judge(rng: np.random.Generator, repeats: int) -> Iterator[str]:
    """Measure coverage and width of the share with a judge's help."""
    yield f"{'voted':>6} {'judged':>7} {'agrees':>7} {'bias':>6} {'coverage':>9} {'width':>7}"
    for voted in (20, 50, 200):
        for agreement, bias in ((0.0, 0.0), (0.5, 0.0), (0.5, 0.3), (0.8, 0.0)):
            held, width = [], []
            for _ in range(repeats):
                votes = (rng.random(voted + 1000) < 0.6).astype(np.float64)
                verdicts = np.where(rng.random(voted + 1000) < agreement, votes, rng.random(voted + 1000) < 0.6 + bias)
                result = assisted_mean(votes[:voted], verdicts[:voted], verdicts[voted:])
                low, high = result.share.low or 0.0, 1.0 if result.share.high is None else result.share.high
                held.append(low <= 0.6 <= high)
                width.append((result.share.stderr or 0.0) / (result.alone.stderr or 1.0))
            yield f"{voted:>6} {1000:>7} {agreement:>7.0%} {bias:>6.1f} {np.mean(held):>9.1%} {np.mean(width):>7.2f}"


SECTIONS: dict[str, Callable[[np.random.Generator, int], Iterator[str]]] = {
    "false": false_winners,
    "power": power,
    "plans": plans,
    "judge": judge,
}


def main() -> None:
    """Print the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=1000)
    options = parser.parse_args()
    for section in options.sections:
        print(section)
        for line in SECTIONS[section](np.random.default_rng(7), options.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
