"""Features and failures of a run: EMA, freezing, early stopping, too little memory or disk, non-finite numbers."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.domain.jobs.events import Event, MetricsEvent, SampleEvent
from backend.errors import InvalidInput, JobFailed
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network
from jobs.reporter import JobSpec
from jobs.training import loop as training_loop
from jobs.training.objectives.language import LanguageObjective
from jobs.training.run import run
from tests.support.training_rooms import TINY, Recorder, Rooms, write_dataset

EVERYTHING = {"dropout": 0.1, "ema_decay": 0.9, "freeze_blocks": 1, "schedule": "wsd", "decay_steps": 2}


def weights(rooms: Rooms, name: str, step: int = 6) -> dict[str, torch.Tensor]:
    """Load the weights of a run's checkpoint."""
    return load_file(rooms.root / name / f"checkpoints/step-{step:06d}" / "model.safetensors")


@pytest.mark.parametrize("optimizer", ["muon", "lion", "adafactor"])
def test_a_run_with_every_feature_resumes_on_another_worker_bit_for_bit(
    rooms: Rooms, tmp_path: Path, optimizer: str
) -> None:
    values = {**EVERYTHING, "optimizer": optimizer, "max_steps": 7, "eval_every": 2}
    name = f"all-{optimizer}"
    undisturbed, paused, resumed = Recorder(), Recorder(stop_after=4, request="stop_and_save"), Recorder()
    run(rooms.training("pretrain", run=f"{name}-a", job=f"{name}-a", **values), undisturbed)
    run(rooms.training("pretrain", run=f"{name}-b", job=f"{name}-b", **values), paused)
    elsewhere = tmp_path / "another worker"
    shutil.copytree(rooms.root, elsewhere)
    spec = rooms.training("pretrain", run=f"{name}-b", job=f"{name}-c", **values)
    moved = JobSpec(spec.id, 1, spec.payload, artifacts=elsewhere, folder=elsewhere / "jobs" / "c")
    run(moved, resumed)
    assert resumed.of("resumed") == [{"step": 4, "folder": f"{name}-b/checkpoints/step-000004"}]
    for metric in ("train_loss", "grad_norm", "learning_rate", "val_loss"):
        assert resumed.series(metric) == [point for point in undisturbed.series(metric) if point[0] > 4], metric
    last = "checkpoints/step-000007/model.safetensors"
    assert (elsewhere / f"{name}-b" / last).read_bytes() == (rooms.root / f"{name}-a" / last).read_bytes()
    state = "checkpoints/step-000007/training_state/state.safetensors"
    assert (elsewhere / f"{name}-b" / state).read_bytes() == (rooms.root / f"{name}-a" / state).read_bytes()


def test_a_resumed_run_repeats_its_losses_across_epochs(rooms: Rooms) -> None:
    values = {
        "micro_batch": 8,
        "context": 64,
        "max_steps": 12,
        "checkpoint_every": 5,
    }  # an epoch is fewer than four steps
    undisturbed, killed, resumed = Recorder(), Recorder(stop_after=8), Recorder()
    run(rooms.training("pretrain", run="e-a", job="e-a", **values), undisturbed)
    assert any(
        "training tokens, " in line and float(line.split("training tokens, ")[1].split()[0]) > 2
        for line in undisturbed.lines
    )
    run(rooms.training("pretrain", run="e-b", job="e-b", **values), killed)
    run(rooms.training("pretrain", run="e-b", job="e-b", attempt=2, **values), resumed)
    assert resumed.series("train_loss") == undisturbed.series("train_loss")[5:]


def test_the_ema_is_validated_and_saved_without_changing_training(rooms: Rooms) -> None:
    plain, averaged = Recorder(), Recorder()
    run(rooms.training("pretrain", run="ema-off", job="ema-off", learning_rate=0.01), plain)
    run(rooms.training("pretrain", run="ema-on", job="ema-on", learning_rate=0.01, ema_decay=0.9), averaged)
    assert averaged.series("train_loss") == plain.series("train_loss")
    assert averaged.series("val_loss") != plain.series("val_loss")
    saved, trained = weights(rooms, "ema-on"), weights(rooms, "ema-off")
    state = load_file(rooms.root / "ema-on/checkpoints/step-000006/training_state/state.safetensors")
    names = [name for name, _ in build_network(TINY, seed=1).named_parameters()]
    for index, name in enumerate(names):
        assert torch.equal(state[f"average.trained.{index}"], trained[name])
    assert not torch.equal(saved["model.norm.weight"], trained["model.norm.weight"])


