"""Shape of the keys and values that a network keeps, by its config of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KvShape:
    """Layers of a network, heads with keys and values in each, and numbers in a head."""

    num_layers: int
    num_heads: int
    head_size: int

    def token_bytes(self, number_bytes: int) -> int:
        """Return the KV-cache bytes of one token, in numbers of `number_bytes` bytes."""
        return 2 * self.num_layers * self.num_heads * self.head_size * number_bytes


def has_heads(config: Any) -> bool:
    """Return whether a network's config names heads of attention."""
    return bool(getattr(config.get_text_config(), "num_attention_heads", None))


def read_kv_shape(config: Any) -> KvShape:
    """Read the shape from the config of a network with attention (`has_heads`), not a latent one."""
    text = config.get_text_config()
    return KvShape(
        num_layers=int(text.num_hidden_layers),
        num_heads=int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
        head_size=int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads),
    )
