"""Each test file belongs to one command of the Makefile, and continuous integration runs all of them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from backend.settings import PROJECT
from tests.support.source_tree import imported_names, list_files


@cache
def files_of(target: str) -> frozenset[str]:
    """Return the test files that a target of the Makefile gives to pytest."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--dry-run", target]
    printed = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in printed.replace("\\\n", " ").splitlines() if "/pytest " in line]
    words = shlex.split(line)
    ignored = [word for before, word in pairwise(words) if before == "--ignore"]
    given = [word for word in words if word.startswith("tests/") and word not in ignored] or ["tests"]
    return frozenset(file for file in all_files() if is_below(file, given) and not is_below(file, ignored))


def all_files() -> list[str]:
    return [path for path in list_files() if re.fullmatch(r"tests/(.+/)?test_\w+\.py", path)]


def is_below(file: str, paths: list[str]) -> bool:
    return any(file == path or file.startswith(f"{path}/") for path in paths)


def test_each_file_is_run_by_one_command() -> None:
    tests, journeys = files_of("tests"), files_of("journeys")
    assert tests & journeys == set()
    assert set(all_files()) - tests - journeys == {file for file in all_files() if "faults/machines/" in file}
    assert files_of("postgresql") >= set(all_files()) - tests - journeys


def test_the_engines_are_installed_by_the_command_that_runs_them() -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "ROUND"))
    }
    command = ["make", "--dry-run", "engines"]
    printed = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=True).stdout
    (tests,) = [line for line in printed.splitlines() if "/pytest " in line]
    for name in ("vllm", "sglang"):
        path = f"{PROJECT}/.venv-{name}/bin/{name}"
        assert f"ROUNDHOUSE_{name.upper()}={path} " in tests
        assert Path(path).exists() or f"touch {path}" in printed


def test_continuous_integration_runs_each_command() -> None:
    lines = (PROJECT / ".ci" / "run").read_text().splitlines()
    targets = [line.split()[1] for line in lines if line.startswith("make ")]
    assert targets == ["test", "journeys", "device", "postgresql"]


@pytest.mark.parametrize(
    "name", ["tests.support.installation.Installation", "tests.support.browser", "playwright.sync_api"]
)
def test_whole_installations_and_browsers_are_left_to_journeys(name: str) -> None:
    users = {
        file
        for file in all_files()
        if name.split(".")[-1] in (PROJECT / file).read_text() and name in imported_names(file)
    }
    assert users & files_of("tests") == set()
    assert users & files_of("journeys")
