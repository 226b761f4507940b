"""Choose what a rater is served next: a gold pair, a repeated battle, or a new one. Equal answers are tied without being shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from backend.domain.battles.pairing import Pair
from backend.services.battles.assignment.ledgers import LedgerRow, RaterLedger, pair_of_key
from backend.services.battles.assignment.pools import CampaignPool, Gold

MAX_IDENTICAL = 50
"""Ties of identical answers recorded in one request; the next request continues."""


@dataclass(frozen=True)
class PlannedBattle:
    """A battle to store: completions `a` and `b` on their sides, and the probability of this prompt and pair."""

    purpose: str
    prompt_id: str
    pair: Pair
    a: str
    b: str
    probability: float
    repeat_of_id: str | None = None


def plan_battles(held: CampaignPool, ledger: RaterLedger, *, num: int, rng: Random) -> list[PlannedBattle]:
    """Return up to `num` battles to show, and the identical ones met on the way, within the rater's quota."""
    plans: list[PlannedBattle] = []
    num = min(num, held.config.votes_per_rater - len(ledger.cast) - len(ledger.open))
    done = set(ledger.done)
    num_identical = num_shown = 0
    while num_shown < num and num_identical < MAX_IDENTICAL:
        gold = _unmet_gold(held, ledger, plans)
        special = _special(held, ledger, plans, gold, rng)
        if special is not None:
            plans.append(special)
            num_shown += 1
            continue
        draw = held.pool.draw(done, rng=rng)
        if draw is None and gold:
            plans.append(_gold(rng.choice(gold), 1 / len(gold), rng))
            num_shown += 1
            continue
        if draw is None:
            break
        done.add((draw.prompt, draw.pair))
        purpose = "identical" if draw.is_identical else "single" if held.config.is_single else "vote"
        plans.append(PlannedBattle(purpose, draw.prompt, draw.pair, draw.a.completion, draw.b.completion, draw.probability))
        num_identical += draw.is_identical
        num_shown += not draw.is_identical
    return plans


def _unmet_gold(held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle]) -> list[Gold]:
    if held.config.is_single or not held.gold:
        return []
    met = {row.prompt_id for row in ledger.rows} | {plan.prompt_id for plan in plans}
    return [pair for prompt, pair in sorted(held.gold.items()) if prompt not in met]


def _special(
    held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle], gold: Sequence[Gold], rng: Random
) -> PlannedBattle | None:
    """Draw a gold pair or a repetition with the campaign's shares; None otherwise."""
    if held.config.is_single:
        return None
    if gold and rng.random() < held.config.gold_share:
        return _gold(rng.choice(gold), held.config.gold_share / len(gold), rng)
    planned = {plan.repeat_of_id for plan in plans}
    rows = [row for row in ledger.repeatable() if row.battle_id not in planned]
    if rows and rng.random() < held.config.repeat_share:
        return _repeated(rng.choice(rows), held.config.repeat_share / len(rows))
    return None


def _gold(gold: Gold, probability: float, rng: Random) -> PlannedBattle:
    sides = [gold.better, gold.worse]
    rng.shuffle(sides)
    return PlannedBattle("gold", gold.prompt_id, gold.pair, sides[0], sides[1], probability)


def _repeated(row: LedgerRow, probability: float) -> PlannedBattle:
    return PlannedBattle(
        "repeat", row.prompt_id, pair_of_key(row.pair), row.completion_b_id, row.completion_a_id, probability, repeat_of_id=row.battle_id
    )
