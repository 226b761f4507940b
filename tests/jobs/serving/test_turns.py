"""Turns between tenants: one who floods a replica costs another a place, not the wait for all of the flood."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from jobs.serving.batching import BatchingEngine
from jobs.serving.engine import Choice, Engine, QueueFull, in_turn, most_open, most_running
from jobs.serving.serial import SerialEngine
from tests.support.networks.serving_networks import make_llama, make_tokenizer
from tests.support.serving.requests import Caught

ENGINES: tuple[Callable[..., Engine], ...] = (
    lambda: BatchingEngine(make_llama(), make_tokenizer(), max_running=4, max_waiting=64),
    lambda: SerialEngine(make_llama(), make_tokenizer(), max_waiting=64),
)


@pytest.fixture(params=ENGINES, ids=["batching", "serial"])
def engine(request: pytest.FixtureRequest) -> Any:
    engine = request.param()
    yield engine
    engine.close()


def test_the_tenant_with_the_fewest_requests_at_work_is_next_and_leaves_a_place_for_others() -> None:
    waiting = [("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"), ("b", "b2"), ("c", "c1")]
    assert in_turn(waiting, running=Counter(), most=3) == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert in_turn(waiting, running=Counter(a=2), most=3) == ["b1", "c1", "b2", "a1"]
    assert in_turn([("", n) for n in range(5)], running=Counter({"": 9}), most=3) == [0, 1, 2, 3, 4], (
        "without accounts nobody waits"
    )
    assert [most_running(1), most_running(16)] == [1, 15]
    assert [most_open(16, 64), most_open(1, 0)] == [64, 1]


def test_one_request_beside_a_flood_ends_before_most_of_it(engine: Engine) -> None:
    def ask(tenant: str, number: int) -> Caught:
        return Caught(engine, f"{tenant} {number}", choice=Choice(tenant=tenant), max_tokens=40, ignore_eos=True)

    flood = [ask("many", number) for number in range(24)]
    assert flood[0].first.wait(60)
    single = ask("one", 0)
    single.wait()
    before = sum(caught.done.is_set() for caught in flood)
    assert before <= 8, f"{before} of 24 ended before it"
    for caught in flood:
        caught.wait()
        assert len(caught.ids) == 40


def test_one_tenant_leaves_a_quarter_of_the_queue_to_others(engine: Engine) -> None:
    held: list[Caught] = []

    def ask(tenant: str) -> None:
        held.append(Caught(engine, "hold", choice=Choice(tenant=tenant), max_tokens=150, ignore_eos=True))

    def flood() -> None:
        for _ in range(100):
            ask("many")

    with pytest.raises(QueueFull, match="of this account"):
        flood()
    ask("one")
    for caught in held:
        caught.handle.cancel()


def test_a_prompt_of_another_tenant_is_not_found_in_the_cache() -> None:
    engine = BatchingEngine(make_llama(), make_tokenizer())
    prompt = [65 + number % 50 for number in range(200)]

    def cached(tenant: str) -> int:
        caught = Caught(engine, prompt, choice=Choice(tenant=tenant), max_tokens=2, ignore_eos=True).wait()
        return int(caught.finish.usage.cached_tokens)

    try:
        assert cached("a") == 0
        assert cached("a") == 192
        assert cached("b") == 0
        assert cached("") == 0
        assert [cached("b"), cached(""), cached("a")] == [192, 192, 192]
    finally:
        engine.close()
