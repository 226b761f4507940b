"""Check typed paths and file names against the limits of the operating system, the database and the browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import InvalidInput, NotFound


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


@contextmanager
def text_file(file: Path) -> Iterator[None]:
    """Read a file that a person named within the block. Raises NotFound without it, InvalidInput for other bytes than
    UTF-8.
    """
    if not file.is_file():
        raise NotFound(f"There is no file {file}.", field="file")
    try:
        yield
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text.", remedy="Save it as UTF-8.", field="file") from error
