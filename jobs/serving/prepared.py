"""Load a checkpoint for serving: prepared by its first replica, mapped by the others.

Preparing fuses layers, stores weights in fewer bits, and measures the price of int8 or bfloat16. What it gives is
written to a safetensors file below the artifacts, which replicas map: N of them share its pages and hold the weights
once. Whatever is wrong with that file, the replica serves from weights of its own.

The file is written here rather than by the library: its writer copies all tensors first, and aligns them to 8 bytes,
where products of matrices may be rounded in another order than from memory of their own, which torch aligns to 64.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import logging
import os
import platform
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from backend.domain.serving.precision import Precision, PrecisionCheck
from backend.domain.serving.prepared import prepared_folder
from backend.errors import InvalidInput
from backend.infra.processes import return_freed_memory
from jobs.modeling.checkpoints import (
    base_folder_of,
    build_without_weights,
    check_folder,
    hash_weights,
    is_adapter,
    load_network,
)
from jobs.modeling.devices import pick_inference_dtype
from jobs.modeling.unusable import UNUSABLE
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library, compile_library
from jobs.serving.precision import exact_format, quantise_and_check, replace_layers, store_in_16_bits

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


logger = logging.getLogger(__name__)
FORMAT = "2"
SERVING = Path(__file__).parent
CODE = (
    SERVING.parent / "modeling" / "precision_check.py",
    SERVING / "fused_layers.py",
    SERVING / "precision.py",
    SERVING / "native",
    SERVING / "prepared.py",
)
LOCK = ".lock"
PARTIAL = ".partial"
WAIT_S = 600.0
POLL_S = 0.1
STALE_S = 3600.0
OTHER_WEIGHTS = "; the replica keeps its weights in memory of its own."


@dataclass(frozen=True)
class LoadedNetwork:
    """A network that is ready to serve. `file` is that of its mapped weights; None where they are its own."""

    network: Any
    check: PrecisionCheck | None = None
    file: Path | None = None


@dataclass(frozen=True)
class PreparedFolder:
    """The folder of a checkpoint's prepared weights, and the disk space in bytes that they may not eat into."""

    path: Path
    keep_free_bytes: int = 0

    @staticmethod
    def of(artifacts: Path, checkpoint: str, *, keep_free_bytes: int) -> PreparedFolder:
        """Return the folder for a checkpoint's folder relative to the artifacts."""
        return PreparedFolder(artifacts / prepared_folder(checkpoint), keep_free_bytes)


def load_prepared(
    folder: Path, *, device: torch.device, precision: Precision, prepared: PreparedFolder
) -> LoadedNetwork:
    """Return a checkpoint's network as it is served: on a CPU with fused layers, in `precision`, from mapped weights
    where possible.

    Raises NotFound and InvalidInput as `load_network`, and InvalidInput for int8 off the CPU and bfloat16 on one
    without a compiler.
    """
    if device.type != "cpu":
        return load_own(folder, device=device, precision=precision, library=None)
    check_folder(folder)
    library = compile_library()
    if precision == "int8" and library is None:  # torch's operator packs weights into memory of its own
        return load_own(folder, device=device, precision=precision, library=None)
    path = prepared.path / f"{precision}-{_key(folder, precision, library)}.safetensors"
    if (mapped := _map(path, folder, precision=precision, library=library)) is not None:
        return mapped
    with locked(prepared.path) as is_locked:
        if (mapped := _map(path, folder, precision=precision, library=library)) is not None:
            return mapped
        own = load_own(folder, device=device, precision=precision, library=library)
        if not is_locked or not _write(
            path, own, folder, precision=precision, library=library, keep_free_bytes=prepared.keep_free_bytes
        ):
            return own
        del own
        gc.collect()  # layers refer to each other; both copies at once could be more than a job may hold
        return_freed_memory()
        mapped = _map(path, folder, precision=precision, library=library)
    return mapped or load_own(folder, device=device, precision=precision, library=library)


def load_own(folder: Path, *, device: torch.device, precision: Precision, library: Library | None) -> LoadedNetwork:
    """Return a checkpoint's network as it is served, with weights in memory of its own. GPUs serve bfloat16 unchecked,
    as float32.

    Of fused layers in float32, matrices whose values all fit into 16 bits are stored in these: their products have the
    same bits.
    """
    loaded = load_network(folder, device=device, dtype=pick_inference_dtype(device=device))
    is_fused = device.type == "cpu" and fuse_layers(loaded, library=library) > 0
    if precision == "int8" or (precision == "bfloat16" and device.type == "cpu"):
        return LoadedNetwork(loaded, quantise_and_check(loaded, precision=precision, library=library))
    if is_fused and library is not None:
        store_in_16_bits(loaded, library=library, choose=lambda _, weight: exact_format(weight, library=library))
    return LoadedNetwork(loaded)


def _key(folder: Path, precision: Precision, library: Library | None) -> str:
    """Return a hash of what prepared weights depend on: the checkpoint's contents, code, and libraries."""
    code = [source for path in CODE for source in (sorted(path.glob("*.[chp]*")) if path.is_dir() else [path])]
    formats = "" if library is None else " ".join(map(str, library.formats_of_16_bits))
    words = (FORMAT, precision, formats, torch.__version__, transformers.__version__, platform.machine())
    return weights_key(folder, *(word.encode() for word in words), *(path.read_bytes() for path in code))


def weights_key(folder: Path, *dependencies: bytes) -> str:
    """Return a hash of a checkpoint's contents, an adapter's with its base's, and of what else a file depends on."""
    bases = [folder]
    while is_adapter(bases[-1]):
        bases.append(base_folder_of(bases[-1]))
    configs = [path for base in bases for path in sorted(base.glob("*config.json"))]
    digest = hashlib.sha256()
    for one in (hash_weights(folder).encode(), *(path.read_bytes() for path in configs), *dependencies):
        digest.update(hashlib.sha256(one).digest())
    return digest.hexdigest()[:24]


