"""Read the headers of safetensors and GGUF files. Loads no tensor. Counts and lengths in a header are untrusted, and
are checked against the file's size before use.
"""

from __future__ import annotations

import json
import math
import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput

MAX_HEADER_BYTES = 25_000_000
"""The Hub's own limit for safetensors."""
MAX_STRING_BYTES, MAX_ENTRIES, MAX_STRINGS = 16 * 2**20, 100_000, 4_000_000
MAX_SIZE = 2**48
"""Largest dimension of a tensor."""
BUFFERS = (".attn.bias", ".masked_bias", ".inv_freq", ".e_score_correction_bias")
"""Suffixes of stored tensors that are not parameters."""
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
FETCH_AGAIN = "Download the file again."
OTHER_QUANTISATION = "Add a file of another quantisation, such as Q4_K_M or Q8_0, or the original checkpoint."


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Return name -> tensor from the header of a safetensors file.

    Raises InvalidInput if the header is damaged, too large, or claims more bytes than the file has.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise InvalidInput(
                f"{file.name} is not a safetensors file: its header claims {length:,} bytes.", remedy=FETCH_AGAIN
            )
        if length > size - 8:
            raise InvalidInput(f"{file.name} is cut short: it ends inside its header.", remedy=FETCH_AGAIN)
        text = stream.read(length)
    return parse_header(text, name=file.name, data_bytes=size - 8 - length)


