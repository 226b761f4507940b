"""What every objective starts from: config, dataset, base, tokenizer, device and the place for checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.training.config import DATASET_KINDS, Objective, RunConfig
from backend.errors import InvalidInput
from jobs.modeling.chat.render import teach_template
from jobs.modeling.checkpoints import load_tokenizer
from jobs.modeling.devices import pick_autocast, pick_device, set_threads, threads_of_rank
from jobs.reporter import JobSpec, Reporter
from jobs.training.checkpoints.store import CheckpointStore
from jobs.training.distributed.process_group import Team, join_team
from jobs.training.telemetry.device_use import DeviceGauge
from jobs.training.telemetry.memory import MemoryMeter
from jobs.training.telemetry.reporter import MeteredReporter


@dataclass(frozen=True)
class Parts:
    """What every objective starts from. `meter` begins when the data is there and the network is still to come.

    `measured` is how many items of the val split are validated on: as many all through a run, however its steps are cut.
    """

    spec: JobSpec
    reporter: MeteredReporter
    meter: MemoryMeter
    config: RunConfig
    measured: int
    dataset: Path
    base: Path | None
    tokenizer: PreTrainedTokenizerBase
    store: CheckpointStore
    device: torch.device
    autocast: torch.dtype | None
    team: Team


def gather_parts(spec: JobSpec, reporter: Reporter) -> Parts:
    """Read the payload and load what all objectives need.

    Raises InvalidInput if the dataset's kind does not suit the objective.
    """
    payload = spec.payload
    config = RunConfig.model_validate(payload["config"])
    kind = payload["dataset_kind"]
    if kind not in DATASET_KINDS[config.objective]:
        wanted = " or ".join(DATASET_KINDS[config.objective])
        raise InvalidInput(f"{config.objective} trains on a dataset of kind {wanted}, and this one is {kind}.", field="dataset")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    device = pick_device(config.device)
    if device.type == "cuda" and config.precision == "fp32":
        torch.set_float32_matmul_precision("high")  # tf32
    team = join_team("ddp" if config.devices.sharding == "ddp" else "fsdp", device=device)
    threads = set_threads(payload.get("threads") or (threads_of_rank(team.count) if team.count > 1 else None))
    base = spec.path(payload["base"]) if payload.get("base") else None
    tokenizer = load_tokenizer(base or spec.path(payload["tokenizer"]))
    teach_template(tokenizer, chats=config.objective is not Objective.PRETRAIN)
    reporter.log(f"Training on {torch.cuda.get_device_name(device) if device.type == 'cuda' else f'the CPU with {threads} threads'}.")
    store = CheckpointStore(
        spec,
        reporter,
        folder=spec.path(payload["run_folder"]) / "checkpoints",
        keep_last=config.keep_last,
        lineage=_lineage(spec, config, base),
    )
    meter = MemoryMeter(device)
    return Parts(
        spec=spec,
        reporter=MeteredReporter(reporter, meter, gauge=DeviceGauge(device)),
        meter=meter,
        config=config,
        measured=config.eval_batches * config.micro_batch,
        dataset=spec.path(payload["dataset"]),
        base=base,
        tokenizer=tokenizer,
        store=store,
        device=device,
        autocast=pick_autocast(config.precision, device=device),
        team=team,
    )


def _lineage(spec: JobSpec, config: RunConfig, base: Path | None) -> dict[str, Any]:
    payload = spec.payload
    lineage: dict[str, Any] = {
        "job": spec.id,
        "run_folder": payload["run_folder"],
        "dataset": payload["dataset"],
        "base": payload.get("base"),
        "config": config.model_dump(mode="json"),
    }
    if base is not None:  # relative to a checkpoint's folder, so that the artifacts can be moved as a whole
        lineage["base_path"] = os.path.relpath(base.resolve(), spec.path(payload["run_folder"]).resolve() / "checkpoints" / "step")
    return lineage
