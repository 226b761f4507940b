"""Blocks that stay as they are: the first ones, and the embeddings under them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from backend.errors import InvalidInput
from jobs.reporter import Reporter

EMBEDDINGS = ("embed", "wte", "wpe")
"""What embeddings, and the norms that belong to them, are called in transformers' decoders."""


def freeze_blocks(network: PreTrainedModel, count: int, *, reporter: Reporter) -> None:
    """Let no gradient reach the embeddings and the first `count` blocks, and say what is left.

    A head that is the embedding's own matrix stays as it is, too. Raises InvalidInput for more blocks than there are.
    """
    if not count:
        return
    blocks = _blocks(network)
    if count > len(blocks):
        raise InvalidInput(
            f"freeze_blocks is {count}, and the network has {len(blocks)} blocks.",
            remedy=f"Freeze at most {len(blocks)}: then the norm and the head above them are trained.",
            field="freeze_blocks",
        )
    outside = [module for name, module in network.base_model.named_modules() if _is_embedding(name, module)]
    for module in [*blocks[:count], *outside]:
        module.requires_grad_(False)
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    total = sum(parameter.numel() for parameter in network.parameters())
    head = network.get_output_embeddings()
    tied = head is not None and not head.weight.requires_grad
    said = "The embeddings (and the head, which is the same matrix)" if tied else "The embeddings"
    reporter.log(f"{said} and {count} of {len(blocks)} blocks stay as they are; {trained:,} of {total:,} parameters are trained.")


def _blocks(network: PreTrainedModel) -> list[torch.nn.Module]:
    wanted = network.config.get_text_config().num_hidden_layers
    for module in network.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return list(module)
    raise InvalidInput(
        f"No blocks were found in this {type(network).__name__}.",
        remedy="Set freeze_blocks to 0, or train adapters.",
        field="freeze_blocks",
    )


def _is_embedding(name: str, module: torch.nn.Module) -> bool:
    """Whether a module of the decoder is an embedding, or the norm of one. Tables of rotary positions hold no parameters."""
    last = name.rpartition(".")[2]
    return isinstance(module, torch.nn.Embedding) or ("." not in name and any(part in last for part in EMBEDDINGS))
