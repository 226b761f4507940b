"""Warnings before a launch: each says its field for a run that is likely a mistake, and nothing for one that is
usual.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.training.config import RunConfig
from backend.domain.training.launch_warnings import Code, LaunchFacts, usual_learning_rates, warnings_of
from backend.recipes import RECIPES

MILLION = 1_000_000
GRPO: dict[str, Any] = {"objective": "grpo", "grpo": {"rewards": [{"kind": "exact"}]}}
CONTINUED: dict[str, Any] = {"base": "b", "architecture": None, "tokenizer": None}


def run(**values: Any) -> RunConfig:
    """A pretraining that nothing is said against: the planner's rules for 100 M parameters and 2 B tokens."""
    defaults: dict[str, Any] = {
        "dataset": "d",
        "architecture": "a",
        "tokenizer": "t",
        "max_steps": 16_000,
        "warmup_steps": 500,
        "micro_batch": 64,
        "grad_accum_steps": 2,
        "context": 1024,
        "learning_rate": 2e-3,
        "eval_every": 500,
        "checkpoint_every": 1000,
    }
    if values.get("objective", "pretrain") != "pretrain":
        defaults = {"dataset": "d", "base": "b", "max_steps": 500, "learning_rate": 2e-5, "context": 1024}
    return RunConfig.model_validate({**defaults, **values})


def codes(config: RunConfig, **facts: Any) -> list[tuple[str, str]]:
    """What is warned of, and the field."""
    known = LaunchFacts(**{"body": 100 * MILLION, "val_rows": 100, "seconds": 7200.0, "epochs": 1.0, **facts})
    return [(warning.code.value, warning.field) for warning in warnings_of(config, known)]


def test_a_usual_run_has_no_warning() -> None:
    assert codes(run()) == []
    assert codes(run(objective="sft")) == []
    assert codes(run(objective="dpo", learning_rate=1e-6), body=7000 * MILLION) == []
    assert codes(run(objective="sft", method="lora", learning_rate=2e-4), body=7000 * MILLION) == []


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("starter")])
def test_no_starter_recipe_has_a_warning(name: str) -> None:
    assert codes(RECIPES[name].config, body=800_000, seconds=90.0) == []


