"""Language modeling, the objectives pretrain and sft: cross-entropy of the next token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import peft
import torch

from backend.domain.data.splits import SPLITS
from backend.domain.training.execution import sequences_at_once
from backend.domain.wording import format_epochs
from backend.errors import InvalidInput
from jobs.batches.base import BatchSizes, MicroBatch, StepBatches
from jobs.batches.pretrain import TEXT, PretrainBatches, check_token_count
from jobs.batches.sft import CHAT, Examples, PackedBatches, SftBatches, StoredExamples, load_examples
from jobs.batches.token_files import StoredTokens
from jobs.modeling.devices import device_kind
from jobs.modeling.tokenizers import count_token_bytes, padding_id
from jobs.training.context import TrainingContext
from jobs.training.held_out import WorstRows, offer_tokens
from jobs.training.losses.output_head import NO_PENALTIES, OutputHead, Penalties
from jobs.training.network.experts import has_experts, router_loss_weight
from jobs.training.network.packed_attention import attend_by_row
from jobs.training.objectives.base import (
    LossOutput,
    ObjectiveStages,
    Precision,
    Splits,
    batch_sizes,
    token_maker,
    token_source,
)


class TokenSplits(NamedTuple):
    """A tokenised dataset of texts."""

    train: StoredTokens
    val: StoredTokens | None


@dataclass(frozen=True)
class LanguageObjective:
    """Cross-entropy of the next token. A unit is a trained token.

    `penalties` are trained beside it; `train_loss` and `val_loss` are the cross-entropy alone. `token_bytes` (bytes of
    text per token id) enables `val_bpb`.
    """

    head: OutputHead
    token_bytes: npt.NDArray[np.int32] | None = None
    penalties: Penalties = NO_PENALTIES
    is_divisible: bool = True

    def compute_loss(self, network: torch.nn.Module, batch: MicroBatch) -> LossOutput:
        """Return the cross-entropy in nats with its penalties, summed over the trained tokens."""
        weight = router_loss_weight(network) if network.training else 0.0
        losses, output = self.head.losses(
            network, batch, penalties=self.penalties, more={"output_router_logits": True} if weight else None
        )
        penalty = losses.total.detach() - losses.nll.sum() if any(self.penalties) else None
        return LossOutput(losses.total, aux_loss=weight * output.aux_loss if weight else None, penalty=penalty)

    def validate(
        self,
        network: torch.nn.Module,
        batches: Iterable[MicroBatch],
        *,
        device: torch.device,
        precision: Precision,
        worst: WorstRows | None = None,
    ) -> dict[str, float]:
        """Return the mean over the tokens of all batches, and bits per byte of their text."""
        nll, tokens, text_nll, text_bytes = 0.0, 0, 0.0, 0
        bytes_by_id = None if self.token_bytes is None else torch.from_numpy(self.token_bytes)
        for batch in batches:
            with precision():
                losses = self.head.losses(network, batch.to(device))[0].nll.double().cpu()
            nll += float(losses.sum())
            if worst is not None:
                offer_tokens(worst, batch, losses)
            tokens += batch.units
            if bytes_by_id is not None:  # special tokens have no text: left out of both numerator and denominator
                num_bytes = bytes_by_id[batch.targets.flatten()]
                text_nll += float(losses[num_bytes > 0].sum())
                text_bytes += int(num_bytes.sum())
        if tokens == 0:
            return {}
        values = {"val_loss": nll / tokens}
        if text_bytes:
            values["val_bpb"] = text_nll / text_bytes / math.log(2)
        return values


def load_texts(ctx: TrainingContext) -> TokenSplits:
    """Open the tokens of a dataset of texts, perhaps still in the making. Raises InvalidInput for too few tokens."""
    source, context = token_source(ctx), ctx.config.context
    with ctx.process_group.first_rank_first():  # the others read what it made
        maker = token_maker(ctx, source, TEXT)
        train, val = (source.open(TEXT, split, maker=maker) for split in SPLITS)
    if train is not None:
        train.wait(lambda: train.num_tokens > 2 * context)
    if train is None or not train.num_tokens:
        raise InvalidInput("The train split holds no text.", field="dataset")
    check_token_count(train.num_tokens, context=context)
    return TokenSplits(train, val)


def prepare_windows(ctx: TrainingContext, tokens: TokenSplits, model: Any) -> PretrainBatches:
    """Build pretraining batches; log the number of epochs."""
    batches = PretrainBatches(
        tokens.train, tokens.val, context=ctx.config.context, sizes=_cache_friendly_sizes(ctx, model)
    )

    def tell() -> None:
        ctx.reporter.log(
            f"{tokens.train.num_tokens:,} training tokens, {format_epochs(batches.epochs_of(ctx.config.max_steps))}."
        )

    _once_complete(tokens.train, tell)
    return batches


def _once_complete(tokens: StoredTokens, tell: Callable[[], None]) -> None:
    """Call when all tokens are made, now if they are."""
    if tokens.is_complete:
        tell()
    else:
        tokens.on_complete.append(tell)


def load_conversations(ctx: TrainingContext) -> Splits[Examples]:
    """Open a dataset of conversations, which may still be encoded. Raises InvalidInput if no train row is usable."""
    source, context = token_source(ctx), ctx.config.context
    with ctx.process_group.first_rank_first():
        maker = token_maker(ctx, source, CHAT)
        train, val = (load_examples(source, split, context=context, maker=maker) for split in SPLITS)
    return Splits(train, val)


def prepare_conversations(ctx: TrainingContext, examples: Splits[Examples], model: Any) -> StepBatches:
    """Build fine-tuning batches: packed if the config says so and the network keeps packed rows apart, else padded."""
    config = ctx.config
    network = model.get_base_model() if isinstance(model, peft.PeftModel) else model
    if config.packing and attend_by_row(network, model):
        batches = PackedBatches(
            examples.train, examples.val, context=config.context, sizes=_cache_friendly_sizes(ctx, model)
        )

        def tell() -> None:
            ctx.reporter.epoch_sequences = batches.num_sequences
            ctx.reporter.log(
                f"{batches.num_rows:,} rows packed into {batches.num_sequences:,} sequences of at most"
                f" {config.context:,} tokens, {format_epochs(batches.epochs_of(config.max_steps))}."
            )

        if isinstance(examples.train, StoredExamples):
            _once_complete(examples.train.tokens, tell)
        return batches
    if config.packing:
        ctx.reporter.log(f"Rows are padded, not packed: {type(network).__name__} can't keep packed rows apart.")
    return SftBatches(examples.train, examples.val, pad_id=padding_id(ctx.tokenizer), sizes=batch_sizes(ctx))


def _cache_friendly_sizes(ctx: TrainingContext, model: Any) -> BatchSizes:
    """Return sizes with as many full sequences per forward pass as suit a CPU's cache; a step's loss stays."""
    config = ctx.config
    sequences = sequences_at_once(config, device=device_kind(ctx.device), is_full=True, has_experts=has_experts(model))
    if sequences < config.micro_batch:
        ctx.reporter.log(
            f"A forward pass takes {sequences} of the {config.micro_batch} sequences of a micro-batch, which fit the"
            " CPU's cache."
        )
    return batch_sizes(ctx, micro_batch=sequences)


def build(ctx: TrainingContext, batches: StepBatches, model: Any) -> LanguageObjective:
    """Build the objective; val_bpb is measured on running text alone."""
    is_text = ctx.config.objective.pretrains
    return LanguageObjective(
        OutputHead(model),
        count_token_bytes(ctx.tokenizer, vocab_size=int(model.config.vocab_size)) if is_text else None,
        Penalties(ctx.config.label_smoothing, ctx.config.z_loss),
    )


PRETRAIN = ObjectiveStages(load_texts, prepare_windows, build)
SFT = ObjectiveStages(load_conversations, prepare_conversations, build)
