"""Probes and what is predicted by them: asked for once, measured by a real job, kept, and shown with source and
error.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from backend.db.tables import Checkpoint, Measurement, Run
from backend.domain.estimates.prediction import describe_error, describe_fit, format_memory, format_run_time
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context, Person
from backend.services.estimates.measurements import predict
from backend.services.estimates.probes import find_probe, launch_probe
from backend.services.jobs.devices import Device, choose_device, list_training_devices, training_workers
from backend.services.jobs.jobs import get_job, request_stop
from backend.services.jobs.workers import beat
from backend.services.training.views import list_runs
from jobs.runner import execute
from tests.support.job_work import do_job
from tests.support.jobs import finish_job, list_jobs, take_job
from tests.support.run_world import SHAPE, make_config
from tests.support.scenario import Scenario, add_row, add_rows
from tests.support.training_rooms import Rooms

DEVICE = Device("A chip", "cpu", 8_000_000_000)
MB = 1_000_000


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    """Data, a tokenizer and a base on disk."""
    return Rooms(tmp_path_factory.mktemp("rooms"))


@pytest.fixture
def with_files(ctx: Context, scenario: Scenario, files: Rooms) -> Context:
    """An installation whose parts have files behind them."""
    scenario.parts()
    scenario.dataset("chats", kind="chat")
    for name, place in (
        ("texts", "datasets/tales"),
        ("chats", "datasets/chats"),
        ("tokenizer", "tokenizers/pieces"),
        ("base", "checkpoints/oak"),
    ):
        shutil.copytree(files.root / name, ctx.artifacts.root / place)
    add_row(ctx, Checkpoint(name="oak", origin="added", folder="checkpoints/oak", source="oak"))
    return ctx


def measure(ctx: Context, config: RunConfig, result: dict[str, Any]) -> None:
    """Record a probe of a config with a result, as its job's parent does."""
    job = launch_probe(ctx, config, person=LOCAL)
    claim = take_job(ctx, job.id)
    defaults = {
        "tokens_per_s": 1000.0,
        "device": DEVICE.name,
        "device_kind": "cpu",
        "step_s": 0.5,
        "step_s_low": 0.4,
        "step_s_high": 0.6,
        "accumulated": 1,
    }
    with ctx.db.write() as session:
        finish_job(session, ctx, claim, **{**defaults, **result})


def formula(ctx: Context, config: RunConfig) -> int:
    """What arithmetic says about a config."""
    estimate = predict(ctx, config, device=Device("Another", "cpu", None)).memory.formula
    assert estimate is not None
    return estimate.total


