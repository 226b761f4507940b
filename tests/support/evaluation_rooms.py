"""A folder of oracles and benchmarks, and a reporter that remembers: what the tests of the evaluation room use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from backend.domain.jobs.states import StopRequest
from jobs.evaluation import run, run_generate, run_loglikelihood
from jobs.evaluation.engines.base import ScoreRequest
from tests.support.jobs import MemoryReporter, make_spec

ROOMS = {"evaluate": run, "generate": run_generate, "loglikelihood": run_loglikelihood}


def score_request(context: str, continuations: Sequence[str]) -> ScoreRequest:
    """The request for several continuations of one context."""
    return ScoreRequest(tuple((context, continuation) for continuation in continuations))


class Remembering(MemoryReporter):
    """A reporter that keeps events. Asks to stop once it has seen `stop_after` of them, progress aside."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        super().__init__()
        self._stop_after = stop_after

    def should_stop(self) -> StopRequest | None:
        return (
            "cancel"
            if self._stop_after is not None and len(self.all) - len(self.progressed) >= self._stop_after
            else None
        )


class EvaluationRoom:
    """An artifacts folder and jobs in it, run in this process."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, rows: list[dict[str, Any]], *, split: str = "train") -> str:
        """Write a split of a dataset version and return its folder."""
        (self.root / name).mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), self.root / name / f"{split}.parquet")
        return name

    def work(
        self, kind: str, payload: dict[str, Any], *, job: str = "job", reporter: Remembering | None = None
    ) -> dict[str, Any]:
        """Run one attempt at a job. The same `job` finds its folder again."""
        spec = make_spec(kind, {"threads": 1, **payload}, root=self.root, job=job)
        result: dict[str, Any] = ROOMS[kind].run(spec, reporter or Remembering()).dump()  # type: ignore[attr-defined]
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
        """Run an evaluation and return its scores by metric, or `metric:subgroup`, with `facts` beside them."""
        payload = {
            "checkpoint": checkpoint,
            "dataset": dataset,
            "kind": kind,
            "split": split,
            "config": config,
            "fingerprint": "f",
        }
        payload["evaluation_id"] = "e"
        result = self.work("evaluate", payload, job=job, reporter=reporter)
        named = {
            ":".join(filter(None, (score["metric"], score.get("subgroup", "")))): score for score in result["scores"]
        }
        return named | {"facts": result["facts"]}