@pytest.mark.parametrize(
    ("values", "facts", "code", "field"),
    [
        ({"learning_rate": 0.5}, {}, Code.LEARNING_RATE_HIGH, "learning_rate"),
        ({"learning_rate": 1e-6}, {}, Code.LEARNING_RATE_LOW, "learning_rate"),
        (
            {"objective": "sft", "learning_rate": 2e-3},
            {"body": 7000 * MILLION},
            Code.LEARNING_RATE_HIGH,
            "learning_rate",
        ),
        ({"objective": "sft", "learning_rate": 1e-9}, {}, Code.LEARNING_RATE_LOW, "learning_rate"),
        (
            {"objective": "dpo", "learning_rate": 2e-4},
            {"body": 7000 * MILLION},
            Code.LEARNING_RATE_HIGH,
            "learning_rate",
        ),
        (
            {"objective": "sft", "method": "lora", "learning_rate": 5e-3},
            {"body": 7000 * MILLION},
            Code.LEARNING_RATE_HIGH,
            "learning_rate",
        ),
        (
            {"objective": "sft", "method": "qlora", "learning_rate": 1e-6},
            {"body": 7000 * MILLION},
            Code.LEARNING_RATE_LOW,
            "learning_rate",
        ),
        ({"warmup_steps": 9000}, {}, Code.WARMUP_LONG, "warmup_steps"),
        ({"eval_every": 99_999, "checkpoint_every": 99_999}, {}, Code.NOT_MEASURED, "eval_every"),
        ({"checkpoint_every": 99_999}, {}, Code.NOTHING_SAVED, "checkpoint_every"),
        ({"checkpoint_every": 99_999}, {"seconds": None}, Code.NOTHING_SAVED, "checkpoint_every"),
        ({"patience": 40}, {}, Code.PATIENCE_IDLE, "patience"),
        ({}, {"val_rows": 0}, Code.NO_VALIDATION, "dataset"),
        ({"objective": "sft"}, {"padding": 0.7, "packs": False}, Code.PADDING, "packing"),
        ({"objective": "sft", "packing": False}, {"padding": 0.7}, Code.PADDING, "packing"),
        ({"objective": "sft"}, {"cut_rows": 0.4}, Code.CUT_ROWS, "context"),
        ({"objective": "sft"}, {"silent_rows": 0.02}, Code.SILENT_ROWS, "context"),
        ({"objective": "sft"}, {"epochs": 30.0}, Code.OVER_FIT, "max_steps"),
        ({"objective": "sft"}, {"epochs": 30.0, "epochs_at_least": True}, Code.OVER_FIT, "max_steps"),
        ({"objective": "dpo", "learning_rate": 1e-6}, {"epochs": 9.0}, Code.OVER_FIT, "max_steps"),
        ({}, {"epochs": 40.0}, Code.OVER_FIT, "max_steps"),
        ({"objective": "sft"}, {"train_rows": 2}, Code.FEW_ROWS, "dataset"),
        ({"micro_batch": 1, "grad_accum_steps": 1, "max_steps": 100_000}, {}, Code.BATCH_TINY, "micro_batch"),
        ({"schedule": "constant", "min_learning_rate": 1e-5}, {}, Code.WITHOUT_EFFECT, "min_learning_rate"),
        ({"objective": "dpo", "learning_rate": 1e-6, "z_loss": 1e-4}, {}, Code.WITHOUT_EFFECT, "z_loss"),
        ({"decay_steps": 100}, {}, Code.WITHOUT_EFFECT, "decay_steps"),
        ({}, {"fits": "no"}, Code.DOES_NOT_FIT, "micro_batch"),
        ({"objective": "dpo", "learning_rate": 1e-6}, {"base_chats": False}, Code.BASE_WITHOUT_CHAT, "base"),
        (GRPO, {"base_chats": False}, Code.BASE_WITHOUT_CHAT, "base"),
        (GRPO, {"dataset_kind": "benchmark", "base_chats": True}, Code.TRAINS_ON_BENCHMARK, "dataset"),
        (CONTINUED, {"base_chats": True}, Code.BASE_FORGETS_CHAT, "base"),
    ],
    ids=lambda value: value.value if isinstance(value, Code) else None,
)
def test_a_likely_mistake_is_reported_with_its_field(
    values: dict[str, Any], facts: dict[str, Any], code: Code, field: str
) -> None:
    assert (code.value, field) in codes(run(**values), **facts)


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        ({"checkpoint_every": 99_999, "eval_every": 99_999}, {"seconds": 30.0}),
        (
            {"max_steps": 40, "warmup_steps": 4, "checkpoint_every": 40, "eval_every": 40},
            {"seconds": None, "body": 10_000},
        ),
        ({"objective": "sft", "packing": True}, {"padding": 0.7}),
        ({"objective": "grpo", "grpo": {"rewards": [{"kind": "exact"}]}, "learning_rate": 1e-2}, {"epochs": 50.0}),
        ({**GRPO, "learning_rate": 1e-6}, {"val_rows": 0}),
        ({"learning_rate": 0.5, "optimizer": "adafactor"}, {}),
        ({"learning_rate": 0.5}, {"body": None}),
        ({"objective": "sft"}, {"base_chats": False}),
        ({"objective": "orpo", "learning_rate": 1e-6}, {"base_chats": False}),
        ({"objective": "reward", "learning_rate": 1e-6}, {"base_chats": False}),
        ({"objective": "dpo", "learning_rate": 1e-6}, {"base_chats": True}),
        (CONTINUED, {"base_chats": False}),
        ({}, {"train_rows": 1}),
    ],
    ids=[
        "a run of seconds",
        "a tiny run",
        "packed",
        "reinforcement",
        "rewards without validation rows",
        "no rule for the optimizer",
        "size not known",
        "first conversations",
        "answers and preferences at once",
        "a reward model",
        "preferences after conversations",
        "more text",
        "a book",
    ],
)
def test_unknown_facts_give_no_warning(values: dict[str, Any], facts: dict[str, Any]) -> None:
    assert codes(run(**values), **facts) == []


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"objective": "dpo", "preference": {"loss": "hinge", "label_smoothing": 0.3}}, "preference.label_smoothing"),
        ({"objective": "simpo", "preference": {"loss": "ipo"}}, "preference.loss"),
        ({"objective": "dpo", "preference": {"gamma": 2}}, "preference.gamma"),
        ({"objective": "kto", "preference": {"sft_weight": 1}}, "preference.sft_weight"),
        ({"objective": "orpo", "preference": {"desirable_weight": 2}}, "preference.desirable_weight"),
        ({"objective": "sft", "optimizer": "adafactor", "beta1": 0.5}, "beta1"),
        ({"objective": "sft", "lora": {"rank": 64}}, "lora.rank"),
        ({"objective": "sft", "method": "lora", "lora": {"bits": 8}}, "lora.bits"),
        ({"objective": "reward", "sample_prompts": ["Why?"]}, "sample_prompts"),
        ({"packing": False}, "packing"),
    ],
)
def test_a_field_without_effect_is_named_once_and_not_where_it_has_one(values: dict[str, Any], field: str) -> None:
    config = run(**{"learning_rate": 1e-6, **values})
    assert [warning.field for warning in warnings_of(config, LaunchFacts()) if warning.code is Code.WITHOUT_EFFECT] == [
        field
    ]


