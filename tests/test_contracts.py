"""The import contracts hold, and fail when they are broken on purpose."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backend.settings import PROJECT

BREAKS = [
    ("backend/services/jobs/jobs.py", "import torch", "The interface and the services hold no tensor"),
    ("backend/domain/jobs/states.py", "from backend.services import jobs", "Layers point inward"),
    ("pages/admin/workers.py", "import sqlalchemy", "Pages speak to services alone"),
    ("jobs/training/run.py", "from backend.services import runs", "Rooms see rules and errors only"),
    ("jobs/training/context.py", "from jobs.training import loop", "Training walks forward"),
    ("jobs/training/objectives/grpo.py", "from jobs.training import run", "Training walks forward"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("backend", "jobs", "pages"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize(("file", "line", "contract"), BREAKS, ids=[f"{contract}: {file}" for file, _, contract in BREAKS])
def test_a_contract_that_is_broken_on_purpose_fails(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / file
    whole = path.read_text()
    path.write_text(f"{whole}\n{line}\n")
    try:
        linter = Path(sys.executable).parent / "lint-imports"
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        result = subprocess.run([str(linter), "--no-cache"], cwd=copy, env=environment, capture_output=True, text=True, timeout=120)
    finally:
        path.write_text(whole)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if row.endswith("BROKEN")]
    assert any(row.startswith(contract) for row in broken), result.stdout
