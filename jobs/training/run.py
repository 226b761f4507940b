"""The entry of a training job: dispatches on the objective, and words what goes wrong on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch

from backend.domain.training.config import DeviceConfig, Objective
from jobs.batches.base import Batches
from jobs.reporter import JobSpec, Reporter
from jobs.training.checkpoints.state import Counters, load_state, read_counters, seed_everything
from jobs.training.checkpoints.store import estimate_checkpoint_bytes
from jobs.training.compilation import compile_network
from jobs.training.context import Parts, gather_parts
from jobs.training.distributed.launch import run_ranks
from jobs.training.failures import out_of_memory_as_failure
from jobs.training.loop import TrainingLoop
from jobs.training.network.ema import Average, named_parts
from jobs.training.network.experts import ExpertBalance
from jobs.training.network.load import load_model
from jobs.training.network.optimizers import check_optimizer, make_optimizer
from jobs.training.objectives.reference_logprobs import Stopped
from jobs.training.objectives.registry import load_batches, make_lesson, settle_batches
from jobs.training.resume import machine_in_words, take_up, with_epochs, with_global_batch
from jobs.training.samples import encode_sample_prompt
from jobs.training.telemetry.mfu import find_utilisation


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Train as the payload's `config` says, from the newest checkpoint of the run folder if there is one.

    Returns `{"final_step", "stopped", "metrics", "checkpoint", "measurement"}`. Raises InvalidInput for what can't be trained and
    JobFailed for what went wrong on the way (loss not finite, memory or disk too small).
    """
    devices = DeviceConfig.model_validate(spec.payload["config"].get("devices") or {})
    return run_here(spec, reporter) if devices.count == 1 else run_ranks(spec, reporter, devices=devices)


def run_here(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Train in this process: alone, or as one of those that `torchrun` started."""
    parts = gather_parts(spec, reporter)
    with out_of_memory_as_failure(parts.config, device=parts.device):
        result = train(parts)
    return {**result, "measurement": parts.reporter.measurement(parts.device)}


def train(parts: Parts) -> dict[str, Any]:
    """Load what the objective needs, and run its loop."""
    store = parts.store
    check_optimizer(parts.config)
    resume_from = store.newest()
    if resume_from is not None:
        parts = with_global_batch(parts, read_counters(resume_from))
    try:
        batches = load_batches(parts, folder=store.folder.parent)
    except Stopped:
        last = None if resume_from is None else parts.spec.relative(resume_from)
        return {"final_step": max(store.steps(), default=0), "stopped": parts.reporter.should_stop(), "metrics": {}, "checkpoint": last}
    parts.meter.begin()
    model = load_model(parts, resume_from=resume_from).to(parts.device)
    store.check_disk(
        checkpoint_bytes=estimate_checkpoint_bytes(model, parts.config, adapter=isinstance(model, peft.PeftModel)),
        max_steps=parts.config.max_steps,
        checkpoint_every=parts.config.checkpoint_every,
    )
    batches = settle_batches(parts, batches, model)
    used = find_utilisation(model, parts.config, device=parts.device, artifacts=parts.spec.artifacts)
    parts.reporter.share_of_device = None if used is None else used.of
    return make_loop(with_epochs(parts, batches), batches, model, resume_from=resume_from).run()


def make_loop(parts: Parts, batches: Batches, model: Any, *, resume_from: Path | None = None) -> TrainingLoop:
    """Put the loop together round a network, with its optimizer and where it stands."""
    config = parts.config
    wrapped = parts.team.wrap(model, parts.device)
    optimizer = make_optimizer(model, config)
    average = Average(model, decay=config.ema_decay) if config.ema_decay else None
    scaler = torch.amp.GradScaler(parts.device.type) if parts.autocast is torch.float16 else None
    seed_everything(config.seed + parts.team.rank)
    counters = Counters()
    if resume_from is not None:
        counters = load_state(resume_from, optimizer=optimizer, parts=named_parts(average, scaler), team=parts.team, seed=config.seed)
        take_up(parts, batches, counters)
        parts.reporter.event("resumed", step=counters.step, folder=parts.spec.relative(resume_from))
    elif parts.spec.attempt > 1:  # what an earlier attempt reported before its first checkpoint is reported again
        parts.reporter.event("resumed", step=0, folder=None)
    is_text = config.objective is Objective.PRETRAIN
    prompts = () if config.objective is Objective.REWARD else config.sample_prompts  # it scores, and writes nothing
    if not batches.validation():
        parts.reporter.log("The dataset has no val split, so val_loss is not measured.")
    lesson = make_lesson(parts, batches, model)
    return TrainingLoop(
        config=config,
        model=model,
        tokenizer=parts.tokenizer,
        lesson=lesson,
        batches=batches,
        optimizer=optimizer,
        store=parts.store,
        reporter=parts.reporter,
        device=parts.device,
        autocast=parts.autocast,
        team=parts.team,
        forward=compile_network(wrapped, lesson, batches, parts),
        sample_prompts=[(prompt, encode_sample_prompt(parts.tokenizer, prompt, chat=not is_text)) for prompt in prompts],
        counters=replace(
            counters,
            sequences=config.micro_batch * config.grad_accum_steps * parts.team.count,
            measured=parts.measured,
            machine=machine_in_words(parts.device, count=parts.team.count),
        ),
        average=average,
        scaler=scaler,
        balance=None if isinstance(model, peft.PeftModel) else ExpertBalance(model),  # an adapter's checkpoint would not keep the biases
        last_checkpoint=None if resume_from is None else parts.spec.relative(resume_from),
    )
