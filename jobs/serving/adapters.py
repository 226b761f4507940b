"""LoRA adapters beside one base: each token of a batch gets the adapter of its request, and a token without one
exactly the base. Adapters are read from files of PEFT's format without PEFT, checked against their network, and found
below the artifacts' folder alone.

A layer computes y = W x for all tokens at once, and adds B (A x) to the rows of each adapter (Hu et al. 2022,
arXiv:2106.09685, equation 3), grouped by adapter as in Punica (Chen et al. 2024, arXiv:2310.18547), with two small
products per group.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from backend.errors import InvalidInput
from jobs.modeling.chat import turn_end
from jobs.modeling.checkpoints import base_folder_of, is_adapter
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.serving.fused_layers import fuse_pairs, fused_shape

PREFIX = "base_model.model."
PARTS = {".lora_A.weight": 0, ".lora_B.weight": 1}
MAX_RANK = 1024
MAX_BYTES = 4 * 2**30
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter in memory. `pairs`: (A [rank, in], B [out, rank]) by layer, B times the scale. `number` is the same
    for the same files. `tokenizer` renders its prompts, since training may have taught it another chat template, whose
    `end_ids` end its answers. `addresses`: those of the pairs, by fused layer, for the compiled library.
    """

    folder: str
    number: int
    pairs: Pairs
    tokenizer: Any = None
    end_ids: frozenset[int] = frozenset()
    addresses: dict[int, Any] = field(default_factory=dict, compare=False, repr=False)


class AdapterRows(NamedTuple):
    """An adapter and its tokens in the batch: their indices, None for all of them, and the same as ranges."""

    adapter: LoadedAdapter
    rows: torch.Tensor | None
    ranges: tuple[tuple[int, int], ...]


def read_adapter(folder: Path, *, base: Path, shape_of: Callable[[str], tuple[int, int] | None]) -> Pairs:
    """Return the pairs (A, B times the scale) of an adapter's layers in float32.

    `shape_of` returns (out, in) of a layer of the base, None for what is no linear layer. Raises InvalidInput for what
    is no plain LoRA adapter of linear layers, or one of another base.
    """
    if not is_adapter(folder):
        raise InvalidInput(
            f"{folder.name} is not an adapter.", remedy="Name a checkpoint that was trained by LoRA.", field="adapter"
        )
    if base_folder_of(folder) != base.resolve():
        raise InvalidInput(
            f"{folder.name} was trained on another base.", remedy="Deploy its own base.", field="adapter"
        )
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    _check_kind(folder.name, config)
    file = folder / "adapter_model.safetensors"
    if not file.is_file() or file.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            f"{folder.name} has no weights (adapter_model.safetensors), or more than 4 GiB.", field="adapter"
        )
    halves: dict[str, list[torch.Tensor | None]] = {}
    for key, tensor in load_file(file).items():
        part = next((part for part in PARTS if key.endswith(part)), None)
        if part is None or not key.startswith(PREFIX):
            raise InvalidInput(
                f"{folder.name} changes {key}, and only LoRA of linear layers is served beside its base.",
                field="adapter",
            )
        halves.setdefault(key[len(PREFIX) : -len(part)], [None, None])[PARTS[part]] = tensor.float()
    return {name: _pair(folder.name, name, a, b, config, shape=shape_of(name)) for name, (a, b) in halves.items()}


def _check_kind(name: str, config: Mapping[str, object]) -> None:
    unusual = [
        field
        for field, plain in {
            "use_dora": False,
            "modules_to_save": None,
            "layer_replication": None,
            "trainable_token_indices": None,
        }.items()
        if config.get(field, plain) not in (plain, [], {})
    ]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or unusual:
        what = ", ".join(unusual) or config.get("peft_type")
        raise InvalidInput(
            f"{name} is no plain LoRA adapter ({what}).",
            remedy="Deploy it by itself: it is merged into its base then.",
            field="adapter",
        )


