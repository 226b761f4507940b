"""Sweeps: what is tried, in which order, what is pruned, and that leading them twice or after a restart launches
nothing twice.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from backend.db.tables import Job, Provider, RunGroup
from backend.domain.jobs.placement import Partition
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import OBJECTIVE_FACTS
from backend.domain.training.sweep import (
    SweepConfig,
    build_run,
    goal_of_metric,
    label_of_best,
    label_of_metric,
    parse_sweep,
    point_at,
    sweep_yaml,
    untried,
)
from backend.errors import Conflict, InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import Claim, claim_next
from backend.services.jobs.jobs import get_job
from backend.services.training.deletion import delete_runs
from backend.services.training.runs import stop_run
from backend.services.training.sweeps import (
    Trial,
    advance_sweeps,
    archive_sweep,
    choose_pruned,
    continue_sweep,
    get_sweep,
    launch_sweep,
    list_sweeps,
    propose,
    read_sweep,
    stop_sweep,
    sweep_detail,
)
from backend.services.training.views import RunView, get_run
from tests.support.jobs import list_jobs
from tests.support.run_world import claim, end, make_config, report
from tests.support.scenario import Scenario, add_row


def sweep(**values: Any) -> SweepConfig:
    """A sweep over two fields of a run that fits `Scenario.parts`."""
    run = make_config(eval_every=10).model_dump(mode="json")
    vary = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "weight_decay": [0.0, 0.1]}
    return parse_sweep({"name": "tries", "run": run, "vary": vary, **values})


def measure(ctx: Context, taken: Claim, step: int, val_loss: float) -> None:
    """Report one val_loss, as a child does."""
    report(ctx, taken, {"type": "metrics", "step": step, "time": 1000.0 + step, "values": {"val_loss": val_loss}})


def train(ctx: Context, run: RunView, val_loss: float) -> None:
    """See a run through."""
    taken = claim(ctx, run)
    measure(ctx, taken, 100, val_loss)
    end(ctx, taken, Status.FINISHED)


def queued(ctx: Context, name: str = "tries") -> list[RunView]:
    """The runs of a sweep that wait."""
    return [each.run for each in sweep_detail(ctx, name).runs if each.run.status is Status.QUEUED]


def loss_of(point: dict[str, Any]) -> float:
    """A bowl with its bottom at a learning rate of 0.003 and no weight decay."""
    return 1.0 + (math.log10(point["learning_rate"]) - math.log10(0.003)) ** 2 + point["weight_decay"]


def test_a_grid_is_every_combination_once() -> None:
    config = sweep(
        method="grid",
        vary={"learning_rate": {"low": 0.001, "high": 0.1, "log": True, "points": 3}, "lora.rank": [4, "8"]},
    )
    points = [point_at(config, number) for number in range(config.num_runs)]
    assert points == [{"learning_rate": rate, "lora.rank": rank} for rate in (0.001, 0.01, 0.1) for rank in (4, 8)]
    assert build_run(config, points[3], 3).lora.rank == 8


def test_listed_values_are_drawn_without_repeats_and_no_more_often_than_there_are() -> None:
    config = sweep(vary={"weight_decay": [0.0, 0.1, 0.2], "micro_batch": [2, 4, 8]}, runs=40)
    points = [tuple(point_at(config, number).values()) for number in range(config.num_runs)]
    assert len(points) == len(set(points)) == 9


def test_huge_grids_are_sampled_at_once() -> None:
    fields = (
        "learning_rate",
        "weight_decay",
        "lora.alpha",
        "grad_clip",
        "preference.beta",
        "preference.gamma",
        "lora.dropout",
    )
    many = {path: [number / 100 for number in range(1, 65)] for path in fields}
    config = sweep(vary=many, runs=20)
    points = [point_at(config, number) for number in range(20)]
    assert config.num_combinations == 64**7
    assert len({tuple(point.items()) for point in points}) == 20
    first = untried(config, [])
    assert first == dict.fromkeys(fields, 0.01)
    assert untried(config, [first]) == {**first, fields[-1]: 0.02}


def test_metrics_with_a_section_are_accepted_and_invalid_names_refused() -> None:
    assert sweep(metric="val_rewards/accuracies", goal="highest").metric == "val_rewards/accuracies"
    with pytest.raises(InvalidInput, match="such as val_loss, reward/mean"):
        sweep(metric="/etc")


def test_a_range_of_a_whole_number_gives_whole_numbers_and_one_without_any_is_refused(ctx: Context) -> None:
    Scenario(ctx).parts()
    launch_sweep(ctx, sweep(method="bayesian", vary={"max_steps": {"low": 100.2, "high": 103.8}}), person=LOCAL)
    assert all(run.point["max_steps"] in (101, 102, 103) for run in sweep_detail(ctx, "tries").runs)
    with pytest.raises(InvalidInput, match=r"none lies between 100\.2 and 100\.8"):
        sweep(method="bayesian", vary={"max_steps": {"low": 100.2, "high": 100.8}})


def test_a_recipe_pasted_as_the_run_loses_its_head() -> None:
    run = {**make_config().model_dump(mode="json"), "recipe": {"title": "Tales"}}
    assert parse_sweep({"name": "tries", "run": run, "vary": {"seed": [1, 2]}}).run == make_config()


@given(seed=st.integers(0, 2**31 - 1))
def test_few_random_draws_cover_their_range(seed: int) -> None:
    """Two draws between 0.0007 and 0.006 were 0.00329 and 0.00322."""
    vary = {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}, "seed": [1, 2, 3, 4]}
    config = SweepConfig(name="tries", run=make_config(), seed=seed, runs=4, vary=vary)
    points = [point_at(config, number) for number in range(4)]
    assert sorted(math.floor(math.log10(point["learning_rate"])) for point in points) == [-4, -3, -2, -1]
    assert {point["seed"] for point in points} == {1, 2, 3, 4}


@given(seed=st.integers(0, 2**31 - 1), number=st.integers(0, 499), low=st.floats(1e-6, 1e-2), ratio=st.floats(1.1, 100))
def test_a_random_draw_lies_in_its_range_and_is_a_function_of_seed_and_number(
    seed: int, number: int, low: float, ratio: float
) -> None:
    config = SweepConfig(
        name="tries",
        run=make_config(),
        seed=seed,
        vary={"learning_rate": {"low": low, "high": low * ratio, "log": True}},
    )
    (rate,) = point_at(config, number).values()
    assert low * 0.999 <= rate <= low * ratio * 1.001
    assert point_at(config, number) == {"learning_rate": rate}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"vary": {"learning_rat": [1, 2]}}, "learning_rat"),
        ({"vary": {"name": ["a", "b"]}}, "name is the same in all runs"),
        ({"vary": {"schedule": {"low": 1, "high": 2}}}, "schedule is not a number; give a list"),
        ({"vary": {"learning_rate": {"low": 2, "high": 1}}}, "low 2 is not below high 1"),
        ({"vary": {"micro_batch": [4, 0]}, "method": "grid"}, "micro_batch"),
        ({"vary": {"warmup_steps": {"low": 1, "high": 900}}, "method": "bayesian"}, "warmup_steps 900 is longer"),
        (
            {
                "vary": {"seed": {"low": 1, "high": 60, "points": 60}, "micro_batch": list(range(1, 11))},
                "method": "grid",
            },
            "600 runs",
        ),
        ({"metric": "Val loss"}, "metric"),
    ],
    ids=[
        "unknown field",
        "fixed field",
        "no range of words",
        "empty range",
        "bad value",
        "bad corner",
        "too many",
        "metric",
    ],
)
def test_an_invalid_sweep_is_refused_by_field_before_anything_is_launched(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        sweep(**values)


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        ({"learning_rate": {"low": 1, "high": 0.1}}, "learning_rate: low 1 is not below high 0.1."),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "learning_rate: a log scale can't begin at 0."),
        ({"learning_rate": {"low": None, "high": 1}}, "learning_rate.low: must be a number (got nothing)."),
        ({"learning_rate": []}, "learning_rate: give at least one value (got nothing)."),
        ({"learning_rate": 3}, "learning_rate: give a list of values, or a range with low and high (got 3)."),
        ({"learning_rate": [[1]]}, "learning_rate: give a list of values, or a range with low and high (got [1])."),
        ({}, "choose at least one field to vary."),
        ({"lora.rank": {"low": 1, "high": 8, "points": 100}}, "lora.rank.points: must be at most 64"),
    ],
)
def test_an_error_of_a_varied_field_is_one_sentence_about_it(vary: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        sweep(vary=vary)
    assert refused.value.message.startswith("This sweep can't be run: ")
    assert words in refused.value.message
    assert not any(part in refused.value.message for part in ("Values", "ParameterRange", "function-after", ";"))


def test_every_metric_of_a_choice_has_a_label_and_the_goal_that_it_is_better_by() -> None:
    for facts in OBJECTIVE_FACTS.values():
        for metric in facts.metrics:
            assert label_of_metric(metric) != metric
            assert sweep(metric=metric).metric == metric
    goals = {metric: goal_of_metric(metric) for facts in OBJECTIVE_FACTS.values() for metric in facts.metrics}
    assert {metric for metric, goal in goals.items() if goal == "lowest"} == {"val_loss", "val_bpb", "train_loss"}
    assert label_of_metric("my/metric") == "my/metric"
    assert (label_of_best("val_loss"), label_of_best("my/metric")) == ("Best validation loss", "Best my/metric")


def test_a_sweep_survives_a_yaml_round_trip() -> None:
    config = sweep(method="bayesian", pruner="median", runs=7)
    assert read_sweep(sweep_yaml(config)) == config
    written = (
        "name: a\nrun: {dataset: d, base: b, objective: sft}\nvary: {learning_rate: [1e-3, 1e-2], lora.rank: [4, 8]}\n"
    )
    assert read_sweep(written).vary["learning_rate"].values == (0.001, 0.01)  # type: ignore[union-attr]


def test_only_so_many_runs_wait_at_once_and_each_end_makes_room_for_the_next(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    view = launch_sweep(ctx, sweep(runs=5, parallel=2), person=LOCAL)
    assert (view.num_launched, view.num_active, view.num_planned) == (2, 2, 5)
    for _ in range(3):
        advance_sweeps(ctx)
    assert len(queued(ctx)) == 2
    while waiting := queued(ctx):
        train(ctx, waiting[0], loss_of(sweep_detail(ctx, "tries").runs[-1].point))
        advance_sweeps(ctx)
    view = get_sweep(ctx, "tries")
    assert (view.num_done, view.done, view.is_active) == (5, True, False)
    assert [each.number for each in sweep_detail(ctx, "tries").runs] == [0, 1, 2, 3, 4]
    names = [each.run.name for each in sweep_detail(ctx, "tries").runs]
    assert names == [f"tries {number}" for number in range(1, 6)]


def test_launching_it_again_is_the_same_sweep_and_another_under_its_name_is_refused(ctx: Context) -> None:
    Scenario(ctx).parts()
    first = launch_sweep(ctx, sweep(runs=3), person=LOCAL)
    assert launch_sweep(ctx, sweep(runs=3), person=LOCAL).id == first.id
    assert len(list_jobs(ctx, queue="train")) == 2
    with pytest.raises(Conflict, match="already another sweep"):
        launch_sweep(ctx, sweep(runs=4), person=LOCAL)


def test_a_bayesian_sweep_comes_closer_to_the_best_than_its_first_draws(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(method="bayesian", runs=16, parallel=1), person=LOCAL)
    while waiting := queued(ctx):
        (each,) = [run for run in sweep_detail(ctx, "tries").runs if run.run.id == waiting[0].id]
        train(ctx, waiting[0], loss_of(each.point))
        advance_sweeps(ctx)
    detail = sweep_detail(ctx, "tries")
    losses = [loss_of(each.point) for each in detail.runs]
    assert detail.best is not None
    assert detail.best.value == pytest.approx(min(losses))
    assert sum(losses[8:]) / 8 < sum(losses[:4]) / 4
    assert sum(each.point["weight_decay"] == 0 for each in detail.runs[8:]) > 4


def test_a_proposal_follows_from_the_trials_alone_and_is_not_a_repeat() -> None:
    config = sweep(method="bayesian", runs=9, vary={"weight_decay": [0.0, 0.1, 0.2], "micro_batch": [2, 4, 8]})
    trials: list[Trial] = []
    for number in range(9):
        point = propose(config, trials)
        assert propose(config, trials) == point, "another worker proposes the same"
        assert point not in [trial.point for trial in trials]
        trials.append(
            Trial(number, point, number, ((number + 0.5, 10, point["weight_decay"]),), "finished", number + 0.9)
        )


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_a_bad_run_is_pruned_and_a_good_one_is_not(pruner: str) -> None:
    config = sweep(pruner=pruner)
    curve = [(10, 4.0), (20, 3.0), (30, 2.0), (60, 1.5), (100, 1.2)]

    def trial(number: int, above: float, *, until: int, ended: bool) -> Trial:
        reports = tuple((number * 1000.0 + step, step, value + above) for step, value in curve if step <= until)
        return Trial(
            number,
            {"learning_rate": 0.01, "weight_decay": 0.0},
            number * 1000.0,
            reports,
            "finished" if ended else None,
        )

    done = [trial(number, 0.1 * (number % 3), until=100, ended=True) for number in range(9)]
    good, bad = trial(9, -0.1, until=60, ended=False), trial(10, 3.0, until=60, ended=False)
    assert choose_pruned(config, [*done, good, bad]) == [10]
    assert choose_pruned(sweep(), [*done, good, bad]) == []


def test_a_pruned_run_is_stopped_with_a_checkpoint_and_the_next_takes_its_place(ctx: Context) -> None:
    Scenario(ctx).parts()
    launch_sweep(ctx, sweep(pruner="median", runs=8, parallel=1), person=LOCAL)
    for _ in range(4):
        (run,) = queued(ctx)
        taken = claim(ctx, run)
        for step in (10, 20, 100):
            measure(ctx, taken, step, 2.0 - step / 100)
        end(ctx, taken, Status.FINISHED)
        advance_sweeps(ctx)
    (run,) = queued(ctx)
    taken = claim(ctx, run)
    measure(ctx, taken, 10, 9.0)
    measure(ctx, taken, 20, 9.0)
    advance_sweeps(ctx)
    with ctx.db.read() as session:
        assert session.scalar(select(Job.stop_request).where(Job.id == run.job_id)) == "stop_and_save"
    assert sweep_detail(ctx, "tries").runs[4].pruned_at == 20
    advance_sweeps(ctx)
    end(ctx, taken, Status.CANCELLED)
    advance_sweeps(ctx)
    assert len(queued(ctx)) == 1
    view = get_sweep(ctx, "tries")
    assert (view.num_done, view.best) == (5, 1.0)


def test_values_that_can_not_be_launched_are_skipped(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(method="grid", parallel=4, vary={"context": [16, 4000, 32]}), person=LOCAL)
    detail = sweep_detail(ctx, "tries")
    with ctx.db.read() as session:
        refused = session.get_one(RunGroup, detail.sweep.id).result.refused
    assert [each.point["context"] for each in detail.runs] == [16, 32]
    assert [each.number for each in detail.runs] == [0, 2]
    assert "longer than the architecture" in refused[1].cause
    assert detail.sweep.num_failed == 1


def test_three_failures_at_the_start_end_the_sweep_with_a_message(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(runs=9, parallel=3), person=LOCAL)
    for run in queued(ctx):
        end(ctx, claim(ctx, run), Status.FAILED, cause="The loss became nan.")
    advance_sweeps(ctx)
    view = get_sweep(ctx, "tries")
    assert (view.num_launched, view.done) == (3, True)
    assert "first 3 runs failed" in view.problem


def test_deleted_runs_of_a_sweep_are_no_failures_and_are_not_launched_again(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(runs=6, parallel=4), person=LOCAL)
    for run in queued(ctx):
        train(ctx, run, 2.0)
    stop_sweep(ctx, "tries", person=LOCAL)
    advance_sweeps(ctx)
    runs = [each.run for each in sweep_detail(ctx, "tries").runs]
    delete_runs(ctx, [run.id for run in runs[:3]], person=LOCAL)
    view = get_sweep(ctx, "tries")
    assert (view.num_launched, view.num_done, view.num_failed) == (4, 4, 0)
    continue_sweep(ctx, "tries", person=LOCAL)
    assert get_sweep(ctx, "tries").problem == ""
    assert [each.number for each in sweep_detail(ctx, "tries").runs] == [3, 4, 5]


def test_a_sweep_is_stopped_continued_and_archived(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(runs=4, parallel=2), person=LOCAL)
    with pytest.raises(Conflict, match="still active"):
        archive_sweep(ctx, "tries", person=LOCAL)
    assert stop_sweep(ctx, "tries", person=LOCAL) == 2
    advance_sweeps(ctx)
    assert get_sweep(ctx, "tries").num_launched == 2
    assert not get_sweep(ctx, "tries").is_active
    assert continue_sweep(ctx, "tries", person=LOCAL).num_active == 2
    stop_sweep(ctx, "tries", person=LOCAL)
    archive_sweep(ctx, "tries", person=LOCAL)
    assert list_sweeps(ctx) == []
    assert get_sweep(ctx, "tries").archived_at


def test_a_run_asked_to_save_is_not_cancelled_when_the_sweep_is_advanced(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(runs=4, parallel=1), person=LOCAL)
    claim(ctx, queued(ctx)[0])
    stop_sweep(ctx, "tries", person=LOCAL)
    advance_sweeps(ctx)
    with ctx.db.read() as session:
        assert list(session.scalars(select(Job.stop_request).where(Job.idempotency_key.startswith("sweep:")))) == [
            "stop_and_save"
        ]


def test_the_dataset_is_fixed_to_the_version_of_the_launch(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    launch_sweep(ctx, sweep(runs=1), person=LOCAL)
    assert get_sweep(ctx, "tries").config.run.dataset == "tales@1"
    assert get_run(ctx, "tries 1").dataset == "tales@1"


def test_the_base_is_fixed_to_the_checkpoint_of_the_launch(ctx: Context, scenario: Scenario) -> None:
    """A run's name means its newest checkpoint: later runs of the sweep would start from another."""
    first = scenario.run(name="first")
    scenario.checkpoint(run=first, step=50)
    values = {**sweep(runs=1).model_dump()["run"], "architecture": None, "tokenizer": None, "base": "first"}
    launch_sweep(ctx, sweep(runs=1).model_copy(update={"run": RunConfig.model_validate(values)}), person=LOCAL)
    assert get_sweep(ctx, "tries").config.run.base == "first · step 50"


