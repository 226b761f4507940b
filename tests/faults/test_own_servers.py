"""Servers that the tests start for themselves end with them, also if they are killed."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.installation import PROJECT
from tests.support.postgres import find_binaries

STARTS_ONE = """
from tests.support.postgres import run_postgres
with run_postgres():
    print("ready", flush=True)
    input()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_postgresql_ends_with_the_tests_that_are_terminated_or_killed(how: signal.Signals) -> None:
    if find_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    command = [sys.executable, "-c", STARTS_ONE]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tests:
        assert tests.stdout is not None
        assert tests.stdout.readline() == b"ready\n"
        servers = psutil.Process(tests.pid).children(recursive=True)
        tests.send_signal(how)
    assert len(servers) > 1
    assert psutil.wait_procs(servers, timeout=60)[1] == []
