"""LoRA adapters that endpoints serve beside their base, as `model=ENDPOINT:ADAPTER`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Deployment, Endpoint

ADAPTERS = "adapters"
"""Key of a deployment's config: {adapter: {checkpoint_id, folder}}."""


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter of a deployment. `model` is what clients send."""

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


def served_adapters(session: Session) -> dict[str, ServedAdapter]:
    """Return the adapters of deployments that are not stopped, by what clients send; an endpoint of the same name comes first."""
    rows = session.execute(
        select(Endpoint.name, Deployment.config)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .where(Deployment.stopped_at.is_(None), Deployment.role == "stable")
        .order_by(Deployment.revision)
    ).all()
    names = {name for name, _ in rows}
    adapters = {adapter.model: adapter for name, config in rows for adapter in adapters_of(name, config)}
    return {model: adapter for model, adapter in adapters.items() if model not in names}
