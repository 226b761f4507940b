"""Check typed paths and file names against the limits of the operating system, the database and the browser."""

from __future__ import annotations

from pathlib import Path


def find_path(text: str | Path) -> Path | None:
    """Return the existing path of a text, with `~` expanded; None if it does not exist or is not a valid path."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, the home of an unknown user
        return None


def is_text(name: str) -> bool:
    """Return whether a file name is valid UTF-8: other bytes become lone surrogates, which can't be stored or shown."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
