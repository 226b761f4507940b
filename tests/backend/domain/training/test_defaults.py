"""Suggested hyperparameters: near what published recipes use at their sizes, and never what the launch page warns
of.
"""

from __future__ import annotations

import itertools

import pytest

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import with_values
from backend.domain.training.defaults import Basis, suggest_learning_rate, suggest_values
from backend.domain.training.launch_warnings import LaunchFacts, most_epochs, warnings_of
from backend.domain.training.objectives import Objective

SIZES = (30_000, 1_000_000, 135_000_000, 1_500_000_000, 7_000_000_000, 70_000_000_000)


def config_of(objective: Objective, method: str) -> RunConfig:
    parts = (
        {"architecture": "a", "tokenizer": "t"} if objective is Objective.PRETRAIN else {"base": "b", "method": method}
    )
    extra = {"grpo": {"rewards": [{"kind": "exact"}]}} if objective is Objective.GRPO else {}
    return RunConfig.model_validate({"objective": objective, "dataset": "d", **parts, **extra})


@pytest.mark.parametrize(("objective", "method"), list(itertools.product(Objective, ("full", "lora"))))
@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_suggestions_make_a_config_without_warnings(objective: Objective, method: str, optimizer: str) -> None:
    if objective is Objective.PRETRAIN and method != "full":
        return
    for parameters, context, rows in itertools.product(SIZES, (8, 512, 131_072), (10, 3_000, 1_000_000)):
        basis = Basis(
            objective,
            method,
            objective is not Objective.PRETRAIN,
            parameters,
            context,
            rows,
            200 * rows,
            {"optimizer": optimizer},
        )
        values = suggest_values(basis)
        if context < 9 and objective is Objective.GRPO:
            continue
        config = with_values(config_of(objective, method), values)
        sequences = config.micro_batch * config.grad_accum_steps * config.max_steps
        epochs = sequences * config.context / (200 * rows) if objective is Objective.PRETRAIN else sequences / rows
        codes = {
            warning.code.value
            for warning in warnings_of(config, LaunchFacts(body=parameters, epochs=epochs, seconds=3600.0))
        }
        few = {"over_fit"} if rows == 10 else set()  # ten steps of so few rows are many epochs
        assert codes <= few | {"batch_tiny"}, (parameters, context, rows, values)


@pytest.mark.parametrize(
    ("objective", "method", "parameters", "published"),
    [
        ("sft", "full", 7e9, 2e-5),  # Zephyr, Tulu
        ("sft", "lora", 7e9, 1e-4),
        ("dpo", "full", 7e9, 5e-7),  # Zephyr (Tunstall et al. 2023)
        ("dpo", "lora", 7e9, 5e-6),
        ("grpo", "full", 7e9, 1e-6),
        ("sft", "full", 1.35e8, 3e-4),
        ("sft", "full", 1e6, 2e-3),
    ],
)
def test_learning_rates_of_published_recipes(objective: str, method: str, parameters: float, published: float) -> None:
    basis = Basis(Objective(objective), method, has_base=True, parameters=int(parameters))
    assert suggest_learning_rate(basis, tokens=1e6) == pytest.approx(published, rel=0.2)


def test_chosen_values_stay_and_the_others_follow_them() -> None:
    basis = Basis(Objective.SFT, train_rows=960, parameters=1_000_000)
    assert suggest_values(basis)["max_steps"] == 360
    chosen = suggest_values(
        Basis(Objective.SFT, train_rows=960, parameters=1_000_000, chosen={"micro_batch": 32, "learning_rate": 0.5})
    )
    assert (chosen["micro_batch"], chosen["learning_rate"], chosen["max_steps"]) == (32, 0.5, 90)


def test_the_suggested_steps_of_a_few_rows_are_not_warned_of() -> None:
    """Of nine rows the form took ten steps, and then warned of 8.89 epochs."""
    for rows in (1, 3, 9, 40):
        values = suggest_values(Basis(Objective.SFT, train_rows=rows, parameters=260_000, has_base=True))
        batch = values["micro_batch"] * values["grad_accum_steps"]
        assert values["max_steps"] * batch / rows <= most_epochs(Objective.SFT, "full")
        assert batch <= rows, "no step trains on a row twice"


def test_pretraining_follows_the_data_and_the_network() -> None:
    small = suggest_values(Basis(Objective.PRETRAIN, parameters=1_000_000, unique_tokens=100_000, max_context=128))
    large = suggest_values(Basis(Objective.PRETRAIN, parameters=7_000_000_000, unique_tokens=10**12, max_context=128))
    tokens = small["max_steps"] * small["micro_batch"] * small["grad_accum_steps"] * 128
    assert tokens == pytest.approx(400_000, rel=0.2)  # four epochs
    assert large["learning_rate"] < small["learning_rate"]
    onward = Basis(Objective.PRETRAIN, parameters=1_000_000, unique_tokens=100_000, max_context=128, has_base=True)
    assert suggest_values(onward)["learning_rate"] < small["learning_rate"]
