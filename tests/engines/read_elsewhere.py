"""Read an exported checkpoint in JAX and TensorFlow: `python read_elsewhere.py FOLDER IDS`, where both are installed.

Prints JSON: the logits of a Llama's forward pass in JAX, (tokens, vocabulary), and the sum of each tensor as TensorFlow
reads it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from safetensors.flax import load_file
from safetensors.tensorflow import load_file as load_in_tensorflow


def forward(weights: dict[str, Any], config: dict[str, Any], ids: list[int]) -> Any:
    """Return the logits, (tokens, vocabulary), of a Llama (Touvron et al. 2023, arXiv 2302.13971) with grouped queries
    and rotary positions in halves, in float32.
    """
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size = config.get("head_dim") or config["hidden_size"] // heads
    theta = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    frequencies = theta ** (-jnp.arange(0, size, 2) / size)
    angles = jnp.outer(jnp.arange(len(ids)), frequencies)
    cos, sin = (jnp.concatenate([wave, wave], -1)[None] for wave in (jnp.cos(angles), jnp.sin(angles)))
    mask = jnp.triu(jnp.full((len(ids), len(ids)), -jnp.inf), 1)

    def norm(x: Any, name: str) -> Any:
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weights[name]

    def rotate(x: Any) -> Any:
        first, second = jnp.split(x, 2, -1)
        return x * cos + jnp.concatenate([-second, first], -1) * sin

    def split(x: Any, count: int) -> Any:
        return x.reshape(len(ids), count, size).transpose(1, 0, 2)

    x = weights["model.embed_tokens.weight"][jnp.array(ids)]
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        normed = norm(x, f"{name}.input_layernorm.weight")
        q, k, v = (normed @ weights[f"{name}.self_attn.{part}_proj.weight"].T for part in "qkv")
        q, k = rotate(split(q, heads)), rotate(split(k, kv_heads))
        k, v = (jnp.repeat(each, heads // kv_heads, 0) for each in (k, split(v, kv_heads)))
        attention = jax.nn.softmax(q @ k.transpose(0, 2, 1) / size**0.5 + mask, -1) @ v
        x += attention.transpose(1, 0, 2).reshape(len(ids), -1) @ weights[f"{name}.self_attn.o_proj.weight"].T
        normed = norm(x, f"{name}.post_attention_layernorm.weight")
        gate, up = (normed @ weights[f"{name}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x += (jax.nn.silu(gate) * up) @ weights[f"{name}.mlp.down_proj.weight"].T
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ head.T


def main(folder: Path, ids: list[int]) -> None:
    """Print what both frameworks read."""
    file = folder / "model.safetensors"
    logits = forward(load_file(file), json.loads((folder / "config.json").read_text()), ids)
    sums = {name: float(tensor.numpy().astype("float64").sum()) for name, tensor in load_in_tensorflow(file).items()}
    json.dump({"logits": logits.tolist(), "sums": sums}, sys.stdout)


if __name__ == "__main__":
    jax.config.update("jax_default_matmul_precision", "highest")
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
