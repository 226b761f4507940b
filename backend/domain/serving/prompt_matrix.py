"""Answers to a prompt as a matrix: a row of the matrix for each row of data, a column for each endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from backend.errors import InvalidInput

MAX_ROWS, MAX_ENDPOINTS, MAX_CELLS = 50, 6, 120
MAX_ANSWER = 20_000
"""Characters of an answer that are kept."""
MAX_VALUE = 20_000
"""Characters of a value of a row: rows are stored with each second's answers."""

CellStatus = Literal["waiting", "running", "done", "stopped", "failed"]


class MatrixCell(BaseModel):
    """The answer of one endpoint to one row. `error` holds cause and cure of a failed one."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    status: CellStatus = "waiting"
    text: str = ""
    error: str = ""
    finish_reason: str = ""
    completion_tokens: int | None = None
    total_ms: float | None = None
    tok_per_sec: float | None = None


class MatrixAnswers(BaseModel):
    """Rows and endpoints that were tried, and their cells row by row."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoints: tuple[str, ...] = ()
    rows: tuple[dict[str, JsonValue], ...] = ()
    cells: tuple[MatrixCell, ...] = ()

    def cell(self, row: int, column: int) -> MatrixCell:
        """Return the cell of a row and an endpoint, both counted from 0."""
        return self.cells[row * len(self.endpoints) + column]

    @property
    def num_ended(self) -> int:
        """Number of cells from which nothing more comes."""
        return sum(cell.status not in ("waiting", "running") for cell in self.cells)


def check_size(rows: Sequence[Mapping[str, Any]], endpoints: Sequence[str]) -> None:
    """Raise InvalidInput for a matrix without endpoints, with one twice, of too many rows, endpoints or cells, or with
    a value that is too long.
    """
    num_rows = len(rows)
    if not endpoints:
        raise InvalidInput("No endpoint is chosen.", remedy="Choose at least one.", field="endpoints")
    if len(set(endpoints)) != len(endpoints):
        raise InvalidInput("An endpoint is chosen twice.", remedy="Choose each once.", field="endpoints")
    if len(endpoints) > MAX_ENDPOINTS:
        raise InvalidInput(
            f"{len(endpoints)} endpoints are chosen.", remedy=f"Choose at most {MAX_ENDPOINTS}.", field="endpoints"
        )
    if num_rows > MAX_ROWS:
        raise InvalidInput(f"{num_rows} rows are too many.", remedy=f"Try at most {MAX_ROWS}.", field="rows")
    if num_rows * len(endpoints) > MAX_CELLS:
        raise InvalidInput(
            f"{num_rows} rows on {len(endpoints)} endpoints are {num_rows * len(endpoints)} answers.",
            remedy=f"Try at most {MAX_CELLS}: save a task, and evaluate, for more.",
            field="rows",
        )
    for number, row in enumerate(rows, start=1):
        for name, value in row.items():
            if (length := len(str(value))) > MAX_VALUE:
                raise InvalidInput(
                    f"“{name}” has {length:,} characters in row {number}.",
                    remedy=f"Try values of at most {MAX_VALUE:,}: save a task, and evaluate, for longer ones.",
                    field="rows",
                )
