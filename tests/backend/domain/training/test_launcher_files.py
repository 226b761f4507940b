"""What is written for other tools is read by their own readers."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType

from backend.domain.training.config import RunConfig
from backend.domain.training.launcher_files import accelerate_config, deepspeed_config


def config(sharding: str, **values: object) -> RunConfig:
    devices = {"count": 8, "nodes": 2, "sharding": sharding, "rendezvous": "head:29500"}
    return RunConfig.model_validate(
        {
            "objective": "sft",
            "base": "b",
            "dataset": "d",
            "micro_batch": 4,
            "grad_accum_steps": 3,
            "devices": devices,
            **values,
        }
    )


@pytest.mark.parametrize(("sharding", "stage"), [("zero2", 2), ("zero3", 3)])
def test_accelerate_reads_the_config_of_deepspeed(sharding: str, stage: int) -> None:
    written = deepspeed_config(config(sharding))
    plugin = DeepSpeedPlugin(hf_ds_config=written)
    assert (plugin.zero_stage, plugin.gradient_accumulation_steps) == (stage, 3)
    assert written["train_batch_size"] == 4 * 3 * 8


@pytest.mark.parametrize(
    ("sharding", "kind"),
    [("zero3", DistributedType.DEEPSPEED), ("fsdp", DistributedType.FSDP), ("ddp", DistributedType.MULTI_GPU)],
)
def test_accelerate_reads_its_own_config(tmp_path: Path, sharding: str, kind: DistributedType) -> None:
    path = tmp_path / "accelerate.yaml"
    path.write_text(yaml.safe_dump(accelerate_config(config(sharding), deepspeed_file="deepspeed.json")))
    read = load_config_from_file(str(path))
    assert (DistributedType(read.distributed_type), read.num_processes, read.num_machines) == (kind, 8, 2)
    assert (read.main_process_ip, read.main_process_port, read.mixed_precision) == ("head", 29500, "bf16")
    if sharding == "fsdp":
        assert read.fsdp_config["fsdp_version"] == 2