def test_fields_with_an_effect_give_no_warning() -> None:
    for values in (
        {"objective": "dpo", "preference": {"label_smoothing": 0.1, "sft_weight": 1, "beta": 0.3}},
        {"objective": "simpo", "preference": {"gamma": 1, "sft_weight": 1, "beta": 2}},
        {"objective": "kto", "preference": {"desirable_weight": 2, "undesirable_weight": 3}},
        {"objective": "sft", "method": "qlora", "packing": False, "lora": {"rank": 4, "bits": 8}},
        {"objective": "reward", "method": "lora", "lora": {"alpha": 4, "variant": "dora"}},
    ):
        assert not [each for each in warnings_of(run(**values), LaunchFacts()) if each.code is Code.WITHOUT_EFFECT]


def test_every_sentence_ends_and_names_its_numbers() -> None:
    config = run(learning_rate=0.5, warmup_steps=9000, checkpoint_every=99_999)
    for warning in warnings_of(config, LaunchFacts(body=100 * MILLION, seconds=7200.0, val_rows=5, epochs=99.0)):
        assert warning.sentence.endswith(".")
        assert warning.cure.endswith(".")
    first, *_ = warnings_of(config, LaunchFacts(body=100 * MILLION))
    assert "0.5 is above the usual" in first.sentence
    assert "Step Law" in first.sentence


@given(
    body=st.integers(10_000, 10**11),
    objective=st.sampled_from(["pretrain", "sft", "dpo", "reward"]),
    method=st.sampled_from(["full", "lora"]),
)
def test_the_usual_range_is_ordered_and_falls_with_the_size(body: int, objective: str, method: str) -> None:
    values = {"objective": objective} | ({"method": method} if objective != "pretrain" else {})
    config = run(**values)
    small, large = usual_learning_rates(config, body), usual_learning_rates(config, 10 * body)
    assert small is not None
    assert large is not None
    assert 0 < small[0] < small[1]
    assert large[1] <= small[1]


def test_a_longer_context_is_proposed_only_where_the_network_takes_one() -> None:
    config = run(objective="sft")
    for limit, is_proposed in ((config.context, False), (2 * config.context, True), (None, True)):
        facts = LaunchFacts(silent_rows=0.2, cut_rows=0.5, max_context=limit)
        cures = [each.cure for each in warnings_of(config, facts) if each.code in (Code.CUT_ROWS, Code.SILENT_ROWS)]
        assert [cure.startswith("Use a longer context") for cure in cures] == [is_proposed, is_proposed]


def test_a_micro_batch_larger_than_the_data_is_the_cause_of_many_epochs() -> None:
    """“1 steps take at least 8 epochs” was the cure of one step of 60,000 rows."""
    config = run(objective="sft", micro_batch=60_000, max_steps=1)
    facts = LaunchFacts(epochs=60_000 / 475, epochs_at_least=True, train_rows=475, val_rows=9, seconds=1.0)
    (warning,) = warnings_of(config, facts)
    assert (warning.code, warning.field) == (Code.BATCH_LARGE, "micro_batch")
    assert warning.sentence.startswith("A step of 60,000 sequences takes at least 126 epochs")
    assert warning.cure == "Use a micro-batch of at most 475."
    accumulated = config.model_copy(update={"micro_batch": 1, "grad_accum_steps": 60_000})
    (warning,) = warnings_of(accumulated, facts)
    assert (warning.field, warning.cure) == ("grad_accum_steps", "A step has room for at most 475.")


@pytest.mark.parametrize(
    ("num_tokens", "cure"), [(10, "Use more text."), (500, "Use a context of at most 249, or more text."), (2049, "")]
)
def test_a_text_too_short_for_two_windows_is_said_before_the_launch(num_tokens: int, cure: str) -> None:
    """A text of ten tokens "fits" with "a micro-batch of at most 1", and the run failed at its start."""
    config = run()
    facts = LaunchFacts(epochs=config.tokens_per_step * config.max_steps / num_tokens, seconds=1.0)
    warnings = [(each.field, each.cure) for each in warnings_of(config, facts) if each.code is Code.TEXT_SHORT]
    assert warnings == ([("context", cure)] if cure else [])


def test_a_length_that_no_answer_may_have_is_no_goal_for_a_reward() -> None:
    """A run whose answers were all cut before it “learned nothing”."""
    rewards = [{"kind": "length", "target": 24}, {"kind": "exact"}]
    for most, is_warned in ((16, True), (24, False)):
        config = run(objective="grpo", grpo={"rewards": rewards, "max_new_tokens": most})
        assert (("reward_out_of_reach", "grpo.max_new_tokens") in codes(config, seconds=1.0)) == is_warned


def test_the_warm_up_of_a_single_step_is_no_mistake() -> None:
    """“The warm-up of 1 steps takes more than half of the 1.”"""
    assert codes(run(objective="sft", max_steps=1), seconds=1.0) == []
