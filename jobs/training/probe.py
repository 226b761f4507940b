"""A run tried out: built for real, a few steps done, its peak memory and speed measured, nothing kept.

The same code builds it that builds a run: same batches (of a part of the dataset, with its longest rows), network and optimizer. It
says nothing about the loss.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch comes: its profiler would write into the job's log

from backend.domain.training.config import RunConfig
from jobs.batches.base import Batches, MicroBatch
from jobs.batches.probe_sample import write_sample
from jobs.modeling.devices import device_kind, device_name
from jobs.reporter import JobSpec, Reporter
from jobs.training.context import Parts, gather_parts
from jobs.training.failures import out_of_memory_as_failure
from jobs.training.loop import TrainingLoop
from jobs.training.network.load import load_model
from jobs.training.objectives.registry import load_batches, settle_batches
from jobs.training.objectives.rollouts import RolloutBatches
from jobs.training.run import make_loop
from jobs.training.telemetry.allocations import allocated_peak
from jobs.training.telemetry.reporter import step_times

WARM_UP, TIMED_FEWEST, TIMED_MOST = 2, 3, 40
TIMED_S = 6.0
PROFILED_STEP_S = 4.0
LOOKED_THROUGH = 200


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Try the payload's run out (it is that of a training job).

    Returns `{"measured_bytes", "allocated_bytes", "tokens_per_s", "step_s", ...}`, or `{"stopped"}`. Raises what a run raises.
    """
    reporter.progress(0, 4, unit="", message="Reading the data")
    parts = gather_parts(spec, reporter)
    sample = spec.folder / "probe-data"
    try:
        write_sample(parts.dataset, sample, parts.config)
        parts = replace(parts, spec=replace(spec, folder=sample), dataset=sample, config=short(parts.config))
        with out_of_memory_as_failure(parts.config, device=parts.device):
            result = probe(parts, reporter)
    finally:
        shutil.rmtree(sample, ignore_errors=True)
    return {**result, "device": device_name(parts.device), "device_kind": device_kind(parts.device), "stopped": reporter.should_stop()}


def short(config: RunConfig) -> RunConfig:
    """Return the config of a probe: of several micro-batches a step two are enough, as nothing changes from the second on."""
    steps = max(config.max_steps, WARM_UP + TIMED_MOST)
    return config.model_copy(update={"grad_accum_steps": min(config.grad_accum_steps, 2), "max_steps": steps, "sample_prompts": ()})


def probe(parts: Parts, reporter: Reporter) -> dict[str, Any]:
    """Measure a run."""
    read = load_batches(parts, folder=parts.spec.folder)
    reporter.progress(1, 4, unit="", message="Building the network")
    parts.meter.begin()
    model = load_model(parts, resume_from=None).to(parts.device)
    settled = settle_batches(parts, read, model)
    batches = LargestFirst(settled, micro_batch=getattr(settled, "micro_batch", parts.config.micro_batch))
    loop = make_loop(parts, batches, model)
    model.train()
    seconds, tokens = _time_steps(loop, reporter)
    peak = parts.meter.peak_bytes()
    allocated = parts.meter.allocated_bytes()
    timed = step_times(seconds)
    if allocated is None and timed["step_s"] < PROFILED_STEP_S and not reporter.should_stop():
        reporter.progress(3, 4, unit="", message="Recording allocations")
        allocated = allocated_peak(lambda: loop.update(1), model=model, optimizer=loop.optimizer, folder=parts.spec.folder)
    reporter.progress(4, 4, unit="", message="Done")
    return {
        "measured_bytes": peak,
        "allocated_bytes": allocated,
        "tokens_per_s": tokens / sum(seconds),
        "longest": batches.longest,
        "trained": batches.trained,
        "accumulated": parts.config.grad_accum_steps,
        **timed,
    }


def _time_steps(loop: TrainingLoop, reporter: Reporter) -> tuple[list[float], int]:
    """Do warm steps on the largest batch, then time ordinary ones. Returns (seconds of each, tokens trained on in all)."""
    for _ in range(WARM_UP):
        loop.update(1)
    seconds: list[float] = []
    tokens, began = 0, time.perf_counter()
    for step in range(2, 2 + TIMED_MOST):
        started = time.perf_counter()
        values = loop.update(step)
        seconds.append(time.perf_counter() - started)
        tokens += round(values["tok_per_sec"] * seconds[-1])
        spent = time.perf_counter() - began
        _progress(reporter, min(1.0, max(len(seconds) / TIMED_MOST, spent / TIMED_S)))
        if reporter.should_stop() or (spent > TIMED_S and len(seconds) >= TIMED_FEWEST):
            break
    return seconds, tokens


def _progress(reporter: Reporter, share: float) -> None:
    reporter.progress(2 + share, 4, unit="", message="Doing a few steps")


class LargestFirst:
    """Batches whose step 1 is the largest among the first hundreds, for the peak; the others are as they come, for the speed.

    `longest` and `trained` are the positions and the trained positions of the largest micro-batch, for each of its sequences.
    """

    def __init__(self, batches: Batches, *, micro_batch: int) -> None:
        self._batches = batches
        first = batches.at_step(1)
        if first[0].columns is None or isinstance(batches, RolloutBatches):  # windows are all alike; completions are drawn, not picked
            self._largest = first
        else:
            self._largest = max((batches.at_step(step) for step in range(1, LOOKED_THROUGH + 1)), key=lambda step: max(map(_size, step)))
        largest = max(self._largest, key=_size)
        share = micro_batch if getattr(largest, "row_ends", None) is not None else 1  # packed sequences lie end to end
        self.longest = -(-int(largest.inputs.shape[1]) // share)
        self.trained = self.longest if largest.columns is None else -(-len(largest.columns) // share)

    def at_step(self, step: int) -> list[MicroBatch]:
        """Return the micro-batches of an update."""
        return self._largest if step == 1 else self._batches.at_step(step)

    def validation(self) -> list[MicroBatch]:
        """Return none: nothing is learnt."""
        return []


def _size(batch: MicroBatch) -> tuple[int, int]:
    return batch.inputs.numel(), batch.inputs.shape[1] if batch.columns is None else len(batch.columns)
