"""Logs of other programs are runs to compare with: they are listed, drawn and exported, and nothing can be done with
them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.domain.jobs.states import Status
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.metrics.curves import CurveCache, axes_of_runs, stream_csv
from backend.services.training.imported_runs import import_log, import_log_path
from backend.services.training.runs import archive_runs
from backend.services.training.views import list_runs, run_detail
from tests.support.curves import read_curve
from tests.support.run_world import points
from tests.support.scenario import Scenario

CSV = b"step,loss,eval_loss\n" + b"".join(b"%d,%f,\n" % (step, 5.0 / step) for step in range(1, 101)) + b"100,,0.5\n"


def test_a_log_becomes_a_finished_run_that_is_marked(any_ctx: Context) -> None:
    (run,) = import_log(any_ctx, CSV, filename="theirs.csv", person=LOCAL)
    assert (run.name, run.status, run.is_imported, run.is_active) == ("theirs", Status.FINISHED, True, False)
    assert run.line == "100 steps, from CSV"
    assert (run.last_step, run.best_val_loss) == (100, 0.5)
    assert read_curve(any_ctx, run.id, "train_loss").total == 100
    assert list_runs(any_ctx) == [run]
    assert (
        axes_of_runs(any_ctx, [run.id])[run.id].tokens_per_step,
        axes_of_runs(any_ctx, [run.id])[run.id].has_time,
    ) == (None, False)


def test_the_second_of_a_name_gets_a_number(ctx: Context) -> None:
    names = [import_log(ctx, CSV, filename="a_b.csv", person=LOCAL)[0].name for _ in range(3)]
    assert names == ["a_b", "a_b 2", "a_b 3"]


def test_runs_of_one_file_keep_their_names_beside_the_one_that_is_typed(ctx: Context) -> None:
    """They were called “sweep”, “sweep 2”: which was which could not be told."""
    table = b"run,name,metric,step,value\na1,low lr,loss,1,2.5\nb2,high lr,loss,1,3.5\n"
    runs = import_log(ctx, table, filename="curves.csv", person=LOCAL, name="sweep")
    assert [run.name for run in runs] == ["sweep low lr", "sweep high lr"]


def test_an_exported_curve_is_imported_unchanged(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(*points(1, 50), name="ours")
    (again,) = import_log(ctx, "".join(stream_csv(ctx, [run.id])).encode(), filename="curves.csv", person=LOCAL)
    assert again.name == "ours 2"
    assert read_curve(ctx, again.id, "train_loss") == read_curve(ctx, run.id, "train_loss")


def test_an_imported_run_has_nothing_to_copy_or_to_stop(ctx: Context) -> None:
    (run,) = import_log(ctx, CSV, filename="theirs.csv", person=LOCAL)
    with pytest.raises(InvalidInput, match="imported as curves"):
        run_detail(ctx, run.id)
    archive_runs(ctx, [run.id], person=LOCAL)
    assert list_runs(ctx) == []


def test_a_rater_imports_nothing(ctx: Context) -> None:
    with pytest.raises(NotAllowed):
        import_log(ctx, CSV, filename="theirs.csv", person=Person("r", "Rita", role="rater"))


def test_event_files_of_a_folder_are_one_run(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no event file"):
        import_log_path(ctx, tmp_path, person=LOCAL)
    writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    from tensorboard.compat.proto import event_pb2, summary_pb2

    for part, steps in enumerate((range(1, 60), range(50, 101))):
        writer = writers.EventFileWriter(str(tmp_path), filename_suffix=f".{part}")
        for step in steps:
            value = summary_pb2.Summary.Value(tag="train/loss", simple_value=float(step + 1000 * part))
            writer.add_event(
                event_pb2.Event(wall_time=5.0 + step, step=step, summary=summary_pb2.Summary(value=[value]))
            )
        writer.close()
    (run,) = import_log_path(ctx, tmp_path, person=LOCAL, name="board")
    curve = read_curve(ctx, run.id, "train_loss")
    assert (run.name, curve.steps, curve.values[48], curve.values[49]) == ("board", tuple(range(1, 101)), 49.0, 1050.0)


def test_operations_and_tokens_of_a_trainers_state_become_axes(ctx: Context, tmp_path: Path) -> None:
    state = {
        "global_step": 2,
        "total_flos": 4e9,
        "log_history": [{"step": s, "loss": 1.0 / s, "num_input_tokens_seen": 64 * s} for s in (1, 2)],
    }
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    (run,) = import_log_path(ctx, tmp_path / "trainer_state.json", person=LOCAL)
    axes = axes_of_runs(ctx, [run.id])[run.id]
    assert (axes.tokens_per_step, axes.flops_per_step, axes.has_time) == (64.0, 2e9, False)


def test_the_axes_of_our_runs_are_arithmetic(ctx: Context, scenario: Scenario) -> None:
    run = scenario.run(micro_batch=4, context=32, grad_accum_steps=2)
    axes = axes_of_runs(ctx, [run.id, "gone"])[run.id]
    assert axes.tokens_per_step == 256
    assert axes.flops_per_step is not None
    assert axes.flops_per_step > 6 * 256 * 15_000  # 6 operations a parameter and token at the least


def test_hostile_names_and_numbers_are_stored_and_drawn_as_json(ctx: Context) -> None:
    lines = b'{"step":1,"a\\ud800\\u0000b":1e300,"loss":1}\n{"step":2,"a\\ud800\\u0000b":-1e300,"loss":1e308}'
    (run,) = import_log(ctx, lines, filename="x\udc80\0y.json", person=LOCAL)
    assert run.name == "xy"

    def refuse(word: str) -> None:
        raise AssertionError(word)

    drawn = json.loads(CurveCache().points_json(ctx, run.id, after={}, resets=None), parse_constant=refuse)
    assert drawn["metrics"]["ab"]["values"] == [1e300, -1e300]
    assert drawn["metrics"]["train_loss"]["values"] == [1.0]