def _map(path: Path, folder: Path, *, precision: Precision, library: Library | None) -> LoadedNetwork | None:
    """Return the network with weights mapped from a file; None without a usable one, which is deleted."""
    try:
        tensors, about = map_tensors(path)
        empty = build_empty(folder, tensors, precision=precision, library=library)
        shared = {str(name): str(first) for name, first in json.loads(about["shared"]).items()}
        if not fits(empty, tensors, shared):
            raise Damaged(f"{path.name} holds other tensors than the model has.")
        check = PrecisionCheck.model_validate_json(about["check"]) if about["check"] else None
    except FileNotFoundError:
        return None
    except (KeyError, *UNUSABLE, InvalidInput) as error:
        logger.warning("Prepared weights are made again: %s", error)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        return None
    fill(empty, tensors, shared)
    with suppress(OSError):
        os.utime(path)  # files that no replica has started from for long are deleted
    return LoadedNetwork(empty, check, path)


def _write(
    path: Path, own: LoadedNetwork, folder: Path, *, precision: Precision, library: Library | None, keep_free_bytes: int
) -> bool:
    """Write a network's weights in place of older ones of its precision; return whether they are there to be mapped."""
    tensors, shared = list_tensors(own.network)
    try:
        if not fits(build_empty(folder, tensors, precision=precision, library=library), tensors, shared):
            raise InvalidInput("its layers hold more than their weights")
    except (*UNUSABLE, InvalidInput) as error:
        logger.info("Weights of this model can't be shared (%s)%s", error, OTHER_WEIGHTS)
        return False
    about = {"shared": json.dumps(shared), "check": "" if own.check is None else own.check.model_dump_json()}
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        needed, free = sum(tensor.nbytes for tensor in tensors.values()), shutil.disk_usage(path.parent).free
        if free - needed < keep_free_bytes:
            logger.warning(
                "Prepared weights need %.0f MB of disk, and %.0f MB are free%s", needed / 1e6, free / 1e6, OTHER_WEIGHTS
            )
            return False
        write_tensors(partial, tensors, about=about)
        partial.replace(path)  # not synced: the checksum notices what a crash loses
    except (OSError, ValueError) as error:
        logger.warning("Prepared weights can't be written: %s%s", error, OTHER_WEIGHTS)
        return False
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    remove_older(path, prefix=f"{precision}-")
    return True


def remove_older(path: Path, *, prefix: str) -> None:
    """Delete the checkpoint's other files of a prefix, and what killed replicas left. Who has mapped one keeps it."""
    with suppress(OSError):
        for other in path.parent.iterdir():
            is_left = other.name.endswith(PARTIAL) and other.stat().st_mtime < time.time() - STALE_S
            if is_left or (other.name.startswith(prefix) and other != path):
                other.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Let one process at a time prepare; yield False where that is impossible, or takes another one too long."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        logger.warning("Prepared weights can't be written: %s%s", error, OTHER_WEIGHTS)
        yield False
        return
    try:
        yield _lock(handle)
    finally:
        os.close(handle)  # and with it the lock, as when the process is killed


def _lock(handle: int) -> bool:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_S)
        except OSError:  # a file system without locks: two may write, each a file of its own, and the later one stays
            return True


Tensors = Mapping[str, torch.Tensor]


def list_tensors(network: nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return parameters and buffers by name, each once, and shared names: {"lm_head.weight": "embed.weight"}."""
    names: dict[int, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    for name, tensor in _named_tensors(network):
        first = names.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor.detach()
        else:
            shared[name] = first
    return tensors, shared


def build_empty(folder: Path, tensors: Tensors, *, precision: Precision, library: Library | None) -> Any:
    """Return a checkpoint's network as it is served on a CPU, on torch's meta device, its formats of 16 bits those of
    `tensors`.
    """
    network = build_without_weights(folder)
    fuse_layers(network, library=library)
    if precision == "int8":
        replace_layers(network, library=library)
    elif library is not None:
        formats = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype in library.formats_of_16_bits}
        store_in_16_bits(network, library=library, choose=lambda name, _: formats.get(name))
    return network


def fits(empty: nn.Module, tensors: Tensors, shared: Mapping[str, str]) -> bool:
    """Return whether tensors are all that an empty network lacks, of the same shapes and types."""
    expected, expected_shared = list_tensors(empty)
    if expected_shared != dict(shared) or _has_hidden_tensors(empty):
        return False
    return {name: (t.shape, t.dtype) for name, t in expected.items()} == {
        name: (t.shape, t.dtype) for name, t in tensors.items()
    }


def fill(empty: nn.Module, tensors: Tensors, shared: Mapping[str, str]) -> None:
    """Put tensors into an empty network, without copying them."""
    filled: dict[str, torch.Tensor] = {}
    for name in [*tensors, *shared]:
        parent, _, child = name.rpartition(".")
        module = empty.get_submodule(parent)
        is_parameter = child in module._parameters
        if name in shared:
            tensor = filled[shared[name]]
        else:
            tensor = nn.Parameter(tensors[name], requires_grad=False) if is_parameter else tensors[name]
        filled[name] = tensor
        (module._parameters if is_parameter else module._buffers)[child] = tensor  # type: ignore[assignment]


def _named_tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters(remove_duplicate=False)
    yield from network.named_buffers(remove_duplicate=False)


def _has_hidden_tensors(network: nn.Module) -> bool:
    """Return whether a module holds tensors that are neither parameters nor buffers, which stay on the meta device."""
    return any(isinstance(value, torch.Tensor) for module in network.modules() for value in vars(module).values())
