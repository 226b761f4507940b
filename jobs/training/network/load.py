"""What is trained and with what: batches, the network (fresh, from a base, resumed) and its optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
from transformers import PreTrainedModel

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import Objective
from backend.errors import InvalidInput
from jobs.batches.base import Batches
from jobs.batches.pretrain import PretrainBatches, cache_tokens
from jobs.batches.sft import PackedBatches, SftBatches, encode_rows
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import load_network
from jobs.modeling.loglikelihood import longest_input
from jobs.modeling.scorers import load_scorer
from jobs.modeling.tokenizers import padding_id
from jobs.training.context import Parts
from jobs.training.network.adapters import load_quantised, put_adapters
from jobs.training.network.attention import choose_attention
from jobs.training.network.freezing import freeze_blocks
from jobs.training.network.packed_attention import attend_by_row


def load_batches(parts: Parts) -> Batches:
    """Read and encode the dataset for the objective."""
    with parts.team.in_turn():  # the first reads and writes the cache of tokens, the others find it
        return _load_batches(parts)


def _load_batches(parts: Parts) -> Batches:
    config, tokenizer = parts.config, parts.tokenizer
    sizes = {
        "micro_batch": config.micro_batch,
        "grad_accum_steps": config.grad_accum_steps * parts.team.count,
        "measured": parts.measured,
        "seed": config.seed,
    }
    if config.objective is Objective.PRETRAIN:
        tokens = [
            cache_tokens(parts.dataset, split, tokenizer=tokenizer, folder=parts.spec.folder, reporter=parts.reporter)
            for split in ("train", "val")
        ]
        if tokens[0] is None:
            raise InvalidInput("The train split holds no text.", field="dataset")
        batches = PretrainBatches(tokens[0], tokens[1], context=config.context, **sizes)
        epochs = config.max_steps * config.micro_batch * config.grad_accum_steps / batches.num_windows
        parts.reporter.log(f"{len(tokens[0]):,} training tokens; the run sees them {epochs:.1f} times.")
        return batches
    examples = [
        encode_rows(parts.dataset, split, tokenizer=tokenizer, context=config.context, reporter=parts.reporter)
        for split in ("train", "val")
    ]
    if config.packing:
        return PackedBatches(examples[0], examples[1], pad_id=padding_id(tokenizer), context=config.context, **sizes)
    return SftBatches(examples[0], examples[1], pad_id=padding_id(tokenizer), **sizes)


def settle_packing(parts: Parts, batches: Batches, model: Any) -> Batches:
    """Return the batches that a network can be trained on: where it would mix the rows of a sequence they are padded instead, and it is said."""
    if not isinstance(batches, PackedBatches):
        return batches
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    if not attend_by_row(network):
        parts.reporter.log(f"Rows are padded, not packed: {type(network).__name__} can't keep rows apart that share a sequence.")
        return batches.padded()
    config = parts.config
    epochs = config.max_steps * config.micro_batch * config.grad_accum_steps * parts.team.count / batches.num_sequences
    parts.reporter.log(
        f"{batches.num_rows:,} rows in {batches.num_sequences:,} sequences of at most {config.context:,} tokens, each row read alone; "
        f"the run sees them {epochs:.1f} times."
    )
    return batches


def load_model(parts: Parts, *, resume_from: Path | None) -> Any:
    """Return the network to train, fp32: fresh, from the base (with new adapters for lora), or from the checkpoint resumed."""
    model = _load_model(parts, resume_from=resume_from)
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    choose_attention(network, parts.config.attention, device=parts.device, autocast=parts.autocast)
    freeze_blocks(model, parts.config.freeze_blocks, reporter=parts.reporter)
    if parts.config.recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def _load_model(parts: Parts, *, resume_from: Path | None) -> Any:
    config, tokenizer = parts.config, parts.tokenizer
    if config.objective is Objective.PRETRAIN and parts.base is None and resume_from is None:
        return build_network(
            check_architecture(parts),
            seed=config.seed,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dropout=config.dropout,
        )
    if config.method != "full":
        return put_adapters(load_base(parts), config, resume_from=resume_from)
    return _load_whole(parts, resume_from) if resume_from is not None else load_base(parts)


def _load_whole(parts: Parts, folder: Path) -> PreTrainedModel:
    """Load a network as the objective trains it: one that writes, or for reward one that scores."""
    config = parts.config
    if config.objective is Objective.REWARD:
        return load_scorer(folder, pad_id=padding_id(parts.tokenizer), seed=config.seed, dropout=config.dropout)
    return load_network(folder, dropout=config.dropout)


def load_base(parts: Parts) -> PreTrainedModel:
    """Load the base and check that the run's context fits it."""
    assert parts.base is not None
    config = parts.config
    if config.method == "qlora":
        network = load_quantised(parts.base, bits=config.lora.bits, device=parts.device, autocast=parts.autocast)
    else:
        network = _load_whole(parts, parts.base)
    if parts.config.context > longest_input(network):
        raise InvalidInput(
            f"The base reads at most {longest_input(network)} tokens, and context is {parts.config.context}.",
            remedy=f"Set context to {longest_input(network)} or less.",
            field="context",
        )
    return network


def check_architecture(parts: Parts) -> ArchitectureConfig:
    """Return the payload's architecture, if the tokenizer and the run's context fit it.

    Raises InvalidInput that names both numbers.
    """
    architecture = ArchitectureConfig.model_validate(parts.spec.payload["architecture"])
    if len(parts.tokenizer) > architecture.vocab_size:
        raise InvalidInput(
            f"The tokenizer has {len(parts.tokenizer)} entries and the architecture's vocab_size is {architecture.vocab_size}.",
            remedy=f"Set vocab_size to {len(parts.tokenizer)} (more is allowed, unused entries cost memory).",
            field="vocab_size",
        )
    if parts.config.context > architecture.context:
        raise InvalidInput(f"context {parts.config.context} is longer than the architecture's {architecture.context}.", field="context")
    return architecture
