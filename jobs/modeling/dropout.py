"""Set a network's dropout through the fields of its transformers config."""

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
"""Names of dropout inside and between blocks. Excluded: those of classifiers, and `layerdrop`, which drops whole
blocks.
"""


def set_dropout(config: Any, share: float) -> None:
    """Set all dropout of a transformers config before its network is built; 0 disables the base's own.

    Llama-like families drop attention weights only, GPT-2 and BLOOM residual writes as well. Raises InvalidInput for
    dropout in a family that has none.
    """
    inner = config.get_text_config()
    fields = [name for name in FIELDS if isinstance(getattr(inner, name, None), (int, float))]
    if share and not fields:
        raise InvalidInput(
            f"Models of the family {config.model_type} have no dropout, and dropout is {share:g}.",
            remedy="Set dropout to 0; weight_decay or fewer epochs also reduce overfitting.",
            field="dropout",
        )
    for name in fields:
        setattr(inner, name, share)