def test_frozen_blocks_and_embeddings_keep_their_weights(rooms: Rooms) -> None:
    recorder = Recorder()
    run(rooms.training("sft", run="frozen", job="frozen", freeze_blocks=1), recorder)
    before, after = dict(load_network(rooms.root / "base").named_parameters()), weights(rooms, "frozen")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {name for name in after if name.startswith(("model.layers.1.", "model.norm."))}
    trained = sum(after[name].numel() for name in changed)
    assert any(f"the tied head) and 1 of 2 blocks are frozen; {trained:,} of" in line for line in recorder.lines)


def test_freezing_more_blocks_than_there_are_is_refused(rooms: Rooms) -> None:
    with pytest.raises(InvalidInput, match="freeze_blocks is 3, and the model has 2 blocks") as refusal:
        run(rooms.training("pretrain", run="f3", job="f3", freeze_blocks=3), Recorder())
    assert refusal.value.field == "freeze_blocks"


def test_dropout_changes_training_but_not_validation(rooms: Rooms) -> None:
    plain, dropped = Recorder(), Recorder()
    run(rooms.training("pretrain", run="drop-0", job="drop-0", learning_rate=1e-9), plain)
    run(rooms.training("pretrain", run="drop-5", job="drop-5", learning_rate=1e-9, dropout=0.5), dropped)
    assert dropped.series("train_loss") != plain.series("train_loss")
    assert [value for _, value in dropped.series("val_loss")] == pytest.approx(
        [value for _, value in plain.series("val_loss")]
    )


def test_max_epochs_ends_a_run_and_its_schedule(rooms: Rooms) -> None:
    recorder = Recorder()
    values = {"micro_batch": 10, "max_epochs": 0.5, "max_steps": 50, "schedule": "linear", "packing": False}
    result = run(rooms.training("sft", run="half", job="half", **values), recorder)
    assert result.final_step == 2  # 40 rows, 10 a step
    assert "max_epochs 0.5 ends after 2 steps, before max_steps 50." in recorder.lines
    assert recorder.progressed[-1] == (2, 2)
    assert [event["final"] for event in recorder.of("checkpoint")] == [True]


