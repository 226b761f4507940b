"""A safetensors file whose tensors are mapped, not read: processes that map the same file share its pages.

Written here rather than by the library: its writer copies all tensors first, and aligns them to 8 bytes, where products
of matrices may be rounded in another order than from memory of their own, which torch aligns to 64.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

ALIGNMENT = 64
PAGE_BYTES = 4096
CHECKSUM = "checksum"
PADDING = "padding."
NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class Damaged(ValueError):
    """A file is not what was written."""


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], *, about: Mapping[str, str]) -> None:
    """Write tensors and texts about them. Raises OSError, and ValueError for a number type that the format lacks."""
    header: dict[str, object] = {"__metadata__": {**about, CHECKSUM: _checksum(tensors, about)}}
    chunks: list[torch.Tensor] = []
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES or name.startswith(PADDING):
            raise ValueError(f"{name} can't be written: {tensor.dtype}.")
        data = _bytes_of(tensor)
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + len(data)],
        }
        chunks.append(data)
        end += len(data)
        if gap := -end % ALIGNMENT:
            header[f"{PADDING}{end}"] = {"dtype": "U8", "shape": [gap], "data_offsets": [end, end + gap]}
            chunks.append(torch.zeros(gap, dtype=torch.uint8))
            end += gap
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for chunk in chunks:
            file.write(chunk.numpy().data)


def map_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return a file's tensors, mapped, and the texts about them. A write into one of them would change a private copy
    of its page.

    Raises FileNotFoundError, and Damaged for a file of another length or other contents than were written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            names = [name for name in file.keys() if not name.startswith(PADDING)]  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in names}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise Damaged(f"{path.name} can't be read: {error}") from error
    if about.pop(CHECKSUM, None) != _checksum(tensors, about):
        raise Damaged(f"{path.name} has other contents than were written.")
    return tensors, about


def _checksum(tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> str:
    """Return the SHA-256 of names, shapes, texts, and sums of the 64-bit words of every 4 KB: hashing all bytes takes
    six times as long.
    """
    digest = hashlib.sha256(json.dumps(dict(about), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        data = _bytes_of(tensor)
        num_paged = len(data) // PAGE_BYTES * PAGE_BYTES
        digest.update(data[:num_paged].view(torch.int64).view(-1, PAGE_BYTES // 8).sum(1).numpy().data)
        digest.update(data[num_paged:].numpy().data)
    return digest.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)
