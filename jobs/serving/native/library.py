"""Arithmetic of decoder layers in C++, compiled when the first replica starts: for few tokens, operators cost more to
call than to compute.

Without a compiler, or where it fails, torch's operators compute the same. A library whose structures differ from the
ones declared here is refused when it is loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
FLAGS = ("-std=c++17", "-O3", *ARITHMETIC, "-fPIC", "-shared", "-nostartfiles")
TARGETS = (("-march=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",))
"""Flags for this processor, tried in turn: Apple's compiler has no OpenMP, and its older versions know only `-mcpu`."""
COMPILE_S = 120.0
TRIALS, RETRY = 5, 256
MEASURED_ROWS = 16  # more rows are a prompt's, for which more threads are always faster
CACHE = Path("~/.cache/roundhouse").expanduser()
VERSION = 3
STEP, GROUP = 16, 4  # a product's inputs are a multiple of the one, its outputs no fewer than the other
FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.int8: 3}
DONE, SHORT_ROTATION, UNREADABLE, NO_MEMORY = range(4)
LOSSES = "decoder layers run operator by operator, and bfloat16 and drafts are refused"
"""What is lost without the library; docs/api.md states by how much steps are slower."""


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


class AdapterPair(ctypes.Structure):
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


class LayoutMismatch(RuntimeError):
    """A compiled library whose structures or constants differ from the ones declared here."""


class _Fact(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_int64))


def expected_facts() -> dict[str, int]:
    """Return sizes and offsets of the structures, and the constants, that both sides must have alike."""
    facts = {"version": VERSION, "STEP": STEP, "GROUP": GROUP, "DONE": DONE, "SHORT_ROTATION": SHORT_ROTATION}
    facts |= {"UNREADABLE": UNREADABLE, "NO_MEMORY": NO_MEMORY}
    facts |= {str(dtype).removeprefix("torch.").upper(): code for dtype, code in FORMATS.items()}
    for structure in (Matrix, Layer, AdapterPair, Change, Batch):
        facts[structure.__name__] = ctypes.sizeof(structure)
        for name, *_ in structure._fields_:
            facts[f"{structure.__name__}.{name}"] = getattr(structure, name).offset
    return facts


def _check_layout(loaded: ctypes.CDLL, path: Path) -> None:
    """Compare a library's facts with ours. Raises LayoutMismatch that names the first that differ."""
    try:
        loaded.library_facts.restype = ctypes.POINTER(_Fact)
    except AttributeError as error:
        raise LayoutMismatch(f"{path.name} does not state its structures.") from error
    stated: dict[str, int] = {}
    for fact in loaded.library_facts():
        if not fact.name:
            break
        stated[fact.name.decode()] = fact.value
    expected = expected_facts()
    differing = [name for name in {**expected, **stated} if expected.get(name) != stated.get(name)]
    if differing:
        values = ", ".join(f"{name} {stated.get(name)} for {expected.get(name)}" for name in differing[:3])
        raise LayoutMismatch(f"{path.name} has other structures than this version: {values}.")


