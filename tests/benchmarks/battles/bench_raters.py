"""Raters with tastes in simulation: `python -m tests.benchmarks.battles.bench_raters
[verdicts|power|camps|plans|flags|intervals|thumbs]`.

Votes are drawn by log-odds: prompts favour a side by a normal deviate (standard deviation 0.8 for verdicts), raters by
another, a fifth are ties. A verdict is inspected after every vote. `verdicts`: false winners between equals by prompts
alone and by prompts and raters; `power`: campaigns decided at a true log-odds of 0.6; `camps`: false winners where
raters lean by a law that is not normal; `plans`: power of as many raters as planned; `flags`: campaigns with an honest
rater flagged, and cheaters found; `intervals`: two-way intervals where raters cast unequal numbers of votes; `thumbs`:
thumbs on canaries that decide. Seeds are fixed; `--repeats` campaigns of each setting (400).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from backend.domain.battles.inference.evidence import (
    CLOSE,
    MAX_STEPS,
    WIDTHS,
    FloatArray,
    IntArray,
    e_value_path,
    evidence_of_counts,
    group_e_value,
    log_rater_e_value,
    log_weights_of_alternatives,
    mixture_e_value,
)
from backend.domain.battles.inference.plans import raters_for
from backend.domain.battles.quality import GOLD_ERROR, NO_GOLD, RatedColumns, rate_raters
from backend.domain.battles.rating_table import RatingOptions
from backend.domain.battles.ratings import rate
from backend.domain.battles.votes import VoteColumns
from backend.domain.serving.canary import Votes, count_paired_votes

DEVIATIONS = (0.0, 0.4, 0.57, 0.8)
PROMPT_DEVIATION, TIES, LIMIT = 0.8, 0.2, math.log(20)
AFTER, TURN, RANDOM = "rater after rater", "in turn", "random order"
OVERLAP, UNEQUAL = "20 % of prompts x 3, rater after rater", "unequal raters (Pareto 1.2), random order"
DESIGNS = (
    (AFTER, 60, 10),
    (RANDOM, 60, 10),
    (OVERLAP, 200, 3),
    (TURN, 60, 10),
    (TURN, 200, 2),
    (TURN, 200, 5),
    (AFTER, 20, 20),
    (RANDOM, 20, 20),
    (UNEQUAL, 200, 5),
    (UNEQUAL, 200, 12),
    (AFTER, 200, 20),
    (RANDOM, 200, 20),
)
"""Orders of arrival, prompts and raters."""
POWERS = ((RANDOM, 200, 4), (RANDOM, 200, 5), (RANDOM, 60, 10), (RANDOM, 60, 20), (RANDOM, 200, 10), (AFTER, 200, 10))
LAWS: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "t, 3 degrees of freedom": lambda rng, size: rng.standard_t(3, size) / math.sqrt(3),
    "uniform": lambda rng, size: rng.uniform(-math.sqrt(3), math.sqrt(3), size),
    "two camps": lambda rng, size: rng.choice([-1.0, 1.0], size),
}


def arrival(rng: np.random.Generator, order: str, prompts: int, raters: int) -> tuple[IntArray, IntArray]:
    """Return prompt and rater of each vote in the order of arrival."""
    rater, prompt = (
        np.repeat(np.arange(raters), prompts),
        np.concatenate([rng.permutation(prompts) for _ in range(raters)]),
    )
    if order == TURN:
        return prompt.reshape(raters, prompts).T.ravel(), rater.reshape(raters, prompts).T.ravel()
    if order == OVERLAP:
        several = rng.random(prompts) < 0.2
        chosen = [rng.permutation(raters)[: 3 if many else 1] for many in several]
        prompt, rater = np.repeat(np.arange(prompts), [len(some) for some in chosen]), np.concatenate(chosen)
        by_rater = np.lexsort((rng.random(len(prompt)), rater))
        return prompt[by_rater], rater[by_rater]
    if order == UNEQUAL:
        sizes = np.minimum(prompts, np.ceil(0.1 * prompts * (1 + rng.pareto(1.2, raters)))).astype(int)
        kept = np.concatenate([np.arange(prompts) < size for size in sizes])
        prompt, rater = prompt[kept], rater[kept]
    if order != AFTER:
        shuffled = rng.permutation(len(prompt))
        prompt, rater = prompt[shuffled], rater[shuffled]
    return prompt, rater


def outcome(
    rng: np.random.Generator, order: str, prompts: int, raters: int, *, gap: float, leanings: FloatArray
) -> tuple[bool, bool]:
    """Simulate a campaign; return whether it was ever decided by prompts alone, and by prompts and raters at once."""
    prompt, rater = arrival(rng, order, prompts, raters)
    odds = gap + PROMPT_DEVIATION * rng.standard_normal(prompts)[prompt] + leanings[rater]
    points = (rng.random(len(prompt)) < 1 / (1 + np.exp(-odds))).astype(np.float64)
    points[rng.random(len(prompt)) < TIES] = 0.5
    by_prompts = np.flatnonzero(e_value_path(points, prompt) >= 20)
    looks = by_prompts[points[by_prompts] != 0.5]  # a tie moves no evidence over raters
    cast = points[:, None] == np.array([1.0, 0.0])
    counts = np.zeros((len(points) + 1, raters, 2), dtype=np.int64)
    counts[np.arange(1, len(points) + 1), rater] = cast
    return len(by_prompts) > 0, raters_ever_decide(np.cumsum(counts, axis=0)[looks + 1])


def raters_ever_decide(counts: IntArray) -> bool:
    """Return whether the evidence over raters reaches 20 at any of the looks: looks x raters x (wins, losses). As
    `log_rater_e_value`, for all looks at once.
    """
    if not len(counts):
        return False
    size = int(counts.max()) + 1
    cells, row = np.unique(counts[..., 0] * size + counts[..., 1], return_inverse=True)
    spread, favoured = likelihoods_of([divmod(cell, size) for cell in cells.tolist()])
    row = row.reshape(counts.shape[:2])
    weights = np.full((len(row), spread.shape[1]), 1 / spread.shape[1])
    favoured_chance = logsumexp(sum(favoured[column] for column in row.T) + log_weights_of_alternatives(), axis=1)
    for _ in range(MAX_STEPS):
        table = spread[row]
        chances = np.maximum(np.einsum("lrw,lw->lr", table, weights), 1e-300)
        gradient = np.einsum("lrw,lr->lw", table, 1 / chances) / row.shape[1]
        ratio = favoured_chance - np.log(chances).sum(1)
        gap = row.shape[1] * np.log(np.maximum(gradient.max(1), 1.0))
        if (ratio - gap >= LIMIT).any():
            return True
        open_ = (ratio >= LIMIT) & (gap >= CLOSE)
        if not open_.any():
            return False
        row, weights, favoured_chance = row[open_], (weights * gradient)[open_], favoured_chance[open_]
    return False


_known: dict[tuple[int, int], tuple[FloatArray, FloatArray]] = {
    (0, 0): (np.ones(len(WIDTHS)), np.zeros(len(log_weights_of_alternatives())))
}
"""Chances of a rater's votes under each uniform spread and, as logs, under each leaning that favours a side."""


