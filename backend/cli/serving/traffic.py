"""`roundhouse endpoint log`, `requests` and `dataset`: an endpoint's logged requests, and rows made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import command, emit
from backend.domain.json_values import FieldValues
from backend.domain.serving.request_log import RequestLogConfig, TrafficRules
from backend.domain.validation import read_values
from backend.domain.wording import plural
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.request_log.browse import STATUSES, RequestFilter, RequestRow, browse_requests
from backend.services.serving.request_log.policies import get_log_policy, set_log_policy

Endpoint = Annotated[str, typer.Argument(help="Name of the endpoint.")]
Patterns = Annotated[
    list[str] | None, typer.Option("--pattern", help="A regular expression to replace; may be repeated.")
]


@command
@model_options(RequestLogConfig)
def request_log(
    name: Endpoint,
    mode: Annotated[str, typer.Option(help="off, metadata or bodies. Without it, show the settings.")] = "",
    *,
    options: Mapping[str, object],
    pattern: Patterns = None,
) -> None:
    """Set or show what is logged of an endpoint's requests. A client opts out with the header X-Roundhouse-Log: off."""
    ctx = get_context()
    if mode:
        values = {"mode": mode, "patterns": tuple(pattern or ()), **options}
        set_log_policy(ctx, name, read_values(RequestLogConfig, values), person=LOCAL)
    config = get_log_policy(ctx, name)
    words = config.mode if config.mode == "off" else f"{config.mode}, {config.retention_days} days"
    emit({"endpoint": name, **config.model_dump(mode="json")}, text=f"{name}: {words}")


@command
def requests(
    name: Endpoint,
    status: Annotated[str, typer.Option(help="finished, aborted, lost or refused.")] = "",
    text: Annotated[str, typer.Option(help="Text of a logged prompt or answer, or an id.")] = "",
    min_ms: Annotated[float | None, typer.Option(help="Milliseconds that a request took at least.")] = None,
    days: Annotated[float, typer.Option(min=0, max=36_500, help="The last days.")] = 1.0,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Requests at most.")] = 20,
) -> None:
    """List an endpoint's requests, newest first, with the texts that its log keeps."""
    ctx = get_context()
    if status and status not in STATUSES:
        raise InvalidInput(
            f"There is no result {status!r}.", remedy=f"Choose from {', '.join(STATUSES)}.", field="status"
        )
    since = ctx.now() - timedelta(days=days)
    filters = RequestFilter(
        endpoint=get_endpoint(ctx, name).name, status=status, text=text, min_total_ms=min_ms, since=since
    )
    rows = browse_requests(ctx, filters, person=LOCAL, limit=limit).rows
    lines = [
        f"{row.created_at:%Y-%m-%d %H:%M:%S}  {row.status:<9}{row.completion_tokens:>6} "
        f"tokens{row.total_ms or 0:>9,.0f} ms  {row.id}{_reason(row)}"
        for row in rows
    ]
    data = {"endpoint": name, "requests": [asdict(row) for row in rows]}
    emit(data, text="\n".join(lines) or "No requests.")


def _reason(row: RequestRow) -> str:
    return f"  {row.finish_reason}" if row.status in ("refused", "lost") and row.finish_reason else ""


@command
@model_options(TrafficRules)
def dataset(
    name: Endpoint,
    objective: Annotated[
        str, typer.Option(help="sft (chat rows), kto (labelled answers) or preference (pairs).")
    ] = "sft",
    dataset_name: Annotated[
        str, typer.Option("--name", help="Name of the dataset. Without it, only count the rows.")
    ] = "",
    *,
    options: FieldValues,
    pattern: Patterns = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Id of a request to leave out; may be repeated.")] = None,
) -> None:
    """Make a dataset of an endpoint's logged requests and thumbs."""
    # imports pyarrow, which no other command on endpoints needs
    from backend.services.serving.request_log.datasets import (
        KINDS,
        make_traffic_dataset,
        preview_traffic,
    )

    if objective not in KINDS:
        raise InvalidInput(
            f"There is no objective {objective!r}.", remedy=f"Choose from {', '.join(KINDS)}.", field="objective"
        )
    rules = read_values(TrafficRules, options | {"patterns": tuple(pattern or ()), "exclude": tuple(exclude or ())})
    ctx = get_context()
    chosen = next(kind for kind in KINDS if kind == objective)
    if not dataset_name:
        preview = preview_traffic(ctx, name, objective=chosen, rules=rules, person=LOCAL)
        data: dict[str, object] = {
            "endpoint": name,
            "rows": len(preview.rows),
            "left_out": preview.left_out,
            "scrubbed": preview.scrubbed,
        }
        emit(data, text=f"{plural(len(preview.rows), 'row')}; --name makes a dataset of them.")
        return
    version, count = make_traffic_dataset(ctx, name, name=dataset_name, objective=chosen, rules=rules, person=LOCAL)
    data = {"endpoint": name, "dataset": dataset_name, "version": version.id, "rows": count}
    emit(data, text=f"Importing {plural(count, 'row')} into {dataset_name}.")
