"""Freeze the first decoder blocks and the embeddings below them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from backend.errors import InvalidInput
from jobs.modeling.blocks import find_blocks
from jobs.reporter import Reporter

EMBEDDINGS = ("embed", "wte", "wpe")
"""Parts of the names of embeddings, and of norms that belong to them, in transformers' decoders."""


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
