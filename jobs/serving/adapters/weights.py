"""LoRA adapters as files hold them (PEFT's format), read without PEFT and checked against their network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

from backend.errors import InvalidInput
from jobs.modeling.checkpoints import base_folder_of, is_adapter

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
