"""`roundhouse endpoint adapter`: LoRA adapters that an endpoint serves beside its base."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL
from backend.services.serving.adapters import AdapterView, add_adapter, list_adapters, remove_adapter

app = CommandGroup(no_args_is_help=True, help="LoRA adapters beside an endpoint's base: model=ENDPOINT:ADAPTER.")
Endpoint = Annotated[str, typer.Argument(help="Name of the endpoint, which serves the base.")]
Name = Annotated[str, typer.Argument(help="Name of the adapter.")]


@app.command("add")
def add(
    endpoint: Endpoint,
    name: Name,
    checkpoint: Annotated[
        str, typer.Option(help="Adapter that was trained by LoRA on the endpoint's checkpoint: name, id, run or alias.")
    ],
) -> None:
    """Load an adapter while the endpoint answers; one of the same name is replaced."""
    ctx = get_context()
    adapters = add_adapter(ctx, endpoint, name, checkpoint_id=resolve_checkpoint(ctx, checkpoint).id, person=LOCAL)
    emit(_data(endpoint, adapters), text=f"{ctx.gateway_url}/v1, model={endpoint}:{name}")


@app.command("remove")
def remove(endpoint: Endpoint, name: Name) -> None:
    """Unload an adapter; its open answers finish."""
    adapters = remove_adapter(get_context(), endpoint, name, person=LOCAL)
    emit(_data(endpoint, adapters), text=f"Removed {endpoint}:{name}.")


@app.command("list")
def list_(endpoint: Endpoint) -> None:
    """List the adapters of an endpoint."""
    adapters = list_adapters(get_context(), endpoint)
    lines = [f"{adapter.model:<40} {adapter.checkpoint_name}" for adapter in adapters]
    emit(_data(endpoint, adapters), text="\n".join(lines) or f"{endpoint} has no adapters.")


def _data(endpoint: str, adapters: list[AdapterView]) -> dict[str, object]:
    return {"endpoint": endpoint, "adapters": [asdict(adapter) for adapter in adapters]}
