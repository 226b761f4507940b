"""A child process ends with its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.installation import PROJECT

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE)
child.stdout.readline()  # the child is bound
print(child.pid, flush=True)
time.sleep(600)
"""
CHILD = """
import time
from backend.infra.processes import die_with_parent
die_with_parent()
print("bound", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel call is Linux's")
def test_a_child_dies_with_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    psutil.wait_procs([child], timeout=200)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel call is Linux's")
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = f"from backend.infra.processes import die_with_parent; die_with_parent(parent={os.getpid() + 1})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL


PRIORITY = """
import os, pathlib
from backend.infra.processes import lower_priority
lower_priority(7)
group = pathlib.Path("/proc/self/autogroup")
print(os.nice(0), ((group.read_text() if group.exists() else "").split() or ["none"])[-1])
"""


def lowered(*, session: bool) -> list[str]:
    """Return niceness and niceness of the autogroup after `lower_priority(7)`.

    A process outside every autogroup, such as one of a container's first session, reads an empty file.
    """
    command = [sys.executable, "-c", PRIORITY]
    return subprocess.run(
        command, start_new_session=session, capture_output=True, text=True, check=True, cwd=PROJECT
    ).stdout.split()


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel has no autogroups")
def test_a_job_in_a_session_of_its_own_gives_way_to_other_sessions() -> None:
    """Niceness alone changed nothing: a training run and the pages got half of a core each."""
    assert lowered(session=True) == [str(os.nice(0) + 7), "7"]


def test_the_session_of_a_process_that_does_not_lead_it_keeps_its_priority() -> None:
    nice, group = lowered(session=False)
    assert int(nice) == os.nice(0) + 7
    assert group != "7"


TRIMMING = """
import psutil, sys, time
from backend.infra.processes import trim_memory_beside
if sys.argv[1] == "trims":
    trim_memory_beside(every_s=0.05)
small = [bytes(1_000) for _ in range(100_000)]
last = bytes(1_000)  # keeps the heap's end in use
full = psutil.Process().memory_info().rss
del small
time.sleep(1)
print((full - psutil.Process().memory_info().rss) / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries return it by themselves, or never")
def test_memory_that_was_freed_below_what_is_in_use_is_returned() -> None:
    def returned_mb(how: str) -> float:
        command = [sys.executable, "-c", TRIMMING, how]
        return float(subprocess.run(command, capture_output=True, check=True, text=True, cwd=PROJECT).stdout)

    assert returned_mb("trims") > 80
    assert returned_mb("waits") < 20
