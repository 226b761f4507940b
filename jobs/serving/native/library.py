"""Arithmetic of decoder layers in C++, compiled when the first replica starts: for few tokens, operators cost more to
call than to compute.

Without a compiler, or where it fails, torch's operators compute the same.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import platform
import shutil
import subprocess
import tempfile
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

logger = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("decoder.cpp")
SOURCES = (SOURCE, Path(__file__).with_name("products.h"))
# Without its start files, fast arithmetic does not change how torch treats tiny numbers on the same thread.
ARITHMETIC = ("-ffast-math", "-fno-associative-math", "-ffp-contract=off")
FLAGS = ("-std=c++17", "-O3", "-march=native", *ARITHMETIC, "-fopenmp", "-fPIC", "-shared", "-nostartfiles")
COMPILE_S = 120.0
TRIALS, RETRY = 5, 256
MEASURED_ROWS = 16  # more rows are a prompt's, for which more threads are always faster
CACHE = Path("~/.cache/roundhouse").expanduser()
STEP, GROUP = 16, 4  # a product's inputs are a multiple of the one, its outputs no fewer than the other
FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}


class Matrix(ctypes.Structure):
    """Addresses of a product's weights [outputs, inputs] in one of FORMATS, of their `scale` [outputs] in int8, and of
    the bias or 0.
    """

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("format", ctypes.c_int64),
    )


class Layer(ctypes.Structure):
    """One decoder layer; see decoder.cpp."""

    _fields_ = (
        *((name, Matrix) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "after_norm", "head_norm")),
        *((name, ctypes.c_float) for name in ("norm_eps", "head_eps", "attention_scale")),
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "channels", "page_tokens")),
    )


class Pair(ctypes.Structure):
    """Addresses of one product's change by an adapter: A [rank, inputs] and B [outputs, rank], the rank a multiple of
    STEP or 0.
    """

    _fields_ = (("down", ctypes.c_void_p), ("up", ctypes.c_void_p), ("rank", ctypes.c_int64))


class Change(ctypes.Structure):
    """The rows from `begin` to `end`, and the address of their adapter's four pairs for a layer."""

    _fields_ = (("begin", ctypes.c_int64), ("end", ctypes.c_int64), ("pairs", ctypes.c_void_p))


class Batch(ctypes.Structure):
    """The rows of a step; see decoder.cpp."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("requests", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "rotation",
                "write",
                "first_row",
                "pages",
                "first_page",
                "num_keys",
                "keys",
                "values",
                "changes",
            )
        ),
        ("num_changes", ctypes.c_int64),
        ("rotation_size", ctypes.c_int64),
    )


class ThreadChoice:
    """Chooses between one thread and the number allowed, by the seconds that calls like the coming one took.

    More threads can be slower: where others work on their cores, every product waits for the thread that comes last.
    Results are the same bits with any number. Both are tried `TRIALS` times in turns; then the one with the lower
    median of its last trials is used, and each `RETRY`-th call tries the other.
    """

    def __init__(self) -> None:
        self._calls: Counter[Hashable] = Counter()
        self._seconds: dict[tuple[Hashable, int], deque[float]] = {}

    def pick(self, kind: Hashable, allowed: int) -> int:
        """Return the number of threads for a call of a kind."""
        self._calls[kind] += 1
        one, many = (self._seconds.setdefault((kind, threads), deque(maxlen=TRIALS)) for threads in (1, allowed))
        if min(len(one), len(many)) < TRIALS:
            return allowed if len(many) <= len(one) else 1
        faster, other = (1, allowed) if median(one) < median(many) else (allowed, 1)
        return other if self._calls[kind] % RETRY == 0 else faster

    def note(self, kind: Hashable, threads: int, seconds: float) -> None:
        """Note what a call took."""
        self._seconds[kind, threads].append(seconds)


class Library:
    """The compiled functions."""

    def __init__(self, path: Path) -> None:
        self._threads = ThreadChoice()
        loaded = ctypes.CDLL(str(path))
        self._multiply, self._compute = loaded.multiply_rows, loaded.compute_layers
        self._multiply.argtypes = (
            ctypes.c_void_p,
            ctypes.c_int64,
            ctypes.POINTER(Matrix),
            ctypes.c_void_p,
            ctypes.c_int,
        )
        self._compute.argtypes = (
            ctypes.POINTER(Layer),
            ctypes.POINTER(Batch),
            ctypes.c_int64,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_int,
        )
        self._multiply.restype, self._compute.restype = None, ctypes.c_int
        self.formats_of_16_bits = (torch.bfloat16, torch.float16) if loaded.reads_float16() else (torch.bfloat16,)

    def multiply(self, inputs: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """Return float32 `inputs` [rows, in] times a matrix [rows, out]."""
        inputs = inputs.contiguous()
        rows, outputs = len(inputs), matrix.outputs
        result = torch.empty(rows, outputs)
        with self._measured(rows, (outputs, matrix.inputs)) as threads:
            self._multiply(inputs.data_ptr(), rows, matrix, result.data_ptr(), threads)
        return result

    @contextmanager
    def _measured(self, rows: int, work: Hashable) -> Iterator[int]:
        """Lend the number of threads for a call, and note what it takes."""
        allowed = torch.get_num_threads()
        if allowed == 1 or rows >= MEASURED_ROWS:
            yield allowed
            return
        kind = work, rows.bit_length()
        threads = self._threads.pick(kind, allowed)
        began = time.perf_counter()
        yield threads
        self._threads.note(kind, threads, time.perf_counter() - began)

    def compute(self, layers: ctypes.Array[Layer], batches: ctypes.Array[Batch], rows: torch.Tensor) -> torch.Tensor:
        """Return the hidden states [rows, hidden] behind consecutive layers, and write the rows' keys and values into
        their pages. A batch for each layer has that layer's pages and changes.

        Raises ValueError for a rotation of another size.
        """
        rows = rows.contiguous()
        result = torch.empty_like(rows)
        with self._measured(len(rows), len(layers)) as threads:
            failed = self._compute(layers, batches, len(layers), rows.data_ptr(), result.data_ptr(), threads)
        if failed:
            batch = batches[0]
            raise ValueError(
                f"{batch.rows} rows of {layers[0].channels} channels need more than {batch.rotation_size} numbers of"
                " rotation"
            )
        return result

    def __deepcopy__(self, memo: object) -> Library:
        """Return the same library."""
        del memo
        return self


class FloatWeights(nn.Linear):
    """A linear layer in float32 whose rows do not depend on each other, over the weights of another one."""

    def __init__(self, layer: nn.Linear, library: Library) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias, self._library = layer.weight, layer.bias, library

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs` [..., in] times the weights [..., out]."""
        return _multiply(inputs, self, self._library)


