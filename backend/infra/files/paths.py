"""Check typed paths and file names for what the operating system, the database and the browser accept."""

from __future__ import annotations

from pathlib import Path


def find_path(text: str | Path) -> Path | None:
    """Return the path of what lies on this machine under a text, `~` spelled out; None if nothing does, or if no file can be called so."""
    try:
        path = Path(text).expanduser()
        return path if path.exists() else None
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, the home of an unknown user
        return None


def is_text(name: str) -> bool:
    """Return whether a name from a disk is text: bytes that are no UTF-8 come as half characters, which nothing can show or store."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
