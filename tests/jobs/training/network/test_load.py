"""A network that is shared out over two processes while it is loaded: memory of each, weights, and adapters."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import Objective
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import save_checkpoint
from jobs.training import run as training
from jobs.training.network.load import build_unread
from tests.support.training_rooms import Recorder, Rooms
from tests.support.workers.killed_runs import FORKS, run_forked
from tests.support.workers.shard_rank import share_out

DEVICES = {"count": 2, "sharding": "fsdp"}
SHAPE = ArchitectureConfig(
    num_layers=12, width=512, num_heads=8, num_kv_heads=4, context=64, vocab_size=320, feed_forward=2048
)


def run_ranks(folder: Path, config: RunConfig, *, reads_whole: bool = False) -> list[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    files = [folder / f"rank-{rank}.json" for rank in range(2)]
    ranks = [
        FORKS.Process(
            target=share_out,
            args=(folder, config),
            kwargs={"reads_whole": reads_whole, "variables": {**shared, "RANK": str(rank)}, "told": file},
        )
        for rank, file in enumerate(files)
    ]
    for process in ranks:
        process.start()
    try:
        for process in ranks:
            process.join(120)
    finally:
        for process in ranks:
            process.kill()
    assert [process.exitcode for process in ranks] == [0, 0]
    return [json.loads(file.read_text()) for file in files]


def config_of(**values: Any) -> RunConfig:
    return RunConfig(objective="sft", dataset="d", base="b", max_steps=1, devices=DEVICES, **values)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    rooms = Rooms(tmp_path_factory.mktemp("rooms"))
    network = build_network(SHAPE, seed=3).bfloat16()
    save_checkpoint(rooms.root / "large", model=network, tokenizer=rooms.tokenizer, meta={})
    return rooms


@pytest.mark.parametrize(("method", "precision"), [("full", "fp32"), ("lora", "fp32"), ("lora", "bf16")])
def test_no_process_ever_holds_the_whole_network(rooms: Rooms, method: str, precision: str) -> None:
    large = rooms.root / "large"
    stored = {name: tensor.float() for name, tensor in load_file(large / "model.safetensors").items()}
    size = sum(tensor.nbytes for tensor in stored.values()) // (2 if precision == "bf16" else 1)
    told = run_ranks(large, config_of(method=method, precision=precision))
    assert all(rank["grown"] < 0.65 * size for rank in told), (told, size)
    assert all(rank["head"] for rank in told)
    read = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): tensor
        for name, tensor in torch.load(large / "whole.pt", weights_only=True).items()
    }
    assert all(torch.equal(read[name], tensor) for name, tensor in stored.items())
    assert any("lora_A" in name for name in read) == (method == "lora")


def test_the_measure_of_memory_sees_a_network_that_is_read_whole(rooms: Rooms) -> None:
    large = rooms.root / "large"
    size = 2 * (large / "model.safetensors").stat().st_size  # trained in fp32, stored in bf16
    assert all(rank["grown"] > 0.95 * size for rank in run_ranks(large, config_of(), reads_whole=True))


@pytest.mark.parametrize("more", [{}, {"packing": True}, {"lora": {"variant": "dora"}}, {"precision": "bf16"}], ids=str)
def test_adapters_of_a_shared_network_are_those_of_one_process(tmp_path: Path, more: dict[str, Any]) -> None:
    rooms, recorder = Rooms(tmp_path), Recorder()
    same: dict[str, Any] = {"method": "lora", "micro_batch": 2, "learning_rate": 1e-2, **more}
    one = training.run(rooms.training("sft", run="one", job="one", grad_accum_steps=2, **same), Recorder())
    two = run_forked(rooms.training("sft", run="two", job="two", devices=DEVICES, **same), recorder)
    theirs, ours = (load_file(tmp_path / result.checkpoint / "adapter_model.safetensors") for result in (one, two))
    assert theirs.keys() == ours.keys()
    assert all(
        torch.allclose(ours[name], tensor, atol=2e-3 if "precision" in more else 1e-5)
        for name, tensor in theirs.items()
    )
    assert all(tensor.any() for name, tensor in ours.items() if "lora_B" in name)
    assert any("reads the whole network" in line for line in recorder.lines) == ("lora" in more)


def test_what_needs_its_weights_at_once_is_read_whole(rooms: Rooms) -> None:
    base = rooms.root / "base"
    assert build_unread(base, config_of()) is not None
    assert build_unread(base, config_of(method="lora", lora={"variant": "pissa"})) is None
    assert build_unread(base, config_of().model_copy(update={"objective": Objective.REWARD})) is None


def test_weights_under_other_names_are_read_whole(tmp_path: Path, rooms: Rooms) -> None:
    shape = ArchitectureConfig(**(SHAPE.model_dump() | {"family": "mixtral", "num_experts": 2, "num_layers": 1}))
    rooms.save_base_of(tmp_path / "experts", shape, rooms.tokenizer)
    assert build_unread(tmp_path / "experts", config_of()) is None
