"""Suites: run on a checkpoint by hand, or as a training run writes checkpoints; averages wait for every member."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.db.tables import Evaluation, Job, Run, Suite, SuiteResult
from backend.domain.evaluation.suites import Moment, SuiteConfig, read_suite
from backend.domain.evaluation.tasks.metric_names import is_averaged
from backend.domain.jobs.events import CheckpointEvent
from backend.domain.jobs.results import TrainResult
from backend.domain.training.holds import hold_of, mark_of_use
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services import job_events
from backend.services.checkpoints.files import mark_used_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.evaluation import suites
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation
from backend.services.evaluation.open_suites import SuiteChoice, list_choices, list_open_results, release_scored
from backend.services.evaluation.tasks import suggest_task
from backend.services.jobs.jobs import stop_job
from backend.services.training.runs import launch_run
from tests.support.evaluation_world import CHOICES, claim_of, finish, item
from tests.support.jobs import take_job
from tests.support.run_world import make_config
from tests.support.scenario import Scenario


@pytest.fixture
def ctx(ctx: Context) -> Context:
    """A checkpoint, two benchmarks and a text."""
    scenario = Scenario(ctx)
    scenario.checkpoint("Oak")
    scenario.benchmark("facts")
    scenario.benchmark("more facts", CHOICES[:8])
    scenario.benchmark("stories")
    return ctx


def make_suite(ctx: Context, *members: Any) -> suites.SuiteView:
    config = SuiteConfig.model_validate({"name": "core", "members": members or ("facts", "more facts", "stories")})
    return suites.create_suite(ctx, config, person=LOCAL)


def score(ctx: Context, evaluation: EvaluationView, metric: str, value: float, stderr: float, n: int) -> None:
    row = {"metric": metric, "value": value, "stderr": stderr, "low": None, "high": None, "n": n, "method": ""}
    finish(ctx, claim_of(ctx, evaluation), [item(0, {metric: value})], scores=[row], facts={"unit": "items"})


def test_a_suite_runs_as_evaluations_and_averages_shares_alone(ctx: Context) -> None:
    make_suite(ctx)
    result = suites.run_suite(ctx, "core", checkpoint="Oak", person=LOCAL)
    assert [one.evaluation.benchmark for one in result.members if one.evaluation] == [
        "facts@1",
        "more facts@1",
        "stories@1",
    ]
    assert result.is_active
    assert (result.macro, result.micro) == (None, None)
    evaluations = [one.evaluation for one in result.members if one.evaluation]
    score(ctx, evaluations[0], "acc", 0.5, 0.08, 40)
    score(ctx, evaluations[1], "acc", 0.8, 0.15, 10)
    assert suites.get_result(ctx, result.id).macro is None  # a member is missing
    score(ctx, evaluations[2], "bits_per_byte", 2.0, 0.1, 3)
    done = suites.get_result(ctx, result.id)
    assert (done.num_finished, done.left_out, done.is_active) == (3, ("stories (bits per byte)",), False)
    assert done.macro is not None
    assert done.micro is not None
    assert done.macro.value == pytest.approx(0.65)
    assert done.macro.stderr == pytest.approx(math.hypot(0.08, 0.15) / 2)
    assert done.micro.value == pytest.approx((40 * 0.5 + 10 * 0.8) / 50)
    again = suites.run_suite(ctx, "core", checkpoint="Oak", person=LOCAL)
    # stored answers
    assert [one.evaluation.id for one in again.members if one.evaluation] == [one.id for one in evaluations]


@pytest.mark.parametrize(
    ("metric", "averaged"),
    [
        *((name, True) for name in ("f1", "rougeL", "pass@1", "mc2", "prompt_strict", "exact_match,first")),
        *((name, False) for name in ("bleu", "mcc", "wer", "brier", "bias_ambiguous", "bits_per_byte")),
    ],
)
def test_scores_between_0_and_1_of_which_more_is_better_are_averaged(metric: str, averaged: bool) -> None:
    assert is_averaged(metric) is averaged


def test_a_crash_between_members_launches_none_twice(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    make_suite(ctx)
    launch, calls = suites.launch_evaluation, []

    def dies_at_the_second(*args: Any, **kwargs: Any) -> EvaluationView:
        calls.append(kwargs["benchmark"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return launch(*args, **kwargs)

    monkeypatch.setattr(suites, "launch_evaluation", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        suites.run_suite(ctx, "core", checkpoint="Oak", person=LOCAL)
    (result_id,) = list_open_results(ctx)
    suites.launch_members(ctx, result_id)
    assert list_open_results(ctx) == []
    with ctx.db.read() as session:
        assert session.scalar(select(func.count()).select_from(Evaluation)) == 3
        assert session.scalar(select(func.count()).select_from(Job)) == 3


def test_a_suite_that_can_not_be_scored_is_refused_before_it_is_stored(ctx: Context) -> None:
    with pytest.raises(NotFound, match="riddles"):
        make_suite(ctx, "facts", "riddles")
    with pytest.raises(InvalidInput, match="perplexity alone"):
        make_suite(ctx, {"benchmark": "stories", "kind": "generation"})
    with pytest.raises(InvalidInput, match="line 3"):
        read_suite("name: x\nmembers: [a,\n")
    with pytest.raises(InvalidInput, match="shotz"):
        read_suite("name: x\nmembers: [{benchmark: facts, shotz: 3}]")
    with pytest.raises(InvalidInput, match="twice"):
        read_suite("name: x\nmembers: [facts, facts]")
    make_suite(ctx)
    with pytest.raises(Conflict, match="already a suite"):
        make_suite(ctx)


def test_yaml_of_a_suite_reads_back() -> None:
    config = read_suite("name: core\nmembers:\n  - facts\n  - {benchmark: questions@2, shots: 5, limit: 200}\n")
    assert config.members[1].config.shots == 5
    assert read_suite(config.to_yaml()) == config


def test_a_suite_chosen_at_launch_follows_the_checkpoints_of_a_run(ctx: Context, scenario: Scenario) -> None:
    suite = make_suite(ctx, "facts")
    other = suites.create_suite(
        ctx, SuiteConfig.model_validate({"name": "last", "members": ["more facts"]}), person=LOCAL
    )
    scenario.parts()
    choices = [SuiteChoice(suite.id, Moment.CHECKPOINT), SuiteChoice(other.id, Moment.END)]
    run = launch_run(ctx, make_config(), person=LOCAL, suites=choices)
    assert list_choices(ctx, run.id) == [("core", Moment.CHECKPOINT), ("last", Moment.END)]
    claim = take_job(ctx, run.job_id)
    assert claim.payload.holds_checkpoints
    folders = {step: ctx.artifacts.relative(ctx.artifacts.folder("runs", f"step-{step}")) for step in (10, 20)}
    events = [
        CheckpointEvent(step=step, folder=folder, metrics={"val_loss": 2.0}, bytes=1)
        for step, folder in folders.items()
    ]
    for event in (*events, events[1]):  # the last one again, as after a lost worker
        with ctx.db.write() as session:
            job_events.record_events(session, ctx, claim, [event])
    with ctx.db.write() as session:
        job_events.record_finish(session, ctx, claim, TrainResult(final_step=20))
    assert len(list_open_results(ctx)) == 3
    for result_id in list_open_results(ctx):
        suites.launch_members(ctx, result_id)
    results = suites.list_suite_results(ctx, run_id=run.id)
    assert sorted((one.suite, one.step) for one in results) == [("core", 10), ("core", 20), ("last", 20)]
    assert all(
        one.members[0].evaluation and get_evaluation(ctx, one.members[0].evaluation.id).is_active for one in results
    )
    with ctx.db.read() as session:
        assert session.scalar(select(func.count()).select_from(SuiteResult)) == 3
        assert session.get(Run, run.id) is not None


def test_a_checkpoint_is_held_until_its_suite_has_ended(ctx: Context, scenario: Scenario) -> None:
    suite = make_suite(ctx, "facts")
    scenario.parts()
    run = launch_run(ctx, make_config(), person=LOCAL, suites=[SuiteChoice(suite.id, Moment.CHECKPOINT)])
    claim = take_job(ctx, run.job_id)
    folder = ctx.artifacts.folder("runs", "step-10")
    hold = hold_of(folder)
    hold.touch()
    event = CheckpointEvent(step=10, folder=ctx.artifacts.relative(folder), metrics={"val_loss": 2.0}, bytes=1)
    with ctx.db.write() as session:
        job_events.record_events(session, ctx, claim, [event])
    release_scored(ctx)
    assert hold.exists(), "the suite is not launched yet"
    (result_id,) = list_open_results(ctx)
    suites.launch_members(ctx, result_id)
    release_scored(ctx)
    assert hold.exists(), "its evaluation waits"
    evaluation = suites.get_result(ctx, result_id).members[0].evaluation
    assert evaluation is not None
    stop_job(ctx, evaluation.job_id or "", person=LOCAL)
    release_scored(ctx)
    assert not hold.exists()
    mark_used_checkpoints(ctx, claim.job_id)
    assert not mark_of_use(folder).exists(), "a suite of the run's own keeps no checkpoint for ever"
    scenario.evaluation(f"{run.name} · step 10", "more facts")
    mark_used_checkpoints(ctx, claim.job_id)
    assert mark_of_use(folder).exists()


def test_a_centred_suite_averages_what_exceeds_chance(ctx: Context) -> None:
    """The page of the group core showed plain averages."""
    config = SuiteConfig.model_validate({"name": "above", "centred": True, "members": ["facts", "more facts"]})
    suites.create_suite(ctx, config, person=LOCAL)
    assert read_suite(config.to_yaml()) == config
    result = suites.run_suite(ctx, "above", checkpoint="Oak", person=LOCAL)
    for member, value, chance in zip(result.members, (0.75, 0.4), (0.5, None), strict=True):
        assert member.evaluation is not None
        row = {
            "metric": "acc",
            "value": value,
            "stderr": 0.05,
            "low": value - 0.1,
            "high": value + 0.1,
            "n": 10,
            "method": "",
        }
        facts = {"unit": "items"} | ({"chance": chance} if chance else {})
        finish(ctx, claim_of(ctx, member.evaluation), [item(0, {"acc": value})], scores=[row], facts=facts)
    done = suites.get_result(ctx, result.id)
    assert done.macro is not None
    assert done.macro.value == pytest.approx(0.575)
    assert done.centred is not None
    assert done.centred.value == pytest.approx((0.5 + 0.4) / 2)
    assert done.centred.stderr == pytest.approx(math.hypot(0.1, 0.05) / 2)


PAIRS = [{"sentence_good": f"{n} cats sleep.", "sentence_bad": f"{n} cats sleeps.", "UID": "verbs"} for n in range(4)]
CHOSEN = [{"question": "", "choices": [r["sentence_good"], r["sentence_bad"]], "answer": 0, **r} for r in PAIRS]


def test_a_suite_scores_a_benchmark_as_a_new_evaluation_does(ctx: Context, scenario: Scenario) -> None:
    """A suite scored a file of BLiMP by its rows' kind, where the form of an evaluation chooses BLiMP."""
    scenario.benchmark("pairs", CHOSEN)
    named = {"benchmark": "pairs", "kind": "multiple_choice", "limit": 3}
    suite = make_suite(ctx, "pairs", "facts", named)
    assert [one.label for one in suite.config.members] == [
        "pairs by BLiMP",
        "facts",
        "pairs by Multiple choice, 3 items",
    ]
    suggested = suggest_task(ctx, resolve_version(ctx, "pairs"))
    assert [one.config.task for one in suite.config.members] == [suggested, None, None]
    result = suites.run_suite(ctx, "core", checkpoint="Oak", person=LOCAL)
    assert result.members[0].evaluation is not None
    assert result.members[0].evaluation.config.task == suggested


def test_an_old_suite_keeps_how_it_scores(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("pairs", CHOSEN)
    old = SuiteConfig.model_validate({"name": "core", "members": ["pairs"]})
    with ctx.db.write() as session:
        session.add(Suite(name="core", config=old, created_at=ctx.now()))
    result = suites.run_suite(ctx, "core", checkpoint="Oak", person=LOCAL)
    assert result.members[0].evaluation is not None
    assert result.members[0].evaluation.config.task is None


def test_examples_of_a_suite_are_those_of_its_task(ctx: Context, scenario: Scenario) -> None:
    scenario.benchmark("pairs", CHOSEN)
    suite = make_suite(ctx, {"benchmark": "pairs", "shots": 1})
    (member,) = suite.config.members
    assert member.label == "pairs by BLiMP, 1-shot"
    assert member.config.shots == 0
