"""The context of a training job: config, dataset, base, tokenizer, device, checkpoint store and process group."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.data.token_folders import FOLDER
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from jobs.modeling.chat import teach_template
from jobs.modeling.devices import device_name, is_gpu, pick_autocast, pick_device, set_threads, threads_of_rank
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import JobSpec, Reporter
from jobs.training.checkpoints import CheckpointStore
from jobs.training.distributed import ProcessGroup, join_process_group
from jobs.training.telemetry import DeviceGauge, MemoryMeter, MeteredReporter


@dataclass(frozen=True)
class TrainingContext:
    """Inputs of setting up a run, for any objective.

    `val_items` of the val split are validated on, a constant of the run. `max_micro_batch` limits a forward pass after
    memory once ran out. `run_folder` holds files computed once per run, `tokens` the folders of tokens that runs share;
    with `begins_early`, steps may be done before all tokens are made. `meter` starts after the data is loaded and
    before the network is.
    """

    spec: JobSpec[TrainingPayload]
    reporter: MeteredReporter
    meter: MemoryMeter
    config: RunConfig
    val_items: int
    run_folder: Path
    dataset: Path
    tokens: Path
    base: Path | None
    tokenizer: PreTrainedTokenizerBase
    store: CheckpointStore
    device: torch.device
    autocast: torch.dtype | None
    process_group: ProcessGroup
    max_micro_batch: int | None = None
    begins_early: bool = True


def read_training_context(spec: JobSpec[TrainingPayload], reporter: Reporter) -> TrainingContext:
    """Build the context from a job's payload.

    Raises InvalidInput if the dataset's kind does not suit the objective.
    """
    payload = spec.payload
    config = payload.config
    kind = payload.dataset_kind
    if kind not in config.objective.facts.datasets:
        suitable = " or ".join(config.objective.facts.datasets)
        raise InvalidInput(
            f"{config.objective} trains on a dataset of kind {suitable}, and this one is {kind}.", field="dataset"
        )
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    device = pick_device(config.device)
    if device.type == "cuda" and config.precision == "fp32":
        torch.set_float32_matmul_precision("high")  # tf32
    process_group = join_process_group(device)
    threads = set_threads(
        payload.threads or (threads_of_rank(process_group.local_count) if process_group.count > 1 else 0)
    )
    base = spec.path(payload.base) if payload.base else None
    tokenizer = load_tokenizer(spec.path(payload.tokenizer_folder))
    teach_template(tokenizer, chats=not config.objective.pretrains)
    reporter.log(f"Training on {device_name(device) if is_gpu(device) else f'the CPU with {threads} threads'}.")
    store = CheckpointStore(
        spec,
        reporter,
        folder=spec.path(payload.run_folder) / "checkpoints",
        keep_last=config.keep_last,
        lineage=_lineage(spec, config, base),
    )
    meter = MemoryMeter(device)
    return TrainingContext(
        spec=spec,
        reporter=MeteredReporter(reporter, meter, gauge=DeviceGauge(device)),
        meter=meter,
        config=config,
        val_items=config.eval_batches * config.micro_batch,
        run_folder=store.folder.parent,
        dataset=spec.path(payload.dataset_folder),
        tokens=spec.artifacts / FOLDER,
        base=base,
        tokenizer=tokenizer,
        store=store,
        device=device,
        autocast=pick_autocast(config.precision, device=device),
        process_group=process_group,
    )


def _lineage(spec: JobSpec[TrainingPayload], config: RunConfig, base: Path | None) -> dict[str, object]:
    payload = spec.payload
    lineage: dict[str, object] = {
        "job": spec.id,
        "run_folder": payload.run_folder,
        "dataset": payload.dataset,
        "base": payload.base,
        "config": config.model_dump(mode="json"),
    }
    if base is not None:  # relative to a checkpoint's folder, so that the artifacts can be moved as a whole
        lineage["base_path"] = os.path.relpath(
            base.resolve(), spec.path(payload.run_folder).resolve() / "checkpoints" / "step"
        )
    return lineage
