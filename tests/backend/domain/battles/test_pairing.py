"""Which battle comes next, and with which probability."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from backend.domain.battles.pairing import EPSILON, Candidate, PairCount, choose_battle, interest, pair_of

CANDIDATE = st.builds(
    Candidate,
    prompt=st.sampled_from("pqrs"),
    pair=st.sampled_from([("a", "b"), ("a", "c"), ("b", "c")]),
    votes=st.integers(0, 3),
    prompt_votes=st.integers(0, 5),
)


def test_the_pair_with_the_fewest_votes_comes_next() -> None:
    candidates = [Candidate("p", ("a", "b"), 0, 0), Candidate("p", ("a", "c"), 0, 0)]
    counts = {("a", "b"): PairCount(9, 1), ("a", "c"): PairCount(1, 0)}
    chosen = Counter(choose_battle(candidates, counts, rng=Random(seed))[0].pair for seed in range(300))
    assert chosen["a", "c"] > 250
    assert chosen["a", "b"] > 5


def test_within_a_pair_the_prompt_with_the_fewest_votes_comes_next() -> None:
    candidates = [Candidate("p", ("a", "b"), 2, 2), Candidate("q", ("a", "b"), 0, 3), Candidate("r", ("a", "b"), 0, 1)]
    chosen, probability = choose_battle(candidates, {}, rng=Random(1), epsilon=0.0)
    assert (chosen.prompt, probability) == ("r", 1.0)


def test_undecided_neighbours_get_lightly_more_votes() -> None:
    counts = {("a", "b"): PairCount(4, 3), ("a", "c"): PairCount(6, 0), ("b", "c"): PairCount(6, 0)}
    assert interest(counts) == {("a", "b"): 1.0, ("a", "c"): 0.0, ("b", "c"): 0.0}
    candidates = [Candidate("p", pair, 0, 0) for pair in counts]
    assert choose_battle(candidates, counts, rng=Random(1), epsilon=0.0)[0].pair == ("a", "b")


@given(st.lists(CANDIDATE, min_size=1, max_size=8, unique=True), st.integers(0, 10_000))
def test_the_probability_is_that_of_the_draw(candidates: list[Candidate], seed: int) -> None:
    chosen, probability = choose_battle(candidates, {}, rng=Random(seed))
    assert chosen in candidates
    assert EPSILON / len(candidates) <= probability <= 1.0


def test_logged_probabilities_match_the_frequencies_of_the_draws() -> None:
    candidates = [Candidate("p", ("a", "b"), 0, 0), Candidate("q", ("a", "b"), 0, 0), Candidate("r", ("a", "b"), 1, 1)]
    rng, logged, drawn = Random(7), {}, Counter[str]()
    for _ in range(6000):
        chosen, probability = choose_battle(candidates, {}, rng=rng)
        logged[chosen.prompt] = probability
        drawn[chosen.prompt] += 1
    assert abs(sum(logged.values()) - 1.0) < 1e-12
    for prompt, probability in logged.items():
        assert abs(drawn[prompt] / 6000 - probability) < 0.02


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_pair_has_one_order(one: str, other: str) -> None:
    assert pair_of(one, other) == pair_of(other, one)
