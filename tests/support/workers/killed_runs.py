"""Training jobs in processes of their own, on several ranks or killed with SIGKILL at a given step."""

from __future__ import annotations

import json
import multiprocessing
import socket
import time
from dataclasses import replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from backend.domain.jobs.events import ResultEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.errors import JobFailed
from jobs.reporter import JobSpec
from jobs.run import run_child
from jobs.tailing import parse_events
from tests.support.jobs import MemoryReporter

FORKS = multiprocessing.get_context("forkserver")  # the libraries are imported once, not by every process
FORKS.set_forkserver_preload(["jobs.training.run", "tests.support.workers.shard_rank"])

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


def run_forked(
    spec: JobSpec[TrainPayload], recorder: MemoryReporter, *, listening: socket.socket | None = None
) -> TrainResult:
    """Run an attempt of a training job in a process of its own, whose ranks are forks: here, where threads run, each
    would be a new Python. `listening` is the socket where its machines meet. Raises JobFailed if it fails.
    """
    folder = spec.folder / f"attempt-{spec.attempt}"
    folder.mkdir(parents=True)
    spec.write(folder / "job.json")
    child: ForkServerProcess = FORKS.Process(target=_child, args=(folder, listening))
    child.start()
    child.join()
    *events, last = parse_events((folder / "events.jsonl").read_bytes().splitlines())
    recorder.all += events
    if not isinstance(last, ResultEvent):
        raise JobFailed(f"the job ended with status {child.exitcode}: {last}")
    return TrainResult.model_validate(last.result)


def _child(folder: Path, listening: socket.socket | None = None) -> None:
    raise SystemExit(run_child(folder, listening=listening.detach() if listening else None))
