"""Settings of a test's own installation."""

from __future__ import annotations

from pathlib import Path

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
