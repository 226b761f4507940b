"""LoRA adapters that endpoints serve beside their base, as `model=ENDPOINT:ADAPTER`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ADAPTERS = "adapters"
"""Key of a deployment's config: {adapter: {checkpoint_id, folder}}."""


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter of a deployment. `model` is what clients send; an alias of the endpoint may stand in its place."""

    model: str
    endpoint: str
    name: str
    checkpoint_id: str
    folder: str


def adapters_of(endpoint: str, config: dict[str, Any]) -> list[ServedAdapter]:
    """Return the adapters in a deployment's config."""
    return [
        ServedAdapter(f"{endpoint}:{name}", endpoint, name, entry["checkpoint_id"], entry["folder"])
        for name, entry in sorted(config.get(ADAPTERS, {}).items())
    ]
