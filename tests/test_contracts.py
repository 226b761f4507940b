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
    ("backend/domain/jobs/states.py", "from backend.services.jobs import jobs", "Layers point inward"),
    ("backend/domain/data/languages.py", "from backend.infra.hub import datasets", "Layers point inward"),
    ("backend/loose.py", '"""A file that no layer names."""', "Layers point inward"),
    ("backend/domain/loose.py", '"""A file that no noun names."""', "Rules stack by noun"),
    ("backend/domain/data/languages.py", "from backend.domain.training import config", "Rules stack by noun"),
    ("backend/infra/files/paths.py", "from backend.infra.hub import errors", "Adapters know no other adapter's room"),
    ("backend/db/base.py", "import streamlit", "The backend does not draw"),
    ("backend/errors.py", "import pages.components.words", "Pages and jobs stand on the backend"),
    ("pages/admin/workers.py", "import sqlalchemy", "Pages speak to services alone"),
    ("pages/admin/workers.py", "from backend.infra import replicas", "Pages speak to services alone"),
    (
        "backend/services/overview.py",
        "from backend.settings import Settings",
        "Settings are read by bootstrap and the entry points alone",
    ),
    ("jobs/training/run.py", "from backend.services.training import runs", "Rooms see rules and errors only"),
    ("jobs/training/run.py", "from backend.infra.hub import bases", "Training holds no remote repository"),
    ("jobs/training/context.py", "from jobs.training import loop", "Training walks forward"),
    ("jobs/training/objectives/grpo.py", "from jobs.training import run", "Training walks forward"),
    ("jobs/data/run.py", "from jobs.training import run", "Rooms stand side by side"),
    ("jobs/modeling/build.py", "from jobs.batches import base", "Rooms stand side by side"),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in ("backend", "jobs", "pages"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    return folder


@pytest.mark.parametrize(("file", "line", "contract"), BREAKS, ids=[f"{file}: {line}" for file, line, _ in BREAKS])
def test_a_contract_that_is_broken_on_purpose_fails(copy: Path, file: str, line: str, contract: str) -> None:
    path = copy / file
    whole = path.read_text() if path.exists() else None
    path.write_text(f"{whole or ''}\n{line}\n")
    try:
        linter = Path(sys.executable).parent / "lint-imports"
        environment = {**os.environ, "PYTHONPATH": str(copy)}
        result = subprocess.run(
            [str(linter), "--no-cache"], cwd=copy, env=environment, capture_output=True, text=True, timeout=120
        )
    finally:
        if whole is None:
            path.unlink()
        else:
            path.write_text(whole)
    assert result.returncode == 1
    broken = [row for row in result.stdout.splitlines() if " BROKEN" in row]  # "(1 ignored import)" may follow
    assert any(row.startswith(contract) for row in broken), result.stdout
