"""What every command shares: one JSON document on stdout with --json, words otherwise, progress on stderr, exit 0/1/2."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from pydantic import ValidationError
from sqlalchemy.exc import OperationalError

from backend.domain.training.config import validation_message
from backend.errors import Conflict, InvalidInput, NotFound, RoundhouseError

P = ParamSpec("P")
R = TypeVar("R")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DONE, FAILED, MISUSED = 0, 1, 2
MAX_TEXT_BYTES = 2**20


def emit(data: Any, *, as_json: bool, text: str) -> None:
    """Print the result: `data` as JSON, or `text`."""
    sys.stdout.write((json.dumps(_finite(data), indent=2, default=str, ensure_ascii=False) if as_json else text) + "\n")


def _finite(data: Any) -> Any:
    """Put null for NaN and the infinities, which JSON does not know: a loss that ran away must not break a script's parser."""
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    return [_finite(value) for value in data] if isinstance(data, list | tuple) else data


def note(text: str) -> None:
    """Say something about progress, on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def command(function: Callable[P, R]) -> Callable[P, R]:
    """Turn our errors into one line on stderr (and JSON on stdout with --json) and an exit status: 2 for misuse, 1 for failure."""

    @wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ValidationError as error:
            fail(validation_message(error), as_json=bool(kwargs.get("as_json")), status=MISUSED)
        except (InvalidInput, NotFound, Conflict) as error:
            fail(str(error), as_json=bool(kwargs.get("as_json")), status=MISUSED)
        except RoundhouseError as error:
            fail(str(error), as_json=bool(kwargs.get("as_json")), status=FAILED)
        except OperationalError as error:  # no such server, a locked or unreadable file, a full disk
            fail(f"The database does not answer: {error.orig}. Check DATABASE_URL.", as_json=bool(kwargs.get("as_json")), status=FAILED)
        except OSError as error:  # a disk that is full, a folder that can't be made, a file that may not be read
            place = f" ({error.filename})" if error.filename else ""
            remedy = "Free some space and try again." if error.errno == errno.ENOSPC else "Check the path and its permissions."
            fail(f"{error.strerror or error}{place}. {remedy}", as_json=bool(kwargs.get("as_json")), status=FAILED)

    return wrapped


def read_text(file: Path) -> str:
    """Return what a small text file says. Raises NotFound, or InvalidInput if it is not UTF-8 text or too big to be meant."""
    if not file.is_file():
        raise NotFound(f"There is no file {file}.")
    if file.stat().st_size > MAX_TEXT_BYTES:
        raise InvalidInput(f"{file} has {file.stat().st_size:,} bytes.", remedy="Give a YAML file; is this another one?")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8 text.") from error


def fail(message: str, *, as_json: bool = False, status: int = FAILED) -> NoReturn:
    """End the command with a message and a status."""
    if as_json:
        sys.stdout.write(json.dumps({"error": message}, ensure_ascii=False) + "\n")
    sys.stderr.write(f"roundhouse: {message}\n")
    raise typer.Exit(status)
