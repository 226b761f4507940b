"""Writers for TensorBoard, MLflow, Weights & Biases and Trackio, each by its own library, into a folder of the run."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from backend.domain.jobs.events import MetricsEvent

PROJECT = "roundhouse"


class Writer(Protocol):
    """One tracker of one run."""

    name: str

    def write(self, events: list[MetricsEvent], *, resumed: int | None) -> None:
        """Write metric points; `resumed` is the step after which a resumed run continues."""

    def close(self) -> None:
        """Write the last points."""


def open_writers(trackers: Iterable[str], folder: Path, *, run_id: str, config: dict[str, Any]) -> list[Writer]:
    """Open the trackers of a run under `folder`; log and skip those that fail to open."""
    writers: list[Writer] = []
    for tracker in trackers:
        place = folder / tracker
        place.mkdir(parents=True, exist_ok=True)
        try:
            writers.append(WRITERS[tracker](place, run_id, config))
        except Exception as error:  # a missing or failing library must not end the run
            reason = f"{type(error).__name__}: {error}"
            print(f"The tracker {tracker} can't be written here: {reason}", flush=True)  # noqa: T201
    return writers


class LastSteps:
    """The last step of each metric that a tracker holds, to skip points that a resumed run reports again."""

    def __init__(self, steps: Iterable[tuple[str, int]] = ()) -> None:
        self._last: dict[str, int] = {}
        for name, step in steps:
            self._last[name] = max(step, self._last.get(name, step))

    def new(self, event: MetricsEvent) -> list[tuple[str, float]]:
        """Return the numbers of an event that the tracker does not hold yet, and note their step."""
        numbers = [(name, value) for name, value in _numbers(event) if event.step > self._last.get(name, -1)]
        self._last |= {name: event.step for name, _ in numbers}
        return numbers


class TensorBoardWriter:
    """TensorBoard's event files, written without torch."""

    name = "tensorboard"

    def __init__(self, folder: Path, run_id: str, config: Mapping[str, object]) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2, summary_pb2
        self._file = EventFileWriter(str(folder))

    def write(self, events: list[MetricsEvent], *, resumed: int | None) -> None:
        if resumed is not None:  # TensorBoard discards later points
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            self._file.add_event(self._event.Event(step=resumed + 1, session_log=start))
        for event in events:
            values = [self._summary.Summary.Value(tag=name, simple_value=value) for name, value in _numbers(event)]
            self._file.add_event(
                self._event.Event(wall_time=event.time, step=event.step, summary=self._summary.Summary(value=values))
            )
        if events:
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class MlflowWriter:
    """MLflow's file store, which needs no server. `mlflow ui --backend-store-uri FOLDER` shows it."""

    name = "mlflow"

    def __init__(self, folder: Path, run_id: str, config: Mapping[str, object]) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self._metric = Metric
        self._client = MlflowClient(tracking_uri=folder.as_uri())
        self._last_steps = LastSteps()
        known = folder / "run_id"
        if known.exists():
            self._run = known.read_text()
            names = self._client.get_run(self._run).data.metrics
            self._last_steps = LastSteps(
                (name, point.step) for name in names for point in self._client.get_metric_history(self._run, name)
            )
        else:
            # left by an attempt that was killed before it stored its run id
            existing = self._client.get_experiment_by_name(PROJECT)
            experiment = existing.experiment_id if existing is not None else self._client.create_experiment(PROJECT)
            run = self._client.create_run(experiment, run_name=config.get("name") or run_id)
            self._run = str(run.info.run_id)
            for name, value in _flat(config):
                self._client.log_param(self._run, name, value[:500])
            known.write_text(self._run)

    def write(self, events: list[MetricsEvent], *, resumed: int | None) -> None:
        points = [
            self._metric(name, value, int(1000 * event.time), event.step)
            for event in events
            for name, value in self._last_steps.new(
                event.model_copy(update={"values": {_safe(name): value for name, value in event.values.items()}})
            )
        ]
        for first in range(0, len(points), 1000):  # MLflow's limit per call
            self._client.log_batch(self._run, metrics=points[first : first + 1000])

    def close(self) -> None:
        self._client.set_terminated(self._run)


class WandbWriter:
    """Weights & Biases in offline mode; `wandb sync FOLDER` uploads it."""

    name = "wandb"

    def __init__(self, folder: Path, run_id: str, config: Mapping[str, object]) -> None:
        import wandb

        settings = wandb.Settings(mode="offline", console="off", silent=True, x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(
            project=PROJECT,
            dir=str(folder),
            id=run_id,
            name=config.get("name") or run_id,
            config=dict(_flat(config)),
            resume="allow",
            settings=settings,
        )

    def write(self, events: list[MetricsEvent], *, resumed: int | None) -> None:
        for event in events:
            self._run.log({**dict(_numbers(event)), "_timestamp": event.time}, step=event.step)

    def close(self) -> None:
        self._run.finish()


class TrackioWriter:
    """Trackio's local database: `TRACKIO_DIR=FOLDER trackio show` shows it."""

    name = "trackio"

    def __init__(self, folder: Path, run_id: str, config: Mapping[str, object]) -> None:
        os.environ["TRACKIO_DIR"] = str(folder)
        with quiet():  # it prints a long greeting
            import trackio
            from trackio.sqlite_storage import SQLiteStorage

            name = config.get("name") or run_id
            self._last_steps = LastSteps(
                (key, row["step"]) for row in SQLiteStorage.get_logs(PROJECT, name) for key in row
            )
            self._run = trackio.init(
                project=PROJECT, name=name, config=dict(_flat(config)), resume="allow", embed=False
            )

    def write(self, events: list[MetricsEvent], *, resumed: int | None) -> None:
        for event in events:
            if numbers := self._last_steps.new(event):
                self._run.log(dict(numbers), step=event.step)

    def close(self) -> None:
        with quiet():
            self._run.finish()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress a library's output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


WRITERS: dict[str, Callable[[Path, str, dict[str, object]], Writer]] = {
    "tensorboard": TensorBoardWriter,
    "mlflow": MlflowWriter,
    "wandb": WandbWriter,
    "trackio": TrackioWriter,
}


def _numbers(event: MetricsEvent) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in event.values.items() if value is not None]


def _safe(name: str) -> str:
    """Return a name that MLflow accepts: letters, digits, and / _ - . and spaces."""
    return "".join(c if c.isalnum() or c in "/_-. " else "_" for c in name)


def _flat(config: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in config.items():
        pairs += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", str(value))]
    return pairs
