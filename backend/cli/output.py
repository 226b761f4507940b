"""What every command shares: one JSON document on stdout with --json, words otherwise, progress on stderr, exit 0/1/2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer
from pydantic import ValidationError

from backend.domain.run_config import validation_message
from backend.errors import Conflict, InvalidInput, NotFound, RoundhouseError

P = ParamSpec("P")
R = TypeVar("R")

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DONE, FAILED, MISUSED = 0, 1, 2


def emit(data: Any, *, as_json: bool, text: str) -> None:
    """Print the result: `data` as JSON, or `text`."""
    sys.stdout.write((json.dumps(data, indent=2, default=str, ensure_ascii=False) if as_json else text) + "\n")


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

    return wrapped


def fail(message: str, *, as_json: bool = False, status: int = FAILED) -> NoReturn:
    """End the command with a message and a status."""
    if as_json:
        sys.stdout.write(json.dumps({"error": message}, ensure_ascii=False) + "\n")
    sys.stderr.write(f"roundhouse: {message}\n")
    raise typer.Exit(status)
