"""Training jobs in processes of their own that are killed with SIGKILL at a given step."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from backend.domain.jobs.payloads import TrainPayload
from jobs.reporter import JobSpec
from jobs.run import run_child

FORKS = multiprocessing.get_context("forkserver")  # the libraries are imported once, not by every process
FORKS.set_forkserver_preload(["jobs.training.run"])

Values = dict[str, dict[int, float]]


class KilledRun:
    """A training job whose attempts are child processes as a worker starts them, forked with the libraries imported."""

    def __init__(self, spec: JobSpec[TrainPayload]) -> None:
        self._spec, self._attempt = spec, 0

    @property
    def checkpoints(self) -> Path:
        """The folder of the run's checkpoints."""
        return self._spec.path(self._spec.payload.run_folder) / "checkpoints"

    def attempt(self, *, kill_at: int | None = None, delay_s: float = 0.0) -> bool:
        """Run an attempt; kill it `delay_s` after it has reported step `kill_at`. Returns whether the run finished."""
        self._attempt += 1
        folder = self._folder(self._attempt)
        folder.mkdir(parents=True)
        replace(self._spec, attempt=self._attempt).write(folder / "job.json")
        child: ForkServerProcess = FORKS.Process(target=_child, args=(folder,))
        child.start()
        if kill_at is not None:
            while child.is_alive() and max(self.reported(self._attempt).get("train_loss", {0: 0.0})) < kill_at:
                time.sleep(0.001)
            time.sleep(delay_s)
            child.kill()
        child.join()
        if child.exitcode not in (0, -9):
            raise AssertionError((folder / "events.jsonl").read_text()[-2000:])
        return child.exitcode == 0

    def reported(self, attempt: int) -> Values:
        """Return the values of every metric by step that an attempt reported."""
        events = self._folder(attempt) / "events.jsonl"
        values: Values = {}
        for line in events.read_bytes().splitlines() if events.exists() else []:
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # torn by the kill
            if event["type"] == "metrics":
                for name, value in event["values"].items():
                    values.setdefault(name, {})[event["step"]] = value
        return values

    def final_weights(self) -> bytes:
        """Return the bytes of the weights in the last checkpoint."""
        last = max(self.checkpoints.iterdir())
        return next(last.glob("*.safetensors")).read_bytes()

    def _folder(self, attempt: int) -> Path:
        return self._spec.folder / f"attempt-{attempt}"


def differences(one: Values, other: Values) -> list[tuple[str, int]]:
    """Return (metric, step) of every value of `one` that differs in `other`, except speeds and times."""
    exact = [
        name
        for name in one
        if name in ("train_loss", "grad_norm", "learning_rate") or name.startswith(("val_", "reward"))
    ]
    return [(name, step) for name in exact for step, value in one[name].items() if other[name].get(step) != value]


def _child(folder: Path) -> None:
    raise SystemExit(run_child(folder))
