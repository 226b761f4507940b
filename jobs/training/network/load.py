"""Load the network to train: fresh from an architecture, from a base, or from the checkpoint to resume; with the
attention that its run asks for, and with its first blocks frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import peft
import torch
from transformers import PreTrainedModel
from transformers.utils import is_flash_attn_2_available

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import context_problems
from backend.errors import InvalidInput
from jobs.modeling.blocks import find_blocks
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network, load_scorer
from jobs.modeling.loglikelihood import longest_input
from jobs.modeling.tokenizers import padding_id
from jobs.modeling.unusable import one_line
from jobs.reporter import Reporter
from jobs.training.context import TrainingContext
from jobs.training.network.adapters import add_adapters, load_quantised
from jobs.training.network.frozen_base import held_type, hold_frozen
from jobs.training.network.shards import (
    add_to_unread,
    build_unread,
    is_shared_out,
    is_unread,
    read_weights,
    share_out,
)

Attention = Literal["auto", "sdpa", "eager", "flex", "flash"]
IMPLEMENTATIONS = {"sdpa": "sdpa", "eager": "eager", "flex": "flex_attention", "flash": "flash_attention_2"}
ATTENTION_REMEDY = "Choose attention auto, which takes the fastest available."
EMBEDDINGS = ("embed", "wte", "wpe")
"""Parts of the names of embeddings, and of norms that belong to them, in transformers' decoders."""


def load_model(ctx: TrainingContext, *, resume_from: Path | None) -> Any:
    """Load the network to train in fp32, with new adapters if the method has them, which may freeze a base in 16 bits,
    and set up attention, freezing and recomputation. With sharding fsdp it is shared out.
    """
    model = _load_model(ctx, resume_from=resume_from)
    hold_frozen(model, held_type(ctx))
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    choose_attention(network, ctx.config.attention, device=ctx.device, autocast=ctx.autocast)
    freeze_blocks(model, ctx.config.freeze_blocks, reporter=ctx.reporter)
    if ctx.config.recompute:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if is_shared_out(ctx.config, ctx.process_group):
        share_out(model, device=ctx.device, count=ctx.process_group.count)
    if is_unread(model):
        folder = ctx.base if ctx.config.method != "full" else resume_from or ctx.base
        assert folder is not None
        read_weights(model, folder, device=ctx.device)
        ctx.meter.forget_files()
    return model


def _load_model(ctx: TrainingContext, *, resume_from: Path | None) -> Any:
    config, tokenizer = ctx.config, ctx.tokenizer
    if config.objective.pretrains and ctx.base is None and resume_from is None:
        return build_network(
            check_architecture(ctx),
            seed=config.seed,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dropout=config.dropout,
        )
    is_shared = is_shared_out(config, ctx.process_group)
    build = _build_unread if is_shared or held_type(ctx) is not None else _load_full
    if config.method != "full":
        network = load_base(ctx, build)
        if is_unread(network):
            return add_to_unread(network, lambda: add_adapters(network, config, resume_from=resume_from))
        return add_adapters(network, config, resume_from=resume_from)
    return load_base(ctx, build) if resume_from is None else build(ctx, resume_from)


def _build_unread(ctx: TrainingContext, folder: Path) -> PreTrainedModel:
    """Build a network whose weights are read later, each process its share or all in fewer bits; load one that has to
    be read whole.
    """
    network = build_unread(folder, ctx.config)
    if network is None:
        if is_shared_out(ctx.config, ctx.process_group):
            ctx.reporter.log("Each process reads the whole network, and keeps its share.")
        return _load_full(ctx, folder)
    return network


def _load_full(ctx: TrainingContext, folder: Path) -> PreTrainedModel:
    """Load a network with all its weights: a causal one, or for objective reward one that scores."""
    config = ctx.config
    if not config.objective.facts.writes:
        return load_scorer(folder, pad_id=padding_id(ctx.tokenizer), seed=config.seed, dropout=config.dropout)
    return load_network(folder, dropout=config.dropout)


