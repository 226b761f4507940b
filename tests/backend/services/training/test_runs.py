"""Runs from launch to archive, on a real database; jobs report without training."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event

from backend.db.tables import DatasetVersion, Job, Provider, Tokenizer
from backend.domain.jobs.placement import Partition
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.domain.training.config import parse_run_config
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound, Unavailable
from backend.recipes import RECIPES
from backend.services.checkpoints.checkpoints import list_checkpoints, rename_checkpoint
from backend.services.context import LOCAL, Context, OperatorPolicy, Person
from backend.services.jobs.claims import give_back, requeue_lost
from backend.services.jobs.jobs import read_log
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import beat
from backend.services.serving.costs import read_price_ledger
from backend.services.training.diagnosis import diagnose_run
from backend.services.training.imported_runs import import_log
from backend.services.training.reports import run_report_text
from backend.services.training.run_table import read_run_table
from backend.services.training.runs import (
    _subject,
    archive_runs,
    launch_run,
    rename_run,
    resume_run,
    retry_run,
    set_tags,
    stop_run,
)
from backend.services.training.views import (
    RunView,
    expected_start,
    get_run,
    list_runs,
    list_sample_steps,
    list_samples,
    read_configs,
    read_run_log,
    run_detail,
)
from tests.support.clock import Clock
from tests.support.curves import read_curve
from tests.support.jobs import list_jobs
from tests.support.run_world import (
    SHAPE,
    claim,
    end,
    make_config,
    points,
    report,
    row_of,
)
from tests.support.scenario import Scenario, add_row

RATER = Person(id=None, name="Ruth", role="rater")


def test_a_launched_run_waits_with_everything_the_room_needs(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    row, job = row_of(ctx, run)
    assert run.status is Status.QUEUED
    assert job.payload["dataset"] == "datasets/tales"
    assert job.payload["tokenizer"] == "tokenizers/pieces"
    assert job.payload["architecture"]["width"] == 32
    assert job.payload["run_folder"] == f"runs/{run.id}"
    assert row.config.name == "first"


def test_a_double_click_is_one_run(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    first = launch_run(ctx, make_config(), person=LOCAL, idempotency_key="click")
    second = launch_run(ctx, make_config(), person=LOCAL, idempotency_key="click")
    assert first.id == second.id
    assert len(list_jobs(ctx, queue="train")) == 1


def test_two_clicks_in_the_same_moment_are_one_run(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    gate, run_ids = threading.Barrier(4), []

    def click() -> None:
        gate.wait()
        run_ids.append(launch_run(ctx, make_config(), person=LOCAL, idempotency_key="click").id)

    threads = [threading.Thread(target=click) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(run_ids)) == 1
    assert len(run_ids) == 4


def test_runs_of_one_recipe_get_different_names(scenario: Scenario) -> None:
    assert [scenario.run(name="tale").name for _ in range(3)] == ["tale", "tale 2", "tale 3"]


def test_a_run_without_a_name_is_named_after_its_data(scenario: Scenario) -> None:
    assert scenario.run().name == "Pretrain on tales"


def test_a_copy_is_named_by_what_it_changes_of_the_first(ctx: Context, scenario: Scenario) -> None:
    """Copies of copies were named by numbers, which every table cut off first."""

    def copy(parent: RunView, **changes: Any) -> RunView:
        return launch_run(ctx, make_config(**changes), person=LOCAL, parent=parent.id)

    first = scenario.run(learning_rate=5e-5)
    second = copy(first, learning_rate=1e-4)
    assert second.name == "Pretrain on tales · LR 1e-4"
    assert copy(second, learning_rate=1e-4, weight_decay=0.2).name == "Pretrain on tales · LR 1e-4, weight decay 0.2"
    assert copy(second, learning_rate=1e-4).name == "Pretrain on tales · LR 1e-4 · 2"
    assert copy(second, learning_rate=5e-5).name == "Pretrain on tales 2", "as the first"
    own = scenario.run(name="village", learning_rate=0.01)
    assert copy(own, learning_rate=0.02).name == "village · LR 0.02"


def test_a_relaunch_without_a_parent_is_named_by_what_it_changes(scenario: Scenario) -> None:
    scenario.run(learning_rate=5e-5)
    assert scenario.run(learning_rate=1e-4).name == "Pretrain on tales · LR 1e-4"


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("Pretrain on tales", "tales"),
        ("Fine-tune tales on chat · LR 1e-4", "fine-tuned tales"),
        ("DPO fine-tuned tales on votes", "DPO-trained tales"),
        ("Reward model of tales on votes", "reward model tales"),
        ("village on a hill", "village on a hill"),
        ("DPO", "DPO"),
    ],
)
def test_generated_names_of_runs_on_runs_do_not_nest(name: str, subject: str) -> None:
    assert _subject(name) == subject


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"dataset": "tails"}, "tales"),
        ({"tokenizer": "piece"}, "pieces"),
        ({"architecture": "smal"}, "small"),
        ({"context": 65}, "at most 64"),
        ({"tokenizer": "large"}, "vocab_size of 999"),
        ({"dataset": "pairs"}, "kind preference"),
        ({"devices": {"count": 2, "sharding": "fsdp"}, "optimizer": "adafactor"}, "adafactor needs whole matrices"),
    ],
    ids=[
        "unknown dataset",
        "unknown tokenizer",
        "unknown architecture",
        "context too long",
        "vocabulary too large",
        "wrong kind",
        "cut matrices",
    ],
)
def test_parts_that_do_not_fit_are_refused_with_a_cure(
    ctx: Context, scenario: Scenario, values: dict[str, object], words: str
) -> None:
    scenario.dataset("pairs", kind="preference")
    scenario.tokenizer("large", vocab_size=999)
    with pytest.raises((InvalidInput, NotFound)) as caught:
        scenario.run(**values)
    assert words in str(caught.value)
    assert list_runs(ctx) == []


def test_a_rater_may_not_launch(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    with pytest.raises(NotAllowed):
        launch_run(ctx, make_config(), person=RATER)


def test_a_run_that_the_disk_cannot_hold_is_refused(ctx: Context) -> None:
    full = Context(**{**ctx.__dict__, "policy": OperatorPolicy(keep_free_bytes=2**62)})
    with pytest.raises(Unavailable, match="B are free"):
        Scenario(full).run()


def test_a_run_waits_for_the_import_of_its_data_and_gets_its_folder_then(ctx: Context, scenario: Scenario) -> None:
    version_id = scenario.dataset("late", ready=False)
    run = scenario.run(dataset="late")
    _, job = row_of(ctx, run)
    with ctx.db.write() as session:
        version = session.get_one(DatasetVersion, version_id)
        assert job.depends_on_id == version.job_id
        version.folder, version.train_rows = "datasets/late", 5
        session.get_one(type(job), version.job_id).status = Status.FINISHED
    assert claim(ctx, run).payload.dataset == "datasets/late"


def test_a_run_waits_for_its_tokenizer(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    with ctx.db.write() as session:
        tokenizer = session.query(Tokenizer).one()
        tokenizer.folder, tokenizer.vocab_size = None, None
        tokenizer.job_id = list_jobs(ctx)[0].id
        expected = tokenizer.job_id
    assert row_of(ctx, scenario.run())[1].depends_on_id == expected


def test_reported_points_become_the_runs_curve_and_summary(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(*points(1, 20), {"type": "metrics", "step": 20, "time": 1020.0, "values": {"val_loss": 0.7}})
    seen = get_run(ctx, run.id)
    assert read_curve(ctx, run.id, "train_loss").steps == tuple(range(1, 21))
    assert (seen.last_step, seen.best_val_loss, seen.last["train_loss"]) == (20, 0.7, 0.5)
    assert seen.spark[0] == 10.0


def test_a_sparkline_stays_short_however_long_the_run(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(*points(1, 3000), max_steps=5000)
    assert 20 < len(get_run(ctx, run.id).spark) <= 64


def test_a_resumed_run_has_no_double_step(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run()
    taken = claim(ctx, run)
    sample = {"type": "sample", "step": 30, "prompt": "Once", "completion": "upon"}
    report(ctx, taken, *points(1, 30), sample)
    report(ctx, taken, {"type": "resumed", "step": 20}, *points(21, 25))
    assert read_curve(ctx, run.id, "train_loss").steps == tuple(range(1, 26))
    assert get_run(ctx, run.id).last_step == 25
    assert list_sample_steps(ctx, run.id) == []
    assert list_samples(ctx, run.id, step=30) == []
    assert row_of(ctx, run)[0].curve_resets == 1


def test_a_loss_that_is_not_finite_keeps_the_summary_valid(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(
        *points(1, 3), {"type": "metrics", "step": 4, "time": 1.0, "values": {"train_loss": float("nan")}}
    )
    assert get_run(ctx, run.id).last["train_loss"] == pytest.approx(10 / 3)


def test_stop_and_save_then_resume_keeps_the_run_and_changes_the_job(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run()
    clock = Clock()
    ctx = replace(ctx, now=clock)
    taken = claim(ctx, run)
    report(ctx, taken, *points(1, 40))
    assert stop_run(ctx, run.id, how="stop_and_save", person=LOCAL).status is Status.CANCELLING
    scenario.checkpoint(run=run, step=40)
    clock.advance(300)
    end(ctx, taken, Status.CANCELLED)
    resumed = resume_run(ctx, run.id, person=LOCAL)
    assert (resumed.id, resumed.status) == (run.id, Status.QUEUED)
    assert resumed.job_id != run.job_id
    assert resumed.seconds(ctx.now()) == 300, "the time until it was stopped counts"
    assert resume_run(ctx, run.id, person=LOCAL).job_id == resumed.job_id


def test_the_time_an_installation_was_down_is_no_time_of_a_run(ctx: Context, scenario: Scenario) -> None:
    """A run of 20 minutes said 38 after 18 minutes of maintenance, and Costs 20."""
    run = scenario.run()
    clock = Clock()
    clock.now = ctx.now() - timedelta(days=1)  # rows are changed now
    ctx = replace(ctx, now=clock)
    began = clock.now

    def says(seconds: float | None) -> bool:
        table = read_run_table(ctx)
        (row,) = table.rows
        ledger = read_price_ledger(ctx, since=began, until=clock.now)
        charged = round(ledger.runs[0].device_hours * 3600, 6) if ledger.runs else None
        shown = get_run(ctx, run.id).seconds(ctx.now())
        return (shown, table.reader("duration")(row), charged) == (seconds, seconds, seconds)

    taken = claim(ctx, run)
    clock.advance(1200)
    assert says(1200)
    give_back(ctx, taken)
    clock.advance(1080)
    assert says(1200), "the installation is down"
    taken = claim(ctx, run)
    clock.advance(180)
    assert says(1380)
    end(ctx, taken, Status.CANCELLED)
    clock.advance(600)
    assert says(1380)
    scenario.checkpoint(run=run, step=40)
    resume_run(ctx, run.id, person=LOCAL)
    clock.advance(60)
    assert says(1380), "its next job waits"
    claim(ctx, get_run(ctx, run.id))
    clock.advance(20)
    assert says(1400)


def test_the_log_of_a_resumed_run_keeps_its_lines_and_says_where_it_goes_on(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(max_steps=100)
    taken = claim(ctx, run)
    report(ctx, taken, {"type": "log", "text": "Tokenised the train split.", "time": 1.0})
    scenario.checkpoint(run=run, step=40)
    with ctx.db.write() as session:
        job = session.get_one(Job, run.job_id)
        job.started_at = job.created_at - timedelta(minutes=5)
    stop_run(ctx, run.id, person=LOCAL)
    end(ctx, taken, Status.CANCELLED)
    resumed = resume_run(ctx, run.id, person=LOCAL, max_steps=80)
    report(ctx, claim(ctx, resumed), {"type": "log", "text": "Ready.", "time": 2.0})
    assert read_run_log(ctx, get_run(ctx, run.id)) == [
        "Tokenised the train split.",
        "--- resumed ---",
        "Resumes from step 40. It has 80 steps now, in place of 100, and the learning rate follows the schedule of"
        " those.",
        "Ready.",
    ]


@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (0, "Attempt 2 begins at step 0: there was no checkpoint to continue from."),
        (20, "Attempt 2 continues from the checkpoint at step 20."),
    ],
)
def test_the_log_and_the_page_of_a_run_whose_worker_was_lost_say_so_and_from_which_step_it_continues(
    ctx: Context, scenario: Scenario, step: int, sentence: str
) -> None:
    run = scenario.run()
    clock = Clock()
    ctx = replace(ctx, now=clock)
    taken = claim(ctx, run)
    report(ctx, taken, *points(1, 30), {"type": "log", "text": "Saved.", "time": 1.0})
    clock.advance(ctx.policy.lease_s + 1)
    recover_jobs(ctx)
    taken_again = claim(ctx, run)
    assert get_run(ctx, run.id).line == "Starting again, attempt 2"
    report(ctx, taken_again, {"type": "resumed", "step": step})
    assert read_run_log(ctx, get_run(ctx, run.id)) == [
        "Saved.",
        f"The worker {taken.owner} was lost: it was silent for {ctx.policy.lease_s:g} s.",
        "--- attempt 2 ---",
        sentence,
    ]
    restart = get_run(ctx, run.id).restart
    assert restart is not None
    assert restart.sentence == sentence
    give_back(ctx, taken_again)
    assert read_run_log(ctx, get_run(ctx, run.id))[-1] == (
        f"The worker {taken_again.owner} was stopped, and gave the job back."
    )
    end(ctx, claim(ctx, run), Status.CANCELLED)
    scenario.checkpoint(run=run, step=20)
    assert resume_run(ctx, run.id, person=LOCAL).restart is None, "its new job is no attempt of the old one"


@pytest.mark.parametrize("again", [resume_run, retry_run])
def test_a_run_resumes_on_a_partition_that_is_still_offered_alone(ctx: Context, scenario: Scenario, again: Any) -> None:
    add_row(ctx, Provider(name="slurm", partitions=[Partition(name="gpu")], problem="", checked_at=ctx.now()))
    scenario.parts()
    run = launch_run(ctx, make_config(), person=LOCAL, placement="slurm:gpu")
    scenario.checkpoint(run=run, step=40)
    stop_run(ctx, run.id, person=LOCAL)
    with ctx.db.write() as session:
        session.get_one(Provider, "slurm").partitions = [Partition(name="low")]
    with pytest.raises(InvalidInput, match="offers no partition 'gpu' here"):
        again(ctx, run.id, person=LOCAL)
    with ctx.db.write() as session:
        session.get_one(Provider, "slurm").partitions = [Partition(name="gpu")]
    assert again(ctx, run.id, person=LOCAL).status is Status.QUEUED


def test_a_finished_run_resumes_only_with_more_steps(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(status=Status.FINISHED)
    scenario.checkpoint(run=run, step=100)
    with pytest.raises(Conflict, match="all its 100 steps"):
        resume_run(ctx, run.id, person=LOCAL)
    with pytest.raises(InvalidInput, match="nothing to do"):
        resume_run(ctx, run.id, person=LOCAL, max_steps=80)
    assert resume_run(ctx, run.id, person=LOCAL, max_steps=150).max_steps == 150
    assert row_of(ctx, run)[1].payload["config"]["max_steps"] == 150


def test_a_run_without_a_checkpoint_starts_over_from_an_empty_curve(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(
        *points(1, 9), status=Status.FAILED, cause="The loss became nan.", remedy="Lower the learning rate."
    )
    assert get_run(ctx, run.id).error.remedy == "Lower the learning rate."
    with pytest.raises(Conflict, match="no checkpoint"):
        resume_run(ctx, run.id, person=LOCAL)
    assert retry_run(ctx, run.id, person=LOCAL).status is Status.QUEUED
    assert read_curve(ctx, run.id, "train_loss").total == 0


def test_a_queued_run_is_cancelled_at_once_and_can_be_started_again(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run()
    assert stop_run(ctx, run.name, person=LOCAL).status is Status.CANCELLED
    with pytest.raises(Conflict, match="already stopped"):
        stop_run(ctx, run.name, person=LOCAL)
    assert retry_run(ctx, run.name, person=LOCAL).status is Status.QUEUED


def test_two_people_who_retry_a_run_in_the_same_moment_give_it_one_job(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run()
    stop_run(ctx, run.id, person=LOCAL)
    threads: list[threading.Thread] = []

    def retry_meanwhile(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO jobs") and not threads:
            threads.append(threading.Thread(target=retry_run, args=(ctx, run.id), kwargs={"person": LOCAL}))
            threads[0].start()
            threads[0].join(1)  # it waits for the run, which this transaction holds, or is through

    event.listen(ctx.db.engine, "before_cursor_execute", retry_meanwhile)
    try:
        retry_run(ctx, run.id, person=LOCAL)
    finally:
        event.remove(ctx.db.engine, "before_cursor_execute", retry_meanwhile)
        threads[0].join()
    assert [job.status for job in list_jobs(ctx, queue="train") if job.is_active] == [Status.QUEUED]


def test_the_place_in_the_queue_counts_who_is_ahead(ctx: Context, scenario: Scenario) -> None:
    first, second, urgent = scenario.run(), scenario.run(), scenario.run(priority=0)
    assert [get_run(ctx, run.id).line for run in (urgent, first, second)] == [
        "Next in the queue",
        "In the queue, 1 ahead",
        "In the queue, 2 ahead",
    ]
    statements: list[str] = []
    event.listen(ctx.db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    expected = expected_start(ctx, second.job_id or "")
    assert [job.id for job in expected.ahead.first] == [urgent.job_id, first.job_id]
    assert len([one for one in statements if one.startswith("SELECT")]) <= 6, "its page asks every two seconds"


def test_runs_are_listed_by_status_and_their_tags_are_lower_case(ctx: Context, scenario: Scenario) -> None:
    one, _ = scenario.run(name="quiet fox"), scenario.run(name="loud owl")
    set_tags(ctx, one.id, ("Night", " night ", "forest"), person=LOCAL)
    assert set(get_run(ctx, one.id).tags) == {"forest", "night"}
    assert list_runs(ctx, statuses=(Status.FINISHED,)) == list_runs(ctx, ended=True) == []
    assert [run.name for run in list_runs(ctx, limit=1)] == ["loud owl"]


def test_an_archived_run_leaves_the_list_and_nothing_else(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run()
    with pytest.raises(Conflict, match="Stop it first"):
        archive_runs(ctx, [run.id], person=LOCAL)
    stop_run(ctx, run.id, person=LOCAL)
    archive_runs(ctx, [run.id], person=LOCAL)
    assert list_runs(ctx) == []
    assert [r.id for r in list_runs(ctx, archived=True)] == [run.id]
    assert get_run(ctx, run.name).id == run.id


def test_a_taken_name_is_refused(ctx: Context, scenario: Scenario) -> None:
    one, two = scenario.run(name="one"), scenario.run(name="two")
    with pytest.raises(Conflict, match="already a run"):
        rename_run(ctx, two.id, one.name, person=LOCAL)
    rename_run(ctx, two.id, "three", person=LOCAL)
    assert get_run(ctx, "three").id == two.id


def test_the_checkpoints_of_a_renamed_run_have_its_new_name(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(name="one (first)")
    taken = claim(ctx, run)
    for step in (10, 20, 30):
        folder = f"runs/{run.id}/checkpoints/{step}"
        report(ctx, taken, {"type": "checkpoint", "step": step, "folder": folder})
        if step == 20:
            mine = list_checkpoints(ctx, run_id=run.id)[0]
            rename_checkpoint(ctx, mine.id, "one (first) · step 20 is mine", person=LOCAL)
    scenario.checkpoint("two · step 30")
    rename_run(ctx, run.id, "two", person=LOCAL)
    names = [checkpoint.name for checkpoint in list_checkpoints(ctx, run_id=run.id)]
    assert names == ["two · step 30 (2)", "one (first) · step 20 is mine", "two · step 10"]
    rename_run(ctx, run.id, "three", person=LOCAL)
    names = [checkpoint.name for checkpoint in list_checkpoints(ctx, run_id=run.id)]
    assert names == ["three · step 30", "one (first) · step 20 is mine", "three · step 10"]
    rename_run(ctx, run.id, "three", person=LOCAL)
    assert [checkpoint.name for checkpoint in list_checkpoints(ctx, run_id=run.id)] == names


def test_an_unknown_run_suggests_a_similar_name(ctx: Context, scenario: Scenario) -> None:
    scenario.run(name="quiet fox")
    with pytest.raises(NotFound, match="quiet fox"):
        get_run(ctx, "quiet fx")


def test_configs_name_the_version_that_a_run_was_trained_on(ctx: Context, scenario: Scenario) -> None:
    runs = [scenario.run(name="a", learning_rate=0.01), scenario.run(name="b", learning_rate=0.02)]
    (imported,) = import_log(ctx, b"step,loss\n1,2.5\n", filename="theirs.csv", person=LOCAL)
    first, second, third = read_configs(ctx, [run.id for run in (*runs, imported)])
    assert [one and (one.dataset, one.learning_rate) for one in (first, second, third)] == [
        ("tales@1", 0.01),
        ("tales@1", 0.02),
        None,
    ]


def test_a_config_launches_the_same_run_after_a_new_version_and_a_new_checkpoint(
    ctx: Context, scenario: Scenario
) -> None:
    """A run launched with `dataset: chat` and `base: first` has YAML that said so: later it was trained on others."""
    first = scenario.run(name="first")
    scenario.checkpoint(run=first, step=100)
    scenario.dataset("chat", kind="instruction")
    values = {"objective": "sft", "dataset": "chat", "base": "first", "architecture": None, "tokenizer": None}
    run = launch_run(ctx, make_config(**values), person=LOCAL)
    dataset = run_detail(ctx, run.id).dataset_id
    add_row(ctx, DatasetVersion(dataset_id=dataset, number=2, folder="datasets/other", train_rows=9, val_rows=1))
    scenario.checkpoint(run=first, step=200)
    config = parse_run_config(run_detail(ctx, run.id).config.to_yaml())
    assert (config.dataset, config.base) == ("chat@1", "first · step 100")
    assert read_configs(ctx, [run.id]) == [config]
    assert "dataset: chat@1\n" in run_report_text(ctx, run.id)
    again = launch_run(ctx, config, person=LOCAL)
    assert (again.dataset, again.base_id) == ("chat@1", run.base_id)


def test_losses_count_since_the_last_checkpoint(ctx: Context, scenario: Scenario) -> None:
    """A run of months failed at the third lost worker, however far apart."""
    run = scenario.run()
    for step in (10, 20, 30):
        taken = claim(ctx, run)
        report(ctx, taken, {"type": "checkpoint", "step": step, "folder": f"runs/{run.id}/checkpoints/{step}"})
        with ctx.db.write() as session:
            assert session.get_one(Job, run.job_id).lost == 0
            error = JobFailure(cause="The machine b is lost.")
            assert requeue_lost(session, ctx, taken, error=error, counts=True) is Status.QUEUED


def test_the_log_says_where_an_attempt_begins(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run()
    taken = claim(ctx, run)
    report(ctx, taken, {"type": "log", "text": "hello", "time": 1.0})
    assert read_log(ctx, taken.job_id) == ["hello"]


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_survives_a_round_trip_through_yaml(name: str) -> None:
    config = RECIPES[name].config
    assert parse_run_config(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"devices": {"count": 6}}, "devices.count"),
        ({"devices": {"count": 12, "nodes": 2}, "device": "cpu"}, "devices.count"),
        ({"devices": {"count": 2}, "device": "gpu"}, "devices.count"),
        ({"precision": "fp16"}, "precision"),
        ({"attention": "flash"}, "attention"),
        ({"attention": "flex", "device": "cpu"}, "attention"),
    ],
)
def test_settings_without_a_suitable_worker_are_refused_before_the_queue(
    ctx: Context, values: dict[str, Any], field: str
) -> None:
    gauges = {"cpu_count": 4, "cpu_name": "a CPU", "memory_total_bytes": 2**33}
    beat(ctx, name="w", host="lab", pid=1, slots={"train": 1}, devices=[], gauges=gauges)
    with pytest.raises(InvalidInput) as caught:
        Scenario(ctx).run(**values)
    assert caught.value.field == field


def test_as_many_devices_as_a_worker_has_are_taken_and_a_gpu_takes_what_needs_one(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.parts()
    gpus = [{"index": str(index), "name": "a GPU", "memory_total_bytes": 2**36} for index in range(8)]
    gauges = {"cpu_count": 4, "cpu_name": "a CPU", "memory_total_bytes": 2**33, "gpus": gpus}
    beat(
        ctx,
        name="w",
        host="lab",
        pid=1,
        slots={"train": 1},
        devices=[str(n) for n in range(8)],
        gauges=gauges,
    )
    assert scenario.run(devices={"count": 16, "nodes": 2}, device="gpu", precision="fp16").status is Status.QUEUED
    assert scenario.run(devices={"count": 4}, device="cpu").status is Status.QUEUED


def test_a_diverged_run_of_a_base_is_measured_by_the_vocabulary_of_the_base(ctx: Context, scenario: Scenario) -> None:
    scenario.checkpoint(facts={"context": 128, "vocab_size": 512})
    high = {"type": "metrics", "step": 100, "time": 1.0, "values": {"train_loss": 40.0}}
    scenario.dataset("asks", kind="chat")
    parts = {"architecture": None, "tokenizer": None, "objective": "sft", "dataset": "asks"}
    run = scenario.run(high, status=Status.FINISHED, base="Oak", **parts)
    assert "equally likely has 6.2." in diagnose_run(ctx, run.id)[0].sentence


def test_a_diverged_run_of_an_inline_architecture_is_cured_by_a_usual_learning_rate(
    ctx: Context, scenario: Scenario
) -> None:
    """Launched from YAML with learning rate 5, it was told to run again with 1.7."""
    high = {"type": "metrics", "step": 100, "time": 1.0, "values": {"train_loss": 40.0}}
    run = scenario.run(high, status=Status.FINISHED, architecture=SHAPE, learning_rate=5.0)
    (rate,) = [value for name, value in diagnose_run(ctx, run.id)[0].changes if name == "learning_rate"]
    assert isinstance(rate, float)
    assert rate < 0.1
