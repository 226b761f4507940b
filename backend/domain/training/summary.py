"""Summary of a run for lists and cards, which do not read its points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

SPARK_POINTS = 64
TOKENS = "tokens"
"""Metric of a run whose objective `counts_tokens`: those it has read so far, prompts with their answers."""


class ImportedLog(BaseModel):
    """Source of a run imported from another program's log. `has_time`: its points carry times."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    file: str = ""
    format: str = ""
    tokens_per_step: float | None = None
    flops_per_step: float | None = None
    has_time: bool = False
    notes: tuple[str, ...] = ()


class EncodedRows(BaseModel):
    """Counts of a run's train rows: all, those it leaves out, and those it truncates to its context."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    rows: int
    left_out: int
    truncated: int


class Restart(BaseModel):
    """An attempt of a run after one that was lost or given back, and the step of the checkpoint that it continues from;
    0: there was none.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    attempt: int
    step: int

    @property
    def sentence(self) -> str:
        """Return the step at which it begins, as a sentence."""
        if self.step == 0:
            return f"Attempt {self.attempt} begins at step 0: there was no checkpoint to continue from."
        return f"Attempt {self.attempt} continues from the checkpoint at step {self.step:,}."


class RunSummary(BaseModel):
    """Newest values, best val_loss and sparkline of a run.

    `last`: newest value by metric. `spark`: at most 64 (step, train_loss), every `spark_stride`-th step. `not_finite`:
    by metric the first step whose value was not finite; such points are not stored. `result`: the numbers of the
    finished job's result. `imported`: for runs of other programs. `earlier_s`: seconds of the jobs before the newest.
    `encoded`: the train rows, where they are not running text. `restart`: its job's newest attempt after the first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    last: dict[str, float] = Field(default_factory=dict)
    spark: tuple[tuple[int, float], ...] = ()
    spark_stride: int = 1
    best_val_loss: float | None = None
    best_val_step: int | None = None
    not_finite: dict[str, int] = Field(default_factory=dict)
    result: dict[str, int | float | str | bool] = Field(default_factory=dict)
    imported: ImportedLog | None = None
    earlier_s: float = 0.0
    encoded: EncodedRows | None = None
    restart: Restart | None = None

    def dump(self) -> dict[str, object]:
        """Return the stored form: the fields that are not empty."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def add(self, points: Iterable[tuple[int, Mapping[str, float | None]]]) -> Self:
        """Return the summary with points of ascending steps, each (step, value by metric).

        A full sparkline drops every second point and doubles its stride.
        """
        last, spark, stride = dict(self.last), list(self.spark), self.spark_stride
        best, best_step, not_finite = self.best_val_loss, self.best_val_step, dict(self.not_finite)
        for step, values in points:
            finite = {name: value for name, value in values.items() if value is not None and isfinite(value)}
            last.update(finite)
            for name in values.keys() - finite.keys():
                not_finite.setdefault(name, step)
            if "val_loss" in finite and (best is None or finite["val_loss"] < best):
                best, best_step = finite["val_loss"], step
            if "train_loss" in finite and (not spark or step >= spark[-1][0] + stride):
                spark.append((step, round(finite["train_loss"], 5)))
                if len(spark) > SPARK_POINTS:
                    spark, stride = spark[::2], stride * 2
        changes = {"last": last, "spark": tuple(spark), "spark_stride": stride, "not_finite": not_finite}
        return self.model_copy(update={**changes, "best_val_loss": best, "best_val_step": best_step})

    def drop_after(self, step: int) -> Self:
        """Return the summary of a run that continues after `step`; 0: from its start."""
        changes: dict[str, object] = {
            "last": {name: value for name, value in self.last.items() if name != TOKENS},
            "spark": tuple(point for point in self.spark if point[0] <= step),
            "not_finite": {name: first for name, first in self.not_finite.items() if first <= step},
            "result": {},
        }
        if (self.best_val_step or 0) > step:
            changes |= {"best_val_loss": None, "best_val_step": None}
        if step == 0:
            changes["last"] = {}
        return self.model_copy(update=changes)


def mean_tokens_per_step(nominal: float, *, samples: bool, last: Mapping[str, float], steps: int) -> float | None:
    """Return the tokens of a step: the mean of those that a run has counted so far, or the `nominal` ones of full
    sequences; None of a run that `samples` its own before it has counted any.
    """
    if steps and TOKENS in last:
        return last[TOKENS] / steps
    return None if samples else nominal


@dataclass(frozen=True)
class RunTime:
    """Time that a job held its devices: `ended_s` seconds of attempts that ended, and `since`, the start of the one
    that runs now.
    """

    ended_s: float = 0.0
    since: datetime | None = None


def run_seconds(earlier_s: float, time: RunTime | None, *, now: datetime) -> float | None:
    """Return the seconds of all jobs of a run, whose newest ran for `time`; None before it starts."""
    if time is None:
        return earlier_s or None
    open_s = max(0.0, (now - time.since).total_seconds()) if time.since else 0.0
    return earlier_s + time.ended_s + open_s
