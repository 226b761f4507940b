"""Probes of every objective on tiny networks: measurements, files, stopping and failing."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.setting import setting_of
from backend.domain.jobs.states import StopRequest
from backend.errors import InvalidInput, JobFailed
from jobs.training.context import read_training_context
from jobs.training.failures import out_of_memory_as_failure
from jobs.training.probe import run
from jobs.training.run import run as train
from jobs.training.telemetry import MemoryMeter
from tests.support.training_rooms import TINY, Recorder, Rooms, write_dataset

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "pretrain": ("pretrain", {"grad_accum_steps": 3}),
    "recompute": ("pretrain", {"recompute": True}),
    "sft": ("sft", {}),
    "lora": ("sft", {"method": "lora"}),
    "dpo": ("dpo", {}),
    "dpo lora": ("dpo", {"method": "lora"}),
    "kto": ("kto", {}),
    "reward": ("reward", {}),
    "grpo": (
        "grpo",
        {
            "grpo": {
                "rewards": [{"kind": "length", "target": 4}],
                "group_size": 4,
                "max_new_tokens": 8,
                "kl_weight": 0.1,
            }
        },
    ),
}


def files(folder: Path) -> set[Path]:
    """Return all files below a folder except those of jobs' reports."""
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", METHODS)
def test_a_probe_measures_and_leaves_no_files(rooms: Rooms, method: str) -> None:
    objective, values = METHODS[method]
    before, recorder = files(rooms.root), Recorder()
    spec = rooms.training(objective, run=f"probed {method}", job=f"probe {method}", max_steps=500, **values)
    result = run(spec, recorder)
    assert files(rooms.root) == before
    assert (recorder.points, recorder.of("checkpoint"), recorder.samples) == ([], [], [])
    assert recorder.progressed[-1][0] == recorder.progressed[-1][1]
    config = spec.payload.config
    estimate = estimate_memory(setting_of(config, TINY, device="cpu"), length=result.longest)
    assert result.measured_bytes > estimate.weights
    assert result.measured_bytes < 2 * estimate.total
    assert result.tokens_per_s > 0
    assert result.step_s_low <= result.step_s <= result.step_s_high
    assert result.accumulated == min(config.grad_accum_steps, 2)
    assert (result.stopped, result.device_kind) == (None, "cpu")
    assert result.longest <= config.context


def test_a_probe_includes_the_longest_rows(rooms: Rooms) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Hm?"},
                {"role": "assistant", "content": "No." * (1 + 4 * (at == 700))},
            ]
        }
        for at in range(800)
    ]
    write_dataset(rooms.root / "uneven", train=rows)
    short = run(rooms.training("sft", job="even", micro_batch=1, dataset="chats", context=64), Recorder())
    result = run(rooms.training("sft", job="uneven", micro_batch=1, dataset="uneven", context=64), Recorder())
    assert result.longest > 16
    assert short.trained < short.longest


@pytest.mark.parametrize("objective", ["pretrain", "dpo", "reward"])
def test_allocated_bytes_of_a_step_equal_the_estimate(rooms: Rooms, objective: str) -> None:
    spec = rooms.training(objective, job=f"allocations {objective}", micro_batch=16)
    result = run(spec, Recorder())
    setting = setting_of(spec.payload.config, TINY, device="cpu")
    estimate = estimate_memory(setting, length=result.longest, trained=result.trained)
    assert result.allocated_bytes == pytest.approx(estimate.allocated, rel=0.1)


