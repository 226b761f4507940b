"""A run's numbers in other trackers: written by their own libraries while the run goes on, read back by what reads
them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.domain.jobs.events import ResumedEvent
from backend.domain.jobs.payloads import AddBasePayload, TrainPayload
from backend.domain.training.imported_logs import read_logs
from backend.errors import InvalidInput
from backend.services.training import parts as run_parts
from backend.services.training.parts import TRACKER_NAMES as NAMES
from backend.services.training.parts import check_trackers
from jobs.reporter import FileReporter, JobSpec
from jobs.tracking.run import CLOSED, OFFLINE, end_tracking, follow, start_tracking
from jobs.tracking.writers import WRITERS
from tests.support.jobs import make_spec
from tests.support.run_world import make_config
from tests.support.scenario import Scenario


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    """The folder of an attempt whose run wants TensorBoard."""
    return make_attempt(tmp_path, ["tensorboard"])


def make_attempt(root: Path, trackers: list[str]) -> Path:
    folder = root / "jobs" / "attempt-1"
    config = {
        "name": "tried",
        "trackers": trackers,
        "dataset": "d",
        "architecture": "a",
        "tokenizer": "t",
        "lora": {"rank": 8},
    }
    payload = {"run_id": "r1", "run_folder": "runs/r1", "dataset_kind": "text", "config": config}
    make_spec("train", payload, root=root, folder=folder).write(folder / "job.json", parent=1)  # not the tracker's
    return folder


def tell(folder: Path, first: int, last: int, **values: float) -> None:
    """Write what a child reports."""
    reporter = FileReporter(folder / "events.jsonl", folder / "control")
    for step in range(first, last + 1):
        reporter.metrics(step, {"train_loss": 10.0 / step, **values})
    reporter.close()


def payload_of(folder: Path) -> TrainPayload:
    return JobSpec.read(folder / "job.json", of=TrainPayload).payload


def board(root: Path) -> dict[int, float]:
    """Read a run's event files as a newcomer would."""
    points: dict[int, float] = {}
    for file in sorted((root / "runs/r1/trackers/tensorboard").iterdir()):
        try:
            (log,) = read_logs(file.read_bytes(), filename=file.name)
        except InvalidInput:
            continue  # nothing but its head yet
        points |= {step: value for step, (value, _) in log.points["train_loss"].items()}
    return points


