"""GGUF files of llama.cpp: write a checkpoint as one file (weights, tokenizer and chat template), with matrices in
fewer bits, and convert a file to a checkpoint folder.

Supports the families whose files transformers reads back, so that exports are tested against the network. Tensor names
come from the gguf library's tables; weights that llama.cpp stores in another layout are permuted as its converter
does. Matrices are quantised by llama.cpp's own code in the library of xllamacpp, in the formats that its
`llama-quantize` mixes.
"""

from __future__ import annotations

import ctypes
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import psutil
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from backend.domain.checkpoints.export_formats import NO_GGUF_CURE, GgufNumbers, gguf_refusal, gguf_tokenizer_refusal
from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput, JobFailed, Unavailable
from backend.infra.checkpoints.candidates import GGUF, MAX_FP32_PARAMETERS, converted_bytes
from backend.infra.checkpoints.weight_headers import read_gguf
from backend.infra.engines import INSTALLATIONS
from jobs.modeling.chat import ensure_template
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.copying import copy_file
from jobs.modeling.devices import is_out_of_memory
from jobs.modeling.kv_shape import read_kv_shape
from jobs.modeling.tokenizers import piece_form
from jobs.modeling.unusable import is_unusable, one_line

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
    if (refusal := gguf_tokenizer_refusal(described)) is not None:
        raise InvalidInput(refusal, remedy=NO_GGUF_CURE, field="format")
    before = described.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers") or [before]
    byte_level = next(step for step in steps if step.get("type") == "ByteLevel")
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


Array = npt.NDArray[Any]
KINDS: dict[GgufNumbers, Kind] = {
    "f32": Kind.F32,
    "f16": Kind.F16,
    "bf16": Kind.BF16,
    "q8_0": Kind.Q8_0,
    "q6_k": Kind.Q6_K,
    "q5_k_m": Kind.Q5_K,
    "q4_k_m": Kind.Q4_K,
    "q4_0": Kind.Q4_0,
}
"""Format of most matrices of a file."""
OWN = (Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0)
"""Formats that need no llama.cpp."""
SMALLER_BLOCKS = {Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0}
"""Format in place of one whose blocks of 256 numbers don't divide a row."""
MORE_BITS = (".attn_v.", ".attn_qkv.", ".ffn_down")
"""Matrices that get more bits in a third of the layers and at both ends."""
WHOLE = ("position_embd.weight", "ffn_gate_inp.weight")
"""Matrices that are not quantised: positions, and the router of experts."""


def choose_quantisation(label: str, numbers: GgufNumbers, *, columns: int, num_layers: int, output: str) -> Kind:
    """Return the format of a matrix by its name in GGUF; `output` is the name of the one that gives the logits."""
    kind = KINDS[numbers]
    if not numbers.startswith("q"):
        return kind
    if label.endswith(WHOLE):
        return Kind.F32
    if numbers != "q8_0" and label == output:
        kind = Kind.Q6_K
    elif numbers in ("q4_k_m", "q5_k_m") and any(part in label for part in MORE_BITS):
        layer, first = int(label.split(".")[1]), num_layers // 8
        if layer < first or layer >= 7 * num_layers // 8 or (layer - first) % 3 == 2:
            kind = Kind.Q6_K
    for smaller in (SMALLER_BLOCKS.get(kind, Kind.F16), Kind.F16):
        if columns % gguf.GGML_QUANT_SIZES[kind][0]:
            kind = smaller
    return kind


