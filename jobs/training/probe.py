"""Probe a run: do a few of its steps and measure peak memory and speed. Keeps no files.

The run is built by the same code as in training, on a sample of the dataset: enough rows for a few steps, with the
longest among them. Peak of tensor memory on the CPU comes from the profiler's record of every allocation of one step.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch.profiler import ProfilerActivity, profile

from backend.domain.jobs.payloads import ProbePayload
from backend.domain.jobs.results import ProbeResult
from backend.domain.jobs.split_heads import BEGINNING, HEAD
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from backend.infra.files.parquet import iter_file_tables
from jobs.batches.base import MicroBatch, StepBatches
from jobs.modeling.dataset_files import iter_tables
from jobs.modeling.devices import device_kind, device_name
from jobs.reporter import JobSpec, Reporter
from jobs.training.context import TrainingContext, read_training_context
from jobs.training.failures import out_of_memory_as_failure
from jobs.training.loop import TrainingLoop
from jobs.training.network.load import load_model
from jobs.training.objectives.grpo import RolloutBatches
from jobs.training.objectives.registry import OBJECTIVES
from jobs.training.run import make_loop
from jobs.training.telemetry import step_times

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler would write into the job's log

WARM_UP, MIN_TIMED, MAX_TIMED = 2, 3, 40
TIMED_S = 6.0
PROFILED_STEP_S = 4.0
SCANNED_STEPS = 200


def run(spec: JobSpec[ProbePayload], reporter: Reporter) -> ProbeResult:
    """Probe the run of a payload (that of a training job).

    A stopped probe has timed too few steps. Raises the same errors as a run.
    """
    reporter.progress(0, 4, unit="", message="Reading the data")
    ctx = read_training_context(spec, reporter)
    sample = spec.folder / "probe-data"
    try:
        _write_probe_sample(ctx.dataset, sample, ctx.config, head=spec.folder / HEAD)
        ctx = replace(
            ctx,
            spec=replace(spec, folder=sample),
            dataset=sample,
            tokens=sample / "tokens",
            begins_early=False,
            run_folder=sample,
            config=shorten_config(ctx.config),
        )
        with out_of_memory_as_failure(ctx.config, device=ctx.device):
            return probe(ctx, reporter)
    finally:
        shutil.rmtree(sample, ignore_errors=True)
        shutil.rmtree(spec.folder / HEAD, ignore_errors=True)


def shorten_config(config: RunConfig) -> RunConfig:
    """Return the config of a probe, with at most two micro-batches per step: more would add no memory."""
    steps = max(config.max_steps, WARM_UP + MAX_TIMED)
    return config.model_copy(
        update={"grad_accum_steps": min(config.grad_accum_steps, 2), "max_steps": steps, "sample_prompts": ()}
    )


def probe(ctx: TrainingContext, reporter: Reporter) -> ProbeResult:
    """Measure a run."""
    stages = OBJECTIVES[ctx.config.objective]
    data = stages.load(ctx)
    reporter.progress(1, 4, unit="", message="Building the model")
    ctx.meter.begin()
    model = load_model(ctx, resume_from=None).to(ctx.device)
    run_batches = stages.prepare(ctx, data, model)
    batches = LargestFirst(run_batches)
    loop = make_loop(ctx, batches, model)
    model.train()
    seconds, tokens = _time_steps(loop, reporter)
    peak = ctx.meter.peak_bytes()
    allocated = ctx.meter.allocated_bytes()
    timings = step_times(seconds)
    if allocated is None and timings["step_s"] < PROFILED_STEP_S and not reporter.should_stop():
        reporter.progress(3, 4, unit="", message="Recording allocations")
        allocated = allocated_peak(
            lambda: loop.update(1), model=model, optimizer=loop.optimizer, folder=ctx.spec.folder
        )
    reporter.progress(4, 4, unit="", message="Done")
    return ProbeResult(
        measured_bytes=peak,
        allocated_bytes=allocated,
        tokens_per_s=tokens / sum(seconds),
        longest=batches.longest,
        trained=batches.trained,
        accumulated=ctx.config.grad_accum_steps,
        device=device_name(ctx.device),
        device_kind=device_kind(ctx.device),
        stopped=reporter.should_stop(),
        **timings,
    )


def _time_steps(loop: TrainingLoop, reporter: Reporter) -> tuple[list[float], int]:
    """Warm up on the largest batch, then time ordinary steps. Returns (seconds of each, trained tokens in all)."""
    for _ in range(WARM_UP):
        loop.update(1)
    seconds: list[float] = []
    tokens, began = 0, time.perf_counter()
    for step in range(2, 2 + MAX_TIMED):
        started = time.perf_counter()
        values = loop.update(step)
        seconds.append(time.perf_counter() - started)
        tokens += round(values["tok_per_sec"] * seconds[-1])
        spent = time.perf_counter() - began
        _progress(reporter, min(1.0, max(len(seconds) / MAX_TIMED, spent / TIMED_S)))
        if reporter.should_stop() or (spent > TIMED_S and len(seconds) >= MIN_TIMED):
            break
    return seconds, tokens


def _progress(reporter: Reporter, share: float) -> None:
    reporter.progress(2 + share, 4, unit="", message="Timing steps")


class LargestFirst:
    """Batches whose step 1 is the largest of the first 200 steps, to measure the peak; later steps keep their order, to
    measure speed.

    `longest` and `trained` are the positions and the trained positions per sequence of the largest micro-batch.
    """

    def __init__(self, batches: StepBatches) -> None:
        self._batches = batches
        first = batches.at_step(1)
        # windows have one size; completions are sampled
        if first[0].columns is None or isinstance(batches, RolloutBatches):
            self._largest = first
        else:
            self._largest = max(
                (batches.at_step(step) for step in range(1, SCANNED_STEPS + 1)), key=lambda step: max(map(_size, step))
            )
        largest = max(self._largest, key=_size)
        # packed ones are concatenated
        sequences = batches.micro_batch if getattr(largest, "row_ends", None) is not None else 1
        self.longest = -(-int(largest.inputs.shape[1]) // sequences)
        self.trained = self.longest if largest.columns is None else -(-len(largest.columns) // sequences)

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of an update."""
        return self._largest if step == 1 else self._batches.at_step(step)

    def validation(self) -> list[MicroBatch]:
        """Return none: a probe does not validate."""
        return []


