"""`roundhouse endpoint connect`: serve a model on another server with the OpenAI API under a name here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import command, emit, note, read_text
from backend.domain.serving.upstream import Upstream
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.serving.endpoints import EndpointView
from backend.services.serving.upstreams import connect_upstream


@command
@model_options(Upstream, skip=("url",), partial=True)
def connect(
    url: Annotated[str, typer.Argument(help="Address of the API, such as http://127.0.0.1:8080/v1.")] = "",
    name: Annotated[str, typer.Option(help="Name of the endpoint: what clients put in model=.")] = "",
    *,
    options: Mapping[str, object],
    config: Annotated[Path | None, typer.Option(help="YAML with the same fields; options here come first.")] = None,
) -> None:
    """Serve a model of vLLM, SGLang, llama-server, Ollama or any other server with the OpenAI API, after it has
    answered one token.

    A key is never stored: name the variable or the file that holds it.
    """
    fields = _read(config)
    fields |= {**options, **({"url": url} if url else {}), **({"name": name} if name else {})}
    for field, option in (("url", "URL"), ("name", "--name"), ("model", "--model")):
        if not fields.get(field):
            raise InvalidInput(
                f"{option} is missing.",
                remedy="Write `roundhouse endpoint connect URL --name N --model M`.",
                field=field,
            )
    endpoint = str(fields.pop("name"))
    ctx = get_context()
    view = connect_upstream(ctx, name=endpoint, upstream=Upstream.read(fields), person=LOCAL)
    note(f"{ctx.gateway_url}/v1, model={view.name}")
    emit(describe_upstream(view), text=f"{view.name}: {view.state}, {view.checkpoint_name}")


def describe_upstream(view: EndpointView) -> dict[str, object]:
    """Return a connected endpoint as the command line's JSON."""
    upstream = view.config.upstream
    check = view.replicas[0].gauges.dump() if view.replicas else {}
    return {
        "endpoint": view.name,
        "state": view.state,
        "revision": view.revision,
        "upstream": None if upstream is None else upstream.model_dump(mode="json"),
        "check": {name: check.get(name) for name in ("checked_at", "check_s", "problem")},
    }


def _read(config: Path | None) -> dict[str, object]:
    if config is None:
        return {}
    fields = parse_yaml(read_text(config), what="The config")
    if not isinstance(fields, dict):
        raise InvalidInput(
            "The config holds no fields.", remedy="Write one `name: value` a line, such as `url: http://host/v1`."
        )
    return {str(name): value for name, value in fields.items()}
