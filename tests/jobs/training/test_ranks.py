"""Two processes train as one with the same global batch, with DDP and with FSDP."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.domain.jobs.results import TrainResult
from backend.errors import JobFailed
from jobs.training import run as training
from jobs.training.distributed.launch import outcome
from tests.support.installation import free_port
from tests.support.training_rooms import Recorder, Rooms

METRICS = ("train_loss", "grad_norm", "val_loss")


def close(theirs: Recorder, ours: Recorder, *, first: int = 1) -> None:
    for name in METRICS:
        expected = [point for point in theirs.series(name) if point[0] >= first]
        curve = ours.series(name)
        assert [step for step, _ in curve] == [step for step, _ in expected], name
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected], abs=1e-4), name


class Telling(Recorder):
    """A recorder that extracts the command for the other machines from the log."""

    def __init__(self) -> None:
        super().__init__()
        self.is_told, self.command = threading.Event(), ""

    def log(self, text: str) -> None:
        super().log(text)
        if match := re.search(r"folder: (python .*)$", text):
            self.command = match[1]
            self.is_told.set()


def weights_of(rooms: Rooms, result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(rooms.root / result.checkpoint / "model.safetensors")


def test_ddp_on_two_machines_equals_one_process(tmp_path: Path) -> None:
    """The second machine is started by the command in the log of the first."""
    rooms, alone, recorder = Rooms(tmp_path), Recorder(), Telling()
    ended: list[TrainResult] = []
    one = training.run(rooms.training("pretrain", run="one", job="one", grad_accum_steps=4), alone)
    devices = {"count": 2, "nodes": 2, "sharding": "ddp", "rendezvous": f"127.0.0.1:{free_port()}"}
    spec = rooms.training("pretrain", run="two", job="two", grad_accum_steps=2, devices=devices)
    here = threading.Thread(target=lambda: ended.append(training.run(spec, recorder)))
    here.start()
    assert recorder.is_told.wait(200)
    other = subprocess.run([sys.executable, *shlex.split(recorder.command)[1:]], timeout=240, check=False)
    here.join(200)
    assert other.returncode == 0
    close(alone, recorder)
    assert len(recorder.of("checkpoint")) == 2
    assert len(recorder.samples) == len(alone.samples)
    theirs = weights_of(rooms, ended[0])
    assert all(torch.allclose(theirs[name], tensor, atol=1e-4) for name, tensor in weights_of(rooms, one).items())


def test_a_resumed_fsdp_run_equals_one_process(tmp_path: Path) -> None:
    rooms, alone, before, after = Rooms(tmp_path), Recorder(), Recorder(), Recorder()
    same: dict[str, Any] = {"schedule": "constant", "micro_batch": 2, "ema_decay": 0.9}
    training.run(rooms.training("sft", run="one", job="one", grad_accum_steps=2, **same), alone)
    devices = {"count": 2, "sharding": "fsdp"}
    training.run(rooms.training("sft", run="two", job="two", devices=devices, max_steps=3, **same), before)
    ended = training.run(rooms.training("sft", run="two", job="two", attempt=2, devices=devices, **same), after)
    assert after.of("resumed")[0]["step"] == 3
    close(alone, after, first=4)
    config = json.loads((rooms.root / ended.checkpoint / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_an_error_that_echoes_another_ranks_end_is_ignored_if_there_is_a_result(tmp_path: Path) -> None:
    echo = {
        "cause": "RuntimeError: Connection closed by peer",
        "remedy": None,
        "field": None,
        "invalid": False,
        "is_echo": True,
    }
    (tmp_path / "error-1.json").write_text(json.dumps(echo))
    with pytest.raises(JobFailed, match="Connection closed"):
        outcome(tmp_path, code=1)
    (tmp_path / "result.json").write_text('{"stopped": "cancel"}')
    assert outcome(tmp_path, code=1).stopped == "cancel"
    (tmp_path / "error-2.json").write_text(json.dumps({**echo, "cause": "Too little memory.", "is_echo": False}))
    with pytest.raises(JobFailed, match="Too little memory"):
        outcome(tmp_path, code=1)
