"""An installation for commands that run in this process, and their jobs too: each process that a test starts takes a
second of processor time or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from backend.bootstrap import get_context
from backend.cli import waiting
from backend.services.context import Context
from tests.support.job_work import do_job
from tests.support.settings import named_installation


@pytest.fixture
def command_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """An installation that commands find by the environment."""
    with named_installation(monkeypatch, home) as context:
        yield context


@pytest.fixture
def jobs_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command does itself because no worker runs is done in this process. How the product does it, in two
    children, is seen in `test_an_import_without_a_worker_is_done_by_child_processes`.
    """

    def run(command: list[str], **_: object) -> None:
        *_, module, job = command
        assert module == "jobs.run"
        do_job(get_context(), job)

    monkeypatch.setattr(waiting, "subprocess", SimpleNamespace(run=run))