@pytest.mark.parametrize("more", [{}, {"recompute": True}, {"lora": {"frozen_base": "fp32"}}], ids=str)
def test_allocated_bytes_of_adapters_on_a_base_in_16_bits_equal_the_estimate(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    rooms = Rooms(tmp_path)
    shape = ArchitectureConfig(num_layers=4, width=256, num_heads=4, num_kv_heads=2, context=64, vocab_size=4096)
    rooms.save_base_of(rooms.root / "base", shape, rooms.tokenizer)
    spec = rooms.training("sft", method="lora", precision="bf16", micro_batch=8, **more)
    result = run(spec, Recorder())
    setting = setting_of(spec.payload.config, shape, device="cpu")
    estimate = estimate_memory(setting, length=result.longest, trained=result.trained)
    assert result.allocated_bytes == pytest.approx(estimate.allocated, rel=0.05)


def test_the_estimate_counts_freezing_dropout_and_the_optimizer(rooms: Rooms) -> None:
    values = {"micro_batch": 16, "freeze_blocks": 1, "dropout": 0.1, "optimizer": "lion"}
    spec = rooms.training("pretrain", job="allocations of less", **values)
    setting = setting_of(spec.payload.config, TINY, device="cpu")
    assert run(spec, Recorder()).allocated_bytes == pytest.approx(estimate_memory(setting).allocated, rel=0.1)


class Impatient(Recorder):
    """A reporter that asks to stop as soon as steps are done."""

    def should_stop(self) -> StopRequest | None:
        return "cancel" if any(done > 2 for done, _ in self.progressed) else None


@pytest.mark.parametrize("objective", ["pretrain", "dpo"])
def test_a_probe_stops_between_two_steps(rooms: Rooms, objective: str) -> None:
    result = run(rooms.training(objective, job=f"stopped {objective}"), Impatient())
    assert result.stopped == "cancel"
    assert result.steps_timed <= 3


def test_a_probe_fails_with_the_error_of_a_run(rooms: Rooms) -> None:
    with pytest.raises(InvalidInput, match="at most 64 tokens"):
        run(rooms.training("sft", job="long", context=65), Recorder())
    with pytest.raises(JobFailed, match=r"The (loss|gradient) became"):
        run(
            rooms.training("pretrain", job="lost", learning_rate=9.0, warmup_steps=0, grad_clip=0.0, weight_decay=1e9),
            Recorder(),
        )


def test_running_out_of_memory_is_a_failure_with_a_remedy(rooms: Rooms) -> None:
    ctx = read_training_context(rooms.training("pretrain", job="memory"), Recorder())
    for error in (
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
    ):
        with pytest.raises(JobFailed, match="memory"), out_of_memory_as_failure(ctx.config, device=ctx.device):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_as_failure(ctx.config, device=ctx.device):
        raise RuntimeError("shapes differ")


def test_a_run_measures_itself_from_five_steps_on(rooms: Rooms) -> None:
    measured = train(rooms.training("pretrain", run="m1", job="m1", max_steps=5), Recorder()).measurement
    assert (measured.steps_timed, measured.device_kind) == (3.0, "cpu")
    assert measured.measured_bytes > 0
    assert train(rooms.training("pretrain", run="m2", job="m2", max_steps=4), Recorder()).measurement is None


def test_recomputed_activations_give_the_same_losses(rooms: Rooms) -> None:
    plain, again = Recorder(), Recorder()
    train(rooms.training("pretrain", run="p", job="p"), plain)
    train(rooms.training("pretrain", run="r", job="r", recompute=True), again)
    assert again.series("train_loss") == plain.series("train_loss")


def test_the_meter_measures_the_peak_since_it_began() -> None:
    size = 64 * 2**20
    earlier = torch.ones(size, dtype=torch.uint8)
    meter = MemoryMeter(torch.device("cpu"))
    assert meter.peak_bytes() is None
    meter.begin()
    later = torch.ones(size, dtype=torch.uint8)
    del later
    assert meter.peak_bytes() == pytest.approx(size, rel=0.1)
    del earlier


def test_a_file_that_was_mapped_while_it_was_read_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(80_000_000))
    meter = MemoryMeter(torch.device("cpu"))
    meter.begin()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert pages.find(b"1") == -1
    meter.forget_files()
    assert meter.peak_bytes() < 20_000_000
