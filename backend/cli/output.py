"""Output of every command: JSON on stdout with --json, text otherwise; progress on stderr; exit status 0, 1 or 2."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import BaseModel

from backend.cli.exit_status import FAILED
from backend.errors import InvalidInput
from backend.infra.files.paths import text_file

R = TypeVar("R")

GIVEN_JSON = "is_given_json"
"""Attribute of functions that are commands."""
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
MAX_TEXT_BYTES = 2**20


_AS_JSON: ContextVar[bool] = ContextVar("as_json", default=False)


def is_json() -> bool:
    """Return whether the command was given --json."""
    return _AS_JSON.get()


def emit(data: Any, *, text: str) -> None:
    """Print the result: `data` as JSON with --json, or `text`."""
    if is_json():
        text = json.dumps(_as_json(data), indent=2, default=str, ensure_ascii=False)
    sys.stdout.write(text + "\n")


def _as_json(data: Any) -> Any:
    """Return models and dataclasses as dicts, and null for NaN and the infinities, which JSON lacks: a diverged loss
    breaks no script's parser.
    """
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, BaseModel):
        data = data.model_dump()
    elif is_dataclass(data) and not isinstance(data, type):
        data = asdict(data)
    if isinstance(data, dict):
        return {key: _as_json(value) for key, value in data.items()}
    return [_as_json(value) for value in data] if isinstance(data, list | tuple) else data


def interval_data(source: Any) -> list[float] | None:
    """Return the interval of an estimate or a score for JSON; None without one."""
    return None if source is None or source.low is None or source.high is None else [source.low, source.high]


def score_data(source: Any) -> dict[str, object]:
    """Return an estimate or a score for JSON: value, standard error, interval, items and method."""
    numbers = {name: getattr(source, name) for name in ("value", "stderr")}
    return {**numbers, "interval": interval_data(source), "n": source.n, "method": source.method}


def note(text: str) -> None:
    """Write a progress line to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def command(function: Callable[..., R]) -> Callable[..., R]:
    """Give a command --json. Turn errors into one line on stderr (and JSON on stdout with --json) and an exit status: 2
    for misuse, 1 for failure. One that has it already is returned as it is.
    """
    if hasattr(function, GIVEN_JSON):
        return function

    @wraps(function)
    def wrapped(*args: Any, as_json: bool | None = None, **kwargs: Any) -> R:
        token = _AS_JSON.set(is_json() if as_json is None else as_json)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            from backend.cli.failures import explain  # imports libraries that most commands do not need

            explained = explain(error)
            if explained is None:
                raise
            message, status = explained
            fail(message, status=status)
        finally:
            _AS_JSON.reset(token)

    flag = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonFlag)
    parameters = [*inspect.signature(function, eval_str=True).parameters.values(), flag]
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    setattr(wrapped, GIVEN_JSON, True)
    return wrapped


class CommandGroup(typer.Typer):
    """Commands of one noun, each a `command`."""

    def command(  # type: ignore[override]
        self, name: str | None = None, **options: Any
    ) -> Callable[[Callable[..., R]], Callable[..., R]]:
        """Register a function as a command of this name."""
        register = super().command(name, **options)
        return lambda function: register(command(function))


def read_text(file: Path, *, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Read a text file of at most `max_bytes`. Raises NotFound, or InvalidInput if it is larger or not UTF-8."""
    with text_file(file):
        if (size := file.stat().st_size) > max_bytes:
            raise InvalidInput(
                f"{file} has {size:,} bytes.", remedy=f"Give a text file of at most {max_bytes:,} bytes."
            )
        return file.read_text(encoding="utf-8-sig")


def fail(message: str, *, status: int = FAILED) -> NoReturn:
    """End the command with a message and an exit status."""
    if is_json():
        sys.stdout.write(json.dumps({"error": message}, ensure_ascii=False) + "\n")
    sys.stderr.write(f"roundhouse: {message}\n")
    raise typer.Exit(status)
