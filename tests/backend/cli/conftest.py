"""An installation for commands that run in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.bootstrap import get_context
from backend.services.context import Context


@pytest.fixture
def command_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    """An installation that commands find by the environment."""
    monkeypatch.setenv("ROUNDHOUSE_HOME", str(home))
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{home / 'models.db'}")
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_context.cache_clear()
    yield get_context()
    get_context().db.engine.dispose()
    get_context.cache_clear()