def load_base(
    ctx: TrainingContext, load: Callable[[TrainingContext, Path], PreTrainedModel] = _load_full
) -> PreTrainedModel:
    """Load the base. Raises InvalidInput if the run's context is longer than the base's."""
    assert ctx.base is not None
    config = ctx.config
    if config.method == "qlora":
        network = load_quantised(ctx.base, bits=config.lora.bits, device=ctx.device, autocast=ctx.autocast)
    else:
        network = load(ctx, ctx.base)
    if config.context > longest_input(network):
        raise InvalidInput(
            f"The base takes at most {longest_input(network)} tokens, and context is {config.context}.",
            remedy=f"Set context to {longest_input(network)} or less.",
            field="context",
        )
    return network


def load_reference(ctx: TrainingContext) -> PreTrainedModel:
    """Load the base to compute with, on the run's device: the numbers that adapters start from."""
    network = load_base(ctx).eval().requires_grad_(False)
    hold_frozen(network, held_type(ctx))
    return network.to(ctx.device)


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


def choose_attention(network: Any, attention: Attention, *, device: torch.device, autocast: torch.dtype | None) -> None:
    """Set a network's attention implementation; `auto` leaves the choice to transformers.

    Raises InvalidInput for an implementation that this device, installation or network lacks.
    """
    if attention == "auto":
        return
    if attention in ("flex", "flash") and device.type != "cuda":
        raise InvalidInput(
            f"{attention} attention trains on a GPU only, and this run is on the CPU.",
            remedy=ATTENTION_REMEDY,
            field="attention",
        )
    if attention == "flash" and not is_flash_attn_2_available():
        raise InvalidInput(
            "flash attention needs the package flash-attn, which is not installed here.",
            remedy=f"Install flash-attn on the workers, or: {ATTENTION_REMEDY[0].lower()}{ATTENTION_REMEDY[1:]}",
            field="attention",
        )
    if attention == "flash" and autocast is None:
        raise InvalidInput(
            "flash attention computes in 16 bits, and precision is fp32.",
            remedy="Choose precision bf16.",
            field="attention",
        )
    why = "it has an implementation of its own"
    try:
        network.set_attn_implementation(IMPLEMENTATIONS[attention])
    except (ValueError, ImportError) as error:
        why = one_line(error)
    if network.config._attn_implementation != IMPLEMENTATIONS[attention]:  # some networks ignore the setting
        raise InvalidInput(
            f"{type(network).__name__} can't compute attention by {attention}: {why}.",
            remedy=ATTENTION_REMEDY,
            field="attention",
        )


def freeze_blocks(network: PreTrainedModel, count: int, *, reporter: Reporter) -> None:
    """Exclude the embeddings and the first `count` blocks from training; log the number of trained parameters.

    A head tied to the embedding is frozen with it. Raises InvalidInput for more blocks than the network has.
    """
    if not count:
        return
    blocks = find_blocks(network)
    if not blocks:
        raise InvalidInput(
            f"This {type(network).__name__} has no list of decoder blocks to freeze.",
            remedy="Set freeze_blocks to 0, or train adapters.",
            field="freeze_blocks",
        )
    if count > len(blocks):
        raise InvalidInput(
            f"freeze_blocks is {count}, and the model has {len(blocks)} blocks.",
            remedy=f"Freeze at most {len(blocks)}, which leaves the final norm and the head to train.",
            field="freeze_blocks",
        )
    embeddings = [module for name, module in network.base_model.named_modules() if _is_embedding(name, module)]
    for module in [*blocks[:count], *embeddings]:
        module.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in network.parameters())
    head = network.get_output_embeddings()
    is_tied = head is not None and not head.weight.requires_grad
    frozen = "The embeddings (and the tied head)" if is_tied else "The embeddings"
    reporter.log(
        f"{frozen} and {count} of {len(blocks)} blocks are frozen; {trained:,} of {total:,} parameters are trained."
    )


def _is_embedding(name: str, module: torch.nn.Module) -> bool:
    """Return whether a module of the decoder is an embedding or the norm of one. Rotary embeddings hold no parameters
    and do not matter.
    """
    last = name.rpartition(".")[2]
    return isinstance(module, torch.nn.Embedding) or ("." not in name and any(part in last for part in EMBEDDINGS))
