"""A child process ends with its parent, however the parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

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
    psutil.wait_procs([child], timeout=30)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel call is Linux's")
def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    code = f"from backend.infra.processes import die_with_parent; die_with_parent(parent={os.getpid() + 1})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
