"""Convert a GGUF file to a checkpoint folder: weights dequantised to safetensors, with tokenizer and chat template, and
the file itself.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from backend.errors import InvalidInput, JobFailed
from backend.infra.checkpoints.candidates import GGUF, MAX_FP32_PARAMETERS, converted_bytes
from backend.infra.checkpoints.weight_headers import read_gguf
from jobs.modeling.chat.render import ensure_template
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.copying import copy_file
from jobs.modeling.memory_errors import is_out_of_memory
from jobs.modeling.unusable import is_unusable, one_line


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
