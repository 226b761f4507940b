"""The table of runs on a real database: what it reads, keeps and reads again, and what is done with many runs."""

from __future__ import annotations

import csv
import io
import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update

from backend.db.tables import (
    Checkpoint,
    Conversation,
    DeviceUse,
    Evaluation,
    Job,
    LogLine,
    Message,
    Run,
    RunGroup,
    Sample,
    User,
)
from backend.domain.estimates.prices import DevicePrices
from backend.domain.filters import FilterError
from backend.domain.jobs.states import Status
from backend.domain.training.objectives import Objective
from backend.domain.training.run_table import RunFold, fold_cell, main_metrics, varying_fields
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, OperatorPolicy, Person
from backend.services.dependents import Use
from backend.services.people.saved_views import delete_view, list_saved_views, save_view
from backend.services.training.deletion import delete_runs, plan_deletion
from backend.services.training.imported_runs import import_log
from backend.services.training.run_table import (
    RunQuery,
    find_runs,
    fold_runs,
    read_run_table,
    stream_runs_csv,
    suggest_filter_values,
)
from backend.services.training.runs import archive_runs, launch_run, rename_run, resume_run, set_tags, tag_runs
from backend.services.training.views import RunView, list_runs
from tests.support.run_world import claim, end, make_config, report
from tests.support.scenario import Scenario

RATER = Person(id=None, name="rater", role="rater")


def finished(ctx: Context, name: str, loss: float, **values: Any) -> RunView:
    """A finished run with this val_loss at its end."""
    run = Scenario(ctx).run(name=name, **values)
    taken = claim(ctx, run)
    values_now = {"val_loss": loss, "train_loss": loss + 0.1, "tok_per_sec": 900.0}
    report(ctx, taken, {"type": "metrics", "step": 100, "time": 1.0, "values": values_now})
    end(ctx, taken, Status.FINISHED)
    return run


def found(ctx: Context, expression: str = "", **query: Any) -> list[str]:
    """The names of the runs that pass a filter."""
    return [row.name for row in find_runs(ctx, RunQuery(filter=expression, **query))]


def as_dpo(ctx: Context, run: RunView, **config: Any) -> None:
    """Make a stored run one of another objective, as if it had been launched so."""
    with ctx.db.write() as session:
        row = session.get_one(Run, run.id)
        row.objective = "dpo"
        row.config = row.launched_config.model_copy(update={"objective": Objective.DPO, **config})


def test_runs_are_found_by_any_field_and_sorted(ctx: Context) -> None:
    finished(ctx, "slow", 2.0, learning_rate=0.001, seed=1)
    finished(ctx, "fast", 1.5, learning_rate=0.01, seed=2)
    other = finished(ctx, "other", 1.7, learning_rate=0.01, context=64)
    set_tags(ctx, other.id, ("baseline",), person=LOCAL)
    assert found(ctx, "lr < 0.01") == ["slow"]
    assert found(ctx, "lr >= 0.01 and not tag = baseline") == ["fast"]
    assert found(ctx, "tokens = 12800 or context = 64") == ["other", "fast", "slow"]
    assert found(ctx, "pretrain.best_val_loss < 1.8", order="pretrain.best_val_loss") == ["fast", "other"]
    assert found(ctx, "", order="-learning_rate")[-1] == "slow"
    assert found(ctx, "", order="name") == ["fast", "other", "slow"]
    assert found(ctx, "status = finished and architecture.num_layers = 2 and tok_per_sec > 800")
    assert found(ctx, "dataset contains tales and steps = 100", text="fas") == ["fast"]
    assert found(ctx, statuses=(Status.QUEUED,)) == []


