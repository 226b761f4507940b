"""Dropout in a network, by the fields that transformers' families have for it."""

from __future__ import annotations

from typing import Any

from backend.errors import InvalidInput

FIELDS = (
    "attention_dropout",
    "attn_pdrop",
    "attn_dropout",
    "hidden_dropout",
    "residual_dropout",
    "resid_dropout",
    "resid_pdrop",
    "embedding_dropout",
    "embed_dropout",
    "embd_pdrop",
    "dropout",
)
"""What dropout between and inside the blocks is called. Left out are those of classifiers, and `layerdrop`, which drops whole blocks."""


def set_dropout(config: Any, share: float) -> None:
    """Set all dropout of a transformers config, before its network is made: 0 switches off what a base brings along.

    Llama and its kin drop attention weights alone; GPT-2 and BLOOM also what is added to the residual stream. Raises InvalidInput for
    dropout in a family that has none.
    """
    inner = config.get_text_config()
    fields = [name for name in FIELDS if isinstance(getattr(inner, name, None), (int, float))]
    if share and not fields:
        raise InvalidInput(
            f"Networks of the family {config.model_type} have no dropout, and {share:g} is asked for.",
            remedy="Set dropout to 0; weight_decay or fewer epochs also keep a network from over-fitting.",
            field="dropout",
        )
    for name in fields:
        setattr(inner, name, share)
