"""Write a checkpoint as one GGUF file for llama.cpp: weights, tokenizer and chat template.

Supports the families whose files transformers reads back, so that exports are tested against the network. Tensor names
come from the gguf library's tables; weights that llama.cpp stores in another layout are permuted as its converter does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.checkpoints.export_formats import GgufNumbers, gguf_refusal
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput
from jobs.modeling.copying import copy_file
from jobs.modeling.gguf.quantise import choose_quantisation, quantise
from jobs.modeling.kv_shape import read_kv_shape
from jobs.modeling.tokenizers import piece_form

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
"""GGUF architecture of each transformers model type."""
GEMMA_PERIOD, GEMMA_LOCAL_BASE = 6, 10_000.0
"""llama.cpp's fixed values for Gemma 3: full attention in every sixth layer, and the RoPE base of the other layers."""
_WORDS_LIKE_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST_LIKE_GPT4 = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITTERS = {
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt-2",
    _WORDS_LIKE_GPT4 + r"\p{N}{1,3}" + _REST_LIKE_GPT4: "llama-bpe",
    _WORDS_LIKE_GPT4 + r"\p{N}" + _REST_LIKE_GPT4: "qwen2",
}
"""Pre-tokenisation patterns and their names in llama.cpp."""


def write_gguf(
    file: Path,
    *,
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    numbers: GgufNumbers = "f16",
    watch: Callable[[int, int], None] | None = None,
    gets_text: bool = True,
) -> None:
    """Write a network with its tokenizer; `watch` is called with tensors written and the total, and an exception from
    it ends the export.

    Matrices are stored as `numbers`, mixed with other formats as llama.cpp does, vectors in fp32. With `gets_text`
    False the reader gets and gives token ids alone: the rule by which text is split before BPE may be any, and tokens
    that end within a character have no text, as llama.cpp's server withholds a token until the text so far is whole,
    and then gives the last one's id alone. Raises InvalidInput for a family, a variant or a tokenizer that GGUF can't
    represent or that can't be tested, and Unavailable for numbers that need llama.cpp where it is missing.
    """
    config = network.config
    check_gguf(config)
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    try:
        writer.add_name(name)
        writer.add_file_type(gguf.LlamaFileType["ALL_F32" if numbers == "f32" else f"MOSTLY_{numbers.upper()}"])
        _write_shape(writer, config)
        _write_tokenizer(writer, tokenizer, rows=int(config.vocab_size), gets_text=gets_text)
        tensors = list(_converted_tensors(network, architecture))
        output = next((label for label, _ in tensors if label == "output.weight"), "token_embd.weight")
        for done, (label, tensor) in enumerate(tensors, 1):
            data, kind = tensor.contiguous().numpy(), gguf.GGMLQuantizationType.F32
            if tensor.dim() > 1:
                kind = choose_quantisation(
                    label, numbers, columns=data.shape[-1], num_layers=config.num_hidden_layers, output=output
                )
            if kind == gguf.GGMLQuantizationType.F16 and np.abs(data).max(initial=0) > np.finfo(np.float16).max:
                kind = gguf.GGMLQuantizationType.F32
            writer.add_tensor(label, quantise(data, kind), raw_dtype=kind)
            if watch is not None:
                watch(done, len(tensors))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


SWISH = ("silu", "swish")
ACTIVATIONS = {"gpt2": ("gelu_new", "gelu_pytorch_tanh"), "gemma3_text": ("gelu_pytorch_tanh",)}
"""llama.cpp's activation of each family, by transformers' names; `SWISH` for all others."""


def check_gguf(config: Any) -> None:
    """Raise InvalidInput unless GGUF can represent a network of this transformers config."""
    if (refusal := gguf_refusal(config.model_type)) is not None:
        raise InvalidInput(
            refusal, remedy="Export it as a folder instead; llama.cpp's own converter reads that.", field="format"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    scaling = next((part["rope_type"] for part in parts if part.get("rope_type", "default") != "default"), None)
    window = getattr(config, "sliding_window", None)
    problem = None
    if scaling is not None:
        problem = f"its RoPE is scaled ({scaling})"
    elif config.model_type == "mistral" and window and window < config.max_position_embeddings:
        problem = f"llama.cpp's Llama has no sliding window, and this model has one of {window} tokens"
    elif config.model_type == "gemma3_text":
        kinds = [
            "full_attention" if (layer + 1) % GEMMA_PERIOD == 0 else "sliding_attention"
            for layer in range(config.num_hidden_layers)
        ]
        local = rope.get("sliding_attention", {}).get("rope_theta", GEMMA_LOCAL_BASE)
        if list(config.layer_types) != kinds or local != GEMMA_LOCAL_BASE:
            problem = (
                f"llama.cpp's Gemma 3 has full attention in every {GEMMA_PERIOD}th layer and RoPE base"
                f" {GEMMA_LOCAL_BASE:,.0f} in the others, and this model differs"
            )
        elif config.query_pre_attn_scalar != config.head_dim:
            problem = (
                f"llama.cpp scales Gemma 3's attention by the square root of {config.head_dim}, "
                f"and this model by that of {config.query_pre_attn_scalar}"
            )
    elif config.model_type == "qwen3_moe" and (
        config.mlp_only_layers or config.decoder_sparse_step != 1 or not config.norm_topk_prob
    ):
        problem = "llama.cpp's Qwen3-MoE has experts in every layer, with normalised weights"
    problem = problem or _unusual_part(config, rope)
    if problem is not None:
        raise InvalidInput(
            f"This model can't be written as GGUF: {problem}.",
            remedy="Export it as a folder instead.",
            field="format",
        )


def _unusual_part(config: Any, rope: JsonObject) -> str | None:
    """Describe what llama.cpp would silently compute differently, as GGUF has no field for it; None if nothing."""
    activation = (
        getattr(config, "activation_function", None)
        or getattr(config, "hidden_activation", None)
        or getattr(config, "hidden_act", None)
    )
    usual = ACTIVATIONS.get(config.model_type, SWISH)
    if activation not in usual:
        return f"llama.cpp's {config.model_type} has activation {usual[0]}, and this model has {activation}"
    if float(rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None) or 1.0)) != 1.0:
        return "its RoPE covers only part of each head"
    if config.model_type.startswith("qwen") and getattr(config, "use_sliding_window", False):
        return "llama.cpp's Qwen has no sliding window, and this model has one"
    if config.model_type == "gpt2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        return "its attention has a non-standard scale"
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
    head = read_kv_shape(config).head_size
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


