"""Write a run's metrics to other trackers from a separate process, at no cost to training.

It tails the same events file as the supervisor, at low priority. A failing tracker is logged and dropped; the run
continues. Each tracker's own library writes below the run's folder, and nothing leaves the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from backend.domain.jobs.events import MetricsEvent, ResumedEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.records import Payload
from backend.domain.jobs.states import JobKind
from backend.infra.processes import die_with_parent, lower_priority
from jobs.environment import child_environment
from jobs.reporter import JobSpec
from jobs.tailing import Tail, parse_events

CLOSED = "closed"
NICE = 10
POLL_S = 1.0
END_S = 30.0  # time for trackers to write their last points
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
    """Start the process that tails an attempt's events; None for a job without trackers."""
    if not isinstance(payload, TrainPayload) or not payload.config.trackers:
        return None
    (folder / CLOSED).unlink(missing_ok=True)
    with (folder / "output.log").open("ab") as output:  # the supervisor copies it to the job's log
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.tracking.run", str(folder), str(os.getpid())],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**child_environment(JobKind.TRAIN), **OFFLINE, "CUDA_VISIBLE_DEVICES": ""},
            cwd=Path(__file__).resolve().parents[2],
        )


def end_tracking(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Signal the end of events, and wait until the last points are written."""
    (folder / CLOSED).touch()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        sys.stderr.write(f"trackers of {folder} did not end within {END_S:.0f} s\n")


def follow(folder: Path) -> None:
    """Write an attempt's metrics to its run's trackers until the attempt is closed and fully read."""
    from jobs.tracking.writers import open_writers

    spec = JobSpec.read(folder / "job.json", of=TrainPayload)
    payload = spec.payload
    place = spec.path(payload.run_folder) / "trackers"
    writers = open_writers(
        payload.config.trackers, place, run_id=payload.run_id, config=payload.config.model_dump(mode="json")
    )
    tail = Tail(folder / "events.jsonl")
    while writers:
        is_last = (folder / CLOSED).exists()
        events = parse_events(tail.read())
        points = [event for event in events if isinstance(event, MetricsEvent)]
        resumed = next((event.step for event in events if isinstance(event, ResumedEvent)), None)
        writers = [
            writer for writer in writers if _succeeds(writer.name, partial(writer.write, points, resumed=resumed))
        ]
        if is_last and not events:
            break
        if not events:
            time.sleep(POLL_S)
    for writer in writers:
        _succeeds(writer.name, writer.close)


def _succeeds(tracker: str, act: Callable[[], None]) -> bool:
    """Let a tracker act; log any failure of its library and return False."""
    try:
        act()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        print(f"The tracker {tracker} failed and gets no more points: {reason}", flush=True)  # noqa: T201
        return False
    return True


def main(folder: Path, *, parent: int) -> None:
    """Tail an attempt until it ends, or the worker that started this process dies."""
    lower_priority(NICE)
    die_with_parent(parent=parent)
    follow(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), parent=int(sys.argv[2]))
