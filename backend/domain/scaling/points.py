"""Points of a scaling law (parameters, tokens, loss), and their CSV reader."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass

from backend.domain.scaling.laws import FLOPS_PER_PARAMETER_TOKEN
from backend.errors import InvalidInput

MAX_POINTS = 10_000
COLUMNS: dict[str, tuple[str, ...]] = {
    "parameters": ("parameters", "params", "n", "num_parameters"),
    "tokens": ("tokens", "d", "num_tokens"),
    "loss": ("loss", "val_loss", "l"),
    "flops": ("flops", "c", "compute", "budget"),
}


@dataclass(frozen=True)
class ScalingPoint:
    """One finished run: `loss` in nats per token at its schedule's end. `flops` is its budget, by default 6 N D."""

    parameters: float
    tokens: float
    loss: float
    flops: float
    label: str = ""

    @classmethod
    def of(
        cls, parameters: float, tokens: float, loss: float, *, flops: float | None = None, label: str = ""
    ) -> ScalingPoint:
        """Return a point; `flops` defaults to 6 N D."""
        return cls(parameters, tokens, loss, flops or FLOPS_PER_PARAMETER_TOKEN * parameters * tokens, label)


def parse_points_csv(text: str) -> list[ScalingPoint]:
    """Read runs from CSV with a header: parameters, tokens and loss; flops may replace tokens, or be given too.

    Raises InvalidInput naming the line and the value at fault.
    """
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff")))
    header = next(reader, None)
    if not header:
        raise InvalidInput(
            "The file is empty.", remedy="Give a header such as parameters,tokens,loss and a run on each line."
        )
    places = _places(header)
    points: list[ScalingPoint] = []
    for row in reader:
        if not any(cell.strip() for cell in row):
            continue
        if len(points) == MAX_POINTS:
            raise InvalidInput(f"The file has more than {MAX_POINTS:,} runs.", remedy="Fit a sample of them.")
        points.append(_point(row, places, line=reader.line_num))
    return points


def _places(header: list[str]) -> dict[str, int]:
    names = [cell.strip().lower() for cell in header]
    places = {
        column: names.index(name) for column, known in COLUMNS.items() for name in reversed(known) if name in names
    }
    for column in ("parameters", "loss"):
        if column not in places:
            raise _missing(column, names)
    if "tokens" not in places and "flops" not in places:
        raise _missing("tokens", names)
    return places


def _missing(column: str, names: list[str]) -> InvalidInput:
    columns = ", ".join(name[:40] for name in names[:12])
    return InvalidInput(
        f"The column {column} is missing; found: {columns}.", remedy="A header such as parameters,tokens,loss is read."
    )


def _point(row: list[str], places: dict[str, int], *, line: int) -> ScalingPoint:
    values: dict[str, float] = {}
    for column, place in places.items():
        cell = row[place].strip() if place < len(row) else ""
        try:
            value = float(cell.replace("_", ""))
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            shown = f"“{cell[:40]}”" if cell else "nothing"
            raise InvalidInput(f"Line {line}: {column} is {shown}, and must be a positive number.", field=column)
        values[column] = value
    tokens = values.get("tokens") or values["flops"] / FLOPS_PER_PARAMETER_TOKEN / values["parameters"]
    return ScalingPoint.of(values["parameters"], tokens, values["loss"], flops=values.get("flops"))
