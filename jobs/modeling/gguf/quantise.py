"""Quantise matrices of a GGUF file as llama.cpp does: its code in the library of xllamacpp, and the formats that its
`llama-quantize` mixes.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Kind

from backend.domain.checkpoints.export_formats import GgufNumbers
from backend.errors import Unavailable
from backend.infra.engines import INSTALLATIONS

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