def test_a_dataset_without_a_version_is_any_version_of_it(ctx: Context, scenario: Scenario) -> None:
    """`dataset = noise` matched no run in silence, and `dataset = noise@1` all."""
    finished(ctx, "first", 2.0)
    scenario.dataset("other tales")
    finished(ctx, "second", 2.0, dataset="other tales")
    for expression in ("dataset = Tales", "dataset = tales@1", "dataset in (tales, qqq)", 'dataset != "other tales"'):
        assert found(ctx, expression) == ["first"], expression
        assert suggest_filter_values(read_run_table(ctx), RunQuery(filter=expression)) == []
    advice = suggest_filter_values(read_run_table(ctx), RunQuery(filter="dataset = other"))
    assert advice == ['No run has dataset other. Did you mean "other tales@1"?']
    assert found(ctx, "dataset = tales@2") == found(ctx, "dataset = tale") == []
    assert found(ctx, "not dataset = tales") == ["second"]


def test_a_config_is_read_with_its_defaults_and_a_field_without_effect_is_missing(ctx: Context) -> None:
    finished(ctx, "full", 2.0)
    assert found(ctx, "weight_decay = 0.1 and recompute = no and packing is missing") == ["full"]
    assert found(ctx, "lora.rank = 8") == []
    assert found(ctx, "lora.rank is missing") == ["full"]


def test_a_dpo_loss_is_never_beside_a_pretraining_loss(ctx: Context) -> None:
    finished(ctx, "text", 2.0)
    aligned = finished(ctx, "aligned", 0.6)
    as_dpo(ctx, aligned)
    table = read_run_table(ctx)
    assert {"pretrain.val_loss", "dpo.val_loss"} <= table.fields.keys()
    assert "val_loss" not in table.fields
    assert found(ctx, "dpo.val_loss < 1") == ["aligned"]
    assert found(ctx, "pretrain.val_loss < 1") == []
    with pytest.raises(FilterError, match=r"write pretrain\.val_loss or dpo\.val_loss"):
        found(ctx, "val_loss < 1")
    with pytest.raises(InvalidInput, match=r"pretrain\.val_loss or dpo\.val_loss"):
        found(ctx, order="val_loss")
    assert main_metrics(table.fields, {"pretrain", "dpo"}) == ["pretrain.best_val_loss", "dpo.best_val_loss"]
    rows = table.rows
    for name, expected in (("pretrain.val_loss", [None, 2.0]), ("dpo.val_loss", [0.6, None])):
        assert [table.reader(name)(row) for row in rows] == expected


def test_the_advice_for_a_metric_names_all_objectives_that_have_it(ctx: Context) -> None:
    """Of five it named four, as if the fifth did not exist."""
    objectives = ["pretrain", "sft", "dpo", "kto", "orpo"]
    for objective in objectives:
        run = finished(ctx, objective, 2.0)
        with ctx.db.write() as session:
            session.get_one(Run, run.id).objective = objective
    with pytest.raises(FilterError) as error:
        found(ctx, "val_loss < 1")
    assert [name for name in objectives if f"{name}.val_loss" in str(error.value)] == objectives


