"""Plans: from a budget to a network and a run, never more than the budget, and honest about what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.estimates.throughput import Speed, rate_at
from backend.domain.scaling.curves import profile_line
from backend.domain.scaling.laws import PUBLISHED
from backend.domain.scaling.plan import PlanConfig, ScalingPlan, make_plan, parse_plan
from backend.domain.scaling.shapes import DENSE_FAMILIES, count_all, propose_architecture
from backend.domain.scaling.study import StudyConfig, parse_study, plan_study
from backend.domain.training.published_rules import (
    MAX_LEARNING_RATE,
    batch_tokens_rule,
    learning_rate_rule,
    split_batch,
)
from backend.errors import InvalidInput

LAW = PUBLISHED["besiroglu-2024"]
SLOW, FAST = Speed(6e6, 6e10, "CPU", "a small run"), Speed(6e8, 1.2e11, "CPU", "a large run")


def plan(
    speeds: tuple[Speed, ...] = (), unique: int | None = None, price: float | None = None, **values: object
) -> ScalingPlan:
    return make_plan(
        parse_plan({"vocab_size": 4096, **values}),
        law=LAW,
        vocab_size=4096,
        speeds=speeds,
        price_usd=price,
        unique_tokens=unique,
    )


def test_a_plan_of_chinchillas_budget_is_a_network_of_that_size() -> None:
    result = make_plan(PlanConfig(flops=5.76e23, context=2048), law=LAW, vocab_size=32_000)
    assert result.parameters == pytest.approx(70e9, rel=0.1)
    assert result.tokens == pytest.approx(1.4e12, rel=0.12)
    assert result.parameters == describe_architecture(result.architecture).parameters
    assert result.flops_per_token == describe_architecture(result.architecture, context=2048).flops_per_token.training


@settings(max_examples=60, deadline=None)
@given(st.floats(9, 27).map(lambda x: 10**x), st.sampled_from([8, 128, 2048]), st.sampled_from([None, 3.0, 300.0]))
def test_a_run_never_costs_more_than_its_budget(flops: float, context: int, ratio: float | None) -> None:
    result = plan(flops=flops, context=context, tokens_per_parameter=ratio)
    assert result.tokens == result.steps * result.batch.tokens
    assert result.batch.tokens == result.batch.micro_batch * result.batch.grad_accum_steps * context
    assert result.steps == 1 or result.tokens * result.flops_per_token <= flops
    assert result.steps < 20 or result.tokens * result.flops_per_token > 0.9 * flops
    assert 0 < result.batch.learning_rate <= MAX_LEARNING_RATE
    assert result.batch.warmup_steps <= result.steps
    assert result.notes


def test_hours_and_money_are_the_same_budget_at_a_price() -> None:
    hours = plan((SLOW,), device_hours=4)
    money = plan((SLOW,), money_usd=10, price_usd=2.5)
    assert (hours.parameters, hours.tokens) == (money.parameters, money.tokens)
    assert hours.seconds == pytest.approx(4 * 3600, rel=0.02)
    assert money.cost_usd == pytest.approx(10, rel=0.02)
    assert plan((SLOW,), money_usd=10, price=2.5).cost_usd == money.cost_usd
    assert hours.cost_usd is None
    assert plan(device_hours=1, flops_per_s=1e14).seconds == pytest.approx(3600, rel=0.02)


def test_a_missing_speed_or_price_is_requested() -> None:
    with pytest.raises(InvalidInput, match="is unknown") as speed:
        plan(device_hours=1)
    assert speed.value.field == "flops_per_s"
    with pytest.raises(InvalidInput, match="price of a device-hour") as price:
        plan((SLOW,), money_usd=5)
    assert "Costs page" in price.value.remedy
    for values, words in (
        ({}, "one budget"),
        ({"flops": 1e15, "money_usd": 1}, "flops and money_usd"),
        ({"flops": -1}, "more than 0"),
    ):
        with pytest.raises(InvalidInput, match=words):
            parse_plan(values)
    with pytest.raises(InvalidInput, match="mixtral"):
        plan(flops=1e15, family="mixtral")


def test_rates_are_interpolated_between_measured_sizes_and_constant_beyond() -> None:
    assert rate_at([SLOW, FAST], 6e7) == pytest.approx(math.sqrt(6e10 * 1.2e11))
    assert rate_at([SLOW, FAST], 1.0) == pytest.approx(6e10)
    assert rate_at([SLOW, FAST], 1e15) == pytest.approx(1.2e11)
    assert rate_at([SLOW, Speed(6e6, 6e10 * math.e**2, "CPU", "again")], 6e6) == pytest.approx(6e10 * math.e)


def test_scarce_data_is_noted_and_lowers_the_effective_tokens() -> None:
    enough, once = plan(flops=1e16, unique=10**12), plan(flops=1e16)
    few = plan(flops=1e16, unique=once.tokens // 10)
    assert enough.loss.value == once.loss.value
    assert few.epochs == pytest.approx(10, rel=0.01)
    assert few.loss.value > once.loss.value
    assert any("10 epochs" in note and "Muennighoff" in note for note in few.notes)
    assert any("of one epoch" in note for note in enough.notes)


def test_rates_that_jump_between_sizes_still_give_a_network_near_the_optimum() -> None:
    speeds = [
        Speed(flops_per_token=6 * n, flops_per_s=rate, device="here", source="runs")
        for n, rate in ((7e3, 1e8), (2e4, 2e9), (2e5, 2e8), (1e6, 5e9))
    ]
    for hours in (0.3, 1.0, 3.0):
        result = make_plan(PlanConfig(device_hours=hours, context=64), law=LAW, vocab_size=262, speeds=speeds)
        assert result.seconds == pytest.approx(hours * 3600, rel=0.2)
        assert not any("smallest model" in note for note in result.notes)
        assert result.parameters < 1.5 * result.optimum.parameters or any("leap" in note for note in result.notes)


def test_a_budget_below_the_smallest_network_says_so() -> None:
    result = plan(flops=1e9)
    assert any("smallest model" in note for note in result.notes)
    assert any("covers only" in note for note in result.notes)
    assert not result.loss_is_believable
    assert any("does not extrapolate" in note for note in result.notes)


@pytest.mark.parametrize(
    ("values", "words", "cure"),
    [
        ({"flops": 1.0}, "less than one step: the smallest model here, of", "Plan at least "),
        ({"device_hours": 1e-9}, "A budget of 1e-09 device-hours is less than one step", "device-hours, which are 200"),
        ({"flops": 1e40}, "parameters; the largest here has", "Plan at most "),
        (
            {"money_usd": 1e15, "price_usd": 2.0},
            r"A budget of \$1,000,000,000,000,000\.00 is for a model",
            "Plan at most $",
        ),
        ({"flops": 1e40, "tokens_per_parameter": 100}, "the largest here has", "Plan at most "),
    ],
)
def test_an_absurd_budget_is_refused_with_its_bound(values: dict[str, float], words: str, cure: str) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        plan((SLOW,), **values)
    assert cure in str(refused.value.remedy)
    assert refused.value.field in values


@pytest.mark.parametrize("values", [{"flops": 1e40}, {"flops": 1.0}])
def test_the_bound_that_a_refusal_names_can_be_planned(values: dict[str, float]) -> None:
    with pytest.raises(InvalidInput) as refused:
        plan(**values)
    bound = float(str(refused.value.remedy).split("at ")[1].split()[1])
    assert plan(flops=bound).parameters > 0


@pytest.mark.parametrize("unique", [None, 10**9, 3 * 10**6])
@pytest.mark.parametrize("flops", [1e15, 3e17, 1e20])
def test_a_plan_lies_on_its_own_curve(flops: float, unique: int | None) -> None:
    result = plan(flops=flops, unique=unique)
    line = profile_line(result.law, result.law_flops, name="", ceiling=math.inf, unique_tokens=unique)
    on_curve = np.interp(math.log(result.parameters), np.log(line.x), line.y)
    assert result.loss.value == pytest.approx(on_curve, rel=1e-3)


def test_a_fixed_ratio_makes_a_smaller_network_and_states_its_cost() -> None:
    best, long = plan(flops=1e18), plan(flops=1e18, tokens_per_parameter=200)
    assert long.parameters < best.parameters
    assert long.optimum.tokens_per_parameter == pytest.approx(200)
    assert long.loss.value > best.loss.value
    assert any("instead of" in note for note in long.notes)


def test_a_plan_with_data_becomes_a_run() -> None:
    run = plan(flops=1e14, dataset="tales", tokenizer="pieces", context=128).run_config()
    assert run is not None
    assert run.context == 128
    assert run.min_learning_rate <= run.learning_rate
    assert plan(flops=1e14, dataset="tales").run_config() is None


@pytest.mark.parametrize("family", DENSE_FAMILIES)
@pytest.mark.parametrize("parameters", [1e5, 1e6, 1e7, 1.24e8, 7e9])
def test_a_network_of_the_requested_size_is_proposed(family: str, parameters: float) -> None:
    shape = propose_architecture(
        parameters, family=family, vocab_size=1024 if parameters < 1e7 else 32_000, context=256
    )
    assert count_all(shape) == pytest.approx(parameters, rel=0.12)


def test_rules_give_the_published_numbers() -> None:
    """Step Law (arXiv 2503.04715) at the largest network and token count it was fitted to: 1.07 B parameters, 100 B
    tokens.
    """
    assert batch_tokens_rule(1e11) == pytest.approx(0.58 * 1e11**0.571)
    assert learning_rate_rule(1.07e9, 1e11).value == pytest.approx(1.79 * 1.07e9**-0.713 * 1e11**0.307, rel=0.01)
    small = learning_rate_rule(160_192, 153_600)  # measured: 2.11 nats a byte at 0.003, 2.30 at 0.005 and 2.32 at 0.01
    assert (small.value, "capped at 0.003" in small.source) == (0.003, True)
    assert split_batch(1, context=128) == (1, 1)
    assert split_batch(1e6, context=2048) == (4, 122)


def test_a_study_spends_each_budget_on_several_sizes() -> None:
    config = StudyConfig(name="s", dataset="d", tokenizer="t", budgets=(1e15, 1e14), sizes=5)
    result = plan_study(config, law=LAW, vocab_size=1024, speeds=[SLOW], unique_tokens=10**9)
    assert len(result.runs) == 10
    assert [run.budget for run in result.runs] == sorted(run.budget for run in result.runs)
    for run in result.runs:
        assert run.flops == pytest.approx(run.budget, rel=0.03)
        assert run.tokens == run.config.max_steps * run.config.tokens_per_step
        assert run.config.eval_every == run.config.checkpoint_every == run.config.max_steps
    # val_loss on the same windows
    assert len({run.config.micro_batch * run.config.eval_batches for run in result.runs}) == 1
    assert result.seconds == pytest.approx(5.5e15 / 6e10, rel=0.03)
    assert any("fewer than three" in note for note in result.notes)


def test_an_impossible_study_is_refused() -> None:
    valid = {"name": "s", "dataset": "d", "tokenizer": "t", "budgets": [1e13]}
    for values, words in (
        ({"budgets": []}, "budgets"),
        ({"budgets": [1e13, 1e13]}, "the same"),
        ({"budgets": ["x"]}, "budgets"),
        ({"budgets": [-1]}, "positive"),
        ({"sizes": 2}, "sizes"),
    ):
        with pytest.raises(InvalidInput, match=words):
            parse_study({**valid, **values})
    with pytest.raises(InvalidInput, match="mapping"):
        parse_study([1])
    many = parse_study({**valid, "budgets": [1e13 * 3**n for n in range(8)], "sizes": 12})
    with pytest.raises(InvalidInput, match="96 runs"):
        plan_study(many, law=LAW, vocab_size=1024)
