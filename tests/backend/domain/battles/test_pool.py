"""The battles that a campaign can serve: counts, draws, and their probabilities."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest

from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.pool import EPSILON, BattlePool, Item, PooledAnswer

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=12)


def make_pool(prompts: int = 4, contestants: str = "abc", **config: Any) -> BattlePool:
    pool = BattlePool(CampaignConfig(**{"overlap_share": 0.0, **config}))
    for number in range(prompts):
        for name in contestants:
            pool.add_answer(f"p{number}", name, PooledAnswer(f"{name}{number}", f"{name}{number}"))
    return pool


def serve(pool: BattlePool, battle: str, item: Item, label: str | None = None) -> None:
    pool.add_battle(battle, item, a=item[1][0], expires_at=LATER, now=NOW)
    if label is not None:
        pool.add_vote(battle, label=label, revision=1, now=NOW)


@pytest.mark.parametrize("pairing", ["information", "uniform"])
@pytest.mark.parametrize("overlap", [0.0, 1.0], ids=["without overlap", "with overlap"])
def test_logged_probabilities_match_the_frequencies_of_the_draws(pairing: str, overlap: float) -> None:
    pool = make_pool(prompts=2, pairing=pairing, overlap_share=overlap)
    serve(pool, "x", ("p0", ("a", "b")), "A")
    serve(pool, "y", ("p1", ("b", "c")))
    serve(pool, "z", ("p0", ("b", "c")))
    rng, logged, drawn = Random(7), {}, Counter[Item]()
    for _ in range(6000):
        draw = pool.draw({("p1", ("a", "c"))}, rng=rng)
        assert draw is not None
        logged[draw.prompt, draw.pair] = draw.probability
        drawn[draw.prompt, draw.pair] += 1
    assert len(logged) == 5
    assert sum(logged.values()) == pytest.approx(1.0)
    for item, probability in logged.items():
        assert abs(drawn[item] / 6000 - probability) < 0.02


def test_within_a_pair_the_prompt_with_the_fewest_votes_comes_next() -> None:
    pool = make_pool(prompts=3, contestants="ab")
    for number, prompt in enumerate(("p0", "p0", "p2")):
        serve(pool, f"x{number}", (prompt, ("a", "b")), "A")
    draws = [pool.draw((), rng=Random(seed)) for seed in range(300)]
    assert Counter(draw.prompt for draw in draws if draw)["p1"] > 250


def test_a_battle_that_waits_for_further_raters_goes_to_the_next_rater_first() -> None:
    pool = make_pool(prompts=40, contestants="ab", overlap_share=1.0, overlap_raters=3)
    item = ("p7", ("a", "b"))
    serve(pool, "one", item, "A")
    draws = Counter(draw.prompt for seed in range(300) if (draw := pool.draw((), rng=Random(seed))))
    assert draws["p7"] > 300 * (1 - EPSILON) * 0.95
    serve(pool, "two", item)
    serve(pool, "three", item)
    draws = Counter(draw.prompt for seed in range(300) if (draw := pool.draw((), rng=Random(seed))))
    assert draws["p7"] < 20


def test_raters_and_prompts_cross() -> None:
    prompts_of_rater = []
    for seed in range(8):
        pool, rng = make_pool(prompts=20), Random(seed)
        for rater in range(6):  # one after the other, so that every prompt has votes before the last ones come
            done: list[Item] = []
            for number in range(15):
                draw = pool.draw(done, rng=rng)
                assert draw is not None
                done.append((draw.prompt, draw.pair))
                serve(pool, f"{rater}-{number}", done[-1], "A")
            prompts_of_rater.append(len({prompt for prompt, _ in done}))
    assert sum(prompts_of_rater) / len(prompts_of_rater) > 13.9  # of 15; the draws that are uniform meet a prompt again


def test_the_share_that_several_raters_judge_is_the_configured_one() -> None:
    pool = make_pool(prompts=2000, contestants="ab", overlap_share=0.3)
    assert 0.26 < sum(pool._overlaps((f"p{n}", ("a", "b"))) for n in range(2000)) / 2000 < 0.34


def test_a_rater_who_does_not_come_back_blocks_nothing() -> None:
    pool = make_pool(prompts=1, contestants="ab")
    item = ("p0", ("a", "b"))
    serve(pool, "left", item)
    assert pool.votes_on(item) == 1
    pool.expire(LATER)
    assert pool.votes_on(item) == 0
    pool.renew("left", expires_at=LATER + timedelta(hours=1), now=LATER)
    assert pool.votes_on(item) == 1


def test_an_undone_vote_is_open_again_and_a_skipped_one_counts_for_nothing() -> None:
    pool = make_pool(prompts=1, contestants="ab")
    item = ("p0", ("a", "b"))
    serve(pool, "x", item, "A")
    assert pool.num_votes == 1
    pool.add_vote("x", label="UNDONE", revision=2, now=NOW)
    assert (pool.num_votes, pool.votes_on(item)) == (0, 1)
    pool.add_vote("x", label="SKIPPED", revision=3, now=NOW)
    assert (pool.num_votes, pool.votes_on(item)) == (0, 0)
    pool.add_vote("x", label="A", revision=1, now=NOW)  # read again, late
    assert pool.num_votes == 0


def test_equal_answers_are_drawn_as_often_as_others_and_not_counted_as_shown() -> None:
    pool = BattlePool(CampaignConfig(overlap_share=0.0))
    for number in range(10):
        for name in "ab":
            pool.add_answer(f"p{number}", name, PooledAnswer(f"{name}{number}", "same" if number < 8 else name))
    draws = [pool.draw((), rng=Random(seed)) for seed in range(500)]
    assert 0.75 < sum(draw.is_identical for draw in draws if draw) / 500 < 0.85
    assert (pool.num_available(()), pool.num_distinct(())) == (10, 2)


def test_several_answers_of_a_contestant_are_drawn_alike() -> None:
    pool = make_pool(prompts=1, contestants="ab")
    pool.add_answer("p0", "a", PooledAnswer("a again", "a again"))
    shown = Counter(
        answer.completion
        for seed in range(400)
        if (draw := pool.draw((), rng=Random(seed)))
        for answer in (draw.a, draw.b)
    )
    assert shown["b0"] == 400
    assert 150 < shown["a again"] < 250


def test_each_side_is_shown_left_half_of_the_time() -> None:
    pool = make_pool(prompts=1, contestants="ab")
    left = Counter(draw.a.completion for seed in range(400) if (draw := pool.draw((), rng=Random(seed))))
    assert 150 < left["a0"] < 250