def _size(batch: MicroBatch) -> tuple[int, int]:
    return batch.inputs.numel(), batch.inputs.shape[1] if batch.columns is None else len(batch.columns)


def allocated_peak(
    step: Callable[[], object], *, model: torch.nn.Module, optimizer: torch.optim.Optimizer, folder: Path
) -> int:
    """Return the peak bytes of tensors during a step: weights, optimizer state and what the step allocates.

    The record, some megabytes, is written to `folder` and deleted.
    """
    persistent = _persistent_bytes(model, optimizer)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    file = folder / "allocations.json"
    try:
        record.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    finally:
        file.unlink(missing_ok=True)
    allocated = [
        event["args"]["Total Allocated"]
        for event in events
        if event.get("name") == "[memory]" and event["args"]["Device Type"] == 0
    ]
    return persistent + max(allocated, default=0)


def _persistent_bytes(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


SCANNED_ROWS, SCANNED_BYTES = 20_000, 64_000_000
LONGEST_ROWS, STEPS = 8, 4
CHARACTERS_PER_TOKEN = 12  # an upper bound of bytes per token, so that the sample has enough tokens


def _write_probe_sample(dataset: Path, folder: Path, config: RunConfig, *, head: Path | None = None) -> Path:
    """Write `folder/train.parquet`: rows for a few steps of a run, and the longest of the dataset's first rows; of a
    dataset that stayed in a store those of its beginning in `head`.

    Raises NotFound if the dataset is missing.
    """
    rows = _first_rows(dataset, head)
    sizes = np.array(
        [len(json.dumps(row, ensure_ascii=False, default=str)) for row in rows.to_pylist()], dtype=np.int64
    )
    chosen = _texts(sizes, config) if config.objective.pretrains else _rows(sizes, config)
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(rows.take(pa.array(chosen)), folder / "train.parquet")
    return folder


def _first_rows(dataset: Path, head: Path | None) -> pa.Table:
    """Return the first rows of the train split, limited in number and bytes."""
    tables, count, size = [], 0, 0
    if head is None or not (head / BEGINNING).is_file():
        stored = iter_tables(dataset, split="train", num_rows=256)
    else:
        stored = iter_file_tables(head / "train.parquet", num_rows=256, below=int((head / BEGINNING).read_text()))
    for table in stored:
        tables.append(table)
        count += table.num_rows
        size += table.nbytes
        if count >= SCANNED_ROWS or size > SCANNED_BYTES:
            break
    if not count:
        raise InvalidInput("The train split has no rows.", field="dataset")
    return pa.concat_tables(tables)


def _texts(sizes: np.ndarray, config: RunConfig) -> np.ndarray:
    """Choose enough texts for a few steps of full windows."""
    tokens = config.context * (2 + STEPS * config.micro_batch * config.grad_accum_steps)
    enough = int(np.searchsorted(np.cumsum(sizes), CHARACTERS_PER_TOKEN * tokens)) + 1
    return np.arange(min(enough, len(sizes)))


def _rows(sizes: np.ndarray, config: RunConfig) -> np.ndarray:
    """Choose random rows for a few steps, and the longest."""
    sequences = STEPS * config.micro_batch * config.grad_accum_steps
    order = np.random.default_rng(config.seed).permutation(len(sizes))
    if config.objective.packs and config.packing:  # as many as fill the sequences
        sequences = int(np.searchsorted(np.cumsum(sizes[order]), CHARACTERS_PER_TOKEN * sequences * config.context)) + 1
    return np.unique(np.concatenate([order[:sequences], np.argsort(sizes)[-LONGEST_ROWS:]]))
