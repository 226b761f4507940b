"""`roundhouse endpoint log` and `endpoint dataset`: what is logged of an endpoint's requests, and training rows made of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.serving.request_log.policies import get_log_policy, read_log_config, set_log_policy

Endpoint = Annotated[str, typer.Argument(help="Name of the endpoint.")]
Patterns = Annotated[list[str] | None, typer.Option("--pattern", help="A regular expression to replace; may be repeated.")]


@command
def request_log(
    name: Endpoint,
    mode: Annotated[str, typer.Option(help="off, metadata or bodies. Without it, show the settings.")] = "",
    retention_days: Annotated[int, typer.Option(help="Days after which logged requests are erased.")] = 30,
    pattern: Patterns = None,
    redact: Annotated[bool, typer.Option(help="Replace keys, e-mail addresses, card numbers, IP addresses and phone numbers.")] = True,
    as_json: JsonFlag = False,
) -> None:
    """Set or show what is logged of an endpoint's requests. A client opts out with the header X-Roundhouse-Log: off."""
    ctx = get_context()
    if mode:
        values = {"mode": mode, "retention_days": retention_days, "patterns": tuple(pattern or ()), "redact": redact}
        set_log_policy(ctx, name, read_log_config(values), person=LOCAL)
    config = get_log_policy(ctx, name)
    words = config.mode if config.mode == "off" else f"{config.mode}, {config.retention_days} days"
    emit({"endpoint": name, **config.model_dump(mode="json")}, as_json=as_json, text=f"{name}: {words}")


@command
def dataset(
    name: Endpoint,
    objective: Annotated[str, typer.Option(help="sft (chat rows), kto (labelled answers) or preference (pairs).")] = "sft",
    dataset_name: Annotated[str, typer.Option("--name", help="Name of the dataset. Without it, only count the rows.")] = "",
    days: Annotated[float, typer.Option(help="The last days.")] = 30.0,
    rating: Annotated[str, typer.Option(help="any, up, down or rated.")] = "any",
    source: Annotated[str, typer.Option(help="any, api or playground.")] = "any",
    sample: Annotated[int | None, typer.Option(help="At most this many requests, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 1,
    pattern: Patterns = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Id of a request to leave out; may be repeated.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a dataset of an endpoint's logged requests and thumbs."""
    # imports pyarrow, which no other command on endpoints needs
    from backend.services.serving.request_log.datasets import KINDS, make_traffic_dataset, preview_traffic, read_traffic_rules

    if objective not in KINDS:
        raise InvalidInput(f"There is no objective {objective!r}.", remedy=f"Choose from {', '.join(KINDS)}.", field="objective")
    values = {"days": days, "rating": rating, "source": source, "sample": sample, "seed": seed}
    rules = read_traffic_rules(values | {"patterns": tuple(pattern or ()), "exclude": tuple(exclude or ())})
    ctx = get_context()
    chosen = next(kind for kind in KINDS if kind == objective)
    if not dataset_name:
        preview = preview_traffic(ctx, name, objective=chosen, rules=rules)
        data: dict[str, Any] = {"endpoint": name, "rows": len(preview.rows), "left_out": preview.left_out, "scrubbed": preview.scrubbed}
        emit(data, as_json=as_json, text=f"{len(preview.rows)} rows; --name makes a dataset of them.")
        return
    version, count = make_traffic_dataset(ctx, name, name=dataset_name, objective=chosen, rules=rules, person=LOCAL)
    data = {"endpoint": name, "dataset": dataset_name, "version": version.id, "rows": count}
    emit(data, as_json=as_json, text=f"{count} rows go into {dataset_name}.")
