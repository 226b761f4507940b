"""`roundhouse endpoint bench`: a load test of an endpoint, through the gateway and at its replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit, note, read_text
from backend.domain.serving.load import LoadConfig
from backend.errors import InvalidInput
from backend.services.context import LOCAL
from backend.services.serving.load.load_tests import LoadTestView, run_load_test


@command
def bench(
    name: Annotated[str, typer.Argument(help="Name of the endpoint.")],
    users: Annotated[str, typer.Option(help="Closed loop: numbers of users at once, such as 1,8.")] = "1,8",
    requests: Annotated[int, typer.Option(min=1, help="Requests per level.")] = 32,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: requests a second, arriving at random (Poisson), instead of users.")
    ] = None,
    arrivals: Annotated[Path | None, typer.Option(help="Open loop: a file with an arrival per line, in seconds from the start.")] = None,
    warmup: Annotated[int, typer.Option(min=0, help="Requests before each level, not counted.")] = 4,
    prompt_words: Annotated[str, typer.Option(help="Words of a prompt; several are a mix, such as 48,1500.")] = "48",
    max_tokens: Annotated[str, typer.Option(help="Length limits of answers; several are a mix.")] = "32",
    slo_ttft_ms: Annotated[float, typer.Option(help="Objective for the first token; goodput counts requests within it.")] = 1000.0,
    slo_itl_ms: Annotated[float, typer.Option(help="Objective for the mean time between tokens.")] = 100.0,
    seed: Annotated[int, typer.Option(help="Seed of prompts and arrivals.")] = 1,
    url: Annotated[str, typer.Option(help="Another gateway. Default: this installation's.")] = "",
    key: Annotated[str, typer.Option(envvar="ROUNDHOUSE_API_KEY", help="Key for it. Default: one of its own, revoked at the end.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Load an endpoint and measure latencies, tokens a second, errors, goodput and the gateway's overhead. The result is kept."""
    try:
        config = LoadConfig(
            users=_numbers(users, "users"),
            requests=requests,
            rate=rate,
            arrivals=_arrivals(arrivals),
            warmup=warmup,
            prompt_words=_numbers(prompt_words, "prompt_words"),
            max_tokens=_numbers(max_tokens, "max_tokens"),
            slo_ttft_ms=slo_ttft_ms,
            slo_itl_ms=slo_itl_ms,
            seed=seed,
        )
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"{field}: {first['msg']}." if field else f"{first['msg']}.", field=field or None) from error
    test = run_load_test(get_context(), name, config, person=LOCAL, gateway_url=url, key=key, on_progress=note)
    emit(load_test_data(test, name), as_json=as_json, text="\n".join(_lines(test)))


def load_test_data(test: LoadTestView, name: str) -> dict[str, Any]:
    """Return a load test as plain values."""
    return {"id": test.id, "endpoint": name, "created_at": test.created_at, "config": test.config, **test.result}


def _lines(test: LoadTestView) -> list[str]:
    heads = f"{'ttft p50':>10}{'p95':>8}{'itl p50':>9}{'p95':>8}{'e2e p95':>9}{'good':>6}{'err':>5}"
    lines = [f"{'users':<10}{'target':<9}{'req/s':>8}{'tok/s':>9}{heads}"]
    for level in test.result["levels"]:
        for target in ("gateway", "replica"):
            row = level[target]
            cells = [_ms(row["ttft"], "p50_ms", 10), _ms(row["ttft"], "p95_ms", 8), _ms(row["itl"], "p50_ms", 9)]
            cells += [_ms(row["itl"], "p95_ms", 8), _ms(row["e2e"], "p95_ms", 9)]
            rates = f"{row['requests_per_s']:>8.1f}{row['tokens_per_s']:>9.1f}"
            lines.append(f"{level['users'] or 'open':<10}{target:<9}{rates}{''.join(cells)}{row['good_share']:>6.0%}{row['errors']:>5}")
        overhead = level["gateway_overhead"]["ttft_p50_ms"]
        lines.append("" if overhead is None else f"{'':<10}gateway adds {overhead:.1f} ms to the first token (p50)")
    return lines


def _ms(spread: dict[str, float] | None, name: str, width: int) -> str:
    return f"{'–' if spread is None else f'{spread[name]:.1f}':>{width}}"


def _numbers(text: str, field: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise InvalidInput(f"{text!r} holds no whole numbers.", remedy="Write them with commas, such as 1,8.", field=field) from error


def _arrivals(file: Path | None) -> tuple[float, ...]:
    if file is None:
        return ()
    try:
        return tuple(sorted(float(line) for line in read_text(file).split()))
    except ValueError as error:
        raise InvalidInput(f"{file} holds a line that is no number of seconds.", field="arrivals") from error
