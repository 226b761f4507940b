"""Config of a gate, its verdicts and its report. Light imports, since the tables need it."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from backend.domain.fields import OPTION_ONLY, setting
from backend.domain.validation import StoredRecord, is_stored


class GateVerdict(StrEnum):
    """Outcome of a gate."""

    PASS = "PASS"  # noqa: S105
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


GATE_WORDS = {GateVerdict.PASS: "passes it", GateVerdict.FAIL: "fails it", GateVerdict.INCONCLUSIVE: "is inconclusive"}
"""Predicates of a sentence about a checkpoint: gate “release” fails it."""


class GateBenchmark(BaseModel):
    """One benchmark of a gate. `metric` None takes the benchmark's main one; `margin` None takes the gate's;
    `task` None takes the suggested one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    benchmark: str = Field(min_length=1, description="Dataset: name, or name@version.")
    metric: str | None = Field(default=None, description="Metric of the evaluation. Empty: its main one.")
    margin: float | None = Field(
        default=None, ge=0, description="In the metric's unit: 0.02 is two points of accuracy."
    )
    task: str | None = Field(
        default=None, description="Task that scores it, or multiple_choice, generation, perplexity. Empty: suggested."
    )

    @property
    def label(self) -> str:
        """Return the benchmark with the task that scores it."""
        return f"{self.benchmark} by {self.task.replace('_', ' ')}" if self.task else self.benchmark


class GateConfig(BaseModel):
    """A gate: the champion, the benchmarks, and what has to be shown on them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion: str = Field(
        min_length=1, description="Checkpoint (name or id), or endpoint:NAME for the one that it serves."
    )
    benchmarks: tuple[GateBenchmark, ...] = Field(min_length=1)
    test: Literal["non_inferiority", "superiority"] = setting(
        "non_inferiority",
        "To show",
        "Not worse by the margin, or better by it.",
        choices={
            "non_inferiority": "Not worse by the margin (non-inferiority)",
            "superiority": "Better by the margin (superiority)",
        },
    )
    margin: float = setting(
        0.02,
        "Margin",
        "In the metric's unit 0.02 is two points of accuracy, or 0.02 bits per byte.",
        ge=0,
        unit="points",
        scale=100,
        step=0.5,
    )
    level: float = setting(
        0.95,
        "Level",
        "Level of the two-sided interval that decides: PASS and FAIL err half as often.",
        gt=0.5,
        lt=1,
        shown=OPTION_ONLY,
    )
    rule: Literal["all", "any"] = setting(
        "all",
        "Several benchmarks",
        "All benchmarks must pass (intersection-union test), or any one of them (Holm-corrected).",
        choices={"all": "Every benchmark passes", "any": "One benchmark passes (Holm-corrected)"},
    )
    expected_difference: float = setting(
        0.0, "Expected difference", "True difference that power is stated for; positive: better.", shown=OPTION_ONLY
    )

    @model_validator(mode="after")
    def _check_parts(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        names = [(part.benchmark, part.metric, part.task) for part in self.benchmarks]
        if len(set(names)) < len(names):
            raise ValueError("a benchmark stands twice in the gate: name each once")
        if self.test == "non_inferiority" and any(self.margin_of(part) == 0 for part in self.benchmarks):
            raise ValueError("non-inferiority needs a margin above 0: equal checkpoints could never pass")
        return self

    def margin_of(self, part: GateBenchmark) -> float:
        """Return the margin of a benchmark."""
        return self.margin if part.margin is None else part.margin

    def threshold_of(self, part: GateBenchmark) -> float:
        """Return the improvement that has to be exceeded: minus the margin for non-inferiority."""
        return -self.margin_of(part) if self.test == "non_inferiority" else self.margin_of(part)


class BenchmarkVerdict(StoredRecord):
    """One benchmark of a gate. `difference`, `low` and `high` are oriented: positive is better.

    `level`: that of the interval from `low` to `high`, which decides: the gate's, narrowed by the look's share of the
    error. `p_pass` and `p_fail`: two-sided p values against the threshold from below and above, divided by that share,
    None without an interval. `power`: chance to PASS this benchmark at this look if the difference is truly the
    expected one. `items_to_settle`: items that settle it at the next look with 80 % power if the true difference is the
    observed one; None where it is settled, or where no number of items would. `level` and `share` are 0 in verdicts of
    a version that did not keep them.
    """

    benchmark: str
    metric: str
    threshold: float
    difference: float
    low: float | None = None
    high: float | None = None
    n: int
    clusters: int | None = None
    p_pass: float | None = None
    p_fail: float | None = None
    verdict: GateVerdict
    power: float | None = None
    items_to_settle: int | None = None
    procedure: str = ""
    level: float = 0.0
    look: int = 1
    share: float = 0.0


class ReportedBenchmark(BenchmarkVerdict):
    """A benchmark in a gate's report. `error`: chance that the look errs; `items`: those that the benchmark has;
    `cuts`: what contexts may have done to it; `task`: what scored it, empty in older verdicts.
    """

    error: float | None = None
    champion_evaluation: str
    candidate_evaluation: str
    items: int
    cuts: tuple[str, ...] = ()
    task: str = ""


class GateReport(StoredRecord):
    """A verdict as it is recorded and printed: the decision, and the evaluations that it rests on."""

    gate: str | None = None
    verdict: GateVerdict = GateVerdict.INCONCLUSIVE
    candidate: str = ""
    champion: str = ""
    reason: str = ""
    power: float | None = None
    items_to_settle: int | None = None
    procedure: str = ""
    missing: tuple[str, ...] = ()
    benchmarks: tuple[ReportedBenchmark, ...] = ()
