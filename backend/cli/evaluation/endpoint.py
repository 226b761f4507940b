"""`roundhouse eval endpoint`: the models behind other OpenAI-compatible APIs that evaluations score."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, emit
from backend.domain.evaluation.endpoints import EndpointConfig
from backend.domain.json_values import FieldValues
from backend.errors import NotFound
from backend.services.context import LOCAL, Context
from backend.services.evaluation.endpoints import (
    EvaluatedEndpointView,
    add_endpoint,
    list_evaluated,
    read_endpoint_config,
    remove_endpoint,
    resolve_evaluated,
)

app = CommandGroup(no_args_is_help=True, help="APIs whose models evaluations score.")


@app.command("add")
@model_options(EndpointConfig, defaults={"url": ...})
def add(name: Annotated[str, typer.Argument(help="Name on pages and in results.")], *, options: FieldValues) -> None:
    """Register a model behind another API, and ask what the API offers."""
    view = add_endpoint(get_context(), name=name, config=read_endpoint_config(**options), person=LOCAL)
    emit(evaluated_data(view), text=evaluated_text(view))


@app.command("list")
def list_() -> None:
    """List the endpoints that can be evaluated: those of this installation that run, and the registered APIs."""
    views = list_evaluated(get_context())
    text = "\n".join(map(evaluated_text, views)) or "No endpoint runs, and no API is registered."
    emit({"endpoints": [evaluated_data(view) for view in views]}, text=text)


@app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="Name or id of a registered API.")]) -> None:
    """Take an API off the list. Its evaluations stay."""
    remove_endpoint(get_context(), name, person=LOCAL)
    emit({"removed": name}, text=f"Removed {name}; its evaluations stay.")


def find_or_add(ctx: Context, endpoint: str, *, model: str, key_env: str | None) -> str:
    """Return the key of an endpoint; an address with an unregistered model is registered as `model at host`."""
    is_address = endpoint.startswith(("http://", "https://"))
    try:
        return resolve_evaluated(ctx, endpoint, model=model).key
    except NotFound:
        if not is_address:
            raise
    config = read_endpoint_config(url=endpoint, model=model, key_env=key_env)
    name = f"{config.model} at {urlsplit(config.url).netloc}"[:80]
    return add_endpoint(ctx, name=name, config=config, person=LOCAL).key


def evaluated_data(view: EvaluatedEndpointView) -> dict[str, Any]:
    """Return an endpoint as the command line's JSON."""
    return {
        "endpoint": view.name,
        "id": view.id or None,
        "own": view.is_own,
        **view.config.model_dump(mode="json"),
        "capabilities": view.capabilities.model_dump(),
    }


def evaluated_text(view: EvaluatedEndpointView) -> str:
    """Return an endpoint as a line for a terminal."""
    offered = [name for name, offers in view.capabilities.model_dump().items() if offers]
    address = "this installation" if view.is_own else f"{view.config.model} at {view.config.url}"
    return f"{view.name}: {address} ({', '.join(offered)})"
