"""The entry of a training job: context, data, network, objective, loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch

from backend.domain.jobs.events import ResumedEvent
from backend.domain.jobs.payloads import TrainingPayload, TrainPayload
from backend.domain.jobs.results import TrainResult
from jobs.batches.base import DATA_ORDER, Batches
from jobs.reporter import JobSpec, Reporter, StopRequested
from jobs.training.checkpoints.state import Counters, load_state, read_counters, seed_everything
from jobs.training.checkpoints.store import estimate_checkpoint_bytes
from jobs.training.compilation import compile_network
from jobs.training.context import TrainingContext, read_training_context
from jobs.training.distributed.launch import run_ranks
from jobs.training.failures import out_of_memory_as_failure
from jobs.training.loop import TrainingLoop
from jobs.training.network.ema import Ema, named_states
from jobs.training.network.experts import ExpertBalance
from jobs.training.network.frozen_base import held_type
from jobs.training.network.load import load_model
from jobs.training.network.optimizers import check_optimizer
from jobs.training.objectives.registry import OBJECTIVES
from jobs.training.resume import (
    describe_machine,
    keep_batch_sizes,
    keep_frozen_base,
    limit_epochs,
    log_other_machine,
    log_other_order,
)
from jobs.training.samples import encode_sample_prompts
from jobs.training.strategy import Replicas, Shards, Strategy
from jobs.training.telemetry.mfu import find_utilisation
from jobs.training.zero import ZeroStages


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
        ctx = keep_frozen_base(keep_batch_sizes(ctx, counters), counters)
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
    return make_loop(limit_epochs(ctx, batches), batches, model, resume_from=resume_from).run()


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
        log_other_machine(ctx, counters)
        log_other_order(ctx, counters)
        ctx.reporter.emit(ResumedEvent(step=counters.step, folder=ctx.spec.relative(resume_from)))
    elif ctx.spec.attempt > 1:  # steps that an earlier attempt reported before its first checkpoint are reported again
        ctx.reporter.emit(ResumedEvent())
    strategy.forward = compile_network(strategy.forward, objective, batches, ctx)
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