def test_early_stopping_keeps_the_best_and_resumes_its_count(rooms: Rooms) -> None:
    values = {
        "max_steps": 60,
        "eval_every": 1,
        "checkpoint_every": 50,
        "patience": 3,
        "keep_last": 1,
        "warmup_steps": 0,
    }
    values |= {"learning_rate": 0.3, "schedule": "constant", "grad_clip": 0.0}
    whole, first, second = Recorder(), Recorder(stop_after=2, request="stop_and_save"), Recorder()
    result = run(rooms.training("pretrain", run="early", job="early", **values), whole)
    losses = dict(whole.series("val_loss"))
    best = min(losses, key=lambda step: losses[step])
    assert result.final_step == best + 3 < 60
    assert whole.of("stopped_early")[0]["step"] == best + 3
    remaining = sorted(path.name for path in (rooms.root / "early/checkpoints").iterdir())
    assert remaining == [f"step-{best:06d}", f"step-{best + 3:06d}"]
    assert [event["step"] for event in whole.of("checkpoint") if event["final"]] == [best + 3]
    again, longer = Recorder(), Recorder()
    ended = run(rooms.training("pretrain", run="early", job="early", attempt=2, **values), again)
    assert (ended.final_step, again.points) == (best + 3, [])
    run(rooms.training("pretrain", run="early", job="early-b", **{**values, "max_steps": 61}), longer)
    assert len(longer.series("val_loss")) >= 3, "its patience starts again"
    run(rooms.training("pretrain", run="early-2", job="early-2", **values), first)
    assert run(rooms.training("pretrain", run="early-2", job="early-2b", **values), second).final_step == best + 3


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulate a machine on which micro-batches of more than the listed number of sequences run out of memory. Empty:
    none does.
    """
    fits: list[int] = []
    compute_loss = LanguageObjective.compute_loss

    def limited(self: LanguageObjective, network: torch.nn.Module, batch: Any) -> Any:
        output = compute_loss(self, network, batch)
        if fits and batch.inputs.shape[0] > fits[0]:
            output.total.backward()  # gradients of an unfinished pass must be discarded
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return output

    monkeypatch.setattr(LanguageObjective, "compute_loss", limited)
    return fits


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_loss(rooms: Rooms, small_memory: list[int]) -> None:
    values = {"micro_batch": 8, "dropout": 0.0}
    plain, halved, resumed = Recorder(), Recorder(), Recorder()
    run(rooms.training("pretrain", run="oom-0", job="oom-0", **values), plain)
    small_memory.append(3)
    run(rooms.training("pretrain", run="oom", job="oom", **values), halved)
    assert halved.of("micro_batch_halved") == [
        {"step": 1, "micro_batch": 4, "grad_accum_steps": 2},
        {"step": 1, "micro_batch": 2, "grad_accum_steps": 4},
    ]
    assert "Step 1 ran out of memory with micro_batch 8: continuing with 4" in "\n".join(halved.lines)
    for metric in ("train_loss", "grad_norm", "val_loss"):
        assert [value for _, value in halved.series(metric)] == pytest.approx(
            [value for _, value in plain.series(metric)], rel=1e-5
        )

    run(rooms.training("pretrain", run="oom", job="oom", attempt=2, **{**values, "max_steps": 8}), resumed)
    assert not resumed.of("micro_batch_halved")
    assert "Micro-batches stay at 2, as larger ones did not fit into memory." in resumed.lines
    assert len(resumed.series("train_loss")) == 2


def test_a_single_sequence_that_does_not_fit_fails_the_run(rooms: Rooms, small_memory: list[int]) -> None:
    small_memory.append(0)
    recorder = Recorder()
    with pytest.raises(JobFailed, match="ran out of memory"):
        run(rooms.training("pretrain", run="oom-1", job="oom-1", micro_batch=2), recorder)
    assert [event["micro_batch"] for event in recorder.of("micro_batch_halved")] == [1]


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Make the loss or gradient of one pass infinite: `at` counts passes from 1, `how` is loss or gradient."""
    plan: dict[str, Any] = {"passes": 0, "at": None, "how": "loss", "held": None}
    compute_loss = LanguageObjective.compute_loss

    def spoil(self: LanguageObjective, network: torch.nn.Module, batch: Any) -> Any:
        output = compute_loss(self, network, batch)
        plan["passes"] += network.training
        if network.training and plan["passes"] == plan["at"]:
            plan["held"] = batch.inputs
        if plan["held"] is not None and network.training and torch.equal(batch.inputs, plan["held"]):
            bad = float("inf") if plan["how"] == "loss" else 1.0
            weight = next(parameter for parameter in network.parameters() if parameter.requires_grad)
            more = bad * output.total if plan["how"] == "loss" else (weight - weight.detach()).abs().sqrt().sum()
            return type(output)(output.total + more, aux_loss=output.aux_loss)
        return output

    monkeypatch.setattr(LanguageObjective, "compute_loss", spoil)
    return plan


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_micro_batch_that_is_not_finite_is_named_and_the_state_before_it_saved(
    rooms: Rooms, spoiled: dict[str, Any], how: str
) -> None:
    write_dataset(rooms.root / "marked", train=[{"messages": chat(index)} for index in range(24)])
    values = {
        "dataset": "marked",
        "packing": False,
        "micro_batch": 4,
        "grad_accum_steps": 2,
        "lora": {"rank": 4, "dropout": 0.3},
    }
    values |= {"method": "lora", "checkpoint_every": 5, "learning_rate": 1e-3}
    spoiled.update(at=2 * 3 + 2, how=how)  # the second micro-batch of step 4
    recorder, undisturbed, resumed = Recorder(), Recorder(), Recorder()
    with pytest.raises(JobFailed) as failure:
        run(rooms.training("sft", run=f"inf-{how}", job=f"inf-{how}", **values), recorder)
    message = failure.value.message
    assert f"The {how} became {'inf' if how == 'loss' else 'nan'} at step 4, learning rate" in message
    assert "in micro-batch 2 of 2: rows of the train split (the first is 1)" in message
    named = [int(part) for part in message.split("(the first is 1) ")[1].split(". ")[0].split(", ")]
    texts = [rooms.tokenizer.decode(row) for row in spoiled["held"].tolist()]
    assert len(named) == 4
    assert all(NUMBERS[row - 1] in text for row, text in zip(named, texts, strict=True))
    assert "The state before it is the checkpoint of step 3." in failure.value.remedy
    assert [event["step"] for event in recorder.of("checkpoint")] == [3]
    assert recorder.of("not_finite")[0]["micro_batch"] == 2

    spoiled.update(at=None, held=None)  # healthy again: the saved state is that before the step, random state included
    run(rooms.training("sft", run=f"inf-{how}-0", job=f"inf-{how}-0", **values), undisturbed)
    run(rooms.training("sft", run=f"inf-{how}", job=f"inf-{how}", attempt=2, **values), resumed)
    assert resumed.series("train_loss") == undisturbed.series("train_loss")[3:]


