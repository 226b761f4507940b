"""GRPO runs: rewards rise, resuming is exact, and rewards that can't be computed are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from backend.domain.training.rewards import SAME_REWARDS, read_question
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE
from jobs.modeling.checkpoints import load_network
from jobs.reporter import JobSpec
from jobs.training.context import read_training_context
from jobs.training.run import run
from tests.support.jobs import with_payload
from tests.support.training_rooms import NAMES, Recorder, Rooms, load_batches, write_dataset

SMALL = {
    "micro_batch": 16,
    "learning_rate": 2e-2,
    "warmup_steps": 0,
    "schedule": "constant",
    "max_steps": 12,
    "checkpoint_every": 6,
}
LETTER = {"rewards": [{"kind": "regex", "pattern": "e"}], "group_size": 8, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    made = Rooms(tmp_path_factory.mktemp("artifacts"))
    rows = [{"prompt": f"How is {name}?"} for name in NAMES]
    write_dataset(made.root / "asked", train=rows, val=rows[:2])
    write_dataset(made.root / "answered", train=[{**row, "completion": "Glad."} for row in rows])
    return made


def training(
    rooms: Rooms, name: str, *, kind: str = "prompts", grpo: dict[str, Any] = LETTER, **values: Any
) -> JobSpec:
    spec = rooms.training(
        "grpo",
        run=name,
        job=name,
        dataset={"prompts": "asked"}.get(kind, "answered"),
        grpo=grpo,
        **{**SMALL, "eval_every": 6, **values},
    )
    spec = with_payload(spec, dataset_kind=kind)
    return spec


def test_the_reward_of_a_rule_rises(rooms: Rooms) -> None:
    recorder = Recorder()
    result = run(training(rooms, "letter"), recorder)
    rewards = [value for _, value in recorder.series("reward/mean")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.3
    assert recorder.series("val_reward/mean")[-1][1] > 0.8
    assert recorder.series("val_loss")[-1][1] == -recorder.series("val_reward/mean")[-1][1]
    assert all(1 <= value <= 6 for _, value in recorder.series("completion_length"))
    assert recorder.series("reward/std")[0][1] > 0
    tokens = [value for _, value in recorder.series("tokens")]
    answered = sum(16 * length for _, length in recorder.series("completion_length"))
    assert answered + 12 * 16 < tokens[-1] < 12 * 16 * 32, "what was processed, and not steps of full contexts"
    assert tokens == sorted(tokens)
    assert not recorder.series("kl")
    assert not recorder.series("data_wait"), "its data is what it generates"
    assert all(0 < share < 1 for _, share in recorder.series("generation"))
    assert {step for step, _, _ in recorder.samples} == {6, 12}
    assert load_network(rooms.root / result.checkpoint)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_resumed_run_samples_the_same_completions(rooms: Rooms, method: str) -> None:
    undisturbed, killed, resumed = Recorder(), Recorder(stop_after=5), Recorder()
    values = {"method": method, "max_steps": 6, "checkpoint_every": 3, "grad_accum_steps": 2, "micro_batch": 8}
    values |= {"lora": {"dropout": 0.1}, "grpo": {**LETTER, "kl_weight": 0.1}}
    run(training(rooms, f"a-{method}", **values), undisturbed)
    run(training(rooms, f"b-{method}", **values), killed)
    run(training(rooms, f"b-{method}", **values), resumed)
    assert [event["step"] for event in resumed.of("resumed")] == [3]
    for name in ("train_loss", "reward/mean", "kl", "completion_length", "grad_norm", "tokens"):
        assert resumed.series(name) == undisturbed.series(name)[3:]
    # before learning the policy equals the reference
    assert undisturbed.series("kl")[0][1] == pytest.approx(0.0, abs=1e-6)
    assert undisturbed.series("kl")[-1][1] > 1e-5


def test_equal_rewards_are_said_in_the_log(rooms: Rooms) -> None:
    """A run ended without a word when every completion missed the rewards, or none did."""
    for name, pattern, is_said in (("none", "#{30}", True), ("some", "e", False)):
        recorder, rules = Recorder(), [{"kind": "regex", "pattern": pattern}]
        run(training(rooms, name, grpo={**LETTER, "rewards": rules}, max_steps=2), recorder)
        assert (SAME_REWARDS in recorder.lines) == is_said
        assert (not any(norm for _, norm in recorder.series("grad_norm"))) == is_said


def test_completions_depend_on_weights_and_step_alone_and_leave_the_network_unchanged(rooms: Rooms) -> None:
    spec = training(rooms, "drawn", kind="instruction", grpo={**LETTER, "rewards": [{"kind": "contains"}]})
    ctx = read_training_context(spec, Recorder())
    network = load_network(rooms.root / "base").train()
    settings = network.generation_config
    batches: Any = load_batches(ctx, network)
    torch.manual_seed(1)
    first = batches.at_step(2)[0]
    after = torch.rand(1)
    torch.manual_seed(2)
    again = batches.at_step(2)[0]
    torch.manual_seed(1)
    assert torch.equal(first.inputs, again.inputs)
    ends = [int((row != IGNORE).nonzero().max()) for row in first.targets]
    assert first.trained == sum(end + 2 for end in ends), "prompts and completions, shifted by one, without padding"
    assert torch.equal(torch.rand(1), after), "sampling completions does not change the run's random state"
    assert not torch.equal(first.inputs, batches.at_step(3)[0].inputs)
    assert network.training
    assert network.generation_config is settings
    assert len({tuple(row.tolist()) for row in first.inputs[:8]}) > 1, "completions of a group differ"
    assert len(batches.at_step(2)) == 1
    batches.reduce_micro_batch(4)
    assert [len(batch.inputs) for batch in batches.at_step(2)] == [4, 4, 4, 4]


def test_answers_come_from_every_kind_of_row() -> None:
    assert read_question({"prompt": "Where?", "completion": "Here"}) == ("Where?", ("Here",))
    assert read_question({"prompt": "Where?"}) == ("Where?", ())
    assert read_question({"question": "Where?", "answers": ["Here", "there"]}) == ("Where?", ("Here", "there"))
    assert read_question({"question": "Where?", "choices": [" Here", " there"], "answer": 1, "answers": None}) == (
        "Where?",
        ("there",),
    )


def test_rewards_that_need_answers_are_refused_without_them(rooms: Rooms) -> None:
    with pytest.raises(InvalidInput, match="The prompts have no answers"):
        run(training(rooms, "no", grpo={**LETTER, "rewards": [{"kind": "exact"}]}), Recorder())
    with pytest.raises(InvalidInput, match="None of the 4 train prompts leaves room for 40 tokens"):
        run(training(rooms, "no", grpo={**LETTER, "max_new_tokens": 40}), Recorder())
    for values, words in (
        ({"grpo": {**LETTER, "max_new_tokens": 48}}, "leaves no room for a prompt in a context of 48"),
        ({"devices": {"count": 2}}, "grpo samples completions on one device"),
        ({"micro_batch": 12}, "not a multiple of grpo.group_size 8"),
        (
            {"grpo": {**LETTER, "kl_weight": 0.1}, "method": "lora", "lora": {"variant": "pissa"}},
            "lora.variant pissa changes it",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            training(rooms, "no", **values)
