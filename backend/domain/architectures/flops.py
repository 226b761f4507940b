"""FLOPs per token, as torch's FLOP counter counts them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.parameters import list_matrices


class FlopsPerToken(BaseModel):
    """Floating-point operations for one token at the report's context."""

    model_config = ConfigDict(frozen=True)

    forward: int
    training: int


def count_flops(
    config: ArchitectureConfig, *, context: int, micro_batch: int = 1, lora_rank: int | None = None
) -> FlopsPerToken:
    """Count FLOPs per token of a sequence of `context` tokens: 2 per weight, and attention's two products.

    Every position is taken to see the whole context, sliding layers too: a matrix product over the mask computes what
    it hides (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, with the head's product added). The backward pass
    computes two gradients per product; with adapters, frozen weights and matrices that read only the frozen embedding
    need none. Adapters of experts are folded into the weights once a forward pass, so their share for a token depends
    on how many tokens pass at once.
    """
    matrices = list_matrices(config)
    weights = sum(2 * matrix.size * matrix.used for matrix in matrices)
    scores = 2 * config.num_layers * config.num_heads * (config.head_dim + config.value_dim) * context
    if lora_rank is None:
        return FlopsPerToken(forward=weights + scores, training=3 * (weights + scores))
    adapters, folded, weight_gradients, unneeded = 0, 0, 0, 0
    for matrix in matrices:
        rank = lora_rank * matrix.adapter_ranks
        if matrix.folded:  # a gradient reaches the adapter through the weight's own
            folded += 2 * rank * matrix.size * matrix.copies
            weight_gradients += 2 * matrix.size * matrix.used
        else:
            adapters += 2 * rank * (matrix.inputs + matrix.outputs) * matrix.used
            unneeded += 2 * (matrix.size + rank * matrix.inputs) * matrix.reads_embedding
    fold = folded // (micro_batch * context)  # twice per forward pass: torch tests a parametrisation before it uses it
    return FlopsPerToken(
        forward=weights + scores + adapters + 2 * fold,
        training=2 * weights + weight_gradients + 3 * (scores + adapters) + 4 * fold - unneeded,
    )
