"""The price of a network's numbers in fewer bits: how far its probabilities move on texts that it wrote.

The texts are draws at temperature 1 from the network itself, so that the check fits any domain and language and needs
no data. The expected log of the perplexity ratio over the original's next tokens is the Kullback-Leibler divergence,
which is computed at each position: drawn tokens would add their noise.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from backend.domain.serving.precision import PrecisionCheck
from backend.errors import InvalidInput

NUM_TEXTS, TEXT_TOKENS, SEED = 4, 48, 11
MAX_DIVERGENCE = 50.0  # nats; a perplexity of 10^21 times


@torch.inference_mode()
def write_texts(network: Any, watch: Callable[[int, int], None] | None = None) -> torch.Tensor:
    """Return token ids [texts, tokens]: the begin token or random ones, continued by the network. `watch` is called
    with the tokens of a text written and their total, and an exception from it ends the writing.
    """
    generator = torch.Generator().manual_seed(SEED)
    config = network.config.get_text_config()
    ids = torch.randint(network.get_input_embeddings().weight.shape[0], (NUM_TEXTS, 1), generator=generator)
    if getattr(config, "bos_token_id", None) is not None:
        ids = torch.full_like(ids, config.bos_token_id)
    more: dict[str, object] = {"use_cache": False}
    if network._supports_attention_backend:
        name = "cache" if "cache" in inspect.signature(type(network).forward).parameters else "past_key_values"
        more = {name: DynamicCache(config=network.config), "use_cache": True}
    while ids.shape[1] < TEXT_TOKENS:
        logits = network(input_ids=ids[:, -1:] if more["use_cache"] else ids, **more).logits[:, -1].float()
        ids = torch.cat([ids, torch.multinomial(torch.softmax(logits, -1), 1, generator=generator)], dim=1)
        if watch is not None:
            watch(ids.shape[1], TEXT_TOKENS)
    return ids


@torch.inference_mode()
def log_probabilities(network: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return natural-log probabilities of the next token [texts, positions, vocabulary]."""
    logits: torch.Tensor = network(input_ids=ids[:, :-1], use_cache=False).logits
    return torch.log_softmax(logits.float(), dim=-1)


def compare_precisions(before: torch.Tensor, after: torch.Tensor, *, precision: str, num_layers: int) -> PrecisionCheck:
    """Return the check of a network by its log-probabilities (see `log_probabilities`) before and after. Raises
    InvalidInput for a network that the precision destroyed.
    """
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    if not divergence < MAX_DIVERGENCE:  # also if it is NaN
        raise InvalidInput(
            f"In {precision} this model gives no usable probabilities.",
            remedy="Choose another precision.",
            field="precision",
        )
    return PrecisionCheck(
        precision=precision,
        perplexity_ratio=round(math.exp(divergence), 5),
        greedy_agreement=round(float((before.argmax(-1) == after.argmax(-1)).double().mean()), 5),
        num_tokens=before[..., 0].numel(),
        num_layers=num_layers,
    )
