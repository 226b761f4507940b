"""Time of an evaluation from earlier ones: the nearest are taken, and the error is how far they miss each other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backend.domain.evaluation.cost import START_S, Timing, estimate_evaluation_memory, estimate_time

JOB = Timing("oak", "facts", "multiple_choice", items=1000, shots=0, parameters=100)


def ran(seconds: float, **changes: object) -> Timing:
    return replace(JOB, seconds=START_S + seconds, **changes)  # type: ignore[arg-type]


def test_nothing_alike_gives_no_estimate() -> None:
    assert estimate_time(JOB, []) is None
    assert estimate_time(JOB, [ran(10, kind="generation")]) is None
    assert estimate_time(JOB, [ran(10, items=0)]) is None


def test_time_grows_with_items_shots_and_parameters() -> None:
    small = ran(10, items=100)
    assert estimate_time(JOB, [small]).seconds == pytest.approx(START_S + 100)  # type: ignore[union-attr]
    other = estimate_time(replace(JOB, checkpoint="elm", parameters=300, shots=1), [small])
    assert other is not None
    assert other.seconds == pytest.approx(START_S + 100 * 3 * 2)
    assert other.basis == "1 earlier evaluation of other checkpoints on this benchmark"


def test_the_nearest_are_taken_before_the_many() -> None:
    earlier = [ran(1, benchmark="other"), ran(2, benchmark="other"), ran(3, checkpoint="elm"), ran(40)]
    estimate = estimate_time(JOB, earlier)
    assert estimate is not None
    assert estimate.seconds == pytest.approx(START_S + 40)
    assert (estimate.low, estimate.high) == (pytest.approx(START_S + 40 / 1.5), pytest.approx(START_S + 60))


def test_the_range_is_the_largest_miss_among_three_or_more() -> None:
    estimate = estimate_time(JOB, [ran(10), ran(10), ran(30)])
    assert estimate is not None
    assert estimate.seconds == pytest.approx(START_S + 10)
    assert estimate.high == pytest.approx(START_S + 30)  # 30 is three times the median of the others


def test_memory_holds_process_weights_and_logits() -> None:
    memory = estimate_evaluation_memory(parameters=10**6, vocab_size=1000)
    assert memory.low < memory.bytes < memory.high
    assert memory.high - memory.low == 2 * 4 * 4096 * 1000
