"""A run that was stopped, killed or failed resumes bit for bit, on the CPU in fp32 and in bf16."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend.errors import JobFailed
from jobs.training.run import run
from tests.support.training_rooms import Recorder, Rooms

CASES = {
    "pretrain": ("pretrain", {}),
    "pretrain-accumulated": ("pretrain", {"grad_accum_steps": 2, "schedule": "linear"}),
    "sft": ("sft", {"learning_rate": 1e-3}),
    "sft-lora-with-dropout": ("sft", {"method": "lora", "learning_rate": 1e-2, "lora": {"rank": 4, "dropout": 0.2}}),
    "dpo": ("dpo", {"learning_rate": 5e-3, "grad_accum_steps": 2}),
    "dpo-lora-with-dropout": ("dpo", {"method": "lora", "learning_rate": 1e-2, "lora": {"rank": 4, "dropout": 0.2}}),
    "sft-lora-in-16-bits": ("sft", {"method": "lora", "learning_rate": 1e-2, "precision": "bf16"}),
    "dpo-lora-in-16-bits": ("dpo", {"method": "lora", "learning_rate": 1e-2, "precision": "bf16"}),
    "kto": ("kto", {"learning_rate": 5e-3}),
    "orpo": ("orpo", {"learning_rate": 5e-3}),
}


@pytest.mark.parametrize(("objective", "values"), CASES.values(), ids=CASES)
def test_a_run_killed_between_checkpoints_repeats_the_same_losses(
    rooms: Rooms, request: pytest.FixtureRequest, objective: str, values: dict
) -> None:  # type: ignore[type-arg]
    name = request.node.callspec.id
    undisturbed = Recorder()
    run(rooms.training(objective, run=f"{name}-a", job=f"{name}-a", **values), undisturbed)

    # as after a SIGKILL at step 5: the newest checkpoint is of step 3
    killed = Recorder(stop_after=5, request="cancel")
    assert run(rooms.training(objective, run=f"{name}-b", job=f"{name}-b", **values), killed).stopped == "cancel"
    resumed = Recorder()
    result = run(rooms.training(objective, run=f"{name}-b", job=f"{name}-b", attempt=2, **values), resumed)

    assert [event["step"] for event in resumed.of("resumed")] == [3]
    assert killed.series("train_loss") == undisturbed.series("train_loss")[:5]
    assert resumed.series("train_loss") == undisturbed.series("train_loss")[3:]
    assert resumed.series("grad_norm") == undisturbed.series("grad_norm")[3:]
    assert resumed.series("val_loss") == undisturbed.series("val_loss")[1:]
    assert result.final_step == 6
    assert resumed.samples == [sample for sample in undisturbed.samples if sample[0] > 3]
    weights = "adapter_model.safetensors" if "lora" in name else "model.safetensors"
    last = "checkpoints/step-000006"
    assert (rooms.root / f"{name}-a" / last / weights).read_bytes() == (
        rooms.root / f"{name}-b" / last / weights
    ).read_bytes()


def test_stop_and_save_saves_the_step_and_a_new_job_resumes_from_it(rooms: Rooms) -> None:
    undisturbed = Recorder()
    run(rooms.training("pretrain", run="s-a", job="s-a"), undisturbed)
    stopped = Recorder(stop_after=4, request="stop_and_save")
    result = run(rooms.training("pretrain", run="s-b", job="s-b"), stopped)
    assert (result.stopped, result.final_step, result.checkpoint) == ("stop_and_save", 4, "s-b/checkpoints/step-000004")
    resumed = Recorder()
    run(rooms.training("pretrain", run="s-b", job="s-another-job"), resumed)
    assert resumed.of("resumed")[0]["folder"] == "s-b/checkpoints/step-000004"
    assert resumed.series("train_loss") == undisturbed.series("train_loss")[4:]


def test_cancel_stops_at_once_and_writes_no_checkpoint(rooms: Rooms) -> None:
    recorder = Recorder(stop_after=2, request="cancel")
    result = run(rooms.training("pretrain", run="c", job="c"), recorder)
    assert (result.stopped, result.final_step, result.checkpoint) == ("cancel", 2, None)
    assert not recorder.of("checkpoint")


def test_a_damaged_checkpoint_is_skipped(rooms: Rooms) -> None:
    run(rooms.training("pretrain", run="t", job="t"), Recorder())
    (rooms.root / "t/checkpoints/step-000006/model.safetensors").write_bytes(b"half")
    leftover = rooms.root / "t/checkpoints/.step-000007.abcd.partial"
    leftover.mkdir()
    resumed = Recorder()
    run(rooms.training("pretrain", run="t", job="t", attempt=2), resumed)
    assert resumed.of("resumed")[0]["step"] == 3
    assert not leftover.exists()


def test_a_second_attempt_without_a_checkpoint_reports_that_it_starts_over(rooms: Rooms) -> None:
    recorder = Recorder(stop_after=1)
    run(rooms.training("pretrain", run="again", job="again", attempt=2), recorder)
    assert recorder.of("resumed") == [{"step": 0, "folder": None}]


def test_only_the_best_and_the_last_checkpoints_are_kept_and_each_removal_is_reported(rooms: Rooms) -> None:
    recorder = Recorder()
    values = {
        "max_steps": 8,
        "checkpoint_every": 1,
        "keep_last": 2,
        "learning_rate": 0.5,
        "grad_clip": 0.0,
        "schedule": "constant",
        "warmup_steps": 0,
    }
    result = run(rooms.training("pretrain", run="k", job="k", **values), recorder)
    losses = dict(recorder.series("val_loss"))
    best = min(losses, key=lambda step: losses[step])
    folder = rooms.root / "k/checkpoints"
    remaining = {best, 7, 8}
    assert {int(path.name[5:]) for path in folder.iterdir()} == remaining
    assert {event["step"] for event in recorder.of("checkpoint_removed")} == set(range(1, 9)) - remaining
    assert result.metrics["best_step"] == best
    assert [event["final"] for event in recorder.of("checkpoint")] == [False] * 7 + [True]


def test_a_loss_that_is_not_finite_fails_the_run_and_keeps_the_checkpoint(rooms: Rooms) -> None:
    recorder = Recorder()
    values = {"learning_rate": 9.9, "grad_clip": 0.0, "warmup_steps": 0, "max_steps": 40, "schedule": "constant"}
    run(rooms.training("pretrain", run="n", job="n"), Recorder(stop_after=4, request="stop_and_save"))
    shutil.copytree(rooms.root / "n", rooms.root / "n-copy")
    poison(rooms.root / "n-copy/checkpoints/step-000004")
    with pytest.raises(JobFailed, match=r"The loss became (nan|inf).*step 5.*learning rate") as failure:
        run(rooms.training("pretrain", run="n-copy", job="n2", **values), recorder)
    assert "Lower the learning rate" in failure.value.remedy
    assert not recorder.of("checkpoint")


def poison(folder: Path) -> None:
    """Put a NaN into a checkpoint's weights, as an overflow would."""
    from safetensors.torch import load_file, save_file

    from jobs.modeling.checkpoints import read_card, write_card

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_card(
        folder,
        meta={key: value for key, value in read_card(folder).items() if key not in ("files", "versions", "format")},
    )
