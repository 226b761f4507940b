"""Readings of a replica's processes."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from jobs.serving.replica import ProcessUse


def test_a_process_that_ends_while_it_is_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the replica that had started it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = psutil.Process(child.pid)
    use = ProcessUse()
    monkeypatch.setattr(psutil.Process, "children", lambda _, recursive: [ended])
    monkeypatch.setattr(ended, "is_running", lambda: True)  # it ends after this is asked
    assert use.read()["memory_bytes"] > psutil.Process().memory_info().rss / 2
    child.kill()
    child.communicate()
    reading = use.read()
    assert reading["memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert reading["cpu_cores"] is not None
    assert reading["cpu_cores"] >= 0
