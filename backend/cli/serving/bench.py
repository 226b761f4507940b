"""`roundhouse endpoint bench`: a load test of an endpoint, through the gateway and at its replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit, note, read_text
from backend.domain.wording import percent
from backend.services.context import LOCAL
from backend.services.serving.load.load_files import (
    load_test_data,
    parse_whole_numbers,
    read_arrivals,
    read_load_config,
)
from backend.services.serving.load.load_tests import LoadTestView, run_load_test


@command
def bench(
    name: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    users: Annotated[str, typer.Option(help="Closed loop: numbers of users at once, such as 1,8.")] = "1,8",
    requests: Annotated[int, typer.Option(min=1, help="Requests per level.")] = 32,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: requests a second, arriving at random (Poisson), instead of users.")
    ] = None,
    arrivals: Annotated[
        Path | None, typer.Option(help="Open loop: a file with an arrival per line, in seconds from the start.")
    ] = None,
    duration_s: Annotated[
        float | None, typer.Option(help="Seconds per level, instead of a number of requests.")
    ] = None,
    warmup: Annotated[
        int, typer.Option(min=0, help="First requests of a level, not counted; in a closed loop at least one per user.")
    ] = 4,
    target: Annotated[
        Literal["both", "gateway", "replica"], typer.Option(help="What is loaded; with both, in turn.")
    ] = "both",
    prompt_words: Annotated[str, typer.Option(help="Words of a prompt; several are a mix, such as 48,1500.")] = "48",
    max_tokens: Annotated[str, typer.Option(help="Length limits of answers; several are a mix.")] = "32",
    slo_ttft_ms: Annotated[
        float, typer.Option(help="Objective for the first token; goodput counts requests within it.")
    ] = 1000.0,
    slo_itl_ms: Annotated[float, typer.Option(help="Objective for the mean time between tokens.")] = 100.0,
    seed: Annotated[int, typer.Option(help="Seed of prompts and arrivals.")] = 1,
    url: Annotated[str, typer.Option(help="Another gateway. Default: this installation's.")] = "",
    key: Annotated[
        str, typer.Option(envvar="ROUNDHOUSE_API_KEY", help="Key for it. Default: one of its own, revoked at the end.")
    ] = "",
    as_json: JsonFlag = False,
) -> None:
    """Load an endpoint and measure latencies, tokens a second, errors, goodput and the gateway's overhead. The result
    is kept.
    """
    values: dict[str, Any] = {
        "users": parse_whole_numbers(users, field="users"),
        "requests": requests,
        "duration_s": duration_s,
        "rate": rate,
        "arrivals": () if arrivals is None else read_arrivals(read_text(arrivals), source=str(arrivals)),
        "warmup": warmup,
        "prompt_words": parse_whole_numbers(prompt_words, field="prompt_words"),
        "max_tokens": parse_whole_numbers(max_tokens, field="max_tokens"),
        "targets": ("gateway", "replica") if target == "both" else (target,),
        "slo_ttft_ms": slo_ttft_ms,
        "slo_itl_ms": slo_itl_ms,
        "seed": seed,
    }
    config = read_load_config(values)
    test = run_load_test(get_context(), name, config, person=LOCAL, gateway_url=url, key=key, on_progress=note)
    emit(load_test_data(test), as_json=as_json, text="\n".join(_lines(test)))


def _lines(test: LoadTestView) -> list[str]:
    heads = f"{'ttft p50':>10}{'p95':>8}{'itl p50':>9}{'p95':>8}{'e2e p95':>9}{'good':>6}{'err':>5}"
    lines = [f"{'users':<10}{'target':<9}{'req/s':>8}{'tok/s':>9}{heads}"]
    for level in test.result["levels"]:
        for target in ("gateway", "replica"):
            row = level[target]
            if row is None:
                continue
            cells = [_ms(row["ttft"], "p50_ms", 10), _ms(row["ttft"], "p95_ms", 8), _ms(row["itl"], "p50_ms", 9)]
            cells += [_ms(row["itl"], "p95_ms", 8), _ms(row["e2e"], "p95_ms", 9)]
            rates = f"{row['requests_per_s']:>8.1f}{row['tokens_per_s']:>9.1f}"
            lines.append(
                f"{level['users'] or 'open':<10}{target:<9}{rates}{''.join(cells)}{percent(row['good_share']):>6}{row['errors']:>5}"  # noqa: E501
            )
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
