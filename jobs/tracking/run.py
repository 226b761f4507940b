"""A run's numbers in other trackers: a process of its own follows the events that training writes, so that training pays nothing.

It reads the same file as the parent, at a low priority. A tracker that fails is said in the job's log and left out; the run goes on.
Everything is written under the run's folder by the tracker's own library, and nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.domain.jobs.events import MetricsEvent, ResumedEvent
from backend.domain.jobs.payloads import Payload, TrainPayload
from backend.infra.processes import die_with_parent
from jobs.reporter import JobSpec
from jobs.tailing import Tail, parse_events

CLOSED = "closed"
POLL_S = 1.0
END_S = 30.0  # what a tracker may need to write its last points
OFFLINE = {
    "DO_NOT_TRACK": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def start_tracking(payload: Payload, folder: Path) -> subprocess.Popen[bytes] | None:
    """Start the process that follows an attempt's events; None for a job without trackers."""
    if not isinstance(payload, TrainPayload) or not payload.config.trackers:
        return None
    (folder / CLOSED).unlink(missing_ok=True)
    with (folder / "output.log").open("ab") as output:  # the parent reads it into the job's log
        return subprocess.Popen(
            ["nice", "-n", "10", sys.executable, "-m", "jobs.tracking.run", str(folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **OFFLINE, "CUDA_VISIBLE_DEVICES": ""},
            cwd=Path(__file__).resolve().parents[2],
        )


def end_tracking(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Say that no more events come, and wait for the last points to be written."""
    (folder / CLOSED).touch()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"trackers of {folder} did not end within {END_S:.0f} s\n")


def follow(folder: Path) -> None:
    """Write what an attempt reports to its run's trackers until the attempt is closed and read to its end."""
    from jobs.tracking.writers import open_writers

    spec = JobSpec.read(folder / "job.json", of=TrainPayload)
    payload = spec.payload
    place = spec.path(payload.run_folder) / "trackers"
    writers = open_writers(payload.config.trackers, place, run_id=payload.run_id, config=payload.config.model_dump(mode="json"))
    tail = Tail(folder / "events.jsonl")
    while writers:
        is_last = (folder / CLOSED).exists()
        events = parse_events(tail.read())
        points = [event for event in events if isinstance(event, MetricsEvent)]
        resumed = next((event.step for event in events if isinstance(event, ResumedEvent)), None)
        writers = [writer for writer in writers if _tried(writer, lambda w: w.write(points, resumed=resumed))]  # noqa: B023
        if is_last and not events:
            break
        if not events:
            time.sleep(POLL_S)
    for writer in writers:
        _tried(writer, lambda w: w.close())


def _tried(writer: Any, act: Callable[[Any], None]) -> bool:
    """Do something with a tracker; say it and return False if its library fails, in whatever way it does."""
    try:
        act(writer)
    except Exception as error:
        print(f"The tracker {writer.name} failed and gets no more points: {type(error).__name__}: {error}", flush=True)  # noqa: T201
        return False
    return True


def main(folder: Path) -> None:
    """Follow an attempt for as long as the worker that started this process lives."""
    die_with_parent(parent=json.loads((folder / "job.json").read_text()).get("parent"))
    follow(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
