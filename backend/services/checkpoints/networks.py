"""Shape of the network in a checkpoint's folder, read from its config.json without tensors."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.hf_config import has_window, read_shape
from backend.domain.jobs.payloads import TrainingPayload
from backend.errors import Unavailable
from backend.services.context import Context

MAX_BASES = 8
CARD, MAX_FILE_BYTES = "roundhouse.json", 2**20


def read_network_shape(ctx: Context, folder: str) -> ArchitectureConfig | None:
    """Return the shape of a checkpoint's network, for an adapter that of its base; None for an unknown family."""
    data = _read_config(ctx, folder)
    return None if data is None else read_shape(data)


def network_has_window(ctx: Context, folder: str) -> bool:
    """Return whether attention of a checkpoint's network, for an adapter of its base's, has a sliding window."""
    return has_window(_read_config(ctx, folder) or {})


def _read_config(ctx: Context, folder: str) -> dict[str, object] | None:
    """Return the config.json of a checkpoint or of the base under it; None where there is none to read.

    Base paths are followed only inside the artifacts' folder: a card is untrusted input.
    """
    place = ctx.artifacts.root / folder
    for _ in range(MAX_BASES):
        bring_small_files(ctx, ctx.artifacts.relative(place))
        data = _read_json(place / "config.json")
        if data is not None:
            return data
        base = (_read_json(place / CARD) or {}).get("base_path")
        if not isinstance(base, str):
            return None
        place = (place / base).resolve()
        if not place.is_relative_to(ctx.artifacts.root):
            return None
    return None


def bring_small_files(ctx: Context, folder: str) -> Path:
    """Return the path of a checkpoint's folder, with its small files from the store as far as that answers."""
    with suppress(Unavailable):
        ctx.artifacts.small_files(folder)
    return ctx.artifacts.root / folder


def network_of_payload(ctx: Context, payload: TrainingPayload) -> ArchitectureConfig | None:
    """Return the shape of the network that a training job makes or starts from; None for an unknown family."""
    return payload.architecture or (read_network_shape(ctx, payload.base) if payload.base else None)


def _read_json(file: Path) -> dict[str, object] | None:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            return None
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
