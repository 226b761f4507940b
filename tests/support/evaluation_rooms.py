"""A folder of oracles and benchmarks, and a reporter that remembers: what the tests of the evaluation room use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluation import run, run_generate, run_loglikelihood
from jobs.reporter import JobSpec, StopRequest

ROOMS = {"evaluate": run, "generate": run_generate, "loglikelihood": run_loglikelihood}


class Remembering:
    """A reporter that keeps events. Asks to stop once it has seen `stop_after` of them."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.progressed: list[tuple[float, float]] = []
        self._stop_after = stop_after

    def metrics(self, step: int, values: dict[str, float]) -> None:
        raise AssertionError("an evaluation has no curves")

    def progress(self, done: float, total: float, *, unit: str = "step", rate: float | None = None, message: str = "") -> None:
        self.progressed.append((done, total))

    def log(self, text: str) -> None:
        self.events.append(("log", {"text": text}))

    def sample(self, step: int, prompt: str, completion: str) -> None:
        raise AssertionError("an evaluation has no samples")

    def event(self, type_: str, **fields: Any) -> None:
        self.events.append((type_, fields))

    def should_stop(self) -> StopRequest | None:
        return "cancel" if self._stop_after is not None and len(self.events) >= self._stop_after else None

    def of(self, type_: str) -> list[dict[str, Any]]:
        """Return the fields of all events of a type."""
        return [fields for kind, fields in self.events if kind == type_]


class EvaluationRoom:
    """An artifacts folder and jobs in it, run in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, rows: list[dict[str, Any]], *, split: str = "train") -> str:
        """Write a split of a dataset version and return its folder."""
        (self.root / name).mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), self.root / name / f"{split}.parquet")
        return name

    def work(self, kind: str, payload: dict[str, Any], *, job: str = "job", reporter: Remembering | None = None) -> dict[str, Any]:
        """Run one attempt at a job. The same `job` finds its folder again."""
        folder = self.root / "jobs" / job
        folder.mkdir(parents=True, exist_ok=True)
        spec = JobSpec(id=job, attempt=1, kind=kind, payload={"threads": 1, **payload}, artifacts=self.root, folder=folder)
        result: dict[str, Any] = ROOMS[kind].run(spec, reporter or Remembering())  # type: ignore[attr-defined]
        return result

    def evaluate(
        self,
        checkpoint: str,
        dataset: str,
        kind: str,
        *,
        job: str = "job",
        reporter: Remembering | None = None,
        split: str = "all",
        **config: Any,
    ) -> dict[str, Any]:
        """Run an evaluation and return its scores by metric, with `facts` beside them."""
        payload = {"checkpoint": checkpoint, "dataset": dataset, "kind": kind, "split": split, "config": config, "fingerprint": "f"}
        result = self.work("evaluate", payload, job=job, reporter=reporter)
        return {score["metric"]: score for score in result["scores"]} | {"facts": result["facts"]}
