"""Small checkpoints from outside: complete, sharded, as GGUF, and damaged."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.hf_config import read_shape
from jobs.modeling.build import build_network
from jobs.modeling.tokenizers import byte_tokenizer

SHAPE = ArchitectureConfig(
    num_layers=2, width=32, num_heads=4, num_kv_heads=2, context=64, vocab_size=262, feed_forward=64
)
CARD = "---\nlicense: other\nlicense_name: mill\nlicense_link: https://mill.example/terms\n---\n# Tiny\n"


def save_base(folder: Path, *, shape: ArchitectureConfig = SHAPE, shard: str = "1GB", card: str = CARD) -> Path:
    """Save a network as transformers does, with a tokenizer and a card; return the folder."""
    build_network(shape, seed=1).save_pretrained(folder, max_shard_size=shard)
    byte_tokenizer(context=shape.context).save_pretrained(folder)
    (folder / "README.md").write_text(card)
    return folder


def edit_json(file: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_header(file: Path, **changes: Any) -> None:
    """Change entries of a safetensors header and keep its data."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps({**json.loads(data[8 : 8 + length]), **changes}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])


def save_gguf(file: Path, *, words: list[str], licence: str = "apache-2.0") -> Path:
    """Write a Llama of one layer with a byte-level BPE tokenizer as GGUF; return the file."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    words = [*words, "th"]
    rows, width, hidden = len(words), 32, 64
    writer = GGUFWriter(str(file), "llama")
    writer.add_license(licence)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(rows)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_types([TokenType.CONTROL if word.startswith("<|") else TokenType.NORMAL for word in words])
    writer.add_token_merges(["t h"])  # without any it would be read as another kind
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    draw = np.random.default_rng(1)
    shapes = {
        "token_embd": (rows, width),
        "output": (rows, width),
        "blk.0.attn_q": (width, width),
        "blk.0.attn_k": (width // 2, width),
    }
    shapes |= {
        "blk.0.attn_v": (width // 2, width),
        "blk.0.attn_output": (width, width),
        "blk.0.ffn_gate": (hidden, width),
    }
    shapes |= {"blk.0.ffn_up": (hidden, width), "blk.0.ffn_down": (width, hidden)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.02, shape).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(width, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def config_from_checkpoint(folder: Path) -> ArchitectureConfig | None:
    """Read the architecture of a checkpoint; None for one that an ArchitectureConfig can't express."""
    return read_shape(json.loads((folder / "config.json").read_text()))
