"""Choose what a rater is served next: a gold pair, a repeated battle, or a new one. Equal answers are tied unshown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from backend.domain.battles.pairing import Pair
from backend.services.battles.assignment.ledgers import REPEAT_AFTER, LedgerRow, RaterLedger, pair_of_key
from backend.services.battles.assignment.pools import CampaignPool, Gold
from backend.services.battles.views import SKIPPED

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
        if draw is None:
            last = _last(held, ledger, plans, gold, rng)
            if last is None:
                break
            plans.append(last)
            num_shown += 1
            continue
        done.add((draw.prompt, draw.pair))
        purpose = "identical" if draw.is_identical else "single" if held.config.is_single else "vote"
        plans.append(
            PlannedBattle(purpose, draw.prompt, draw.pair, draw.a.completion, draw.b.completion, draw.probability)
        )
        num_identical += draw.is_identical
        num_shown += not draw.is_identical
    return plans


def num_left(held: CampaignPool, ledger: RaterLedger, *, unwritten: int = 0) -> int:
    """Return how many battles a rater will get besides those served, at most: new ones, gold pairs and repeats.

    `unwritten`: prompts and pairs whose answers are still being generated.
    """
    new = held.pool.num_distinct(ledger.done) + unwritten + len(_unmet_gold(held, ledger, (), unwritten=unwritten))
    return new + _repeats_left(held, ledger, new=new)


def _repeats_left(held: CampaignPool, ledger: RaterLedger, *, new: int) -> int:
    """Return how many repeats a rater still gets with `new` to come: the campaign's share of the whole ballot."""
    share, quota = held.config.repeat_share, held.config.votes_per_rater
    if not share or held.config.is_single:
        return 0
    repeats = sum(row.purpose == "repeat" for row in ledger.rows)
    others = len(ledger.shown) - repeats + new
    is_over = not new and not ledger.open and not ledger.repeatable()  # the last ones were skipped
    if others <= REPEAT_AFTER or is_over:
        return 0
    possible = sum(row.purpose == "vote" and row.label != SKIPPED for row in ledger.rows) + new - repeats
    return max(0, min(round(share * min(quota, others / (1 - share))) - repeats, possible))


def _last(
    held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle], gold: Sequence[Gold], rng: Random
) -> PlannedBattle | None:
    """Draw a gold pair or a repetition that chance has left over, once there is nothing new."""
    if gold:
        return _gold(rng.choice(gold), 1 / len(gold), rng)
    rows = _repeatable(held, ledger, plans)
    return _repeated(rng.choice(rows), 1 / len(rows)) if rows else None


def _repeatable(held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle]) -> list[LedgerRow]:
    """Return the battles that may be repeated now; none once the ballot has its share of repeats."""
    planned = {plan.repeat_of_id for plan in plans} - {None}
    done = {*ledger.done, *((plan.prompt_id, plan.pair) for plan in plans if plan.repeat_of_id is None)}
    if _repeats_left(held, ledger, new=held.pool.num_distinct(done)) <= len(planned):
        return []
    return [row for row in ledger.repeatable() if row.battle_id not in planned]


def _unmet_gold(
    held: CampaignPool, ledger: RaterLedger, plans: Sequence[PlannedBattle], *, unwritten: int = 0
) -> list[Gold]:
    """Return the gold pairs that a rater has yet to meet; none in a campaign without other battles, where a rater would
    know them for gold.
    """
    if held.config.is_single or not (unwritten or held.pool.num_distinct(())):
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
    rows = _repeatable(held, ledger, plans) if held.config.repeat_share else []
    if rows and rng.random() < held.config.repeat_share:
        return _repeated(rng.choice(rows), held.config.repeat_share / len(rows))
    return None


def _gold(gold: Gold, probability: float, rng: Random) -> PlannedBattle:
    sides = [gold.better, gold.worse]
    rng.shuffle(sides)
    return PlannedBattle("gold", gold.prompt_id, gold.pair, sides[0], sides[1], probability)


def _repeated(row: LedgerRow, probability: float) -> PlannedBattle:
    return PlannedBattle(
        "repeat",
        row.prompt_id,
        pair_of_key(row.pair),
        row.completion_b_id,
        row.completion_a_id,
        probability,
        repeat_of_id=row.battle_id,
    )