def parse_header(text: bytes, *, name: str, data_bytes: int) -> dict[str, Tensor]:
    """Return name -> tensor from a header's JSON, where `data_bytes` of data follow it. Raises InvalidInput as
    `read_safetensors`.
    """
    try:
        header = json.loads(text, object_pairs_hook=_without_repeats)
        entries = {key: entry for key, entry in header.items() if key != "__metadata__"}
        tensors = {key: _tensor(entry) for key, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InvalidInput(
            f"{name} has a damaged safetensors header: {str(error)[:200]}", remedy=FETCH_AGAIN
        ) from error
    if end > data_bytes:
        raise InvalidInput(
            f"{name} is cut short: its header claims {end:,} bytes of weights, and it has {data_bytes:,}.",
            remedy=FETCH_AGAIN,
        )
    return tensors


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    """Return a JSON object's entries. Repeated names are refused, since readers differ in which one they take."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        raise ValueError("a name occurs twice")
    return entries


def count_stored_parameters(tensors: dict[str, Tensor]) -> int:
    """Return the number of parameters in the tensors."""
    return sum(tensor.numbers for name, tensor in tensors.items() if not name.endswith(BUFFERS))


def _tensor(entry: JsonObject) -> Tensor:
    shape = tuple(entry["shape"])
    if not all(isinstance(size, int) and 0 <= size < MAX_SIZE for size in shape) or len(shape) > 16:
        raise ValueError(f"a tensor of shape {str(shape)[:100]}")
    return Tensor(str(entry["dtype"]), shape)


@dataclass(frozen=True)
class GgufHeader:
    """Header of a GGUF file. `values` holds its metadata without long lists, `vocab_size` the length of its token
    list, `tensor_bytes` the size of its tensors.
    """

    values: JsonObject
    tensors: dict[str, Tensor]
    vocab_size: int | None = None
    tensor_bytes: int = 0

    @property
    def family(self) -> str:
        """The architecture's name, as llama.cpp calls it."""
        return str(self.values.get("general.architecture") or "")

    @property
    def parameters(self) -> int:
        """Number of parameters in its tensors."""
        return sum(tensor.numbers for tensor in self.tensors.values())

    @property
    def bits_per_weight(self) -> float:
        """Bits of a weight, on average over its tensors."""
        return round(8 * self.tensor_bytes / max(1, self.parameters), 2)

    @property
    def quantisation(self) -> str:
        """Name that llama.cpp gives to its number formats, such as Q4_K_M; that of most weights where it has none."""
        from gguf import LlamaFileType  # importing takes 0.15 s

        stated = self.values.get("general.file_type")
        if type(stated) is int and stated in set(LlamaFileType):
            return re.sub("^(MOSTLY|ALL)_", "", LlamaFileType(stated).name)
        weights: Counter[str] = Counter()
        for tensor in self.tensors.values():
            weights[tensor.dtype] += tensor.numbers
        return max(weights, key=lambda dtype: weights[dtype], default="")

    @property
    def licence(self) -> str | None:
        """`general.license`, where it is stated."""
        text = self.values.get("general.license") or self.values.get("general.license.name")
        return str(text)[:200] if text else None


def read_gguf(file: Path) -> GgufHeader:
    """Read the header of a GGUF file (version 2 or 3, little-endian).

    Raises InvalidInput if the file is not GGUF, is cut short, or has impossible counts.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InvalidInput(
                f"{file.name} is not a GGUF file.", remedy="Give a .gguf file, or a folder with safetensors."
            )
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _GgufReader(data, file.name).read()
            except struct.error as error:
                raise InvalidInput(
                    f"{file.name} is cut short: it ends inside its header.", remedy=FETCH_AGAIN
                ) from error


class _GgufReader:
    """Reads a header once, with bounds against hostile files."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name, self._at, self._strings = data, name, 4, 0

    def read(self) -> GgufHeader:
        version, num_tensors, num_values = self._take("IQQ")
        if version not in (2, 3):
            raise self._bad(f"is of version {version}, and 2 or 3 are known")
        if num_tensors > MAX_ENTRIES or num_values > MAX_ENTRIES:
            raise self._bad(f"claims {num_tensors:,} tensors and {num_values:,} settings")
        values: JsonObject = {}
        lists: dict[str, int] = {}
        for _ in range(num_values):
            name, (kind,) = self._text(), self._take("I")
            if kind == _ARRAY:
                lists[name] = self._skip_list()
            else:
                values[name] = self._text() if kind == _STRING else self._take(self._scalar(kind))[0]
        tensors, end, tensor_bytes = self._tensors(num_tensors, alignment=values.get("general.alignment", 32))
        if end > len(self._data):
            raise InvalidInput(
                f"{self._name} is cut short: its header claims {end:,} bytes, and it has {len(self._data):,}.",
                remedy=FETCH_AGAIN,
            )
        return GgufHeader(values, tensors, lists.get("tokenizer.ggml.tokens"), tensor_bytes)

    def _tensors(self, count: int, *, alignment: Any) -> tuple[dict[str, Tensor], int, int]:
        """Return the tensors, where the last one ends, and their bytes."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType  # importing takes 0.15 s

        sizes = {
            int(kind): (kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType if kind in GGML_QUANT_SIZES
        }
        tensors, ends, total = {}, [0], 0
        for _ in range(count):
            name, (rank,) = self._text(), self._take("I")
            if rank > 8:
                raise self._bad(f"claims a tensor of {rank} dimensions")
            shape = self._take("Q" * rank)
            if any(size >= MAX_SIZE for size in shape):
                raise self._bad(f"claims a tensor of shape {shape}")
            kind, offset = self._take("IQ")
            if kind not in sizes:
                raise InvalidInput(
                    f"{self._name} holds numbers of a format that is not known ({kind}).", remedy=OTHER_QUANTISATION
                )
            dtype, per_block, block_bytes = sizes[kind]
            tensors[name] = Tensor(dtype, shape)
            size = -(-math.prod(shape) // per_block) * block_bytes
            ends.append(offset + size)
            total += size
        step = alignment if isinstance(alignment, int) and 0 < alignment <= 2**20 else 32
        return tensors, -(-self._at // step) * step + max(ends), total

    def _skip_list(self) -> int:
        kind, count = self._take("IQ")
        if kind == _STRING:
            self._strings += count
            if self._strings > MAX_STRINGS:
                raise self._bad(f"claims a list of {count:,} texts")
            read, data, at = struct.Struct("<Q").unpack_from, self._data, self._at
            for _ in range(count):
                at += 8 + read(data, at)[0]  # beyond the end the next read fails
            self._at = at
            self._skip(0)
        elif kind == _ARRAY:
            raise self._bad("holds a list of lists")
        else:
            self._skip(count * struct.calcsize("<" + self._scalar(kind)))
        return int(count)

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._bad(f"holds a value of an unknown kind ({kind})")
        return _SCALARS[kind]

    def _text(self) -> str:
        (length,) = self._take("Q")
        if length > MAX_STRING_BYTES:
            raise self._bad(f"claims a text of {length:,} bytes")
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode("utf-8", "replace")

    def _take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + layout, self._data, self._at)
        self._at += struct.calcsize("<" + layout)
        return values

    def _skip(self, length: int) -> None:
        if length > len(self._data) - self._at:
            raise InvalidInput(f"{self._name} is cut short: it ends inside its header.", remedy=FETCH_AGAIN)
        self._at += length

    def _bad(self, what: str) -> InvalidInput:
        return InvalidInput(f"{self._name} is not a GGUF file that can be read: it {what}.", remedy=FETCH_AGAIN)
