"""Two processes train as one with the same global batch, with DDP and with FSDP."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.domain.jobs.results import TrainResult
from backend.errors import JobFailed
from jobs.fork_server import ROOT
from jobs.reporter import Rendezvous
from jobs.training import run as training
from jobs.training.distributed import outcome
from tests.support.training_rooms import Recorder, Rooms
from tests.support.workers.killed_runs import run_forked

METRICS = ("train_loss", "grad_norm", "val_loss")


def close(theirs: Recorder, ours: Recorder, *, first: int = 1) -> None:
    for name in METRICS:
        expected = [point for point in theirs.series(name) if point[0] >= first]
        curve = ours.series(name)
        assert [step for step, _ in curve] == [step for step, _ in expected], name
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected], abs=1e-4), name


def weights_of(rooms: Rooms, result: TrainResult) -> dict[str, torch.Tensor]:
    return load_file(rooms.root / result.checkpoint / "model.safetensors")


def test_ddp_on_two_machines_without_a_shared_folder_equals_one_process(tmp_path: Path) -> None:
    rooms, alone, recorder, other = Rooms(tmp_path / "a"), Recorder(), Recorder(), Recorder()
    one = training.run(rooms.training("pretrain", run="one", job="one", grad_accum_steps=4), alone)
    devices = {"count": 2, "nodes": 2, "sharding": "ddp"}
    spec = rooms.training("pretrain", run="two", job="two", grad_accum_steps=2, devices=devices)
    shutil.copytree(rooms.root, tmp_path / "b")
    folder = tmp_path / "b" / spec.folder.relative_to(rooms.root)
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as threads:
        port = listening.getsockname()[1]
        first = replace(spec, rendezvous=Rendezvous(0, "127.0.0.1", port))
        second = replace(spec, artifacts=tmp_path / "b", folder=folder, rendezvous=Rendezvous(1, "127.0.0.1", port))
        there = threads.submit(run_forked, second, other)
        here = threads.submit(run_forked, first, recorder, listening=listening)
        ended = here.result(200)
        there.result(200)
    close(alone, recorder)
    assert len(recorder.of("checkpoint")) == 2
    assert not other.of("checkpoint")
    assert not (tmp_path / "b" / "runs" / "two").exists()
    assert len(recorder.samples) == len(alone.samples)
    theirs = weights_of(rooms, ended)
    assert all(torch.allclose(theirs[name], tensor, atol=1e-4) for name, tensor in weights_of(rooms, one).items())


def test_a_resumed_fsdp_run_equals_one_process(tmp_path: Path) -> None:
    rooms, alone, before, after = Rooms(tmp_path), Recorder(), Recorder(), Recorder()
    same: dict[str, Any] = {"schedule": "constant", "micro_batch": 2, "ema_decay": 0.9}
    training.run(rooms.training("sft", run="one", job="one", grad_accum_steps=2, **same), alone)
    devices = {"count": 2, "sharding": "fsdp"}
    run_forked(rooms.training("sft", run="two", job="two", devices=devices, max_steps=3, **same), before)
    ended = run_forked(rooms.training("sft", run="two", job="two", attempt=2, devices=devices, **same), after)
    assert after.of("resumed")[0]["step"] == 3
    close(alone, after, first=4)
    config = json.loads((rooms.root / ended.checkpoint / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]


FORKS = """
import os, sys
import torch
from jobs.training import distributed
sys.path.insert(0, sys.argv[1])
distributed.RANK_MODULE = "rank_tells"
ranks = [distributed.start_rank(distributed.Path("/folder"), {**os.environ, "RANK": str(rank)}) for rank in range(2)]
for rank in ranks:
    rank.wait()
print([rank.returncode for rank in ranks], type(ranks[0]).__name__)
"""
TELLS = """
import os, sys
assert "torch" in sys.modules, "what its parent has imported is there"
with open(f"/proc/{os.getpid()}/cmdline") as file:
    assert "rank_tells" in file.read()
line = f'{os.environ["RANK"]} {sys.argv[1]} {int(sys.argv[2]) == os.getppid()}\\n'
os.write(1, line.encode())  # at once, or the lines of two ranks mix
os._exit(3 + int(os.environ["RANK"]))
"""


def test_ranks_on_cpus_are_forks_with_their_own_environment_and_status(tmp_path: Path) -> None:
    (tmp_path / "rank_tells.py").write_text(TELLS)
    command = [sys.executable, "-c", FORKS, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    assert sorted(told[:2]) == ["0 /folder True", "1 /folder True"]
    assert told[2] == "[3, 4] ForkedRank"


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
