"""A process that is stopped is noticed, and only that."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from jobs import freeze_watch
from jobs.freeze_watch import FreezeWatch
from tests.support.installation import wait_until
from tests.support.workers.workers import process

PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(600)"
CHILD = "while True: pass"


def test_a_stopped_child_is_frozen_after_a_while_and_a_busy_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freeze_watch, "FROZEN_S", 0.5)
    monkeypatch.setattr(freeze_watch, "SCAN_S", 0.0)
    with process([sys.executable, "-c", PARENT, CHILD]) as parent:
        wait_until(lambda: psutil.Process(parent.pid).children(), what="the child")
        (child,) = psutil.Process(parent.pid).children()
        watch = FreezeWatch(parent.pid)
        for _ in range(20):
            assert watch.check() == ""
            with pytest.raises(subprocess.TimeoutExpired):
                parent.wait(0.05)
        child.send_signal(signal.SIGSTOP)
        wait_until(lambda: child.status() == psutil.STATUS_STOPPED, what="the stop")
        assert watch.check() == "", "a short stop is none"
        child.send_signal(signal.SIGCONT)
        wait_until(lambda: child.status() != psutil.STATUS_STOPPED, what="its end")
        assert watch.check() == ""
        child.send_signal(signal.SIGSTOP)
        wait_until(watch.check, what="the freeze")
        assert str(child.pid) in watch.check()
