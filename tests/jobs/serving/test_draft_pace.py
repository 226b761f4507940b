"""How many tokens are drafted follows what steps took and how many drafts were right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from jobs.serving.drafts import LENGTHS, TRIAL_STEPS, Acceptance, Pace

Step = Callable[[int], tuple[int, int, float]]
TRIALS = TRIAL_STEPS * len(LENGTHS)


def run(pace: Pace, step: Step, *, steps: int, num_requests: int = 1) -> list[int]:
    """Return the lengths of the next steps, each with the right drafts, wrong drafts and seconds of its length."""
    chosen = []
    for _ in range(steps):
        length = pace.choose(num_requests)
        right, wrong, seconds = step(length)
        pace.note(num_requests, length, right=right, wrong=wrong, seconds=seconds)
        chosen.append(length)
    return chosen


def good(length: int) -> tuple[int, int, float]:
    """All drafts are right, and long ones cost more than they give."""
    return length, 0, 1.0 + 0.1 * length + 0.05 * length**2


def bad(length: int) -> tuple[int, int, float]:
    """All drafts are wrong."""
    return 0, 1 if length else 0, 1.0 + 0.1 * length


def test_every_length_is_tried_and_the_one_with_most_tokens_per_second_is_taken() -> None:
    chosen = run(Pace(), good, steps=TRIALS + 50)
    assert {length: chosen[:TRIALS].count(length) for length in LENGTHS} == dict.fromkeys(LENGTHS, TRIAL_STEPS)
    assert set(chosen[TRIALS:]) == {max(LENGTHS, key=lambda length: (1 + length) / good(length)[2])} == {4}


def test_drafts_that_are_wrong_end_and_are_tried_again_more_and_more_rarely() -> None:
    pace = Pace()
    early, late = run(pace, bad, steps=500), run(pace, bad, steps=4000)
    assert early.count(0) > 0.85 * len(early)
    assert late.count(0) > 0.98 * len(late)


def test_drafts_that_turn_wrong_end_within_some_steps_and_come_back_once_they_are_right() -> None:
    pace = Pace()
    run(pace, good, steps=TRIALS)
    turned = run(pace, bad, steps=60)
    assert set(turned[30:]) == {0}
    again = run(pace, good, steps=200)
    assert again[-50:].count(4) > 30


def test_each_number_of_requests_has_times_of_its_own() -> None:
    pace = Pace()

    def crowded(length: int) -> tuple[int, int, float]:
        return length, 0, 1.0 + 2.0 * length

    run(pace, good, steps=TRIALS, num_requests=1)
    run(pace, crowded, steps=TRIALS, num_requests=4)
    assert (pace.choose(1), pace.choose(4)) == (4, 0)


def test_one_pause_of_the_machine_does_not_change_the_choice() -> None:
    pace = Pace()
    run(pace, good, steps=TRIALS)
    pace.note(1, 4, right=4, wrong=0, seconds=60.0)
    assert pace.choose(1) == 4


@pytest.mark.parametrize(
    ("share", "length", "expected"), [(0.0, 4, 1.0), (1.0, 4, 5.0), (0.5, 2, 1.75), (0.8, 3, 2.952)]
)
def test_expected_tokens_are_those_of_the_formula(share: float, length: int, expected: float) -> None:
    """(1 - a^(k + 1)) / (1 - a) of Leviathan, Kalman and Matias (2023), equation 1."""
    acceptance = Acceptance(right=1000 * share, checked=1000.0)
    assert acceptance.tokens(length) == pytest.approx(expected)
