"""Utilisation and power of a device in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.training import telemetry
from jobs.training.telemetry import DeviceGauge


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.busy = 100.0, 1.0
        monkeypatch.setattr(telemetry.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(telemetry.time, "process_time", lambda: self.busy)

    def pass_by(self, seconds: float, *, busy: float) -> None:
        self.now += seconds
        self.busy += busy


def counter(folder: Path, name: str, joules: float) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(str(int(joules * 1e6)))


def test_cpu_use_is_the_cpu_time_of_this_process_over_its_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(telemetry.os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    clock = Clock(monkeypatch)
    gauge = DeviceGauge(torch.device("cpu"), rapl=tmp_path)
    clock.pass_by(4.0, busy=8.0)
    assert gauge.read() == {}
    clock.pass_by(4.0, busy=8.0)
    assert gauge.read() == {"device_use": 0.5}
    assert gauge.read() == {}


def test_power_is_the_energy_of_all_processors_over_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = Clock(monkeypatch)
    for name, joules in (("intel-rapl:0", 50), ("intel-rapl:1", 10), ("intel-rapl:0:0", 999)):
        counter(tmp_path, name, joules)
    gauge = DeviceGauge(torch.device("cpu"), rapl=tmp_path)
    counter(tmp_path, "intel-rapl:0", 250)
    counter(tmp_path, "intel-rapl:1", 60)
    clock.pass_by(10.0, busy=0.0)
    assert gauge.read()["power_w"] == 25.0
    counter(tmp_path, "intel-rapl:0", 0)
    clock.pass_by(10.0, busy=0.0)
    assert "power_w" not in gauge.read()  # the counter wrapped around


def test_a_gpu_that_does_not_answer_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    calls: list[Any] = []
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 93)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 412_500)
    gauge = DeviceGauge(torch.device("cuda", 0))
    clock.pass_by(6.0, busy=0.0)
    assert gauge.read() == {"device_use": 0.93, "power_w": 412.5}

    def absent(device: Any) -> int:
        calls.append(device)
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", absent)
    for _ in range(3):
        clock.pass_by(6.0, busy=0.0)
        assert gauge.read() == {}
    assert len(calls) == 1