def test_what_changed_is_read_again_and_nothing_else(ctx: Context, scenario: Scenario) -> None:
    first, second = finished(ctx, "first", 2.0), finished(ctx, "second", 1.0)
    with ctx.db.write() as session:  # as if they had ended long ago
        old = ctx.now() - timedelta(days=1)
        session.execute(update(Run).values(changed_at=old))
    assert found(ctx) == ["second", "first"]
    statements: list[str] = []
    event.listen(ctx.db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    assert found(ctx) == ["second", "first"]
    assert not any("runs.config" in statement for statement in statements)
    rename_run(ctx, first.id, "renamed", person=LOCAL)
    tag_runs(ctx, [second.id], add=["new"], person=LOCAL)
    assert found(ctx) == ["second", "renamed"]
    assert found(ctx, "tag = new") == ["second"]
    waiting = scenario.run(name="waiting")
    assert found(ctx, "status = queued") == ["waiting"]
    taken = claim(ctx, waiting)
    assert found(ctx, "status = running") == ["waiting"]
    end(ctx, taken, Status.FAILED, cause="No memory.")
    assert found(ctx, "status = failed") == ["waiting"]
    delete_runs(ctx, [waiting.id], person=LOCAL)
    assert found(ctx) == ["second", "renamed"]
    with ctx.db.write() as session:  # a row that another program put back, with its old time
        session.add(Run(name="restored", objective="pretrain", config={}, created_at=old, changed_at=old))
    assert found(ctx) == ["second", "renamed", "restored"]


def test_the_table_agrees_with_the_list_of_runs(ctx: Context, scenario: Scenario) -> None:
    finished(ctx, "one", 2.0)
    scenario.run(name="two")
    import_log(ctx, b"step,val_loss\n1,2.5\n9,2.25\n", filename="theirs.csv", person=LOCAL)
    table = read_run_table(ctx)
    by_id = {row.id: row for row in table.rows}
    views = list_runs(ctx)
    assert [row.id for row in table.rows] == [view.id for view in views]
    for view in views:
        row = by_id[view.id]
        assert (row.name, row.status, row.steps, row.best_val_loss, row.metrics, row.tags) == (
            view.name,
            view.status,
            view.last_step,
            view.best_val_loss,
            view.last,
            view.tags,
        )
        assert (table.reader("dataset")(row) or "") == view.dataset
        assert (row.tokens_per_step or 0) == view.tokens_per_step
    assert found(ctx, "status = imported and imported.best_val_loss = 2.25") == ["theirs"]
    assert found(ctx, imported=True) == ["theirs"]


def test_duration_and_cost_follow_the_job(ctx: Context) -> None:
    run = finished(ctx, "paid", 2.0)
    with ctx.db.write() as session:
        use = session.scalars(select(DeviceUse).where(DeviceUse.job_id == run.job_id)).one()
        use.started_at, use.ended_at = ctx.now() - timedelta(hours=2), ctx.now() - timedelta(hours=1)
        stored = session.get_one(Run, run.id)
        stored.summary = stored.summary.model_copy(update={"earlier_s": 3600.0})  # it was resumed
    assert "cost" not in read_run_table(ctx).fields
    priced = replace(ctx, policy=OperatorPolicy(prices=DevicePrices(default=1.5)))
    table = read_run_table(priced)
    (row,) = find_runs(priced, RunQuery(filter="duration > 119min and duration < 2h1min and cost > 2.99"), table=table)
    assert table.fields["cost"].write(table.reader("cost")(row)) == "$3.00"
    assert table.fields["duration"].write(table.reader("duration")(row)) == "2 h 0 min"


def test_a_sweep_folds_to_its_best_value_and_other_runs_stay(ctx: Context) -> None:
    with ctx.db.write() as session:
        group = RunGroup(name="rates", kind="sweep", config={})
        study = RunGroup(name="law", kind="study", config={})
        session.add_all([group, study])
        session.flush()
        ids = {"sweep": group.id, "study": study.id}
    runs = [
        finished(ctx, f"trial {n}", loss, learning_rate=rate)
        for n, (loss, rate) in enumerate([(2.0, 0.1), (1.5, 0.01)])
    ]
    alone, studied = finished(ctx, "alone", 3.0), finished(ctx, "studied", 4.0)
    with ctx.db.write() as session:
        for run in runs:
            session.get_one(Run, run.id).group_id = ids["sweep"]
        session.get_one(Run, studied.id).group_id = ids["study"]
    table = read_run_table(ctx)
    rows = find_runs(ctx, RunQuery(order="pretrain.best_val_loss"), table=table)
    entries = fold_runs(table, rows, "sweep")
    (fold,) = [entry for entry in entries if isinstance(entry, RunFold)]
    assert entries[0] is fold, "where its best run stands"
    assert [entry.name for entry in entries[1:]] == ["alone", "studied"]  # type: ignore[union-attr]
    assert (fold.title, len(fold.rows)) == ("rates", 2)
    cells = {
        name: fold_cell(table, fold, table.fields[name])
        for name in ("learning_rate", "pretrain.best_val_loss", "seed", "status")
    }
    assert cells == {
        "learning_rate": "0.01 to 0.1",
        "pretrain.best_val_loss": "best 1.5000",
        "seed": "1",
        "status": "finished",
    }
    assert found(ctx, "sweep = rates") == ["trial 1", "trial 0"]
    by_rate = fold_runs(table, rows, "learning_rate")
    assert [(entry.title, len(entry.rows)) for entry in by_rate if isinstance(entry, RunFold)] == [
        ("0.01", 1),
        ("0.1", 1),
        ("0.003", 2),
    ]
    assert varying_fields(table, rows) == ["learning_rate"]
    assert alone.name == "alone"


def test_folds_sorted_by_name_stand_in_the_order_of_the_names_shown(ctx: Context, scenario: Scenario) -> None:
    """Datasets stood in the order of the first run in each, whose names a folded row hides."""
    for dataset, name in (("noise", "b"), ("same", "c"), ("chat", "d"), ("Short", "a")):
        scenario.dataset(dataset)
        finished(ctx, name, 2.0, dataset=dataset)
    table = read_run_table(ctx)
    for order, expected in (("name", ["chat@1", "noise@1", "same@1", "Short@1"]), ("-learning_rate", None)):
        rows = find_runs(ctx, RunQuery(order=order), table=table)
        titles = [one.title for one in fold_runs(table, rows, "dataset", order=order) if isinstance(one, RunFold)]
        assert titles == (expected or [table.reader("dataset")(row) for row in rows])
    rows = find_runs(ctx, RunQuery(order="-name"), table=table)
    titles = [one.title for one in fold_runs(table, rows, "dataset", order="-name") if isinstance(one, RunFold)]
    assert titles == ["Short@1", "same@1", "noise@1", "chat@1"]


def test_a_csv_holds_what_is_shown_in_full_and_no_formula(ctx: Context) -> None:
    run = finished(ctx, "=1+1", 1.23456789, learning_rate=0.00012345)
    set_tags(ctx, run.id, ("a", "b"), person=LOCAL)
    table = read_run_table(ctx)
    text = "".join(
        stream_runs_csv(table, table.rows, ["name", "learning_rate", "pretrain.val_loss", "tags", "base", "lora.rank"])
    )
    (row,) = csv.DictReader(io.StringIO(text))
    assert row == {
        "id": run.id,
        "name": "'=1+1",
        "learning_rate": "0.00012345",
        "pretrain.val_loss": "1.23456789",
        "tags": "a, b",
        "base": "",
        "lora.rank": "",
    }


def test_a_csv_says_of_a_status_what_the_page_says(ctx: Context, scenario: Scenario) -> None:
    scenario.run(name="halted", status=Status.CANCELLED)
    table = read_run_table(ctx)
    (row,) = csv.DictReader(io.StringIO("".join(stream_runs_csv(table, table.rows, ["status"]))))
    assert row["status"] == "stopped"


def test_many_runs_are_tagged_and_archived_together_or_not_at_all(ctx: Context, scenario: Scenario) -> None:
    done, other = finished(ctx, "done", 2.0), finished(ctx, "other", 2.0)
    set_tags(ctx, done.id, ("old",), person=LOCAL)
    tag_runs(ctx, [done.id, other.id], add=["Good ", "new"], remove=["old"], person=LOCAL)
    assert found(ctx, "tag = good and tag = new and not tag = old") == ["other", "done"]
    waiting = scenario.run(name="waiting")
    with pytest.raises(Conflict, match="waiting"):
        archive_runs(ctx, [done.id, waiting.id], person=LOCAL)
    assert found(ctx, archived=True) == []
    archive_runs(ctx, [done.id, other.id], person=LOCAL)
    assert found(ctx, archived=True) == ["other", "done"]
    archive_runs(ctx, [done.id], person=LOCAL, archived=False)
    assert found(ctx) == ["waiting", "done"]
    with pytest.raises(InvalidInput, match="13 tags are too many"):
        tag_runs(ctx, [done.id], add=[f"t{n}" for n in range(11)], person=LOCAL)
    for act in (archive_runs, delete_runs):
        with pytest.raises(NotAllowed):
            act(ctx, [done.id], person=RATER)
    with pytest.raises(NotAllowed):
        tag_runs(ctx, [done.id], add=["x"], person=RATER)


def test_deleting_runs_takes_what_is_theirs_and_leaves_what_others_need(ctx: Context, scenario: Scenario) -> None:
    going, kept, active = finished(ctx, "going", 2.0), finished(ctx, "kept", 2.0), scenario.run(name="active")
    checkpoint, needed = scenario.checkpoint(run=going, step=100), scenario.checkpoint(run=kept, step=100)
    folder = ctx.artifacts.path(f"runs/{going.id}/checkpoints/step-000100")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 10)
    version = scenario.dataset("exam", kind="benchmark")
    with ctx.db.write() as session:
        session.get_one(Checkpoint, checkpoint).bytes = 10
        session.add(Sample(run_id=going.id, step=1, prompt="p", completion="c"))
        session.add(Evaluation(checkpoint_id=needed, dataset_version_id=version, kind="choice"))
        session.get_one(Run, kept.id).parent_id = going.id
    ids = [going.id, kept.id, active.id]
    planned = plan_deletion(ctx, ids)
    assert (planned.names, planned.num_checkpoints, planned.bytes) == (("going",), 1, 10)
    assert {one.name: one.why for one in planned.staying} == {
        "kept": "evaluation of “exam” needs its checkpoint",
        "active": "it is queued",
    }
    assert delete_runs(ctx, ids, person=LOCAL) == planned
    assert found(ctx) == ["active", "kept"]
    assert not folder.exists()
    with ctx.db.read() as session:
        assert session.get(Checkpoint, checkpoint) is None
        assert session.get(Run, kept.id).parent_id is None  # type: ignore[union-attr]
        assert session.get(Job, going.job_id) is not None, "costs are counted by jobs"
    with pytest.raises(Conflict, match="evaluation of “exam” needs its checkpoint"):
        delete_runs(ctx, [kept.id], person=LOCAL)


