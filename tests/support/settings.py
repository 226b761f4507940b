"""Settings of a test's own installation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.bootstrap import get_context
from backend.services.context import Context
from backend.settings import Settings

DATABASE_FILE = "test-database-url"
"""File in a home that names its database where that is not SQLite."""


def database_of(home: Path) -> str:
    """Return the URL of the database of an installation that a test made."""
    other = home / DATABASE_FILE
    return other.read_text() if other.exists() else f"sqlite:///{home / 'models.db'}"


def make_settings(home: Path, **values: object) -> Settings:
    """Settings of a test's own installation; the broker's port is closed."""
    defaults: dict[str, object] = {
        "home": home,
        "database_url": database_of(home),
        "redis_url": "redis://127.0.0.1:1/0",
        "keep_free_mb": 16,
    }
    return Settings(_env_file=None, **{**defaults, **values})  # type: ignore[arg-type]


def name_installation(patch: pytest.MonkeyPatch, home: Path, **more: str) -> None:
    """Let commands and pages find a test's installation, as they do: by the environment."""
    usual = {"ROUNDHOUSE_HOME": str(home), "DATABASE_URL": database_of(home), "REDIS_URL": "redis://127.0.0.1:1/0"}
    for name, value in {**usual, **more}.items():
        patch.setenv(name, value)
    get_context.cache_clear()


@contextmanager
def named_installation(patch: pytest.MonkeyPatch, home: Path, **more: str) -> Iterator[Context]:
    """The context that commands and pages then build for themselves, until the block ends."""
    name_installation(patch, home, **more)
    yield get_context()
    get_context().db.engine.dispose()
    get_context.cache_clear()
