"""`roundhouse endpoint bench`: a load test of an endpoint, through the gateway and at its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import command, emit, note, read_text
from backend.domain.serving.load import LoadConfig
from backend.domain.validation import read_values
from backend.domain.wording import percent
from backend.services.context import LOCAL
from backend.services.serving.load_tests import LoadTestView, load_test_data, read_arrivals, run_load_test


@command
@model_options(LoadConfig)
def bench(
    name: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    arrivals: Annotated[
        Path | None, typer.Option(help="Open loop: a file with an arrival per line, in seconds from the start.")
    ] = None,
    target: Annotated[
        Literal["both", "gateway", "replica"], typer.Option(help="Where requests are sent; with both, in turn.")
    ] = "both",
    *,
    options: Mapping[str, object],
    url: Annotated[str, typer.Option(help="Another gateway. Default: this installation's.")] = "",
    key: Annotated[
        str, typer.Option(envvar="ROUNDHOUSE_API_KEY", help="Key for it. Default: one of its own, revoked at the end.")
    ] = "",
) -> None:
    """Load an endpoint and measure latencies, tokens a second, errors, goodput and the gateway's overhead. The result
    is kept.
    """
    times = () if arrivals is None else read_arrivals(read_text(arrivals), source=str(arrivals))
    targets = ("gateway", "replica") if target == "both" else (target,)
    config = read_values(LoadConfig, {**options, "arrivals": times, "targets": targets})
    test = run_load_test(get_context(), name, config, person=LOCAL, gateway_url=url, key=key, on_progress=note)
    emit(load_test_data(test), text="\n".join(_lines(test)))


def _lines(test: LoadTestView) -> list[str]:
    heads = f"{'ttft p50':>10}{'p95':>8}{'itl p50':>9}{'p95':>8}{'e2e p95':>9}{'good':>6}{'err':>5}"
    lines = [f"{'users':<10}{'target':<9}{'req/s':>8}{'tok/s':>9}{heads}"]
    for level in test.result.levels:
        for target in ("gateway", "replica"):
            row = level[target]
            if row is None:
                continue
            cells = [_ms(row["ttft"], "p50_ms", 10), _ms(row["ttft"], "p95_ms", 8), _ms(row["itl"], "p50_ms", 9)]
            cells += [_ms(row["itl"], "p95_ms", 8), _ms(row["e2e"], "p95_ms", 9)]
            cells += [f"{percent(row['good_share']):>6}", f"{row['errors']:>5}"]
            rates = f"{row['requests_per_s']:>8.1f}{row['tokens_per_s']:>9.1f}"
            lines.append(f"{level['users'] or 'open':<10}{target:<9}{rates}{''.join(cells)}")
        added = level["gateway_overhead"] or {}
        if added.get("ttft_p50_ms") is not None:
            interval = (
                ""
                if added["ttft_interval_ms"] is None
                else " (95 % interval {:.1f} to {:.1f})".format(*added["ttft_interval_ms"])
            )
            lines.append(f"{'':<10}gateway adds {added['ttft_p50_ms']:.1f} ms to the first token (p50){interval}")
    return lines


def _ms(spread: dict[str, float] | None, name: str, width: int) -> str:
    return f"{'–' if spread is None else f'{spread[name]:.1f}':>{width}}"
