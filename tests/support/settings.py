"""Settings of a test's own installation."""

from __future__ import annotations

from pathlib import Path

from backend.settings import Settings


def make_settings(home: Path, **values: object) -> Settings:
    """Settings of a test's own installation; the broker's port is closed."""
    defaults: dict[str, object] = {
        "home": home,
        "database_url": f"sqlite:///{home / 'models.db'}",
        "redis_url": "redis://127.0.0.1:1/0",
        "keep_free_mb": 16,
    }
    return Settings(_env_file=None, **{**defaults, **values})  # type: ignore[arg-type]