def test_without_a_measurement_the_formula_is_shown_as_such(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    prediction = predict(ctx, make_config(), device=DEVICE)
    assert prediction.memory.source == "formula"
    assert format_memory(prediction.memory).endswith(", formula estimate, not measured here yet")
    assert prediction.fits == "yes"
    assert (prediction.time, format_run_time(prediction.time)) == (None, "unknown before a probe")


def test_a_probe_of_the_same_setting_is_the_prediction(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    config = make_config(max_steps=200, warmup_steps=0)
    measure(ctx, config, {"measured_bytes": 51 * MB})
    prediction = predict(ctx, config.model_copy(update={"name": "other", "learning_rate": 0.1}), device=DEVICE)
    estimated = formula(ctx, config) / MB
    assert format_memory(prediction.memory) == f"51.0 MB, measured by a probe; formula estimate {estimated:.1f} MB"
    assert format_run_time(prediction.time) == "about 1 min 40 s (1 min 20 s to 2 min 0 s)"
    assert "No run with a probe of its own" in describe_error(prediction.memory)
    assert predict(ctx, config, device=Device("Another", "cpu", None)).memory.source == "formula"


def test_time_counts_every_micro_batch_of_a_step(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    config = make_config(max_steps=100, grad_accum_steps=8)
    measure(ctx, config, {"measured_bytes": 51 * MB, "accumulated": 2})
    time = predict(ctx, config, device=DEVICE).time
    assert time is not None
    assert time.seconds == pytest.approx(200.0)


def test_similar_settings_are_calibrated_with_an_error(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    for micro_batch, ratio in ((2, 1.30), (4, 1.32), (6, 1.34), (10, 1.36)):
        config = make_config(micro_batch=micro_batch)
        measure(ctx, config, {"measured_bytes": round(formula(ctx, config) * ratio)})
    config = make_config(micro_batch=8)
    memory = predict(ctx, config, device=DEVICE).memory
    assert (memory.source, memory.probes, memory.runs) == ("calibrated", 4, 0)
    assert memory.num_bytes == pytest.approx(formula(ctx, config) * 1.33, rel=0.05)
    assert memory.error is not None
    assert memory.error < 0.1
    assert "calibrated on 4 probes; formula estimate" in format_memory(memory)
    far = predict(
        ctx,
        make_config(architecture=SHAPE.model_copy(update={"width": 8192, "num_layers": 80, "feed_forward": 20_000})),
        device=DEVICE,
    )
    assert far.memory.source == "formula"
    assert far.fits == "no"
    assert "Does not fit A chip" in describe_fit(far)


def test_many_runs_of_a_tiny_setting_hardly_change_the_estimate_of_a_larger_one(
    ctx: Context, scenario: Scenario
) -> None:
    """Four tiny runs, measured at a third of the formula, halved the estimate of a recipe that needs all of it."""
    scenario.parts()
    tiny, large = (
        make_config(micro_batch=1, context=16),
        make_config(architecture=SHAPE.model_copy(update={"width": 512})),
    )
    for _ in range(7):
        launch = {"measured_bytes": formula(ctx, tiny) // 3, "tokens_per_s": 130.0}
        measure(ctx, tiny, launch)
    prediction = predict(ctx, large, device=DEVICE)
    missing = formula(ctx, tiny) * 2 / 3
    assert formula(ctx, large) - missing < (prediction.memory.num_bytes or 0) <= formula(ctx, large)
    assert prediction.memory.error is None, "one setting says nothing of the error"
    assert prediction.memory.formula is not None
    parts = prediction.memory.formula.parts_within(formula(ctx, large) - 20 * MB)
    assert sum(parts.values()) == pytest.approx(formula(ctx, large) - 20 * MB, abs=10)
    assert prediction.time is None, "a pass of so little work says nothing of one of much"


def test_a_rate_at_other_models_has_a_range_by_how_well_each_predicts_the_others(
    ctx: Context, scenario: Scenario
) -> None:
    scenario.parts()
    for micro_batch, tokens_per_s in ((2, 900.0), (4, 1000.0), (6, 1100.0)):
        measure(ctx, make_config(micro_batch=micro_batch), {"measured_bytes": 51 * MB, "tokens_per_s": tokens_per_s})
    config = make_config(micro_batch=8)
    time = predict(ctx, config, device=DEVICE).time
    assert time is not None
    assert (time.tokens_per_s, time.source) == (pytest.approx(1100.0), "at the rate of other models here")
    assert time.low is not None
    assert time.high is not None
    assert time.low < config.max_steps * config.tokens_per_step / 1100 < time.high


def test_a_run_is_a_measurement_and_shows_the_error_of_its_probe(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    first, second = make_config(micro_batch=4), make_config(micro_batch=8)
    measure(ctx, first, {"measured_bytes": 50 * MB})
    measure(ctx, second, {"measured_bytes": 60 * MB})
    run = scenario.run(micro_batch=4)
    claim = take_job(ctx, str(run.job_id))
    measured = {
        "measured_bytes": 52 * MB,
        "tokens_per_s": 9.0,
        "step_s": 0.5,
        "device": DEVICE.name,
        "device_kind": "cpu",
    }
    with ctx.db.write() as session:
        finish_job(session, ctx, claim, final_step=100, stopped=None, measurement=measured)
    same = predict(ctx, first, device=DEVICE).memory
    assert (same.num_bytes, same.source) == (52 * MB, "run")
    other = predict(ctx, second, device=DEVICE).memory
    assert (other.num_bytes, other.source) == (60 * MB, "probe")
    assert other.error == pytest.approx(0.04)
    assert describe_error(other) == "Runs differed by 4 % from their probes here (1 run)."


def test_a_stopped_job_is_no_measurement(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    measure(ctx, make_config(), {"measured_bytes": 50 * MB, "stopped": "cancel"})
    assert predict(ctx, make_config(), device=DEVICE).memory.source == "formula"


@pytest.mark.parametrize(
    ("steps", "checkpoint", "source"),
    [(30, "runs/x/checkpoints/30", "run"), (3, "runs/x/checkpoints/3", "formula"), (30, None, "formula")],
    ids=["long", "short", "nothing saved"],
)
def test_a_stopped_run_counts_if_it_was_long_enough_and_saved(
    ctx: Context, scenario: Scenario, steps: int, checkpoint: str | None, source: str
) -> None:
    """A run of eleven minutes was stopped, and the next launch of its recipe knew nothing of its time."""
    claim = take_job(ctx, str(scenario.run(micro_batch=4).job_id))
    measured = {
        "measured_bytes": 52 * MB,
        "tokens_per_s": 9.0,
        "step_s": 0.5,
        "steps_timed": steps,
        "device": DEVICE.name,
        "device_kind": "cpu",
    }
    with ctx.db.write() as session:
        finish_job(
            session, ctx, claim, final_step=steps, stopped="stop_and_save", checkpoint=checkpoint, measurement=measured
        )
    expected = predict(ctx, make_config(micro_batch=4), device=DEVICE)
    assert expected.memory.source == source
    assert (expected.time is not None) == (source == "run")


def test_the_same_probe_is_queued_once_while_it_is_active(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    first = launch_probe(ctx, make_config(), person=LOCAL)
    again = launch_probe(ctx, make_config(max_steps=7, name="again"), person=LOCAL)
    other = launch_probe(ctx, make_config(micro_batch=5), person=LOCAL)
    assert first.id == again.id != other.id
    probe = find_probe(ctx, make_config(seed=9))
    assert probe is not None
    assert (probe.id, probe.kind, probe.queue, probe.status) == (first.id, "probe", "train", Status.QUEUED)
    request_stop(ctx, first.id)
    assert launch_probe(ctx, make_config(), person=LOCAL).id != first.id
    assert find_probe(ctx, make_config(context=16)) is None


def test_a_probe_goes_before_runs_that_wait_and_is_no_run(ctx: Context, scenario: Scenario) -> None:
    scenario.run()
    probe = launch_probe(ctx, make_config(), person=LOCAL)
    assert min(list_jobs(ctx, queue="train"), key=lambda job: job.priority).id == probe.id
    assert len(list_runs(ctx)) == 1


def test_what_can_not_be_launched_can_not_be_probed(ctx: Context, scenario: Scenario) -> None:
    scenario.parts()
    with pytest.raises(NotAllowed):
        launch_probe(ctx, make_config(), person=Person(id=None, name="Ruth", role="rater"))
    with pytest.raises(NotFound, match="tales"):
        launch_probe(ctx, make_config(dataset="tails"), person=LOCAL)
    with pytest.raises(InvalidInput, match="longer than the architecture"):
        predict(ctx, make_config(context=65), device=DEVICE)


def test_a_real_probe_is_measured_kept_and_shown(with_files: Context) -> None:
    config = make_config(architecture=SHAPE.model_copy(update={"vocab_size": 320}))
    claim = take_job(with_files, launch_probe(with_files, config, person=LOCAL).id)
    # as a worker does it: a child process, and its files read by the parent
    assert execute(with_files, claim) is Status.FINISHED
    job = get_job(with_files, claim.job_id)
    assert job.progress is not None
    assert job.progress.share == 1.0
    device = Device(str(job.result["device"]), "cpu", 8_000_000_000)
    prediction = predict(with_files, config, device=device)
    assert (prediction.memory.num_bytes, prediction.memory.source) == (job.result["measured_bytes"], "probe")
    assert prediction.time is not None
    assert prediction.time.seconds == pytest.approx(100 * job.result["step_s"])
    with with_files.db.read() as session:
        (row,) = session.query(Measurement).all()
        assert prediction.memory.formula is not None
        assert row.estimated_bytes == prediction.memory.formula.total
        assert (row.origin, row.job_id, row.host) == ("probe", job.id, "here")
        assert (session.query(Run).count(), session.query(Checkpoint).count()) == (0, 1)
    assert not with_files.artifacts.path("runs").exists()


def test_a_failed_probe_gives_the_reason(with_files: Context) -> None:
    # the tokenizer's 320 entries against a vocabulary of 300
    job = do_job(with_files, launch_probe(with_files, make_config(), person=LOCAL).id)
    assert job.status is Status.FAILED
    assert "vocab_size is 300" in job.error.cause
    assert get_job(with_files, job.id).error.remedy
    assert predict(with_files, make_config(), device=DEVICE).memory.source == "formula"


def test_an_adapter_is_predicted_by_the_shape_of_its_base(with_files: Context) -> None:
    folder = with_files.artifacts.folder("runs", "r1", "checkpoints", "step-1")
    (folder / "adapter_config.json").write_text("{}")
    (folder / "roundhouse.json").write_text('{"base_path": "../../../../checkpoints/oak"}')
    outside = with_files.artifacts.folder("runs", "r2", "checkpoints", "step-1")
    (outside / "roundhouse.json").write_text('{"base_path": "../../../../../../elsewhere"}')
    add_rows(
        with_files,
        Checkpoint(name="elm", origin="run", folder="runs/r1/checkpoints/step-1", is_adapter=True),
        Checkpoint(name="ash", origin="run", folder="runs/r2/checkpoints/step-1", is_adapter=True),
    )
    values = {"objective": "sft", "dataset": "chats", "architecture": None, "tokenizer": None}
    whole, adapter = (
        predict(with_files, make_config(**values, base=name), device=DEVICE).memory for name in ("oak", "elm")
    )
    assert whole.num_bytes == adapter.num_bytes
    unknown = predict(with_files, make_config(**values, base="ash"), device=DEVICE)
    assert (unknown.memory.source, unknown.fits) == ("unknown", "unknown")
    measure(with_files, make_config(**values, base="ash"), {"measured_bytes": 70 * MB})
    assert (
        format_memory(predict(with_files, make_config(**values, base="ash"), device=DEVICE).memory)
        == "70.0 MB, measured by a probe"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "lion"},
        {"ema_decay": 0.9},
        {"freeze_blocks": 1},
        {"dropout": 0.1},
        {"attention": "eager"},
        {"packing": False},
        {"grad_accum_steps": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_peak_of_another_setting_is_not_measured_for_an_unknown_family(ctx: Context, change: dict[str, Any]) -> None:
    """A peak measured with AdamW was shown as measured with Lion."""
    Scenario(ctx).dataset("chats", kind="chat")
    add_row(ctx, Checkpoint(name="ash", origin="added", folder="checkpoints/ash", parameters=1_000_000))
    config = make_config(objective="sft", dataset="chats", architecture=None, tokenizer=None, base="ash")
    measure(ctx, config, {"measured_bytes": 70 * MB})
    assert predict(ctx, config, device=DEVICE).memory.num_bytes == 70 * MB
    other = predict(ctx, RunConfig.model_validate({**config.model_dump(), **change}), device=DEVICE)
    assert (other.memory.num_bytes, other.time) == (None, None)
    assert find_probe(ctx, RunConfig.model_validate({**config.model_dump(), **change})) is None


def test_a_measurement_of_an_earlier_version_is_still_found(ctx: Context, scenario: Scenario) -> None:
    """Rows written before a field existed lack it, and their hash was made of other fields."""
    scenario.parts()
    measure(ctx, make_config(), {"measured_bytes": 51 * MB})
    with ctx.db.write() as session:
        row = session.query(Measurement).one()
        row.setting = {
            name: value for name, value in row.setting.items() if name not in ("attention", "adapter_variant", "nodes")
        }
        row.setting_hash = "of an earlier version"
    assert predict(ctx, make_config(), device=DEVICE).memory.source == "probe"
    assert predict(ctx, make_config(attention="eager"), device=DEVICE).memory.source != "probe"


def test_a_run_goes_to_the_gpu_of_a_living_worker(ctx: Context) -> None:
    assert [device.kind for device in list_training_devices(training_workers(ctx))][-1] == "cpu"
    gpu = {"index": "0", "name": "A card", "memory_total_bytes": 24_000_000_000, "memory_used_bytes": 0}
    gauges = {"cpu_name": "A chip", "memory_total_bytes": 8_000_000_000, "gpus": [gpu]}
    beat(ctx, name="w", host="lab", pid=1, slots={"train": 1}, devices=["0"], gauges=gauges)
    assert [device.name for device in list_training_devices(training_workers(ctx))] == ["A card", "A chip"]
    devices = [
        choose_device(make_config(device=device), training_workers(ctx)).name for device in ("auto", "gpu", "cpu")
    ]
    assert devices == ["A card", "A card", "A chip"]
    assert DEVICE.usable_bytes == 7_000_000_000
