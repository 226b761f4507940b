"""The entry of a training job: dispatches on the objective, and words what goes wrong on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch

from backend.domain.run_config import Objective
from jobs.modeling.tokenizers import token_bytes
from jobs.reporter import JobSpec, Reporter
from jobs.training.batches import Batches
from jobs.training.checkpoint_store import estimate_checkpoint_bytes
from jobs.training.compiling import compile_network
from jobs.training.experts import ExpertBalance
from jobs.training.lessons import LanguageLesson
from jobs.training.loop import TrainingLoop
from jobs.training.networks import load_batches, load_model, make_optimizer, settle_packing
from jobs.training.parts import Parts, gather_parts, memory_in_words
from jobs.training.sampling import encode_sample_prompt
from jobs.training.state import Counters, load_state


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Train as the payload's `config` says, from the newest checkpoint of the run folder if there is one.

    Returns `{"final_step", "stopped", "metrics", "checkpoint", "measurement"}`. Raises InvalidInput for what can't be trained and
    JobFailed for what went wrong on the way (loss not finite, memory or disk too small).
    """
    parts = gather_parts(spec, reporter)
    with memory_in_words(parts):
        if parts.config.objective is Objective.DPO:
            from jobs.training.dpo import train_dpo  # TRL takes seconds to import, and only this needs it

            result = train_dpo(parts)
        else:
            result = train(parts)
    return {**result, "measurement": parts.reporter.measurement(parts.device)}


def train(parts: Parts) -> dict[str, Any]:
    """Run pretrain or sft."""
    config, store = parts.config, parts.store
    batches = load_batches(parts)
    resume_from = store.newest()
    parts.meter.begin()
    model = load_model(parts, resume_from=resume_from).to(parts.device)
    store.check_disk(
        checkpoint_bytes=estimate_checkpoint_bytes(model, adapter=isinstance(model, peft.PeftModel)),
        max_steps=config.max_steps,
        checkpoint_every=config.checkpoint_every,
    )
    return make_loop(parts, settle_packing(parts, batches, model), model, resume_from=resume_from).run()


def make_loop(parts: Parts, batches: Batches, model: Any, *, resume_from: Path | None = None) -> TrainingLoop:
    """Put the loop of pretrain or sft together round a network, with its optimizer and where it stands."""
    config = parts.config
    optimizer = make_optimizer(model, config)
    torch.manual_seed(config.seed)
    counters = Counters()
    if resume_from is not None:
        counters = load_state(resume_from, optimizer=optimizer)
        parts.reporter.event("resumed", step=counters.step, folder=parts.spec.relative(resume_from))
    elif parts.spec.attempt > 1:  # what an earlier attempt reported before its first checkpoint is reported again
        parts.reporter.event("resumed", step=0, folder=None)
    is_text = config.objective is Objective.PRETRAIN
    if not batches.validation():
        parts.reporter.log("The dataset has no val split, so val_loss is not measured.")
    return TrainingLoop(
        config=config,
        model=model,
        tokenizer=parts.tokenizer,
        lesson=LanguageLesson(token_bytes(parts.tokenizer, vocab_size=int(model.config.vocab_size)) if is_text else None),
        batches=batches,
        optimizer=optimizer,
        store=parts.store,
        reporter=parts.reporter,
        device=parts.device,
        autocast=parts.autocast,
        forward=compile_network(model, config=config, batch=batches.at_step(1)[0], device=parts.device, reporter=parts.reporter),
        sample_prompts=[(prompt, encode_sample_prompt(parts.tokenizer, prompt, chat=not is_text)) for prompt in config.sample_prompts],
        counters=counters,
        balance=None if isinstance(model, peft.PeftModel) else ExpertBalance(model),  # an adapter's checkpoint would not keep the biases
        last_checkpoint=None if resume_from is None else parts.spec.relative(resume_from),
    )