def quantise(data: Array, kind: Kind) -> Array:
    """Return a matrix of float32 in a format. Raises Unavailable where that needs llama.cpp and it is not installed."""
    if kind in OWN:
        converted: Array = gguf.quants.quantize(data, kind)
        return converted
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    rows = np.ascontiguousarray(data, dtype=np.float32).reshape(-1, data.shape[-1])
    result = np.empty((*data.shape[:-1], data.shape[-1] // block * block_bytes), np.uint8)
    _library(kind.name).ggml_quantize_chunk(int(kind), rows.ctypes.data, result.ctypes.data, 0, *rows.shape, None)
    return result


def check_installed(numbers: GgufNumbers) -> None:
    """Raise Unavailable where a file of these numbers needs llama.cpp and it is not installed."""
    if KINDS[numbers] not in OWN:
        _library(numbers)


@cache
def _library(name: str) -> Any:
    """Return xllamacpp's library. Raises Unavailable where it is not installed or does not name its quantiser."""
    try:
        from xllamacpp import xllamacpp

        loaded = ctypes.CDLL(xllamacpp.__file__)
        size, address = ctypes.c_int64, ctypes.c_void_p
        loaded.ggml_quantize_chunk.argtypes = [ctypes.c_int, address, address, size, size, size, address]
        loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    except (ImportError, OSError, AttributeError) as error:
        raise Unavailable(
            f"{name} is written by llama.cpp's code in the package xllamacpp, which is missing: {error}.",
            remedy=f"On each machine whose worker exports: {INSTALLATIONS['llama.cpp'].remedy}. Or choose q8_0.",
            field="numbers",
        ) from error
    return loaded


def convert_gguf(
    file: Path,
    out_folder: Path,
    *,
    meta: Mapping[str, object] | None = None,
    move: bool = False,
    keep_free_bytes: int = 0,
) -> dict[str, object]:
    """Convert a GGUF file to a Hugging Face checkpoint that holds the file, too; return its card. With `move` the file
    is hard-linked if possible.

    Generation stops at the tokenizer's end token, which for a chat network ends a turn. Raises InvalidInput if the file
    is not GGUF, is damaged, or of an architecture that transformers can't dequantise; JobFailed if memory or disk are
    too small.
    """
    own_bytes = 0 if move else file.stat().st_size
    _check_room(file.name, read_gguf(file).parameters, out_folder, own_bytes=own_bytes, keep_free_bytes=keep_free_bytes)
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(file.parent), gguf_file=file.name, trust_remote_code=False, local_files_only=True
        )
        network = read_network(file)
    except BaseException as error:  # a panic of the tokenizers' library is not an Exception
        if not is_unusable(error) or is_out_of_memory(error):
            raise
        raise InvalidInput(
            f"{file.name} can't be converted: {one_line(error)}",
            remedy="Add the original checkpoint (safetensors) instead.",
        ) from error
    # left in, this entry would make every later load read the GGUF file again
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.is_quantized = False
    network.hf_quantizer = None
    if tokenizer.eos_token_id is not None:
        network.config.eos_token_id = tokenizer.eos_token_id
        network.generation_config.eos_token_id = tokenizer.eos_token_id
    ensure_template(tokenizer)
    _name_turn_ends(network, tokenizer)
    tokenizer.model_max_length = getattr(network.config, "max_position_embeddings", tokenizer.model_max_length)
    if network.num_parameters() > MAX_FP32_PARAMETERS:
        network = network.to(torch.bfloat16)
    return save_checkpoint(
        out_folder,
        model=network,
        tokenizer=tokenizer,
        meta={**(meta or {}), "converted_from": file.name},
        write_more=lambda folder: copy_file(file, folder / GGUF, move=move),
    )


def read_network(file: Path) -> Any:
    """Return the network of a GGUF file, its weights in float32."""
    return AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=torch.float32, trust_remote_code=False, local_files_only=True
    ).eval()


def _check_room(name: str, parameters: int, out_folder: Path, *, own_bytes: int, keep_free_bytes: int) -> None:
    """Raise JobFailed if memory or disk are too small for the dequantised network and a copy of the file."""
    memory, available = 4.5 * parameters, psutil.virtual_memory().available
    if memory > available:
        raise JobFailed(
            f"Converting {name} takes about {memory / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are free.",
            remedy="Add the original checkpoint (safetensors) instead, or use a machine with more memory.",
        )
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    size = own_bytes + converted_bytes(parameters)
    free = shutil.disk_usage(out_folder.parent).free
    if free - size < keep_free_bytes:
        raise JobFailed(
            f"The disk has {free / 1e9:.2f} GB free, and the checkpoint needs {size / 1e9:.2f} GB.",
            remedy="Free space and try again.",
        )


def _name_turn_ends(network: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Add the token with which the chat template ends a turn to the end tokens of generation."""
    ends = set(re.findall(r"<\|(?:im_end|eot_id|end|end_of_turn)\|>|<end_of_turn>", tokenizer.chat_template or ""))
    vocabulary = tokenizer.get_vocab()
    known = {vocabulary[token] for token in ends if token in vocabulary}
    stops = {tokenizer.eos_token_id, *known} - {None}
    if len(stops) > 1:
        network.generation_config.eos_token_id = sorted(stops)