def likelihoods_of(raters: list[tuple[int, int]]) -> tuple[FloatArray, FloatArray]:
    """Chances of the votes of raters with these wins and losses, kept for the next campaign."""
    # in the order of wins and losses, which the evidence keeps
    new = [rater for rater in raters if rater not in _known]
    if new:
        evidence = evidence_of_counts(*np.array(new).T)
        _known.update(zip(new, zip(evidence.even, evidence.favoured, strict=True), strict=True))
    spread, favoured = zip(*(_known[rater] for rater in raters), strict=True)
    return np.array(spread), np.array(favoured)


def grid(repeats: int, *, gap: float) -> Iterator[str]:
    """Rates of decided campaigns by order, size and leaning."""
    yield f"| order | prompts x raters |{''.join(f' sd {deviation:g} |' for deviation in DEVIATIONS)}"
    yield f"|---|---|{'---|' * len(DEVIATIONS)}"
    for order, prompts, raters in POWERS if gap else DESIGNS:
        cells = []
        for deviation in DEVIATIONS:
            rng = np.random.default_rng([prompts, raters, int(100 * deviation)])
            leanings = (deviation * rng.standard_normal(raters) for _ in range(repeats))
            rates = np.mean([outcome(rng, order, prompts, raters, gap=gap, leanings=one) for one in leanings], axis=0)
            cells.append(f" {rates[0]:.1%} / {rates[1]:.1%} |".replace("%", " %"))
        yield f"| {order} | {prompts} x {raters} |{''.join(cells)}"


