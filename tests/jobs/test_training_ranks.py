"""Two processes train as one does with the same global batch, in whole copies (DDP) and in parts (FSDP)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.training import run as training
from tests.jobs.training_rooms import Recorder, Rooms

METRICS = ("train_loss", "grad_norm", "val_loss")


def close(theirs: Recorder, ours: Recorder, *, first: int = 1) -> None:
    for name in METRICS:
        expected = [point for point in theirs.series(name) if point[0] >= first]
        found = ours.series(name)
        assert [step for step, _ in found] == [step for step, _ in expected], name
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=1e-4), name


def weights_of(rooms: Rooms, result: dict[str, Any]) -> dict[str, torch.Tensor]:
    return load_file(rooms.root / result["checkpoint"] / "model.safetensors")


def test_two_whole_copies_equal_one_process(tmp_path: Path) -> None:
    rooms, alone, both = Rooms(tmp_path), Recorder(), Recorder()
    one = training.run(rooms.training("pretrain", run="one", job="one", grad_accum_steps=4), alone)
    devices = {"count": 2, "sharding": "ddp"}
    two = training.run(rooms.training("pretrain", run="two", job="two", grad_accum_steps=2, devices=devices), both)
    close(alone, both)
    assert len(both.of("checkpoint")) == 2
    assert len(both.samples) == len(alone.samples)
    theirs = weights_of(rooms, two)
    assert all(torch.allclose(theirs[name], tensor, atol=1e-4) for name, tensor in weights_of(rooms, one).items())


def test_a_sharded_run_that_was_ended_goes_on_as_one_process_would(tmp_path: Path) -> None:
    rooms, alone, before, after = Rooms(tmp_path), Recorder(), Recorder(), Recorder()
    same: dict[str, Any] = {"schedule": "constant", "micro_batch": 2}
    training.run(rooms.training("sft", run="one", job="one", grad_accum_steps=2, **same), alone)
    devices = {"count": 2, "sharding": "fsdp"}
    training.run(rooms.training("sft", run="two", job="two", devices=devices, max_steps=3, **same), before)
    ended = training.run(rooms.training("sft", run="two", job="two", attempt=2, devices=devices, **same), after)
    assert after.of("resumed")[0]["step"] == 3
    close(alone, after, first=4)
    config = json.loads((rooms.root / ended["checkpoint"] / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
