"""The entry of a training job: context, data, network, objective, loop.

A run that resumes keeps the batch sizes of its earlier part, with a log line for every unavoidable difference. The
network is compiled with torch.compile if configured or worthwhile; eager mode is the fallback, with a log line.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch

from backend.domain.jobs.events import ResumedEvent
from backend.domain.jobs.payloads import TrainingPayload, TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.training.execution import compiles, keep_global_batch
from jobs.batches.base import DATA_ORDER, Batches, StepBatches
from jobs.modeling.devices import device_kind, device_name, fork_random, is_gpu, is_out_of_memory
from jobs.reporter import JobSpec, Reporter, StopRequested
from jobs.training.checkpoints import (
    Counters,
    estimate_checkpoint_bytes,
    load_state,
    read_counters,
    seed_everything,
)
from jobs.training.context import TrainingContext, read_training_context
from jobs.training.distributed import run_ranks
from jobs.training.failures import out_of_memory_as_failure
from jobs.training.loop import TrainingLoop
from jobs.training.network.adapters import held_type
from jobs.training.network.ema import Ema, named_states
from jobs.training.network.experts import ExpertBalance
from jobs.training.network.load import load_model
from jobs.training.network.optimizers import check_optimizer
from jobs.training.objectives.base import TrainingObjective
from jobs.training.objectives.registry import OBJECTIVES
from jobs.training.samples import encode_sample_prompts
from jobs.training.strategy import Replicas, Shards, Strategy, ZeroStages
from jobs.training.telemetry import find_utilisation


def run(spec: JobSpec[TrainPayload], reporter: Reporter) -> TrainResult:
    """Train by the payload's `config`, from the newest checkpoint of the run folder if there is one.

    Raises InvalidInput for an invalid run and JobFailed for a failure during training (non-finite loss, memory or disk
    too small).
    """
    devices = spec.payload.config.devices
    return run_here(spec, reporter) if devices.count == 1 else run_ranks(spec, reporter, devices=devices)


def run_here(spec: JobSpec[TrainingPayload], reporter: Reporter) -> TrainResult:
    """Train in this process: alone, or as one of the ranks of several devices."""
    ctx = read_training_context(spec, reporter)
    with out_of_memory_as_failure(ctx.config, device=ctx.device):
        result = train(ctx)
    return result.model_copy(update={"measurement": ctx.reporter.measurement(ctx.device)})


def train(ctx: TrainingContext) -> TrainResult:
    """Load the data, then the network, and run the loop."""
    check_optimizer(ctx.config)
    store, stages = ctx.store, OBJECTIVES[ctx.config.objective]
    resume_from = _newest_of_all(ctx)
    if resume_from is not None:
        counters, launched = read_counters(resume_from), ctx.config
        ctx = _keep_frozen_base(_keep_batch_sizes(ctx, counters), counters)
        ctx.reporter.is_as_launched = ctx.config == launched
    try:
        data = stages.load(ctx)
    except StopRequested:
        last = None if resume_from is None else ctx.spec.relative(resume_from)
        return TrainResult(
            final_step=max(store.steps(), default=0), stopped=ctx.reporter.should_stop(), checkpoint=last
        )
    ctx.meter.begin()
    model = load_model(ctx, resume_from=resume_from).to(ctx.device)
    if ctx.process_group.is_first:
        store.check_disk(
            checkpoint_bytes=estimate_checkpoint_bytes(model, ctx.config, adapter=isinstance(model, peft.PeftModel)),
            max_steps=ctx.config.max_steps,
            checkpoint_every=ctx.config.checkpoint_every,
        )
    batches = stages.prepare(ctx, data, model)
    utilisation = find_utilisation(model, ctx.config, device=ctx.device, artifacts=ctx.spec.artifacts)
    ctx.reporter.mfu_of_rate = None if utilisation is None else utilisation.of
    if not batches.has_validation:
        ctx.reporter.log("The dataset has no validation split, so val_loss is not measured.")
    return make_loop(_limit_epochs(ctx, batches), batches, model, resume_from=resume_from).run()


def _newest_of_all(ctx: TrainingContext) -> Path | None:
    """Return the newest checkpoint, of several machines the newest that all of them have."""
    newest, group = ctx.store.newest(), ctx.process_group
    if group.count == 1:
        return newest
    shared = set.intersection(*map(set, group.gather(ctx.store.resumable())))
    if newest is not None and newest != (newest_shared := ctx.store.place(max(shared, default=0))):
        ctx.reporter.log(f"{newest.name} is not on every machine of this run; {newest_shared.name} is.")
    return ctx.store.place(max(shared)) if shared else None


STRATEGIES: dict[str, type[Strategy]] = {"ddp": Replicas, "fsdp": Shards, "zero2": ZeroStages, "zero3": ZeroStages}
"""Strategy of several processes, by `devices.sharding`."""


def make_loop(ctx: TrainingContext, batches: Batches, model: Any, *, resume_from: Path | None = None) -> TrainingLoop:
    """Build the objective, the optimizer and the loop; restore the training state of `resume_from`."""
    config, group = ctx.config, ctx.process_group
    group.barrier()  # wait here, not in a collective, for a process that reads its network from a slow disk
    # may run the network, which no strategy expects before training
    objective = OBJECTIVES[config.objective].build(ctx, batches, model)
    strategy = (Strategy if group.count == 1 else STRATEGIES[config.devices.sharding])(model, ctx)
    ema = Ema(model, decay=config.ema_decay) if config.ema_decay else None
    scaler = torch.amp.GradScaler(ctx.device.type) if ctx.autocast is torch.float16 else None
    seed_everything(config.seed + group.rank)
    counters = Counters(tokens=0 if config.objective.counts_tokens else None)
    if resume_from is not None:
        states = named_states(ema, scaler)
        counters = load_state(
            resume_from, optimizer=strategy.optimizer, states=states, process_group=group, seed=config.seed
        )
        _log_other_machine(ctx, counters)
        _log_other_order(ctx, counters)
        ctx.reporter.emit(ResumedEvent(step=counters.step, folder=ctx.spec.relative(resume_from)))
    elif ctx.spec.attempt > 1:  # steps that an earlier attempt reported before its first checkpoint are reported again
        ctx.reporter.emit(ResumedEvent())
    strategy.forward = _compile_network(strategy.forward, objective, batches, ctx)
    return TrainingLoop(
        config=config,
        model=model,
        tokenizer=ctx.tokenizer,
        objective=objective,
        batches=batches,
        strategy=strategy,
        store=ctx.store,
        reporter=ctx.reporter,
        device=ctx.device,
        autocast=ctx.autocast,
        process_group=group,
        sample_prompts=encode_sample_prompts(ctx.tokenizer, config),
        counters=replace(
            counters,
            sequences=config.micro_batch * config.grad_accum_steps * group.count,
            measured=ctx.val_items,
            machine=describe_machine(ctx.device, count=group.count),
            data_order=DATA_ORDER,
            held_in=None if (held := held_type(ctx)) is None else str(held).removeprefix("torch."),
        ),
        ema=ema,
        scaler=scaler,
        # adapter checkpoints hold no router biases
        expert_balance=(None if isinstance(model, peft.PeftModel) else ExpertBalance(model)),
        last_checkpoint=None if resume_from is None else ctx.spec.relative(resume_from),
    )


def describe_machine(device: torch.device, *, count: int = 1) -> str:
    """Describe what rounding depends on besides the config: devices, threads, torch."""
    if is_gpu(device):
        return f"{count} x {device_name(device)}, torch {torch.__version__}"
    return f"{platform.machine()} CPU, {count} x {torch.get_num_threads()} threads, torch {torch.__version__}"


def _keep_batch_sizes(ctx: TrainingContext, counters: Counters) -> TrainingContext:
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


def _keep_frozen_base(ctx: TrainingContext, counters: Counters) -> TrainingContext:
    """Return the context with the frozen base in float32 if the run's earlier part held it so."""
    if counters.held_in is not None or held_type(ctx) is None or ctx.config.method == "qlora":
        return ctx
    ctx.reporter.log("The frozen base stays in float32, as it was when this run was saved.")
    lora = ctx.config.lora.model_copy(update={"frozen_base": "fp32"})
    return replace(ctx, config=ctx.config.model_copy(update={"lora": lora}))


