"""Text of load tests: what a person types or uploads, and the results as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from backend.domain.csv_text import safe_cell
from backend.errors import InvalidInput
from backend.services.serving.load.load_tests import LoadTestView

SPREADS = ("ttft", "itl", "tpot", "e2e")
RATES = (
    "requests",
    "errors",
    "duration_s",
    "requests_per_s",
    "tokens_per_s",
    "goodput_per_s",
    "good_share",
    "late_p99_ms",
)


def read_arrivals(text: str, *, source: str = "The file") -> tuple[float, ...]:
    """Return arrivals in ascending seconds: one per line, or the first column of a CSV whose title is skipped. Raises
    InvalidInput.
    """
    arrivals = []
    for number, line in enumerate(text.split("\n"), 1):
        cell = line.split(",")[0].strip()
        if not cell:
            continue
        try:
            arrivals.append(float(cell))
        except ValueError as error:
            if number == 1:
                continue
            raise InvalidInput(
                f"{source} holds {cell[:40]!r} in line {number}, which is no number of seconds.", field="arrivals"
            ) from error
    if not arrivals or not all(math.isfinite(arrival) for arrival in arrivals):
        raise InvalidInput(
            f"{source} holds no arrival.", remedy="Write a number of seconds per line.", field="arrivals"
        )
    return tuple(sorted(arrivals))


def load_test_data(test: LoadTestView) -> dict[str, object]:
    """Return a load test as plain values."""
    names = ("id", "endpoint", "revision", "checkpoint", "created_at")
    config, result = test.config.model_dump(mode="json"), test.result.model_dump(mode="json")
    return {name: getattr(test, name) for name in names} | {"config": config} | result


def load_test_json(test: LoadTestView) -> str:
    """Return a load test as a JSON document."""
    return json.dumps(load_test_data(test), indent=1, default=str, ensure_ascii=False)


def load_test_csv(test: LoadTestView) -> str:
    """Return a row per level and target: rates, percentiles in milliseconds with the bounds of their intervals, and the
    overhead.
    """
    percentiles = [f"{name}_{part}" for name in SPREADS for quantile in (50, 95, 99) for part in _parts(quantile)]
    added = [f"gateway_adds_{name}_p50_ms{bound}" for name in ("ttft", "itl", "e2e") for bound in ("", "_low", "_high")]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["test", "endpoint", "users", "target", *RATES, *percentiles, *added], restval="")
    writer.writeheader()
    for level in test.result.levels:
        for target in ("gateway", "replica"):
            if level.get(target) is None:
                continue
            row: dict[str, Any] = {
                "test": test.id,
                "endpoint": safe_cell(test.endpoint),
                "users": level["users"] or "open",
                "target": target,
            }
            row |= {name: level[target].get(name) for name in RATES}
            for name in SPREADS:
                row |= _percentiles(name, level[target].get(name))
            if target == "gateway" and level.get("gateway_overhead"):
                row |= _overhead(level["gateway_overhead"])
            writer.writerow(row)
    return out.getvalue()


def _parts(quantile: int) -> tuple[str, str, str]:
    return f"p{quantile}_ms", f"p{quantile}_low_ms", f"p{quantile}_high_ms"


def _percentiles(name: str, spread: Mapping[str, Any] | None) -> dict[str, object]:
    row: dict[str, object] = {}
    for quantile in (50, 95, 99):
        middle, low, high = (f"{name}_{part}" for part in _parts(quantile))
        interval = (spread or {}).get(f"p{quantile}_interval_ms") or (None, None)
        row |= {middle: (spread or {}).get(f"p{quantile}_ms"), low: interval[0], high: interval[1]}
    return row


def _overhead(added: Mapping[str, Any]) -> dict[str, object]:
    row: dict[str, object] = {}
    for name in ("ttft", "itl", "e2e"):
        low, high = added.get(f"{name}_interval_ms") or (None, None)
        head = f"gateway_adds_{name}_p50_ms"
        row |= {head: added.get(f"{name}_p50_ms"), f"{head}_low": low, f"{head}_high": high}
    return row