class Library:
    """The compiled functions. Raises LayoutMismatch, and OSError for a file that is no library."""

    def __init__(self, path: Path) -> None:
        self._threads = ThreadChoice()
        loaded = ctypes.CDLL(str(path))
        _check_layout(loaded, path)
        self._multiply, self._compute = loaded.multiply_rows, loaded.compute_layers
        addresses = ctypes.c_void_p
        self._multiply.argtypes = (addresses, ctypes.c_int64, ctypes.POINTER(Matrix), addresses, ctypes.c_int)
        self._compute.argtypes = (
            ctypes.POINTER(Layer),
            ctypes.POINTER(Batch),
            ctypes.c_int64,
            addresses,
            addresses,
            ctypes.c_int,
        )
        self._multiply.restype = self._compute.restype = ctypes.c_int
        loaded.library_processor.restype = ctypes.c_char_p
        self.features: tuple[str, ...] = tuple(loaded.library_processor().decode().split())
        self.formats_of_16_bits = (torch.bfloat16, *((torch.float16,) if "F16C" in self.features else ()))

    @property
    def processor(self) -> str:
        """Return what it was compiled for: `x86_64 with AVX2, FMA, F16C, threads`."""
        return f"{platform.machine()}{' with ' if self.features else ''}{', '.join(self.features)}"

    def multiply(self, inputs: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """Return float32 `inputs` [rows, in] times a matrix [rows, out].

        Raises ValueError for inputs of another shape or type, and for a matrix that the library can't read.
        """
        if inputs.dtype is not torch.float32 or inputs.shape[1] != matrix.inputs:
            raise ValueError(f"{inputs.dtype} {tuple(inputs.shape)} is not float32 with {matrix.inputs} columns")
        inputs = inputs.contiguous()
        rows, outputs = len(inputs), matrix.outputs
        result = torch.empty(rows, outputs)
        with self._measured(rows, (outputs, matrix.inputs)) as threads:
            status = self._multiply(inputs.data_ptr(), rows, matrix, result.data_ptr(), threads)
        if status:
            raise _error(status, f"a matrix of {outputs} x {matrix.inputs} in format {matrix.format}")
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

        Raises ValueError for a rotation of another size and for a layer whose parts do not fit each other, before
        anything is read; MemoryError where there is no room for a step.
        """
        rows = rows.contiguous()
        result = torch.empty_like(rows)
        with self._measured(len(rows), len(layers)) as threads:
            status = self._compute(layers, batches, len(layers), rows.data_ptr(), result.data_ptr(), threads)
        if status == SHORT_ROTATION:
            batch = batches[0]
            raise ValueError(
                f"{batch.rows} rows of {layers[0].channels} channels need more than {batch.rotation_size} numbers of"
                " rotation"
            )
        if status:
            raise _error(status, f"layers of {layers[0].num_heads} heads with {layers[0].channels} channels")
        return result

    def __deepcopy__(self, memo: object) -> Library:
        """Return the same library."""
        return self


def _error(status: int, subject: str) -> Exception:
    if status == NO_MEMORY:
        return MemoryError(f"The compiled library has no memory for {subject}.")
    return ValueError(f"The compiled library can't read {subject}.")


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


@dataclass(frozen=True)
class Compiled:
    """The library, or None and the reason for it."""

    library: Library | None
    problem: str = ""


def compile_library(cache: Path = CACHE) -> Library | None:
    """Return the library for this processor; None without a C++ compiler or where it fails, which is logged."""
    compiled = try_library(cache)
    if compiled.library is None:
        logger.warning("There is no compiled library, so %s: %s", LOSSES, compiled.problem)
    return compiled.library


def try_library(cache: Path = CACHE) -> Compiled:
    """Return the library, compiled for this processor or found in a folder of such, or why there is none.

    A file there that can't be loaded, or that has other structures, is compiled again.
    """
    path = cache / f"decoder-{_fingerprint()}.so"
    problem = ""
    try:
        if path.is_file():
            try:
                return Compiled(Library(path))
            except (LayoutMismatch, OSError) as error:
                problem = str(error)
        compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            return Compiled(None, problem or "there is no C++ compiler.")
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            built = Path(folder) / path.name
            compile_to(compiler, built)
            library = Library(built)
            built.replace(path)
        return Compiled(library)
    except (LayoutMismatch, subprocess.SubprocessError, OSError) as error:
        return Compiled(None, f"{error} {getattr(error, 'stderr', '') or ''}".strip())


def compile_to(compiler: str, path: Path) -> None:
    """Compile the library with the first flags that a compiler takes. Raises the last attempt's error."""
    for target in TARGETS:
        command = [compiler, *FLAGS, *target, "-o", str(path), str(SOURCE)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_S)
            return
        except subprocess.SubprocessError as error:  # or it took too long
            failure = error
    raise failure


def _fingerprint() -> str:
    """Return what the library depends on, as a hash: homes may be shared by machines with different processors."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text(encoding="utf-8").splitlines() if cpu.is_file() else []
    processor = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    flags = (*FLAGS, *(flag for target in TARGETS for flag in target))
    parts = (*(source.read_text(encoding="utf-8") for source in SOURCES), *flags, platform.machine(), processor)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]


def main() -> None:
    """Write what the library was compiled for, or why there is none, as JSON."""
    compiled = try_library()
    processor = compiled.library.processor if compiled.library is not None else ""
    sys.stdout.write(json.dumps({"processor": processor, "problem": compiled.problem, "losses": LOSSES}) + "\n")


if __name__ == "__main__":
    main()
