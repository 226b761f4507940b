"""The entry of a training job: dispatches on the objective, and words what goes wrong on the way."""

from __future__ import annotations

from typing import Any

import peft
import torch

from backend.domain.run_config import Objective
from jobs.modeling.tokenizers import token_bytes
from jobs.reporter import JobSpec, Reporter
from jobs.training.checkpoint_store import estimate_checkpoint_bytes
from jobs.training.compiling import compile_network
from jobs.training.experts import ExpertBalance
from jobs.training.loop import TrainingLoop
from jobs.training.networks import load_batches, load_model, make_optimizer
from jobs.training.parts import Parts, gather_parts, out_of_memory
from jobs.training.sampling import encode_sample_prompt
from jobs.training.state import Counters, load_state


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Train as the payload's `config` says, from the newest checkpoint of the run folder if there is one.

    Returns `{"final_step", "stopped", "metrics", "checkpoint"}`. Raises InvalidInput for what can't be trained and JobFailed for what
    went wrong on the way (loss not finite, memory or disk too small).
    """
    parts = gather_parts(spec, reporter)
    try:
        if parts.config.objective is Objective.DPO:
            from jobs.training.dpo import train_dpo  # TRL takes seconds to import, and only this needs it

            return train_dpo(parts)
        return train(parts)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise out_of_memory(parts) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise out_of_memory(parts) from error
        raise


def train(parts: Parts) -> dict[str, Any]:
    """Run pretrain or sft."""
    config, store = parts.config, parts.store
    batches = load_batches(parts)
    resume_from = store.newest()
    model = load_model(parts, resume_from=resume_from).to(parts.device)
    adapter = isinstance(model, peft.PeftModel)
    store.check_disk(
        checkpoint_bytes=estimate_checkpoint_bytes(model, adapter=adapter),
        max_steps=config.max_steps,
        checkpoint_every=config.checkpoint_every,
    )
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
    loop = TrainingLoop(
        config=config,
        model=model,
        tokenizer=parts.tokenizer,
        batches=batches,
        optimizer=optimizer,
        store=store,
        reporter=parts.reporter,
        device=parts.device,
        autocast=parts.autocast,
        forward=compile_network(model, config=config, batch=batches.at_step(1)[0], device=parts.device, reporter=parts.reporter),
        token_bytes=token_bytes(parts.tokenizer, vocab_size=int(model.config.vocab_size)) if is_text else None,
        sample_prompts=[(prompt, encode_sample_prompt(parts.tokenizer, prompt, chat=not is_text)) for prompt in config.sample_prompts],
        counters=counters,
        balance=None if adapter else ExpertBalance(model),  # an adapter's checkpoint would not keep the biases
        last_checkpoint=None if resume_from is None else parts.spec.relative(resume_from),
    )
    return loop.run()