def _pair(
    adapter: str,
    name: str,
    a: torch.Tensor | None,
    b: torch.Tensor | None,
    config: Mapping[str, object],
    *,
    shape: tuple[int, int] | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    fits = (
        a is not None
        and b is not None
        and a.ndim == b.ndim == 2
        and shape == (b.shape[0], a.shape[1])
        and a.shape[0] == b.shape[1]
    )
    if a is None or b is None or not fits or not 1 <= a.shape[0] <= MAX_RANK:
        raise InvalidInput(
            f"{adapter}: the layer {name} does not fit the base's.", remedy="Deploy its own base.", field="adapter"
        )
    if not (torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise InvalidInput(f"{adapter}: the layer {name} has values that are no numbers.", field="adapter")
    alpha = float(_of_layer(config.get("alpha_pattern"), name, config.get("lora_alpha", a.shape[0])))
    return a, b * (alpha / (math.sqrt(a.shape[0]) if config.get("use_rslora") else a.shape[0]))


def _of_layer(pattern: Any, name: str, otherwise: Any) -> Any:
    """Return a layer's own value, where the end of its name has one."""
    entries = pattern.items() if isinstance(pattern, dict) else ()
    return next((value for key, value in entries if name == key or name.endswith(f".{key}")), otherwise)


MAX_LOADED = 16
ALL_ROWS = ((0, 2**62),)


class AdapterBank:
    """The adapters of a base, for every network with its weights. Loading and unloading is safe while batches run."""

    def __init__(self, base: Path, *networks: Any) -> None:
        self._base, self._networks = base, networks
        self._loaded: dict[str, LoadedAdapter] = {}
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()
        self._here = threading.local()

    @property
    def loaded(self) -> list[str]:
        """Folders of the adapters in memory, the longest unused first."""
        with self._lock:
            return list(self._loaded)

    @property
    def active(self) -> Sequence[AdapterRows]:
        """The groups of the batch that this thread computes."""
        groups: Sequence[AdapterRows] = getattr(self._here, "groups", ())
        return groups

    def find(self, folder: Path) -> LoadedAdapter | None:
        """Return an adapter that is in memory, as the most recently used one."""
        key = str(folder.resolve())
        with self._lock:
            if (adapter := self._loaded.pop(key, None)) is not None:
                self._loaded[key] = adapter
            return adapter

    def load(self, folder: Path, *, tokenizer: Any = None, end_ids: frozenset[int] = frozenset()) -> LoadedAdapter:
        """Return an adapter, read from its folder where it is not in memory. Beyond 16, the longest unused one is
        dropped.

        Raises InvalidInput for what can't be served beside this base (see `read_adapter`).
        """
        key = str(folder.resolve())
        with self._lock:
            if (adapter := self._loaded.pop(key, None)) is None:
                number = self._numbers.setdefault(key, len(self._numbers) + 1)
                pairs = read_adapter(folder, base=self._base, shape_of=self._shape_of)
                device, dtype = self._networks[0].device, self._networks[0].dtype
                pairs = fuse_pairs(self._networks[0], pairs)
                moved = {name: (a.to(device, dtype), b.to(device, dtype)) for name, (a, b) in pairs.items()}
                adapter = LoadedAdapter(folder=key, number=number, pairs=moved, tokenizer=tokenizer, end_ids=end_ids)
                for network in self._networks:
                    self._wrap(network, moved)
            self._loaded[key] = adapter  # last: the most recently used
            while len(self._loaded) > MAX_LOADED:
                self._loaded.pop(next(iter(self._loaded)))
            return adapter

    def unload(self, folder: Path) -> bool:
        """Forget an adapter; requests that use it finish with it. Return whether it was in memory."""
        with self._lock:
            return self._loaded.pop(str(folder.resolve()), None) is not None

    def activate(self, groups: Sequence[AdapterRows]) -> None:
        """Set the adapters of the batches that this thread computes from now on."""
        self._here.groups = groups

    @contextmanager
    def use(self, adapter: LoadedAdapter | None) -> Iterator[None]:
        """Compute with one adapter, or none, on this thread."""
        self.activate(() if adapter is None else (AdapterRows(adapter, None, ALL_ROWS),))
        try:
            yield
        finally:
            self.activate(())

    def _shape_of(self, name: str) -> tuple[int, int] | None:
        """Return (out, in) of a layer inside the blocks of the network."""
        if (shape := fused_shape(self._networks[0], name)) is not None:
            return shape
        try:
            module = self._networks[0].get_submodule(name)
        except AttributeError:
            return None
        module = module.base if isinstance(module, LoraLayer) else module
        if isinstance(module, nn.Embedding) or module is self._networks[0].get_output_embeddings():
            return None
        if isinstance(module, Conv1D):
            return int(module.weight.shape[1]), int(module.weight.shape[0])
        out, inputs = getattr(module, "out_features", None), getattr(module, "in_features", None)
        return (out, inputs) if isinstance(out, int) and isinstance(inputs, int) else None

    def _wrap(self, network: Any, names: Sequence[str] | dict[str, Any]) -> None:
        for name in names:
            module = network.get_submodule(name)
            if not isinstance(module, LoraLayer):
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, LoraLayer(module, bank=self, name=name))


class LoraLayer(nn.Module):
    """A linear layer of the base, in any precision, with the active adapters' changes on top."""

    def __init__(self, base: nn.Module, *, bank: AdapterBank, name: str) -> None:
        super().__init__()
        self.base = base
        self._bank, self._name = bank, name

    @property
    def active_groups(self) -> Sequence[AdapterRows]:
        """The adapters of the batch that this thread computes."""
        return self._bank.active

    def pair_of(self, adapter: LoadedAdapter) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return an adapter's pair (A, B) for this layer; None where it has none."""
        return adapter.pairs.get(self._name)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of its own, else the base layer's, which networks read (`weight`, `in_features`)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the base layer's result [..., out]; rows of an adapter get its change added."""
        result: torch.Tensor = self.base(inputs)
        groups = self._bank.active
        if not groups:
            return result
        flat_inputs, flat_result = inputs.flatten(0, -2), result.view(-1, result.shape[-1])
        for adapter, rows, _ in groups:
            if (pair := self.pair_of(adapter)) is None:
                continue
            a, b = pair
            if rows is None:
                flat_result.addmm_(flat_inputs @ a.t(), b.t())
            else:
                flat_result.index_add_(0, rows, (flat_inputs[rows] @ a.t()) @ b.t())
        return result


def groups_of(adapters: Sequence[tuple[LoadedAdapter | None, int]], *, device: torch.device) -> list[AdapterRows]:
    """Return the groups of a packed batch from (adapter, number of tokens) of its requests in order."""
    ranges: dict[int, list[tuple[int, int]]] = {}
    by_number: dict[int, LoadedAdapter] = {}
    start = 0
    for adapter, count in adapters:
        if adapter is not None:
            by_number[adapter.number] = adapter
            own = ranges.setdefault(adapter.number, [])
            begin = own.pop()[0] if own and own[-1][1] == start else start
            own.append((begin, start + count))
        start += count
    rows = {number: torch.cat([torch.arange(*each, device=device) for each in own]) for number, own in ranges.items()}
    return [AdapterRows(by_number[number], rows[number], tuple(own)) for number, own in ranges.items()]


class CacheSalts:
    """Token ids under which cached pages are found: those of different adapters or tenants have nothing in common.

    Pages are found by a chain of hashes from the first token on. The first tokens become negative numbers of 32 bits,
    moved by secrets of this process, so that no tenant can write a prompt whose pages are another's: eight moves of 31
    bits are not guessed.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def salt(self, ids: list[int], *, adapter: LoadedAdapter | None, tenant: str) -> list[int]:
        """Return the ids, changed at the front for an adapter or a tenant."""
        if adapter is None and not tenant:
            return ids
        of = f"{0 if adapter is None else adapter.number}:{tenant}".encode()
        moves = struct.unpack("<8I", hashlib.blake2b(of, key=self._secret, digest_size=32).digest())
        return [*(-((token + move) % 2**31) - 1 for token, move in zip(ids, moves, strict=False)), *ids[len(moves) :]]


@dataclass(frozen=True)
class AdapterFolders:
    """Loads adapters by their folder relative to `root`."""

    root: Path
    bank: AdapterBank
    tokenizer: Any

    def load(self, folder: str) -> LoadedAdapter:
        """Return an adapter, with its own tokenizer where its folder has one: the same tokens, maybe another chat
        template.

        Raises InvalidInput for a folder outside the artifacts, or one that is not an adapter of this base.
        """
        path = self._path(folder)
        if (adapter := self.bank.find(path)) is not None:
            return adapter
        if not (path / "tokenizer_config.json").is_file():
            return self.bank.load(path)
        tokenizer = load_tokenizer(path)
        if tokenizer.get_vocab() != self.tokenizer.get_vocab():
            raise InvalidInput(
                f"{path.name} has other tokens than its base.", remedy="Deploy it by itself.", field="adapter"
            )
        end = turn_end(tokenizer)
        return self.bank.load(path, tokenizer=tokenizer, end_ids=frozenset() if end is None else frozenset({end}))

    def unload(self, folder: str) -> bool:
        """Forget an adapter; return whether it was in memory."""
        return self.bank.unload(self._path(folder))

    def _path(self, folder: str) -> Path:
        path = (self.root / folder).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise InvalidInput("An adapter lies below the artifacts.", field="adapter")
        return path