class ShortWeights(nn.Module):
    """A linear layer with weights of 16 bits (bfloat16 or float16) and activations of 32, which it sums as FloatWeights
    does.
    """

    weight: torch.Tensor
    scale: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, library: Library, *, scale: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._library = library
        self.register_buffer("scale", scale)  # buffers: a network takes its type of numbers from its parameters
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return `inputs` [..., in] times the weights [..., out]."""
        return _multiply(inputs, self, self._library)


class Int8Weights(ShortWeights):
    """A linear layer with weights of 8 bits, one scale per output, and activations of 15 bits, one scale per token."""

    scale: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, library: Library) -> None:
        scale, rounded = _quantise(weight)
        super().__init__(rounded, bias, library, scale=scale)


def _multiply(inputs: torch.Tensor, layer: Any, library: Library) -> torch.Tensor:
    result = library.multiply(inputs.reshape(-1, layer.in_features), matrix_of(layer))
    return result.view(*inputs.shape[:-1], layer.out_features)


def _quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scales [out] and int8 weights [out, in]; for a weight on torch's meta device, where arithmetic takes long,
    tensors there.
    """
    if weight.is_meta:
        return weight.new_empty(len(weight)), torch.empty_like(weight, dtype=torch.int8)
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    return scale.contiguous(), (weight / scale.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8).contiguous()


def matrix_of(layer: Any) -> Matrix:
    """Return the addresses of a linear layer's weights, which must stay in memory."""
    scale, bias = getattr(layer, "scale", None), layer.bias
    weight: torch.Tensor = layer.weight
    return Matrix(
        weight.data_ptr(), _address(scale), _address(bias), layer.out_features, layer.in_features, FORMATS[weight.dtype]
    )


def is_native(layer: nn.Module) -> bool:
    """Return whether a linear layer can be computed by the library."""
    if isinstance(layer, ShortWeights):
        return True
    if not isinstance(layer, nn.Linear) or type(layer) not in (nn.Linear, FloatWeights):
        return False
    if layer.in_features % STEP or layer.out_features < GROUP:
        return False
    return (
        layer.weight.dtype is torch.float32
        and layer.weight.device.type in ("cpu", "meta")
        and layer.weight.is_contiguous()
    )


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def compile_library(cache: Path = CACHE) -> Library | None:
    """Return the library, compiled for this processor or found in a folder of such; None without a C++ compiler or
    where it fails.
    """
    path = cache / f"decoder-{_fingerprint()}.so"
    try:
        if path.is_file():
            return Library(path)
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            logger.warning("There is no C++ compiler: decoder layers run operator by operator, more slowly.")
            return None
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            compiled = Path(folder) / path.name
            command = [compiler, *FLAGS, "-o", str(compiled), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_S)
            compiled.replace(path)
        return Library(path)
    except (subprocess.SubprocessError, OSError) as error:
        logger.warning("Decoder layers run operator by operator: %s %s", error, getattr(error, "stderr", "") or "")
        return None


def _fingerprint() -> str:
    """Return what the library depends on, as a hash: homes may be shared by machines with different processors."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    processor = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    parts = (*(source.read_text(encoding="utf-8") for source in SOURCES), *FLAGS, platform.machine(), processor)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
