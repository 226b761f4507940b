"""Resume a run from a checkpoint: with its batch sizes, and a log line for every unavoidable difference."""

from __future__ import annotations

import platform
from dataclasses import replace

import torch

from backend.domain.training.execution import keep_global_batch
from jobs.batches.base import DATA_ORDER, StepBatches
from jobs.modeling.devices import device_name, is_gpu
from jobs.training.checkpoints.state import Counters
from jobs.training.context import TrainingContext
from jobs.training.network.frozen_base import held_type


def describe_machine(device: torch.device, *, count: int = 1) -> str:
    """Describe what rounding depends on besides the config: devices, threads, torch."""
    if is_gpu(device):
        return f"{count} x {device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {count} x {torch.get_num_threads()} threads, torch {torch.__version__}"


def keep_batch_sizes(ctx: TrainingContext, counters: Counters) -> TrainingContext:
    """Return the context with the sequences per step, the validated items and the reduced micro-batch of the run's
    earlier part.

    Raises InvalidInput if the devices can't share the sequences evenly.
    """
    if counters.measured is not None:
        ctx = replace(ctx, val_items=counters.measured)
    if counters.sequences is not None:
        config, resized = ctx.config, keep_global_batch(ctx.config, counters.sequences)
        if resized is not config:
            ctx.reporter.log(
                f"A step keeps its {counters.sequences} sequences: {config.devices.count} x micro_batch"
                f" {resized.micro_batch} x {resized.grad_accum_steps}, although the config now says micro_batch"
                f" {config.micro_batch} x {config.grad_accum_steps}."
            )
        ctx = replace(ctx, config=resized)
    if counters.micro_batch is not None and counters.micro_batch < ctx.config.micro_batch:
        ctx.reporter.log(f"Micro-batches stay at {counters.micro_batch}, as larger ones did not fit into memory.")
        ctx = replace(ctx, max_micro_batch=counters.micro_batch)
    return ctx


def keep_frozen_base(ctx: TrainingContext, counters: Counters) -> TrainingContext:
    """Return the context with the frozen base in float32 if the run's earlier part held it so."""
    if counters.held_in is not None or held_type(ctx) is None or ctx.config.method == "qlora":
        return ctx
    ctx.reporter.log("The frozen base stays in float32, as it was when this run was saved.")
    lora = ctx.config.lora.model_copy(update={"frozen_base": "fp32"})
    return replace(ctx, config=ctx.config.model_copy(update={"lora": lora}))


def limit_epochs(ctx: TrainingContext, batches: StepBatches) -> TrainingContext:
    """Return the context with max_steps lowered to the steps of max_epochs, which is logged."""
    config = ctx.config
    if not config.max_epochs:
        return ctx
    steps = batches.steps_for(config.max_epochs)
    if steps >= config.max_steps:
        return ctx
    ctx.reporter.log(
        f"max_epochs {config.max_epochs:g} ends after {steps:,} steps, before max_steps {config.max_steps:,}."
    )
    return replace(ctx, config=config.model_copy(update={"max_steps": steps}))


def log_other_order(ctx: TrainingContext, counters: Counters) -> None:
    """Log that some rows of the epoch come twice and others not at all if the run was saved by a version with another
    order of data.
    """
    if counters.data_order != DATA_ORDER and ctx.config.objective.predicts_tokens:
        ctx.reporter.log(
            "This run was saved by an earlier version, which took rows in another order. From step"
            f" {counters.step + 1:,} on they come in the present one, so some rows of this epoch come twice and others"
            " not at all."
        )


def log_other_machine(ctx: TrainingContext, counters: Counters) -> None:
    """Log that results are not bit-identical if the run was saved on another machine."""
    machine = describe_machine(ctx.device, count=ctx.process_group.count)
    if counters.machine is not None and counters.machine != machine:
        ctx.reporter.log(
            f"This run was saved on {counters.machine} and resumes on {machine}. Weights, optimizer state, data order"
            " and learning rate are the same. Sums are rounded in another order, so losses agree closely but not bit"
            " for bit; dropout masks may differ."
        )
