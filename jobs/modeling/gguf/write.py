"""From a checkpoint to one GGUF file that llama.cpp and its relatives read: weights, tokenizer and chat template.

Only families whose file can be read back by transformers, so that what was written has been held against the network. Names come from
the gguf library's own tables; the few weights that llama.cpp keeps in another layout are turned as its converter turns them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.checkpoints.export_formats import gguf_refusal
from backend.errors import InvalidInput

GgufNumbers = Literal["f16", "f32", "q8_0"]
Array = npt.NDArray[Any]
Tensors = Iterator[tuple[str, torch.Tensor]]
ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "gpt2": gguf.MODEL_ARCH.GPT2,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
}
"""What each transformers type is called in GGUF."""
FILE_TYPES = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
GEMMA_PERIOD, GEMMA_LOCAL_BASE = 6, 10_000.0
"""What llama.cpp takes for granted of Gemma 3: every sixth layer sees everything, the others turn by this base."""
SPLITTERS = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
}
"""How text is cut before merging, as a regular expression, and what llama.cpp calls it."""


def write_gguf(
    file: Path,
    *,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    numbers: GgufNumbers = "f16",
    watch: Callable[[int, int], None] | None = None,
) -> None:
    """Write a network with its tokenizer; `watch` is called with tensors done and in all, what it raises ends the writing.

    Matrices are stored as `numbers`, vectors in fp32. Raises InvalidInput, in words, for a family, a variant of one, or a tokenizer that
    a GGUF file can't say or nobody could check.
    """
    config = network.config
    check_gguf(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        writer.add_name(name)
        writer.add_file_type(FILE_TYPES[numbers])
        _write_shape(writer, config)
        _write_tokenizer(writer, tokenizer, rows=int(config.vocab_size))
        tensors = list(_turned(network, architecture))
        for done, (label, tensor) in enumerate(tensors, 1):
            data, kind = _stored(tensor, numbers)
            writer.add_tensor(label, data, raw_dtype=kind)
            if watch is not None:
                watch(done, len(tensors))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


SWISH = ("silu", "swish")
ACTIVATIONS = {"gpt2": ("gelu_new", "gelu_pytorch_tanh"), "gemma3_text": ("gelu_pytorch_tanh",)}
"""What llama.cpp computes in a family's feed-forward, by transformers' names; `SWISH` where a family is not named."""


def check_gguf(config: Any) -> None:
    """Raise InvalidInput unless a GGUF file can hold a network of this transformers config."""
    if (refusal := gguf_refusal(config.model_type)) is not None:
        raise InvalidInput(refusal, remedy="Export it as a folder instead; llama.cpp's own converter reads that.", field="format")
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    stretched = next((part["rope_type"] for part in parts if part.get("rope_type", "default") != "default"), None)
    window = getattr(config, "sliding_window", None)
    problem = None
    if stretched is not None:
        problem = f"its rotary positions are stretched ({stretched})"
    elif config.model_type == "mistral" and window and window < config.max_position_embeddings:
        problem = f"llama.cpp's Llama knows no window, and this one is {window} tokens"
    elif config.model_type == "gemma3_text":
        kinds = ["full_attention" if (layer + 1) % GEMMA_PERIOD == 0 else "sliding_attention" for layer in range(config.num_hidden_layers)]
        local = rope.get("sliding_attention", {}).get("rope_theta", GEMMA_LOCAL_BASE)
        if list(config.layer_types) != kinds or local != GEMMA_LOCAL_BASE:
            problem = f"llama.cpp's Gemma 3 sees everything in each layer of {GEMMA_PERIOD}, the others turn by {GEMMA_LOCAL_BASE:,.0f}, and this one differs"
        elif config.query_pre_attn_scalar != config.head_dim:
            problem = f"llama.cpp divides Gemma 3's scores by the root of {config.head_dim}, and this one by that of {config.query_pre_attn_scalar}"
    elif config.model_type == "qwen3_moe" and (config.mlp_only_layers or config.decoder_sparse_step != 1 or not config.norm_topk_prob):
        problem = "llama.cpp's Qwen3-MoE has experts in every layer, whose shares add up to 1"
    problem = problem or _unusual_part(config, rope)
    if problem is not None:
        raise InvalidInput(f"This network can't be written as GGUF: {problem}.", remedy="Export it as a folder instead.", field="format")


def _unusual_part(config: Any, rope: dict[str, Any]) -> str | None:
    """Say what llama.cpp would compute otherwise without a word, as its files have no field for it; None where there is nothing."""
    activation = (
        getattr(config, "activation_function", None) or getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    )
    usual = ACTIVATIONS.get(config.model_type, SWISH)
    if activation not in usual:
        return f"llama.cpp's {config.model_type} has the activation {usual[0]}, and this one {activation}"
    if float(rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None) or 1.0)) != 1.0:
        return "only a part of its heads is turned by the position"
    if config.model_type.startswith("qwen") and getattr(config, "use_sliding_window", False):
        return "llama.cpp's Qwen knows no window, and this one has one"
    if config.model_type == "gpt2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        return "its attention is scaled in a way of its own"
    return None


def _write_shape(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(rope.get("full_attention", rope)["rope_theta"]))
    writer.add_key_length(head)
    writer.add_value_length(head)
    if config.model_type in ("llama", "mistral"):
        writer.add_rope_dimension_count(head)
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(config.sliding_window)
    if config.model_type == "qwen3_moe":
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _turned(network: PreTrainedModel, architecture: gguf.MODEL_ARCH) -> Tensors:
    """Yield every tensor by its name in GGUF, in the layout that llama.cpp keeps it in."""
    config = network.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    for name, tensor in network.state_dict().items():
        if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")) or (tied and name == "lm_head.weight"):
            continue
        for own, part in _layout(config, name, tensor.detach().float().cpu()):
            label = names.get_name(own, try_suffixes=(".weight", ".bias"))
            if label is None:
                raise InvalidInput(f"The tensor {name} has no name in GGUF.", remedy="Export it as a folder instead.", field="format")
            yield label, part


def _layout(config: Any, name: str, tensor: torch.Tensor) -> Tensors:
    family = config.model_type
    if family in ("llama", "mistral") and (".q_proj." in name or ".k_proj." in name):
        heads = config.num_attention_heads if ".q_proj." in name else config.num_key_value_heads
        half = tensor.shape[0] // heads // 2
        yield name, tensor.reshape(heads, 2, half, *tensor.shape[1:]).transpose(1, 2).reshape(tensor.shape)
    elif family == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        yield name, tensor.T
    elif family == "gemma3_text" and name.endswith("norm.weight"):
        yield name, tensor + 1
    elif name.endswith("experts.gate_up_proj"):
        gate, up = tensor.chunk(2, dim=1)
        stem = name.removesuffix("gate_up_proj")
        yield f"{stem}gate_proj.weight", gate
        yield f"{stem}up_proj.weight", up
    elif name.endswith("experts.down_proj"):
        yield f"{name}.weight", tensor
    else:
        yield name, tensor


def _stored(tensor: torch.Tensor, numbers: GgufNumbers) -> tuple[Array, gguf.GGMLQuantizationType]:
    data: Array = tensor.contiguous().numpy()
    kinds = gguf.GGMLQuantizationType
    if tensor.dim() < 2 or numbers == "f32":
        return data, kinds.F32
    if numbers == "q8_0" and data.shape[-1] % 32 == 0:
        return gguf.quants.quantize(data, kinds.Q8_0), kinds.Q8_0
    if np.abs(data).max(initial=0) > np.finfo(np.float16).max:
        return data, kinds.F32
    return data.astype(np.float16), kinds.F16


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, *, rows: int) -> None:
    """Write a byte-level BPE tokenizer; what the network has more rows than tokens is filled up with tokens that nobody writes."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {int(entry["id"]): bool(entry["special"]) for entry in described["added_tokens"]}
    words = {index: token for token, index in tokenizer.get_vocab().items()}
    kinds = [
        (gguf.TokenType.CONTROL if added[index] else gguf.TokenType.USER_DEFINED)
        if index in added
        else (gguf.TokenType.NORMAL if index in words else gguf.TokenType.UNUSED)
        for index in range(rows)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitter(described))
    writer.add_token_list([words.get(index, f"[PAD{index}]") for index in range(rows)])
    writer.add_token_types(kinds)
    merges = described["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in merges])
    for token, add in (
        (tokenizer.bos_token_id, writer.add_bos_token_id),
        (tokenizer.eos_token_id, writer.add_eos_token_id),
        (tokenizer.pad_token_id, writer.add_pad_token_id),
        (tokenizer.unk_token_id, writer.add_unk_token_id),
    ):
        if token is not None:
            add(int(token))
    writer.add_add_bos_token(tokenizer.encode("a")[:1] == [tokenizer.bos_token_id])
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _splitter(described: dict[str, Any]) -> str:
    """Return llama.cpp's name of how a tokenizer cuts text into words. Raises InvalidInput for a kind or a cut that it does not know."""
    before = described.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers") or [before]
    byte_level = next((step for step in steps if step.get("type") == "ByteLevel"), None)
    if described["model"]["type"] != "BPE" or byte_level is None:
        raise InvalidInput(
            f"This tokenizer is {described['model']['type']}, and only byte-level BPE can be written as GGUF here.",
            remedy="Export it as a folder instead; llama.cpp's own converter reads that.",
            field="format",
        )
    splits = [step for step in steps if step is not byte_level]
    if not splits and byte_level.get("use_regex", True):
        return "gpt-2"
    if len(splits) == 1 and splits[0].get("type") == "Digits" and splits[0].get("individual_digits") and byte_level.get("use_regex", True):
        return "smollm"
    pattern = splits[0].get("pattern", {}).get("Regex") if len(splits) == 1 and splits[0].get("type") == "Split" else None
    if pattern in SPLITTERS:
        return SPLITTERS[pattern]
    raise InvalidInput(
        "This tokenizer cuts text in a way that llama.cpp has no name for, or that is not known here.",
        remedy="Export it as a folder instead; llama.cpp's own converter knows more.",
        field="format",
    )