def test_a_run_whose_checkpoint_another_run_starts_from_goes_only_with_it(ctx: Context, scenario: Scenario) -> None:
    first, second = finished(ctx, "first", 2.0), finished(ctx, "second", 2.0)
    base, made = scenario.checkpoint(run=first, step=100), scenario.checkpoint(run=second, step=100)
    with ctx.db.write() as session:
        session.get_one(Run, second.id).base_id = base
        session.get_one(Checkpoint, made).parent_id = base
    (staying,) = plan_deletion(ctx, [first.id]).staying
    assert (staying.name, staying.why) == ("first", "run “second” needs its checkpoint")
    assert staying.uses == (Use("run", "second", second.id),)
    others = [finished(ctx, f"other {number}", 2.0) for number in range(6)]
    with ctx.db.write() as session:
        for other in others:
            session.get_one(Run, other.id).base_id = base
    (staying,) = plan_deletion(ctx, [first.id]).staying
    assert staying.why.endswith(" and 2 more need its checkpoint")
    assert [f"run “{use.name}”" for use in staying.uses] == staying.why.partition(" and ")[0].split(", ")
    assert len(staying.uses) == 5
    names = ("first", "second", *(other.name for other in others))
    assert delete_runs(ctx, [run.id for run in (first, second, *others)], person=LOCAL).names == names
    assert found(ctx) == []