def test_all_runs_of_a_sweep_are_sent_to_its_cluster(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    add_row(ctx, Provider(name="slurm", partitions=[Partition(name="gpu")], problem="", checked_at=ctx.now()))
    with pytest.raises(InvalidInput, match="offers no partition 'cpu' here"):
        launch_sweep(ctx, sweep(), person=LOCAL, placement="slurm:cpu")
    launch_sweep(ctx, sweep(), person=LOCAL, placement="slurm:gpu")
    runs = queued(ctx)
    assert runs
    assert {get_job(ctx, run.job_id or "").placement for run in runs} == {"slurm:gpu"}
    assert claim_next(ctx, "train", owner="w#1", host="lab") is None, "no worker of the installation takes them"
    with pytest.raises(Conflict, match="already another sweep"):
        launch_sweep(ctx, sweep(), person=LOCAL)


@pytest.mark.parametrize("partitions", [[Partition(name="gpu", is_up=False)], [Partition(name="low")]])
def test_a_sweep_waits_while_its_partition_is_down_or_gone(ctx: Context, partitions: list[Partition]) -> None:
    Scenario(ctx).parts()
    add_row(ctx, Provider(name="slurm", partitions=[Partition(name="gpu")], problem="", checked_at=ctx.now()))
    launch_sweep(ctx, sweep(parallel=1), person=LOCAL, placement="slurm:gpu")
    with ctx.db.write() as session:
        session.get_one(Provider, "slurm").partitions = partitions
    (first,) = queued(ctx)
    stop_run(ctx, first.id, person=LOCAL)
    advance_sweeps(ctx)
    waiting = get_sweep(ctx, "tries")
    assert (waiting.num_launched, waiting.num_failed, waiting.done) == (1, 0, False)
    assert "gpu" in waiting.problem
    with ctx.db.write() as session:
        session.get_one(Provider, "slurm").partitions = [Partition(name="gpu")]
    advance_sweeps(ctx)
    assert get_sweep(ctx, "tries").problem == ""
    assert len(queued(ctx)) == 1