NUMBERS = [f"<{index:04d}>" for index in range(24)]


def chat(index: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Which? {NUMBERS[index]}"}, {"role": "assistant", "content": "That one."}]


Usage = namedtuple("Usage", "total used free")


def test_a_disk_that_fills_up_stops_and_saves_the_run(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [10**12]
    monkeypatch.setattr("jobs.training.checkpoints.shutil.disk_usage", lambda path: Usage(10**12, 0, free[0]))
    monkeypatch.setattr("jobs.training.checkpoints.DISK_CHECK_EVERY_S", 0.0)

    class Filling(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            free[0] = 5_000_000 if isinstance(event, MetricsEvent) and event.step == 4 else free[0]

    with pytest.raises(JobFailed, match="so the run stopped at step 4, which is saved") as failure:
        run(rooms.training("pretrain", run="disk", job="disk"), Filling())
    assert "resume" in failure.value.remedy
    free[0] = 10**12
    resumed = Recorder()
    assert run(rooms.training("pretrain", run="disk", job="disk", attempt=2), resumed).final_step == 6
    assert resumed.of("resumed")[0]["step"] == 4


def test_a_disk_without_room_for_a_checkpoint_spares_the_earlier_ones(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10**12]
    monkeypatch.setattr("jobs.training.checkpoints.shutil.disk_usage", lambda path: Usage(10**12, 0, free[0]))

    class Filling(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            free[0] = 1000 if isinstance(event, MetricsEvent) and event.step == 4 else free[0]

    with pytest.raises(JobFailed, match="the checkpoint of step 6 needs") as failure:
        run(rooms.training("pretrain", run="disk-2", job="disk-2"), Filling())
    assert "earlier checkpoints are intact" in failure.value.remedy
    assert [path.name for path in (rooms.root / "disk-2/checkpoints").iterdir()] == ["step-000003"]


def test_a_write_that_fails_leaves_no_partial_checkpoint(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Recorder):
        def emit(self, event: Event) -> None:
            super().emit(event)
            if isinstance(event, SampleEvent) and event.step == 6:
                monkeypatch.setattr(training_loop, "save_state", no_space)

    def no_space(folder: Path, **_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(JobFailed, match="The disk is full"):
        run(rooms.training("pretrain", run="torn", job="torn"), Full())
    assert [path.name for path in (rooms.root / "torn/checkpoints").iterdir()] == ["step-000003"]


def test_resuming_with_another_micro_batch_keeps_the_sequences_of_a_step(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, second = Recorder(), Recorder()
    run(rooms.training("pretrain", run="g-0", job="g-0", micro_batch=8, context=24), plain)
    run(rooms.training("pretrain", run="g", job="g", micro_batch=8, context=24, max_steps=6), Recorder(stop_after=3))
    monkeypatch.setattr("jobs.training.run.describe_machine", lambda *_, **__: "another CPU")
    run(rooms.training("pretrain", run="g", job="g", attempt=2, micro_batch=4, context=24), second)
    assert (
        "A step keeps its 8 sequences: 1 x micro_batch 4 x 2, although the config now says micro_batch 4 x 1."
        in second.lines
    )
    assert any("resumes on another CPU" in line and "not bit for bit" in line for line in second.lines)
    for metric in ("train_loss", "val_loss"):
        pairs = zip(second.series(metric), [point for point in plain.series(metric) if point[0] > 3], strict=True)
        assert all(one == pytest.approx(other, rel=1e-5) for one, other in pairs), metric


def test_dropout_is_refused_for_a_family_without_it() -> None:
    from transformers import MambaConfig

    from jobs.modeling.build import set_dropout

    with pytest.raises(InvalidInput, match=r"family mamba have no dropout, and dropout is 0\.1"):
        set_dropout(MambaConfig(), 0.1)
    set_dropout(MambaConfig(), 0.0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma3", "deepseek_v3"])
def test_dropout_acts_in_training_only_in_every_family(family: str) -> None:
    shape = TINY.model_validate(
        {"family": family, "num_layers": 2, "width": 32, "num_heads": 4, "context": 64, "vocab_size": 320}
    )
    network, ids = build_network(shape, seed=1, dropout=0.5), torch.arange(48)[None]
    with torch.no_grad():
        assert torch.equal(network.eval()(ids).logits, build_network(shape, seed=1).eval()(ids).logits)
        network.train()
        assert not torch.equal(network(ids).logits, network(ids).logits)
