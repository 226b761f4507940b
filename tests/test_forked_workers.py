"""Test processes of a parallel run are forked by one that has imported the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from backend.settings import PROJECT

CONFTEST = """
from tests.support import forked_workers

forked_workers.FEW = 0


def pytest_xdist_setupnodes(config):
    forked_workers.fork_workers(config)
"""
FORKED = """
import os

IMPORTED_BY = os.getpid()


def test_it_was_imported_before_the_fork():
    assert os.getppid() == IMPORTED_BY


def test_an_assert_is_explained():
    three = 3
    assert 1 + 1 == three
"""
STARTING = """
import threading

WAITING = threading.Thread(target=threading.Event().wait, daemon=True)
WAITING.start()


def test_it_is_there():
    assert WAITING.is_alive()
"""


def test_a_module_is_imported_once_for_all_processes_and_one_that_fails_says_why(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_forked.py").write_text(FORKED)
    (tmp_path / "test_skipped.py").write_text("import pytest\npytest.skip('not here', allow_module_level=True)\n")
    (tmp_path / "test_deprecated.py").write_text("import warnings\nwarnings.warn('old', DeprecationWarning)\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-n", "2", "-rs", "-p", "no:cacheprovider", "-p", "no:langsmith_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 failed, 1 passed, 1 skipped, 2 errors" in run.stdout, run.stdout + run.stderr
    assert "assert (1 + 1) == 3" in run.stdout
    assert "DeprecationWarning: old" in run.stdout
    assert "not here" in run.stdout


def test_where_a_module_starts_a_thread_each_process_imports_the_tests_itself(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_threads.py").write_text(STARTING)
    command = [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", "-p", "no:langsmith_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in run.stdout, run.stdout + run.stderr
    assert "starts threads, which a forked process lacks" in run.stderr