def verdicts(repeats: int) -> Iterator[str]:
    """Measure false winners between equals: by prompts alone / by prompts and raters."""
    yield from grid(repeats, gap=0.0)


def power(repeats: int) -> Iterator[str]:
    """Measure how often a true log-odds of 0.6 is found: by prompts alone / by prompts and raters."""
    yield from grid(repeats, gap=0.6)


def camps(repeats: int) -> Iterator[str]:
    """Measure false winners of raters who lean by other laws, standard deviation 0.8, in random order."""
    yield "| leanings | 200 x 3 | 200 x 5 | 60 x 10 |\n|---|---|---|---|"
    for law, draw in LAWS.items():
        cells = []
        for prompts, raters in ((200, 3), (200, 5), (60, 10)):
            rng = np.random.default_rng([prompts, raters, len(law)])
            rates = [
                outcome(rng, RANDOM, prompts, raters, gap=0.0, leanings=0.8 * draw(rng, raters))[1]
                for _ in range(repeats)
            ]
            cells.append(f" {np.mean(rates):.1%} |".replace("%", " %"))
        yield f"| {law} |{''.join(cells)}"


def plans(repeats: int) -> Iterator[str]:
    """Measure the power of as many raters as planned, for the evidence over raters alone."""
    yield "| gap, Elo | leaning | votes of a rater | raters | power |\n|---|---|---|---|---|"
    for gap, leaning, votes in (
        (35, 0.0, 60),
        (35, 0.2, 60),
        (100, 0.0, 60),
        (100, 0.4, 60),
        (100, 0.4, 200),
        (200, 0.4, 60),
        (200, 0.0, 20),
    ):
        rng = np.random.default_rng([gap, votes])
        raters = raters_for(leaning, gap_elo=gap, alpha=0.05, votes_per_rater=votes)
        settled = []
        for _ in range(repeats // 4):
            odds = gap * math.log(10) / 400 + leaning * rng.standard_normal(raters)
            won = rng.binomial(votes, 1 / (1 + np.exp(-odds)))
            settled.append(log_rater_e_value(evidence_of_counts(won, votes - won)) >= LIMIT)
        yield f"| {gap} | {leaning:g} | {votes} | {raters} | {np.mean(settled):.0%} |".replace("%", " %")


NUM_GOLD = 4


def rated(rng: np.random.Generator, raters: int, each: int, size: int, taste: float, cheat: str) -> RatedColumns:
    """Votes of honest raters with tastes on 200 prompts; the first one cheats. Of each rater's votes four are on gold
    battles, and an honest one misses 1 in 100 of them.
    """
    strength, tastes = 0.5 * rng.standard_normal(size), taste * rng.standard_normal((raters, size))
    of_prompt, number = 0.6 * rng.standard_normal((200, size)), raters * each
    battles = np.array([(prompt, a, b) for prompt in range(200) for a in range(size) for b in range(size) if a < b])
    prompt, a, b = battles[np.concatenate([rng.choice(len(battles), each, replace=False) for _ in range(raters)])].T
    swap, rater = rng.random(number) < 0.5, np.repeat(np.arange(raters), each)
    a, b = np.where(swap, b, a), np.where(swap, a, b)
    odds = strength[a] - strength[b] + tastes[rater, a] - tastes[rater, b] + of_prompt[prompt, a] - of_prompt[prompt, b]
    label = np.where(rng.random(number) < TIES, 2, np.where(rng.random(number) < 1 / (1 + np.exp(-odds)), 0, 1))
    gold = np.where(np.arange(number) % each < NUM_GOLD, rng.integers(0, 2, number), NO_GOLD)
    is_gold, missed = gold != NO_GOLD, rng.random(number) < GOLD_ERROR
    label = np.where(is_gold, np.where(missed, 1 - gold, gold), label)
    first = rater == 0
    if cheat == "always left":
        label[first] = 0
    elif cheat == "at random":
        label[first] = np.where(rng.random(each) < TIES, 2, rng.integers(0, 2, each))
    elif cheat == "for one contestant":
        label[first & (a == 0)], label[first & (b == 0)] = 0, 1
    elif cheat == "against the others":
        label[first & (label < 2)] = 1 - label[first & (label < 2)]
    order = rng.permutation(number)
    names = (
        tuple(f"c{code}" for code in range(size)),
        tuple(map(str, range(200))),
        tuple(f"r{code}" for code in range(raters)),
    )
    columns = VoteColumns(*names, a[order], b[order], label[order], prompt[order], rater[order])
    unknown = np.full(number, np.nan)
    return RatedColumns(columns, unknown, unknown, gold[order], np.zeros(number, dtype=bool))


def flags(repeats: int) -> Iterator[str]:
    """Measure campaigns with an honest rater flagged, and how often a cheater is found among raters with a taste of
    0.3.
    """
    yield "| raters x votes, contestants | raters | flagged |\n|---|---|---|"
    for raters, each, size in ((3, 16, 2), (5, 40, 3), (5, 150, 2), (10, 100, 4), (10, 300, 4)):
        for taste in (0.8, 0.5, 0.0):
            rng = np.random.default_rng([raters, each, int(10 * taste)])
            flagged = [
                any(row.flags for row in rate_raters(rated(rng, raters, each, size, taste, ""))) for _ in range(repeats)
            ]
            yield (
                f"| {raters} x {each}, {size} | all honest, taste {taste:g}: one or more | {np.mean(flagged):.1%} |".replace(  # noqa: E501
                    "%", " %"
                )
            )
        for cheat in ("always left", "at random", "for one contestant", "against the others"):
            rng = np.random.default_rng([raters, each, len(cheat)])
            rows = [rate_raters(rated(rng, raters, each, size, 0.3, cheat)) for _ in range(max(1, repeats // 10))]
            found = [any(row.rater == "r0" and row.flags for row in campaign) for campaign in rows]
            yield (
                f"| {raters} x {each}, {size} | one votes {cheat}, taste 0.3: this one | {np.mean(found):.0%} |".replace(  # noqa: E501
                    "%", " %"
                )
            )


def intervals(repeats: int) -> Iterator[str]:
    """Measure coverage of 95 % two-way intervals of two contestants; each vote's rater is drawn by shares of Pareto's
    law (shape 1.2).
    """
    yield (
        "| prompts x raters, votes | prompts 0.6, raters 0 | 0.6, 0.4 | 0.6, 0.8 | half-width at 0.4, Elo"
        " |\n|---|---|---|---|---|"
    )
    for prompts, raters, each in ((200, 3, 5), (200, 5, 1), (200, 5, 5), (200, 10, 5), (60, 5, 5)):
        cells, widths = [], list[float]()
        for leaning in (0.0, 0.4, 0.8):
            rng, held = np.random.default_rng([prompts, raters, each]), list[bool]()
            while len(held) < repeats:
                shares = rng.pareto(1.2, raters)
                prompt = np.repeat(np.arange(prompts), each)
                voted, rater = np.unique(rng.choice(raters, len(prompt), p=shares / shares.sum()), return_inverse=True)
                if len(voted) < 2:
                    continue  # of one rater the table says that nothing follows for others
                odds = 0.6 * rng.standard_normal(prompts)[prompt] + leaning * rng.standard_normal(raters)[rater]
                label = np.where(
                    rng.random(len(prompt)) < TIES, 2, np.where(rng.random(len(prompt)) < 1 / (1 + np.exp(-odds)), 0, 1)
                )
                names = ("a", "b"), tuple(map(str, range(prompts))), tuple(map(str, voted))
                votes = VoteColumns(*names, 0 * label, 0 * label + 1, label, prompt, rater)
                pair = rate(votes, RatingOptions(num_draws=10)).pair("a", "b")
                held.append(pair.low <= 0 <= pair.high)
                widths += [(pair.high - pair.low) / 2] if leaning == 0.4 else []
            cells.append(f" {np.mean(held):.1%} |".replace("%", " %"))
        yield f"| {prompts} x {raters}, {prompts * each:,} |{''.join(cells)} {np.median(widths):.0f} |"


THUMBS = (
    ("chance", 10, 200),
    ("voter after voter", 10, 200),
    ("chance", 40, 800),
    ("unequal voters (Pareto 1.2)", 40, 800),
    ("10 % at the canary", 200, 2000),
    ("chance", 200, 2000),
)
LOOKS = 10
"""Thumbs between two looks."""


def thumbs_of(
    rng: np.random.Generator, order: str, voters: int, thumbs: int, *, deviation: float, effect: float
) -> tuple[IntArray, NDArray[np.bool_], FloatArray]:
    """Draw voters, whether a thumb is on the canary's answer, and thumbs: 80 % are up, by a log-odds of each voter.

    A voter stays on one side, as a gateway keeps a user on one.
    """
    shares = rng.pareto(1.2, voters) + 1 if order.startswith("unequal") else np.ones(voters)
    voter = rng.choice(voters, thumbs, p=shares / shares.sum())
    voter = np.sort(voter) if order == "voter after voter" else voter
    canary = (rng.random(voters) < (0.1 if order.startswith("10 %") else 0.5))[voter]
    odds = math.log(4) + deviation * rng.standard_normal(voters)[voter] + effect * canary
    return voter, canary, (rng.random(thumbs) < 1 / (1 + np.exp(-odds))).astype(np.float64)


def decides(voter: IntArray, canary: NDArray[np.bool_], thumb: FloatArray) -> tuple[bool, bool]:
    """Return whether thumbs ever decide by pairs of arrivals alone, and by pairs and voters."""
    alone = both = False
    for end in range(LOOKS, len(thumb) + 1, LOOKS):
        mine, stable = thumb[:end][canary[:end]] > 0, thumb[:end][~canary[:end]] > 0
        wins, losses = count_paired_votes(mine.tolist(), stable.tolist())
        by_pairs = mixture_e_value(wins, losses)
        alone = alone or by_pairs >= 20
        if by_pairs >= 20:
            by_voters, side = group_e_value(thumb[:end], voter[:end], canary[:end])
            votes = Votes(wins=wins, losses=losses, e_value=by_pairs, voter_e_value=by_voters, voter_side=side)
            both = votes.decision(0.05) != "undecided"
        if both:
            break
    return alone, both


def thumbs(repeats: int) -> Iterator[str]:
    """Measure how often thumbs on a canary decide, by pairs of arrivals alone / by pairs and voters: equal revisions,
    then a canary whose log-odds of a thumb up is 1 lower (two in ten thumbs down become four in ten).
    """
    yield "| voters, thumbs, order | sd 0 | sd 0.4 | sd 0.8 | sd 1.5 | worse by 1, sd 0 | worse by 1, sd 0.8 |"
    yield "|---|---|---|---|---|---|---|"
    for order, voters, number in THUMBS:
        cells = []
        for effect, deviation in ((0.0, 0.0), (0.0, 0.4), (0.0, 0.8), (0.0, 1.5), (-1.0, 0.0), (-1.0, 0.8)):
            rng = np.random.default_rng([voters, number, int(10 * deviation), int(-effect), len(order)])
            drawn = (thumbs_of(rng, order, voters, number, deviation=deviation, effect=effect) for _ in range(repeats))
            alone, both = np.mean([decides(*one) for one in drawn], axis=0)
            cells.append(f" {alone:.1%} / {both:.1%} |".replace("%", " %"))
        yield f"| {voters}, {number:,}, {order} |{''.join(cells)}"


SECTIONS: dict[str, Callable[[int], Iterator[str]]] = {
    "verdicts": verdicts,
    "power": power,
    "camps": camps,
    "plans": plans,
    "flags": flags,
    "intervals": intervals,
    "thumbs": thumbs,
}


def main() -> None:
    """Print the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("--repeats", type=int, default=400)
    options = parser.parse_args()
    for section in options.sections:
        print(f"\n{section}\n")
        for line in SECTIONS[section](options.repeats):
            print(line, flush=True)


if __name__ == "__main__":
    main()
