"""Servers with the OpenAI API, whichever model they hold: their address, the place of their key, what they answer and
their prices.

A key is never part of a config: `key_env` and `key_file` name the place where the process that calls the server reads
it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from backend.errors import InvalidInput

JUDGE_KEY = "ROUNDHOUSE_JUDGE_KEY"
JOB_KEY = "ROUNDHOUSE_JOB_KEY"
"""Environment variable with the key of a foreign judge endpoint."""
MAX_PROBLEM = 300
"""Characters of a message in an error."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class Capabilities(BaseModel):
    """Requests that an endpoint's API takes: chat completions, completions of a text, and their log-probabilities of an
    echoed prompt.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    chat: bool = True
    completions: bool = False
    echo: bool = False


def price_tokens(
    prompt_tokens: float, completion_tokens: float, *, input_price: float | None, output_price: float | None
) -> float | None:
    """Return the price of tokens in US dollars, from those of a million; None unless both are known.

    Example:
        >>> price_tokens(2_000_000, 500_000, input_price=0.5, output_price=2.0)
        2.0
    """
    if input_price is None or output_price is None:
        return None
    return (prompt_tokens * input_price + completion_tokens * output_price) / 1e6


@dataclass(frozen=True)
class Problem:
    """A server's words about a request that it did not answer; empty if it says nothing."""

    message: str = ""
    code: str = ""
    field: str = ""


def read_problem(document: Any) -> Problem:
    """Return the problem in an error's document, or its bytes: `error` (OpenAI's) or `detail`, cut to one line."""
    if isinstance(document, bytes):
        try:
            document = from_json(document, allow_inf_nan=False)
        except ValueError:
            return Problem()
    error = document.get("error", document.get("detail")) if isinstance(document, dict) else None
    if not isinstance(error, dict):
        error = {"message": error}
    texts = [error.get("message"), error.get("code"), error.get("param") or error.get("field")]
    message, code, field = (text[: 4 * MAX_PROBLEM] if isinstance(text, str) else "" for text in texts)
    return Problem(" ".join(message.split())[:MAX_PROBLEM], code[:100], field[:100])


def read_retry_after(value: str, *, most_s: float) -> float:
    """Return the seconds that a `Retry-After` asks for, within bounds; 0 for nothing, a date or nonsense."""
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return min(seconds, most_s) if math.isfinite(seconds) and seconds > 0 else 0.0


def check_url(url: str) -> str:
    """Return the address of an API without its last slash. Raises InvalidInput for what is none, or holds a secret."""
    url = url.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise InvalidInput(f"{url!r} is not an API address.", remedy="Write https://host/v1.", field="url") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidInput(
            "The address of an API holds a user name, a password or parameters, and would be stored with them.",
            remedy="Write https://host/v1, and name the variable or file of the key by key_env or key_file.",
            field="url",
        )
    if parts.scheme not in ("http", "https") or not has_host:
        raise InvalidInput(f"{url!r} is not an API address.", remedy="Write https://host/v1.", field="url")
    return url


def check_key_source(*, key_env: str | None, key_file: str | None) -> None:
    """Raise InvalidInput unless the place of a key is a variable's name or a file. The value is never repeated: it may
    be the key.
    """
    if key_env and key_file:
        raise InvalidInput("A key has one place.", remedy="Give key_env or key_file.", field="key_env")
    if key_env and not VARIABLE.fullmatch(key_env):
        raise InvalidInput(
            "key_env is not the name of an environment variable.",
            remedy="Put the key into a variable of the workers, and name the variable, such as OPENAI_API_KEY.",
            field="key_env",
        )
    if key_env and key_env.upper().startswith("ROUNDHOUSE_") and key_env != JUDGE_KEY:
        raise InvalidInput(f"{key_env} is not for other APIs.", remedy="Name a variable of its own.", field="key_env")
    if key_file and not key_file.startswith("/"):
        raise InvalidInput("key_file is not an absolute path.", remedy="Write the path from /.", field="key_file")
