"""The watchdog tells a hung engine from a slow one, and from an idle one."""

from __future__ import annotations

from unittest.mock import Mock

from jobs.serving.reading import PART_TOKENS, PromptReader
from jobs.serving.replica_app import ReplicaState, StepWatch
from jobs.serving.serial import SerialEngine
from tests.support.networks.serving_networks import make_llama, make_tokenizer


class Scene:
    """A watch with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch = StepWatch(clock=lambda: self.now)
        self.steps = 0

    def run(self, num_steps: int, *, step_s: float) -> None:
        for _ in range(num_steps):
            self.now += step_s
            self.steps += 1
            self.watch.observe(self.steps, busy=True)

    def hang(self, seconds: float) -> bool:
        self.now += seconds
        self.watch.observe(self.steps, busy=True)
        return self.watch.is_hung()


def test_fast_steps_that_stop_for_half_a_minute_are_a_hung_engine() -> None:
    scene = Scene()
    scene.run(100, step_s=0.01)
    assert not scene.hang(29)
    assert scene.hang(2)


def test_a_long_prompt_of_slow_steps_is_no_hang_although_it_makes_no_token() -> None:
    scene = Scene()
    scene.run(40, step_s=8)
    assert not scene.hang(100)
    assert scene.watch.limit_s() == 160
    assert scene.hang(61)


def test_an_idle_engine_never_hangs_and_its_pause_is_no_step() -> None:
    scene = Scene()
    scene.run(10, step_s=0.01)
    scene.watch.observe(scene.steps, busy=False)
    scene.now += 1000
    assert not scene.watch.is_hung()
    scene.watch.observe(scene.steps, busy=True)
    scene.run(10, step_s=0.01)
    assert scene.watch.limit_s() == 30


def test_prompts_that_are_only_read_count_as_steps() -> None:
    """Scoring thousands of prompts makes no step of the engine, and is no hang."""
    engine = SerialEngine(make_llama(context=1024), make_tokenizer())
    reader = PromptReader(make_llama(context=1024))
    replica = ReplicaState(engine, make_tokenizer(), name="tales", reader=reader)
    scene = Scene()
    replica.watch = scene.watch
    reader._num_open = 1  # a request with several prompts that are read
    try:
        for _ in range(4):
            assert not replica.is_hung()
            scene.now += 20
            reader.score([1] * (2 * PART_TOKENS + 1), top=1)
            reader.embed([1, 2, 3])
        assert reader.num_passes == 12
        assert not replica.is_hung()
        scene.now += 200  # 20 times the slowest of its passes is 133 s
        assert replica.is_hung()
    finally:
        engine.close()


def test_an_answer_that_nobody_reads_is_no_work_of_the_engine() -> None:
    engine = SerialEngine(make_llama(context=1024), make_tokenizer())
    replica = ReplicaState(engine, make_tokenizer(), name="tales")
    scene = Scene()
    replica.watch = scene.watch
    replica._open.add(Mock())  # its engine has ended, and its client does not read
    try:
        assert not replica.is_hung()
        scene.now += 1000
        assert not replica.is_hung()
    finally:
        engine.close()
