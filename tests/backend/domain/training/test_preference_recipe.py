"""The recipe for a set of votes follows its size and the network's."""

from __future__ import annotations

import pytest

from backend.domain.training.defaults import suggest_recipe
from backend.domain.training.objectives import Objective


@pytest.mark.parametrize(
    ("rows", "epochs", "beta"),
    [(40, 3, 0.2), (300, 2, 0.1), (3000, 1, 0.1)],
    ids=["small set", "medium set", "large set"],
)
def test_fewer_pairs_get_more_epochs_and_a_stronger_pull_to_the_base(rows: int, epochs: int, beta: float) -> None:
    values = suggest_recipe(Objective.DPO, num_rows=rows, parameters=135_000_000, context=2048).values
    batch = values["micro_batch"] * values["grad_accum_steps"]
    assert values["max_steps"] == -(-epochs * rows // batch)
    assert (values["preference.beta"], values["context"]) == (beta, 512)


def test_larger_networks_learn_slower_and_tiny_sets_still_make_ten_steps() -> None:
    small, large = (
        suggest_recipe(Objective.DPO, num_rows=5, parameters=size, context=256).values for size in (10**6, 7 * 10**9)
    )
    assert small["learning_rate"] > large["learning_rate"]
    assert large["max_steps"] >= 10


def test_an_sft_recipe_has_no_beta_and_a_kto_batch_has_two_rows() -> None:
    assert "preference.beta" not in suggest_recipe(Objective.SFT, num_rows=9, parameters=10**6, context=64).values
    assert suggest_recipe(Objective.KTO, num_rows=3, parameters=10**6, context=64).values["micro_batch"] == 2