def test_all_jobs_of_a_deleted_run_lose_their_log_and_their_key(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    run = launch_run(ctx, make_config(name="tried"), person=LOCAL, idempotency_key="sweep:G:0")
    end(ctx, claim(ctx, run), Status.FAILED, cause="No memory.")
    scenario.checkpoint(run=run, step=50)
    again = resume_run(ctx, run.id, person=LOCAL)
    end(ctx, claim(ctx, again), Status.FAILED, cause="No memory.")
    other = finished(ctx, "other", 2.0)
    with ctx.db.write() as session:
        for job_id in (run.job_id, again.job_id, other.job_id):
            session.add(LogLine(job_id=job_id, attempt=1, time=1.0, text="step 1"))
    assert run.job_id != again.job_id
    delete_runs(ctx, [run.id], person=LOCAL)
    with ctx.db.read() as session:
        assert list(session.scalars(select(LogLine.job_id))) == [other.job_id]
    anew = launch_run(ctx, make_config(name="tried"), person=LOCAL, idempotency_key="sweep:G:0")
    assert anew.id != run.id


def test_every_file_of_deleted_runs_goes_even_if_one_folder_stays(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [finished(ctx, name, 2.0) for name in ("locked", "free")]
    for run in runs:
        folder = ctx.artifacts.path(f"runs/{run.id}")
        (folder / "trackers").mkdir(parents=True)
        (folder / "reference-1.safetensors").write_bytes(b"x")
    locked = f"runs/{runs[0].id}"
    remove = type(ctx.artifacts).remove

    def refuse(artifacts: Any, relative: str) -> None:
        if relative == locked:
            raise PermissionError(13, "Permission denied")
        remove(artifacts, relative)

    monkeypatch.setattr(type(ctx.artifacts), "remove", refuse)
    with caplog.at_level(logging.WARNING):
        assert delete_runs(ctx, [run.id for run in runs], person=LOCAL).names == ("locked", "free")
    assert not ctx.artifacts.path(f"runs/{runs[1].id}").exists()
    assert locked in caplog.text


def test_a_message_of_a_chat_stays_without_its_checkpoint(ctx: Context, scenario: Scenario) -> None:
    run = finished(ctx, "chatted", 2.0)
    checkpoint = scenario.checkpoint(run=run, step=100)
    with ctx.db.write() as session:
        session.add(Conversation(id="c1", title="Hello", endpoint="tales"))
        session.flush()
        session.add(
            Message(id="m1", conversation_id="c1", position=0, role="assistant", content="Hi", checkpoint_id=checkpoint)
        )
    assert plan_deletion(ctx, [run.id]).staying == ()
    delete_runs(ctx, [run.id], person=LOCAL)
    with ctx.db.read() as session:
        kept = session.get_one(Message, "m1")
        assert (kept.content, kept.checkpoint_id) == ("Hi", None)


def test_views_are_kept_by_name_and_by_person(ctx: Context) -> None:
    save_view(ctx, "runs", "good", "filter=lr+%3C+1", person=LOCAL)
    save_view(ctx, "runs", "good", "filter=lr+%3C+2", person=LOCAL)
    (view,) = list_saved_views(ctx, "runs", person=LOCAL)
    assert (view.name, view.query) == ("good", "filter=lr+%3C+2")
    assert list_saved_views(ctx, "requests", person=LOCAL) == []
    with ctx.db.write() as session:
        user = User(name="ada", role="engineer", password_hash="x")
        session.add(user)
        session.flush()
        ada = Person(id=user.id, name="ada", role="engineer")
    assert list_saved_views(ctx, "runs", person=ada) == []
    with pytest.raises(NotFound):
        delete_view(ctx, view.id, person=ada)
    with pytest.raises(InvalidInput, match="needs a name"):
        save_view(ctx, "runs", " ", "", person=ada)
    delete_view(ctx, view.id, person=LOCAL)
    assert list_saved_views(ctx, "runs", person=LOCAL) == []
