"""The diagnosis is silent about healthy runs of many kinds, and names what is wrong with sick ones."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest

from backend.domain.training.config import RunConfig
from backend.domain.training.config_fields import with_changes, write_changes
from backend.domain.training.defaults import Basis, suggest_learning_rate
from backend.domain.training.diagnosis import Finding, Kind, RunFacts, Series, breaking_finding, diagnose, spoils
from backend.domain.training.objectives import Objective
from backend.domain.training.rewards import SAME_REWARDS
from backend.errors import InvalidInput

STEPS = 600


def config(**values: Any) -> RunConfig:
    """A pretraining config from random weights."""
    given = {
        "dataset": "tales",
        "architecture": "small",
        "tokenizer": "pieces",
        "max_steps": STEPS,
        "learning_rate": 3e-3,
        **values,
    }
    return RunConfig.model_validate({key: value for key, value in given.items() if value is not None})


def tuning(objective: str = "sft", **values: Any) -> RunConfig:
    """A config that starts from a base."""
    return config(objective=objective, base="oak", architecture=None, tokenizer=None, **values)


def curve(values: np.ndarray, *, every: int = 1) -> Series:
    return Series(np.arange(1, len(values) + 1) * every, np.asarray(values, dtype=np.float64))


def healthy(
    seed: int,
    *,
    steps: int = STEPS,
    start: float = 5.6,
    floor: float = 1.7,
    tail: float = 0.35,
    noise: float = 0.02,
    heavy: bool = False,
) -> dict[str, Series]:
    """Curves as of a run from random weights: a fast fall, then a power law; noise in proportion, of a normal or a
    heavy-tailed kind.
    """
    rng = np.random.default_rng(seed)
    at = np.arange(1, steps + 1)
    trend = floor + (start - floor) * (0.55 * np.exp(-at / (0.06 * steps)) + 0.45 * (1 + at / (0.05 * steps)) ** -tail)
    draw = rng.standard_t(5, steps) * math.sqrt(3 / 5) if heavy else rng.normal(size=steps)
    every = max(1, steps // 12)
    return {
        "train_loss": curve(trend * (1 + noise * draw)),
        "val_loss": curve(
            trend[every - 1 :: every] + 0.03 + rng.normal(0, 0.004, len(trend[every - 1 :: every])), every=every
        ),
        "grad_norm": curve((0.3 + 2 * np.exp(-at / 40)) * np.exp(rng.normal(0, 0.25, steps))),
        "data_wait": curve(np.abs(rng.normal(0.01, 0.01, steps))),
    }


def kinds(series: dict[str, Series], **facts: Any) -> list[Kind]:
    return [finding.kind for finding in diagnose(series, RunFacts(**{"config": config(), **facts}))]


def only(series: dict[str, Series], **facts: Any) -> Finding:
    (finding,) = diagnose(series, RunFacts(**{"config": config(), **facts}))
    return finding


# ---- healthy


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize("noise", [0.002, 0.01, 0.03, 0.08])
@pytest.mark.parametrize("steps", [80, 300, 2000])
def test_a_healthy_run_has_no_finding(steps: int, noise: float, heavy: bool) -> None:
    for seed in range(12):
        series = healthy(
            seed,
            steps=steps,
            noise=noise,
            heavy=heavy,
            start=3.5 + seed / 2,
            floor=1.0 + seed / 10,
            tail=0.3 + seed / 30,
        )
        for facts in (
            RunFacts(config(max_steps=steps)),
            RunFacts(config(max_steps=10 * steps), has_ended=False),
            RunFacts(),
        ):
            assert diagnose(series, facts) == [], (seed, facts.has_ended)


@pytest.mark.parametrize("noise", [0.05, 0.15, 0.3])
def test_noisy_slow_fine_tuning_has_no_finding(noise: float) -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        trend = 1.35 + 0.35 * np.exp(-np.arange(STEPS) / 150) - 0.1 * np.arange(STEPS) / STEPS
        loss = trend * np.exp(rng.normal(-(noise**2) / 2, noise, STEPS))
        val = Series(np.arange(50, STEPS + 1, 50), trend[49::50] + 0.05 + rng.normal(0, 0.003, 12))
        assert kinds({"train_loss": curve(loss), "val_loss": val}, config=tuning()) == [], seed


def test_a_slowly_falling_preference_loss_has_no_finding() -> None:
    for seed in range(30):
        rng = np.random.default_rng(seed)
        loss = np.maximum(0.69 - 0.35 * np.arange(300) / 300 + rng.normal(0, 0.12, 300), 0.05)
        assert (
            kinds(
                {"train_loss": curve(loss), "grad_norm": curve(np.exp(rng.normal(0, 0.5, 300)))}, config=tuning("dpo")
            )
            == []
        ), seed


@pytest.mark.parametrize(("num_points", "fall"), [(200, 20.0), (600, 40.0)])
def test_a_loss_of_pairs_that_falls_to_near_0_is_not_unstable(num_points: int, fall: float) -> None:
    """Its noise falls with it: “most of these steps taught nothing” was said of 55 of 60 such runs."""
    steps = np.arange(num_points)
    for seed in range(30):
        noise = np.random.default_rng(seed).exponential(1, num_points)
        assert Kind.UNSTABLE not in kinds({"train_loss": curve(0.69 * np.exp(-steps / fall) * noise)}), seed


def test_a_loss_of_0_throughout_has_not_diverged() -> None:
    assert Kind.DIVERGED not in kinds({"train_loss": curve(np.zeros(200))})


def test_a_val_loss_that_rises_within_its_noise_is_not_over_fitting() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        series = healthy(seed)
        val = 2.0 + 2 * np.exp(-np.arange(20) / 3) + rng.normal(0, 0.03, 20)
        assert Kind.OVER_FIT not in kinds({**series, "val_loss": Series(np.arange(30, 601, 30), val)}), seed


def test_one_unusual_batch_is_no_finding() -> None:
    series = healthy(0)
    series["train_loss"].values[400] *= 1.3
    assert kinds(series) == []


def test_a_run_of_few_points_is_too_short_to_tell() -> None:
    assert kinds({"train_loss": curve(np.linspace(5, 9, 40)), "grad_norm": curve(np.full(40, 1e-9))}) == []
    assert kinds({}) == []


# ---- sick


def test_a_run_of_any_length_that_ends_above_the_loss_of_a_guess_is_of_no_use() -> None:
    finding = only({"train_loss": curve(np.full(4, 45.0))}, vocab_size=2048)
    assert (finding.kind, finding.sentence) == (
        Kind.DIVERGED,
        "The training loss is 45.0. A model that takes all tokens for equally likely has 7.6.",
    )
    assert breaking_finding([finding]) is finding
    assert kinds({"train_loss": curve(np.full(4, 45.0))}) == [Kind.DIVERGED], "above any vocabulary's"
    assert kinds({"train_loss": curve(np.full(4, 8.0))}, vocab_size=2048) == [], "a fresh model"
    assert kinds({"train_loss": curve(np.full(4, 45.0))}, vocab_size=2048, has_ended=False) == []
    assert kinds({"train_loss": curve(np.full(9, 20.0))}, vocab_size=2048, has_ended=False) == [], "it may recover"
    lost = {"train_loss": curve(np.array([7.6, 90.0, 9.0, 80.0, 70.0, 80.0]))}
    assert kinds(lost, vocab_size=2048, has_ended=False) == [Kind.DIVERGED], "said while it can be stopped"


def test_a_learning_rate_far_above_the_usual_ones_is_cured_by_a_usual_one() -> None:
    """A third of a learning rate of 9 diverges as well."""
    rising = {"train_loss": curve(np.array([7.6, 3700.0, 3600.0, 1700.0, 2341.0]))}
    wild = config(learning_rate=9.0, min_learning_rate=1e-4, grad_clip=0)
    finding = only(rising, config=wild, vocab_size=2048, body=900_000)
    assert "rose from 7.6 to 2,341.0." in finding.sentence, "the numbers that the page shows"
    assert finding.cause == "The learning rate is too high: updates overshoot."
    (change,) = [value for name, value in finding.changes if name == "learning_rate"]
    form = Basis(Objective.PRETRAIN, parameters=900_000)
    assert change == suggest_learning_rate(form, tokens=wild.tokens_per_step * STEPS), "what the launch form suggests"
    small = tuning(learning_rate=9.0, max_steps=60)
    finding = only(rising, config=small, vocab_size=2048, body=200_000)
    assert ("learning_rate", 0.002) in finding.changes, "the middle of the usual rates, 9.5e-5, teaches nearly nothing"
    broken = only({}, config=wild, body=900_000, not_finite={"grad_norm": 5})
    assert broken.cause.startswith("The learning rate of 9 is above the usual 3e-4 to 0.03"), "one cause"
    unknown = only(rising, config=wild.model_copy(update={"grad_clip": 1.0}), vocab_size=2048)
    assert ("learning_rate", 3.0) in unknown.changes, "of a network of unknown size"


def test_weights_from_before_a_divergence_may_be_good() -> None:
    finding = Finding(Kind.DIVERGED, "", "", step=40)
    assert [spoils(finding, step) for step in (20, 40, 60, None)] == [False, True, True, True]
    assert not spoils(None, 60)
    assert spoils(Finding(Kind.DIVERGED, "", ""), 1), "it was never good"


@pytest.mark.parametrize("seed", range(5))
def test_over_fitting_is_named_with_its_best_step(seed: int) -> None:
    series = healthy(seed)
    steps = series["val_loss"].steps
    val = series["val_loss"].values + np.maximum(0, steps - 250) / 350 * 0.4
    finding = only({**series, "val_loss": Series(steps, val)})
    assert finding.kind is Kind.OVER_FIT
    assert finding.step is not None
    assert 150 <= finding.step <= 350
    assert ("max_steps", finding.step) in finding.changes


def test_a_loss_that_rises_with_its_val_loss_has_diverged_and_not_over_fitted() -> None:
    series = healthy(1)
    rise = np.maximum(0, np.arange(STEPS) - 350) / 250 * 2.5
    sick = {**series, "train_loss": curve(series["train_loss"].values + rise)}
    sick["val_loss"] = Series(series["val_loss"].steps, series["val_loss"].values + rise[series["val_loss"].steps - 1])
    finding = only(sick)
    assert finding.kind is Kind.DIVERGED
    assert finding.changes == (("learning_rate", 0.001),)


def test_a_loss_that_leaps_up_at_once_has_diverged() -> None:
    rng = np.random.default_rng(0)
    loss = np.concatenate([np.linspace(5.6, 5.0, 40), np.full(160, 7.4)]) + rng.normal(0, 0.05, 200)
    assert Kind.DIVERGED in kinds({"train_loss": curve(loss)}, config=config(max_steps=200, learning_rate=1.0))


def test_a_loss_that_rose_from_the_first_step_on_has_risen_from_its_first_value() -> None:
    rng = np.random.default_rng(0)
    way = np.interp(np.arange(1, 151), [1, 20, 150], [7.6, 50, 900]) * np.exp(rng.normal(0, 0.02, 150))
    way[0] = 7.6
    finding = only({"train_loss": curve(way)}, vocab_size=2048)
    assert finding.sentence.startswith("The loss has risen from 7.600 at step 1 to ")


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_rose_far_and_came_back_is_named(seed: int) -> None:
    """A run whose loss went from 7.6 to 120 and came back as the learning rate decayed finished without a word."""
    rng = np.random.default_rng(seed)
    way = np.interp(np.arange(1, 201), [1, 12, 60, 120, 200], [7.6, 90, 120, 30, 7.2])
    sick = {"train_loss": curve(way * np.exp(rng.normal(0, 0.08, 200)))}
    sick["grad_norm"] = curve(np.interp(np.arange(200), [0, 100, 200], [2, 60, 3]) * np.exp(rng.normal(0, 0.4, 200)))
    wild = config(max_steps=200, learning_rate=5.0)
    finding = only(sick, config=wild, vocab_size=2048, body=6_000)
    assert finding.kind is Kind.UNSTABLE
    assert finding.severity == "warning"
    assert re.match(
        r"The loss rose from [78].* to 1[0-9]{2}.* and came back to [678].* as the learning", finding.sentence
    )
    (change,) = [value for name, value in finding.changes if name == "learning_rate"]
    assert isinstance(change, float)
    assert change < 0.03, "one of the usual rates"
    assert breaking_finding([finding]) is None, "its weights are as good as its last losses"


@pytest.mark.parametrize("seed", range(5))
def test_a_hump_in_the_middle_of_a_run_is_named_with_where_it_began(seed: int) -> None:
    series = healthy(seed)
    at = np.arange(STEPS)
    hump = 3.0 * np.exp(-(((at - 300) / 60) ** 2))
    finding = only({"train_loss": curve(series["train_loss"].values + hump)})
    assert finding.kind is Kind.UNSTABLE
    assert finding.step is not None
    assert 120 <= finding.step <= 260
    assert finding.changes == (("learning_rate", 0.001),)


@pytest.mark.parametrize("seed", range(5))
def test_spikes_are_counted_and_the_highest_is_shown(seed: int) -> None:
    series = healthy(seed)
    for place in (200, 201, 202, 350, 500):
        series["train_loss"].values[place] += 2.0 + place / 100
        series["grad_norm"].values[place] = 40.0
    finding = only(series)
    assert finding.kind is Kind.SPIKES
    assert "jumped 3 times" in finding.sentence
    assert finding.step == 501
    assert "gradient norm was" in finding.cause
    assert finding.changes == (("learning_rate", 0.001),)
    assert only(series, config=config(grad_clip=0)).changes == (("grad_clip", 1.0),)


@pytest.mark.parametrize("seed", range(5))
def test_gradients_that_grow_without_end_are_named(seed: int) -> None:
    series = healthy(seed)
    growth = np.exp(np.maximum(0, np.arange(STEPS) - 300) / 80)
    finding = only({**series, "grad_norm": curve(series["grad_norm"].values * growth)})
    assert finding.kind is Kind.EXPLODING
    assert finding.step is not None
    assert 280 <= finding.step <= 500


def test_gradients_that_vanish_are_named_with_a_cause_of_the_objective() -> None:
    norms = np.concatenate([np.full(200, 0.5), np.zeros(100)])
    flat = {"grad_norm": curve(norms)}
    assert only(flat).kind is Kind.DEAD
    assert only(flat).step == 200
    assert "masked" in only(flat).cause
    assert only(flat, config=config(precision="fp16")).changes == (("precision", "fp32"),)
    grpo = tuning("grpo", grpo={"rewards": [{"kind": "exact"}]}, micro_batch=16)
    assert "same reward" in only(flat, config=grpo).cause
    assert only(flat, config=tuning("dpo")).changes == (("max_steps", 200),)
    still = only({"grad_norm": curve(np.zeros(6))}, config=grpo)  # finished with "Next: Deploy and chat" alone
    assert "nothing was learned" in still.sentence
    four = {"grad_norm": curve(np.zeros(4))}
    assert (only(four, config=grpo).kind, only(four, config=grpo).sentence) == (Kind.STILL, SAME_REWARDS)
    assert only(four, config=grpo).changes == still.changes != ()
    assert kinds(four, config=grpo, has_ended=False) == [], "too early to tell"
    assert kinds(four, config=None) == [], "a log of another program"
    assert kinds({"grad_norm": curve(np.array([0.0, 0.0, 0.1, 0.0, 0.0, 0.0]))}) == []


def test_completions_that_are_all_cut_off_need_more_new_tokens_not_more_variety() -> None:
    rewards = [{"kind": "exact"}, {"kind": "length", "target": 20}]
    grpo = tuning("grpo", grpo={"rewards": rewards, "max_new_tokens": 12}, micro_batch=16)
    cut_off = {"grad_norm": curve(np.zeros(4)), "completion_length": curve(np.full(4, 12.0))}
    finding = only(cut_off, config=grpo)
    assert finding.sentence == SAME_REWARDS
    assert "All completions end at max new tokens, 12" in finding.cause
    assert (finding.action, finding.changes) == (
        "Run again with up to 40 new tokens",
        (("grpo.max_new_tokens", 40),),
    )
    assert with_changes(grpo, write_changes(finding.changes)).grpo.max_new_tokens == 40
    vanished = np.concatenate([np.full(200, 0.5), np.zeros(100)])
    dead = {"grad_norm": curve(vanished), "completion_length": curve(np.full(300, 12.0))}
    assert only(dead, config=grpo).changes == finding.changes
    full = tuning("grpo", grpo={"rewards": rewards, "max_new_tokens": 12}, micro_batch=16, context=32)
    assert ("no room" in only(cut_off, config=full).cause, only(cut_off, config=full).changes) == (True, ())
    shorter = {**cut_off, "completion_length": curve(np.full(4, 9.5))}
    assert only(shorter, config=grpo).action == "Run again with more varied answers"


def test_a_loss_that_is_not_finite_is_reported_with_its_value() -> None:
    finding = only(healthy(0, steps=80), not_finite={"train_loss": 81})
    assert (finding.kind, finding.step) == (Kind.NOT_FINITE, 81)
    assert finding.changes == (("learning_rate", 0.001),)
    by_failure = only(healthy(0, steps=80), failure="The loss became nan (gradient norm nan) at step 81.")
    assert (by_failure.kind, by_failure.step) == (Kind.NOT_FINITE, 81)
    assert only({}, failure="The loss became inf", config=config(precision="fp16")).changes == (("precision", "fp32"),)
    assert kinds(healthy(0), failure="The disk is full: information about it is in the log.") == []


def test_weights_above_the_loss_of_a_guess_are_useless_before_a_number_is_not_finite() -> None:
    losses = np.concatenate([np.full(4, 3.0), np.full(4, 5000.0)])
    series = {"train_loss": Series(np.arange(1, 9), losses)}
    (finding,) = [
        one
        for one in diagnose(
            series, RunFacts(config=config(), has_ended=True, not_finite={"grad_norm": 9}, vocab_size=500)
        )
        if one.kind is Kind.NOT_FINITE
    ]
    assert "Grad norm became NaN or infinite at step 9." in finding.sentence
    assert [step for step in range(1, 9) if spoils(finding, step)] == [4, 5, 6, 7, 8]


def test_a_loader_that_lets_the_device_wait_is_named() -> None:
    series = {**healthy(0), "data_wait": curve(np.random.default_rng(0).normal(0.45, 0.05, STEPS))}
    finding = only(series)
    assert finding.kind is Kind.STARVING
    assert "45 % of every step" in finding.sentence
    grpo = tuning("grpo", grpo={"rewards": [{"kind": "exact"}]}, micro_batch=16)
    assert kinds(series, config=grpo) == []  # there the data is what the network writes


@pytest.mark.parametrize("seed", range(5))
def test_a_learning_rate_far_too_low_is_named(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = 5.7 - 0.2 * np.arange(STEPS) / STEPS + rng.normal(0, 0.03, STEPS)
    finding = only({"train_loss": curve(loss)}, config=config(learning_rate=1e-6))
    assert finding.kind is Kind.TOO_SLOW
    assert finding.changes == (("learning_rate", 5e-6),)
    # a base may have little left to learn
    assert kinds({"train_loss": curve(loss)}, config=tuning(learning_rate=1e-6)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_plateau_is_a_note_with_the_step_it_began(seed: int) -> None:
    rng = np.random.default_rng(seed)
    loss = 2.0 + 3.6 * np.exp(-np.arange(STEPS) / 40) + rng.normal(0, 0.02, STEPS)
    finding = only({"train_loss": curve(loss)}, config=config(schedule="constant"))
    assert (finding.kind, finding.severity, finding.changes) == (Kind.PLATEAU, "note", (("schedule", "cosine"),))
    assert finding.step is not None
    assert 150 <= finding.step <= 260  # where the fall of 3.6 is down to 1 % of the loss
    assert only({"train_loss": curve(loss)}).changes[0] == ("max_steps", finding.step)
    assert "hardly learned" in only({"train_loss": curve(np.full(STEPS, 5.7) + rng.normal(0, 0.02, STEPS))}).cause


# ---- the run that follows


def test_the_changes_of_a_finding_can_be_launched() -> None:
    series = healthy(0)
    series["train_loss"].values[[200, 350, 500]] += 4.0
    finding = only(series)
    again = with_changes(config(), write_changes(finding.changes))
    assert again.learning_rate == 0.001
    assert again.model_copy(update={"learning_rate": 3e-3}) == config()


@pytest.mark.parametrize(
    "text",
    [
        "learning_rat:1",
        "learning_rate",
        "lora.ranks:3",
        "name.x:3",
        "learning_rate:[",
        "learning_rate:-1",
        "max_steps:many",
    ],
)
def test_invalid_changes_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        with_changes(config(), text)


def test_changes_reach_into_sections() -> None:
    changed = with_changes(tuning("dpo"), "preference.beta:0.3, packing:false")
    assert (changed.preference.beta, changed.packing) == (0.3, False)
    assert with_changes(config(), " ") == config()
