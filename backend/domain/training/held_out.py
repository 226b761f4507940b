"""Held-out rows that a run was validated on, worst loss first, with what the network gave beside them."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict

from backend.domain.validation import ReadRecord

FILE = "held_out.json"
"""Name of the file in a run's folder."""
MAX_BYTES = 2_000_000
"""A larger file was not written by a run."""
FEW_ROWS = 10
"""With fewer held-out rows their mean loss says little about a model."""
Measure = Literal["tokens", "pair", "answer", "reward"]
MEASURES: dict[Measure, str] = {
    "tokens": "nats per token",
    "pair": "loss of the pair",
    "answer": "loss of the answer",
    "reward": "negative reward",
}
"""Label of a row's loss."""


class HeldOutRow(ReadRecord):
    """A held-out row. `loss` is that of its `tokens` trained tokens, of its pair or of its answer.

    `expected` is the answer or the continuation that the row holds, the chosen one of a pair or the accepted ones;
    `rejected` the other of a pair. `is_good` is the label of a rated answer. `given` is what the network gave for the
    prompt, None where it was not asked.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")
    loss: float
    tokens: int = 0
    prompt: str = ""
    expected: str = ""
    rejected: str | None = None
    is_good: bool | None = None
    given: str | None = None


class HeldOutRows(ReadRecord):
    """The worst of `num_rows` rows of a validation at a step, and the mean loss of all, each row counting once."""

    model_config = ConfigDict(ser_json_inf_nan="constants")
    step: int
    measure: Measure
    num_rows: int
    mean_loss: float
    rows: tuple[HeldOutRow, ...] = ()

    @property
    def num_answers(self) -> int:
        """Number of rows whose prompt the network was given."""
        return sum(row.given is not None for row in self.rows)

    @property
    def is_silent(self) -> bool:
        """Return whether the network answered prompts, and none with a visible character."""
        return self.num_answers > 0 and not any(row.given and row.given.strip() for row in self.rows)
