"""The planner's services: what was measured, what own runs say, and studies that are launched once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from backend.db.tables import Job, Measurement, Run
from backend.domain.scaling.plan import PlanConfig
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.data.datasets import rename_dataset
from backend.services.data.sizes import read_train_tokens
from backend.services.scaling.planner import (
    choose_speeds,
    list_measured_devices,
    list_pools,
    plan_run,
    read_plan_inputs,
)
from backend.services.scaling.studies import (
    archive_study,
    get_study,
    launch_study,
    list_studies,
    preview_study,
    read_study,
    retry_study,
    stop_study,
    study_detail,
    study_yaml,
    suggest_budgets,
)
from backend.services.tokenizers.tokenizers import rename_tokenizer
from backend.services.training.views import get_runs
from tests.support.run_world import SHAPE
from tests.support.scaling_world import LAW, STUDY, finish, finish_by_law, make_text
from tests.support.scenario import Scenario


def test_a_plan_takes_vocabulary_and_data_from_the_named_parts(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    make_text(ctx, 40_000_000)
    plan = plan_run(ctx, PlanConfig(flops=1e14, dataset="tales", tokenizer="pieces", context=64))
    assert plan.architecture.vocab_size == 300
    assert plan.unique_tokens == 9_000_000  # 90 of 100 rows are for training
    assert plan.seconds is None
    with pytest.raises(NotFound, match="nowhere"):
        plan_run(ctx, PlanConfig(flops=1e14, dataset="nowhere"))
    with pytest.raises(InvalidInput, match="no run or probe"):
        plan_run(ctx, PlanConfig(device_hours=1.0))


def test_tokens_are_unknown_without_counts(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    inputs = read_plan_inputs(ctx, dataset="tales", tokenizer="pieces")
    assert inputs.version is not None
    assert inputs.tokenizer is not None
    assert read_train_tokens(ctx, inputs.version, inputs.tokenizer) is None
    assert read_plan_inputs(ctx, dataset=None, tokenizer=None).vocab_size == 32_000


def test_rates_come_from_measurements_and_from_finished_runs(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    assert choose_speeds(ctx, None) == []
    finish(ctx, scenario.run(name="short passes").id, 3.0, rate=5.0)
    assert choose_speeds(ctx, None) == [], "128 tokens a pass say nothing of the speed of larger ones"
    run = scenario.run(micro_batch=8)
    finish(ctx, run.id, 3.0, rate=500.0)
    speeds = choose_speeds(ctx, None)
    assert [(round(each.flops_per_s / each.flops_per_token), each.device) for each in speeds] == [(500, "CPU of here")]
    setting: dict[str, Any] = {"architecture": SHAPE.model_dump(mode="json"), "context": 32}
    setting["micro_batch"] = 8
    with ctx.db.write() as session:
        for values in (setting, {**setting, "lora_rank": 8}, {**setting, "micro_batch": 2}, {"architecture": "?"}):
            session.add(
                Measurement(
                    origin="probe",
                    setting=values,
                    setting_hash="x",
                    device="A card",
                    estimated_bytes=1,
                    measured_bytes=1,
                    tokens_per_s=9000.0,
                )
            )
    assert list_measured_devices(ctx) == ["A card", "CPU of here"]
    (fastest,) = choose_speeds(ctx, None)
    assert round(fastest.flops_per_s / fastest.flops_per_token) == 9000
    hours = plan_run(ctx, PlanConfig(device_hours=10.0, device="CPU of here", vocab_size=300, context=64))
    assert hours.seconds == pytest.approx(36_000, rel=0.05)
    with pytest.raises(InvalidInput, match="A card"):
        choose_speeds(ctx, "another")


def test_a_study_is_previewed_launched_once_and_watched(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    preview = preview_study(ctx, STUDY)
    assert len(preview.runs) == 15
    assert list_studies(ctx) == []
    study = launch_study(ctx, STUDY, person=LOCAL)
    again = launch_study(ctx, STUDY, person=LOCAL)
    assert study.id == again.id
    assert (again.num_planned, again.num_launched, again.num_active) == (15, 15, 15)
    assert study.config.dataset == "tales@1"
    with pytest.raises(Conflict, match="already another study"):
        launch_study(ctx, STUDY.model_copy(update={"sizes": 4}), person=LOCAL)
    with pytest.raises(Conflict, match="15 active runs"):
        archive_study(ctx, study.id, person=LOCAL)
    assert stop_study(ctx, "sizes", person=LOCAL) == 15
    assert (get_study(ctx, "sizes").num_active, get_study(ctx, "sizes").num_stopped) == (0, 15)
    assert retry_study(ctx, study.id, person=LOCAL) == 15
    assert (get_study(ctx, "sizes").num_active, stop_study(ctx, "sizes", person=LOCAL)) == (15, 15)
    archive_study(ctx, study.id, person=LOCAL)
    assert list_studies(ctx) == []
    assert get_study(ctx, study.id).archived_at


def test_an_interrupted_study_is_completed_also_after_its_parts_were_renamed(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    study = launch_study(ctx, STUDY, person=LOCAL)
    rename_dataset(ctx, "tales", "stories", person=LOCAL)
    rename_tokenizer(ctx, "pieces", "bits", person=LOCAL)
    study = get_study(ctx, study.id)
    assert (study.config.dataset, study.config.tokenizer) == ("stories@1", "bits")
    with ctx.db.write() as session:
        lost = session.query(Run).filter(Run.group_id == study.id).first()
        assert lost is not None
        session.query(Job).filter(Job.id == lost.job_id).one().idempotency_key = "gone"
        session.delete(lost)
    assert get_study(ctx, study.id).num_launched == 14
    assert launch_study(ctx, study.config, person=LOCAL).num_launched == 15


def test_finished_runs_give_a_law_that_plans_can_use(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    make_text(ctx)
    study = launch_study(ctx, STUDY, person=LOCAL)
    assert study_detail(ctx, study.id).own.problem
    finish_by_law(ctx, study)
    detail = study_detail(ctx, study.id)
    assert detail.study.num_finished == 15
    assert len(detail.own.points) == 15
    assert len(detail.own.isoflop.profiles) == 3
    assert detail.own.law is not None
    assert detail.own.law.law.alpha == pytest.approx(LAW.alpha, rel=0.02)
    assert detail.pooled is None
    own = plan_run(ctx, PlanConfig(flops=1e14, dataset="tales", tokenizer="pieces", context=64, law="own"))
    assert own.law.is_own
    assert own.optimum.parameters == pytest.approx(LAW.optimum(1e14).parameters, rel=0.1)
    assert own.loss_is_believable
    with pytest.raises(InvalidInput, match="no law of your own"):
        plan_run(ctx, PlanConfig(flops=1e14, dataset="tales", tokenizer="pieces", context=32, law="own"))
    with pytest.raises(InvalidInput, match="a dataset and a tokenizer"):
        plan_run(ctx, PlanConfig(flops=1e14, law="own"))


def test_runs_that_can_not_be_compared_are_left_out_with_the_reason(ctx: Context, scenario: Scenario) -> None:
    good, constant, short, blind = (
        scenario.run(**values) for values in ({}, {"schedule": "constant"}, {"max_steps": 50}, {"max_steps": 60})
    )
    for run in (good, constant, short, blind):
        finish(ctx, run.id, 3.0)
    with ctx.db.write() as session:
        session.get_one(Run, short.id).summary = {"last": {"val_loss": 3.0}, "result": {"final_step": 20}}
        session.get_one(Run, blind.id).summary = {"last": {}, "result": {"final_step": 60}}
    (pool,) = list_pools(ctx)
    assert [run.name for run in pool.runs] == [good.name]
    point = pool.runs[0].point
    assert (point.tokens, point.loss) == (100 * 4 * 32, 3.0)
    reasons = " ".join(pool.left_out)
    for words in ("did not decay", "20 of 50 steps", "no val_loss"):
        assert words in reasons


def test_budgets_are_suggested_from_the_measured_rate(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    assert suggest_budgets(ctx) == (1e12, 3e12, 1e13)
    finish(ctx, scenario.run(micro_batch=8).id, 3.0)
    budgets = suggest_budgets(ctx)
    assert budgets[2] == pytest.approx(10 * budgets[0])
    speed = choose_speeds(ctx, None)[0]
    assert 5 * sum(budgets) / speed.flops_per_s == pytest.approx(3600, rel=0.5)
    assert math.isfinite(budgets[0])


def test_a_study_survives_a_yaml_round_trip_and_a_rater_may_not_launch_one(ctx: Context) -> None:
    assert read_study(study_yaml(STUDY)) == STUDY
    with pytest.raises(NotAllowed):
        launch_study(ctx, STUDY, person=Person(id="r", name="Rater", role="rater"))
    with pytest.raises(NotFound):
        study_detail(ctx, "none")
    assert get_runs(ctx, []) == []