def test_a_process_of_its_own_follows_the_run_and_writes_its_last_points(attempt: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    process = start_tracking(payload_of(attempt), attempt)
    assert process is not None
    tell(attempt, 1, 300)
    end_tracking(process, attempt)
    assert process.returncode == 0
    assert board(tmp_path) == {step: pytest.approx(10.0 / step, rel=1e-6) for step in range(1, 301)}


def test_a_run_without_trackers_starts_no_process(attempt: Path) -> None:
    payload = payload_of(attempt)
    untracked = payload.model_copy(update={"config": payload.config.model_copy(update={"trackers": ()})})
    assert start_tracking(untracked, attempt) is None
    assert start_tracking(AddBasePayload(hub="owner/name", out="bases/b"), attempt) is None


def test_points_of_a_resumed_run_are_purged_as_by_tensorboard(attempt: Path, tmp_path: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tell(attempt, 1, 30)
    (attempt / CLOSED).touch()
    follow(attempt)
    reporter = FileReporter(attempt / "events.jsonl", attempt / "control")
    (attempt / "events.jsonl").write_text("")
    reporter.emit(ResumedEvent(step=20))
    reporter.close()
    tell(attempt, 21, 25)
    follow(attempt)
    accumulator = accumulators.EventAccumulator(str(tmp_path / "runs/r1/trackers/tensorboard")).Reload()
    assert [event.step for event in accumulator.Scalars("train_loss")] == list(range(1, 26))


@pytest.mark.parametrize("tracker", ["mlflow", "trackio"])
def test_points_reported_again_by_a_resumed_run_are_not_sent_again(tmp_path: Path, tracker: str) -> None:
    """The first attempt died at step 30 before it reported that step's second metric; the next one goes on from step
    20.
    """
    pytest.importorskip(tracker)
    folder = make_attempt(tmp_path, [tracker])
    track(folder, lambda: (tell(folder, 1, 29, grad_norm=0.5), tell(folder, 30, 30)))
    (folder / "events.jsonl").write_text("")
    reporter = FileReporter(folder / "events.jsonl", folder / "control")
    reporter.emit(ResumedEvent(step=20))
    reporter.close()
    track(folder, lambda: tell(folder, 21, 40, grad_norm=0.5))
    read = {"mlflow": history_of_mlflow, "trackio": history_of_trackio}[tracker]
    place = tmp_path / "runs/r1/trackers" / tracker
    assert read(place, "train_loss") == [(step, 10.0 / step) for step in range(1, 41)]
    assert read(place, "grad_norm") == [(step, 0.5) for step in range(1, 41)]


def track(folder: Path, report: Callable[[], object]) -> None:
    """Follow what an attempt reports, in a process of its own, to its end."""
    process = start_tracking(payload_of(folder), folder)
    assert process is not None
    report()
    end_tracking(process, folder)
    assert process.returncode == 0
    assert "The tracker" not in (folder / "output.log").read_text()


def history_of_mlflow(place: Path, metric: str) -> list[tuple[int, float]]:
    """Ask MLflow's own client."""
    from mlflow import MlflowClient

    points = MlflowClient(tracking_uri=place.as_uri()).get_metric_history((place / "run_id").read_text(), metric)
    return [(point.step, point.value) for point in points]


def history_of_trackio(place: Path, metric: str) -> list[tuple[int, float]]:
    """Ask Trackio's own reader, which looks for its folder when it is first imported."""
    code = (
        "import json, sys; from trackio.sqlite_storage import SQLiteStorage as S;"
        " print(json.dumps(S.get_logs('roundhouse', 'tried'), default=str))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **OFFLINE, "TRACKIO_DIR": str(place)},
        check=True,
        capture_output=True,
    )
    return [(row["step"], row[metric]) for row in json.loads(answer.stdout) if metric in row]


def test_a_failing_tracker_is_logged_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    folder = make_attempt(tmp_path, ["mlflow", "trackio", "tensorboard"])

    class Broken:
        name = "trackio"

        def __init__(self, *_: object) -> None: ...

        def write(self, events: object, *, resumed: object) -> None:
            raise OSError("the disk is full")

        def close(self) -> None: ...

    def absent(*_: object) -> Any:
        raise ModuleNotFoundError("No module named 'mlflow'")

    monkeypatch.setitem(WRITERS, "trackio", Broken)
    monkeypatch.setitem(WRITERS, "mlflow", absent)
    tell(folder, 1, 5)
    (folder / CLOSED).touch()
    follow(folder)
    output = capsys.readouterr().out
    assert "The tracker mlflow can't be written here" in output
    assert "The tracker trackio failed and gets no more points: OSError: the disk is full" in output
    assert len(board(tmp_path)) == 5


@pytest.mark.parametrize("tracker", ["mlflow", "wandb", "trackio"])
def test_other_trackers_get_the_points_if_they_are_installed(tmp_path: Path, tracker: str) -> None:
    pytest.importorskip(tracker)
    folder = make_attempt(tmp_path, [tracker])
    track(folder, lambda: tell(folder, 1, 20, grad_norm=0.5))
    place = tmp_path / "runs/r1/trackers" / tracker
    read = {"mlflow": read_mlflow, "wandb": read_wandb, "trackio": read_trackio}[tracker]
    assert read(place) == [10.0 / step for step in range(1, 21)]


def read_mlflow(place: Path) -> list[float]:
    (file,) = place.glob("*/*/metrics/train_loss")
    return [float(line.split()[1]) for line in file.read_text().splitlines()]


def read_wandb(place: Path) -> list[float]:
    """Its file has no reader in Python: the values stand in it as JSON, some cut by the borders of blocks."""
    (file,) = place.glob("wandb/offline-run-*/run-*.wandb")
    data = file.read_bytes()
    assert data.count(b"train_loss") >= 20
    values = [10.0 / step for step in range(1, 21)]
    assert sum(f"{value:.12g}"[:12].encode() in data for value in values) >= 15
    return values


def read_trackio(place: Path) -> list[float]:
    import sqlite3

    with sqlite3.connect(next(place.glob("*.db"))) as database:
        return [
            json.loads(row[0])["train_loss"] for row in database.execute("SELECT metrics FROM metrics ORDER BY step")
        ]


def test_a_tracker_whose_library_is_missing_is_refused_before_the_launch(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert set(NAMES) == set(WRITERS)
    scenario.parts()
    monkeypatch.setattr(run_parts, "find_spec", lambda name: None if name == "wandb" else object())
    check_trackers(make_config(trackers=("tensorboard",)))
    with pytest.raises(InvalidInput, match="Weights & Biases can't be written") as refused:
        scenario.run(trackers=("tensorboard", "wandb"))
    assert refused.value.field == "trackers"
    assert "leave wandb out" in str(refused.value.remedy)
