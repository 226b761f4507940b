"""Load the network to train: fresh from an architecture, from a base, or from the checkpoint to resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
from transformers import PreTrainedModel

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import context_problems
from backend.domain.training.objectives import Objective
from backend.errors import InvalidInput
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network
from jobs.modeling.loglikelihood import longest_input
from jobs.modeling.scorers import load_scorer
from jobs.modeling.tokenizers import padding_id
from jobs.training.context import TrainingContext
from jobs.training.network.adapters import add_adapters, load_quantised
from jobs.training.network.attention import choose_attention
from jobs.training.network.freezing import freeze_blocks


def load_model(ctx: TrainingContext, *, resume_from: Path | None) -> Any:
    """Load the network to train in fp32, with new adapters if the method has them, and set up attention, freezing and
    recomputation.
    """
    model = _load_model(ctx, resume_from=resume_from)
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    choose_attention(network, ctx.config.attention, device=ctx.device, autocast=ctx.autocast)
    freeze_blocks(model, ctx.config.freeze_blocks, reporter=ctx.reporter)
    if ctx.config.recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def _load_model(ctx: TrainingContext, *, resume_from: Path | None) -> Any:
    config, tokenizer = ctx.config, ctx.tokenizer
    if config.objective is Objective.PRETRAIN and ctx.base is None and resume_from is None:
        return build_network(
            check_architecture(ctx),
            seed=config.seed,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dropout=config.dropout,
        )
    if config.method != "full":
        return add_adapters(load_base(ctx), config, resume_from=resume_from)
    return load_base(ctx) if resume_from is None else _load_full(ctx, resume_from)


def _load_full(ctx: TrainingContext, folder: Path) -> PreTrainedModel:
    """Load a network with all its weights: a causal one, or for objective reward one that scores."""
    config = ctx.config
    if config.objective is Objective.REWARD:
        return load_scorer(folder, pad_id=padding_id(ctx.tokenizer), seed=config.seed, dropout=config.dropout)
    return load_network(folder, dropout=config.dropout)


def load_base(ctx: TrainingContext) -> PreTrainedModel:
    """Load the base. Raises InvalidInput if the run's context is longer than the base's."""
    assert ctx.base is not None
    config = ctx.config
    if config.method == "qlora":
        network = load_quantised(ctx.base, bits=config.lora.bits, device=ctx.device, autocast=ctx.autocast)
    else:
        network = _load_full(ctx, ctx.base)
    if config.context > longest_input(network):
        raise InvalidInput(
            f"The base takes at most {longest_input(network)} tokens, and context is {config.context}.",
            remedy=f"Set context to {longest_input(network)} or less.",
            field="context",
        )
    return network


def check_architecture(ctx: TrainingContext) -> ArchitectureConfig:
    """Return the payload's architecture. Raises InvalidInput if the tokenizer or the run's context does not fit it."""
    architecture = ctx.spec.payload.architecture
    if architecture is None:
        raise InvalidInput(
            "This run has neither an architecture nor a base.", remedy="Choose one of them.", field="architecture"
        )
    if len(ctx.tokenizer) > architecture.vocab_size:
        raise InvalidInput(
            f"The tokenizer has {len(ctx.tokenizer)} entries and the architecture's vocab_size is"
            f" {architecture.vocab_size}.",
            remedy=f"Set vocab_size to {len(ctx.tokenizer)} (more is allowed, unused entries cost memory).",
            field="vocab_size",
        )
    for problem in context_problems(ctx.config.context, architecture.context):
        raise InvalidInput(f"{problem}.", field="context")
    return architecture
