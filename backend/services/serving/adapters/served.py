"""LoRA adapters that endpoints serve beside their base, as `model=ENDPOINT:ADAPTER`."""

from __future__ import annotations

from dataclasses import dataclass

from backend.domain.serving.deployment import DeploymentConfig


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter of a deployment. `model` is what clients send; an alias of the endpoint may stand in its place."""

    model: str
    endpoint: str
    name: str
    checkpoint_id: str
    folder: str


def adapters_of(endpoint: str, config: DeploymentConfig) -> list[ServedAdapter]:
    """Return the adapters in a deployment's config."""
    return [
        ServedAdapter(f"{endpoint}:{name}", endpoint, name, files.checkpoint_id, files.folder)
        for name, files in sorted(config.adapters.items())
    ]