def _limit_epochs(ctx: TrainingContext, batches: StepBatches) -> TrainingContext:
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


def _log_other_order(ctx: TrainingContext, counters: Counters) -> None:
    """Log that some rows of the epoch come twice and others not at all if the run was saved by a version with another
    order of data.
    """
    if counters.data_order != DATA_ORDER and ctx.config.objective.predicts_tokens:
        ctx.reporter.log(
            "This run was saved by an earlier version, which took rows in another order. From step"
            f" {counters.step + 1:,} on they come in the present one, so some rows of this epoch come twice and others"
            " not at all."
        )


def _log_other_machine(ctx: TrainingContext, counters: Counters) -> None:
    """Log that results are not bit-identical if the run was saved on another machine."""
    machine = describe_machine(ctx.device, count=ctx.process_group.count)
    if counters.machine is not None and counters.machine != machine:
        ctx.reporter.log(
            f"This run was saved on {counters.machine} and resumes on {machine}. Weights, optimizer state, data order"
            " and learning rate are the same. Sums are rounded in another order, so losses agree closely but not bit"
            " for bit; dropout masks may differ."
        )


_CACHE_FOLDER = "compiled"


def _compile_network(
    network: torch.nn.Module, objective: TrainingObjective, batches: Batches, ctx: TrainingContext
) -> torch.nn.Module:
    """Return the compiled network, after one forward and backward pass to test it; the network itself if it is not to
    be compiled.

    The compiler's cache is kept among the artifacts for later runs. Weights and random state are preserved.
    """
    config, device = ctx.config, ctx.device
    size = sum(parameter.numel() for parameter in network.parameters())
    if not compiles(config, parameters=size, device=device_kind(device)):
        return network
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(ctx.spec.artifacts / _CACHE_FOLDER))
    batch, started = batches.at_step(1)[0], time.perf_counter()
    is_dynamic = False if config.objective.pretrains else None
    ctx.reporter.log("Compiling the model: a minute or two, the first time on a machine.")
    try:
        compiled: torch.nn.Module = torch.compile(network, dynamic=is_dynamic)  # type: ignore[assignment]
        network.train()
        with fork_random(device):
            with torch.autocast(device.type, dtype=ctx.autocast, enabled=ctx.autocast is not None):
                output = objective.compute_loss(compiled, batch.to(device))
            torch.autograd.backward(output.total)
    # compilers fail in many ways (none installed, an unsupported operator), and eager mode computes the same
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        ctx.reporter.log(f"torch.compile is not used: {type(error).__name__}: {reason}")
        return network
    finally:
        network.zero_grad(set_to_none=True)
    ctx.reporter.log(f"The model is compiled ({time.perf_counter() - started:.0f} s).")
    return compiled