def _converted_tensors(network: PreTrainedModel, architecture: gguf.MODEL_ARCH) -> Tensors:
    """Yield every tensor by its name in GGUF, in llama.cpp's layout."""
    config = network.config
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = network.get_output_embeddings().weight is network.get_input_embeddings().weight
    for name, tensor in network.state_dict().items():
        if name.endswith((".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")) or (
            tied and name == "lm_head.weight"
        ):
            continue
        for own, part in _layout(config, name, tensor.detach().float().cpu()):
            label = names.get_name(own, try_suffixes=(".weight", ".bias"))
            if label is None:
                raise InvalidInput(
                    f"The tensor {name} has no name in GGUF.", remedy="Export it as a folder instead.", field="format"
                )
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


def _write_tokenizer(
    writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, *, rows: int, gets_text: bool
) -> None:
    """Write a byte-level BPE tokenizer, padded with unused tokens to the network's vocabulary."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    added = {int(entry["id"]): bool(entry["special"]) for entry in described["added_tokens"]}
    words = {index: token for token, index in tokenizer.get_vocab().items()}
    silent = set() if gets_text else _part_tokens(tokenizer)
    kinds = [
        (
            (gguf.TokenType.CONTROL if added.get(index, True) else gguf.TokenType.USER_DEFINED)
            if index in added or index in silent
            else (gguf.TokenType.NORMAL if index in words else gguf.TokenType.UNUSED)
        )
        for index in range(rows)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_splitter(described, gets_text=gets_text))
    writer.add_token_list([words.get(index, f"[PAD{index}]") for index in range(rows)])
    writer.add_token_types(kinds)
    merges = described["model"]["merges"]
    joined = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
    # llama.cpp reads no file without merges; one whose result is not a token changes nothing
    writer.add_token_merges(joined or [f"{words[0]} {words[0]}"])
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


def _part_tokens(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the tokens that end within a character."""
    form = piece_form(tokenizer)
    return {index for piece, index in tokenizer.get_vocab().items() if _ends_within_character(form.bytes_of(piece))}


def copy_for_token_ids(file: Path, target: Path, *, tokenizer: PreTrainedTokenizerBase) -> None:
    """Copy a GGUF file for a reader that gets and gives token ids: the same tensors, and no text for tokens that end
    within a character (see `write_gguf`). Raises InvalidInput for a file without kinds of tokens.
    """
    copy_file(file, target)
    reader = gguf.GGUFReader(target, "r+")
    kinds = reader.get_field(gguf.Keys.Tokenizer.TOKEN_TYPE)
    if kinds is None or kinds.types != [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.INT32]:
        raise InvalidInput(
            f"{file.name} has no list of the kinds of tokens ({gguf.Keys.Tokenizer.TOKEN_TYPE}).",
            remedy="Convert it again with llama.cpp's converter, or deploy with engine roundhouse.",
            field="engine",
        )
    for index in _part_tokens(tokenizer):
        if index < len(kinds.data):
            kinds.parts[kinds.data[index]][0] = gguf.TokenType.CONTROL
    reader.data.flush()


def _ends_within_character(text: bytes) -> bool:
    """Return whether UTF-8 needs more bytes at the end of a text, as llama.cpp's server judges."""
    for back, byte in enumerate(reversed(text[-4:]), 1):
        if byte & 0xC0 != 0x80:
            return (1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) > back
    return False


def _splitter(described: JsonObject, *, gets_text: bool) -> str:
    """Return llama.cpp's name of a tokenizer's pre-tokenisation. Raises InvalidInput for an unknown kind, and for an
    unknown pattern where text is split by it.
    """
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
    if not gets_text:
        return "gpt-2"
    if not splits and byte_level.get("use_regex", True):
        return "gpt-2"
    if (
        len(splits) == 1
        and splits[0].get("type") == "Digits"
        and splits[0].get("individual_digits")
        and byte_level.get("use_regex", True)
    ):
        return "smollm"
    pattern = (
        splits[0].get("pattern", {}).get("Regex") if len(splits) == 1 and splits[0].get("type") == "Split" else None
    )
    if pattern in SPLITTERS:
        return SPLITTERS[pattern]
    raise InvalidInput(
        "This tokenizer's pre-tokenisation is unknown here or has no name in llama.cpp.",
        remedy="Export it as a folder instead; llama.cpp's own converter knows more.",
        field="format",
    )
