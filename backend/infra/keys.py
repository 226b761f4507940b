"""Keys of other servers, read from the place that a config names. A key is never logged or put into a message."""

from __future__ import annotations

import os
from pathlib import Path

from backend.errors import Unavailable

MAX_KEY_BYTES = 10_000


def read_key(*, key_env: str | None, key_file: str | None) -> str | None:
    """Return the key from its place; None where no place is named. Raises Unavailable if there is none, without any of
    its characters.
    """
    if key_env:
        key = os.environ.get(key_env, "").strip()
        if not key:
            raise Unavailable(
                f"The environment variable {key_env} is not set here.",
                remedy="Set it where workers and gateway start.",
            )
    elif key_file:
        try:
            with Path(key_file).open(encoding="utf-8") as file:
                key = file.read(MAX_KEY_BYTES).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Unavailable(
                f"The key file {key_file} can't be read: {type(error).__name__}.", remedy="Check its path and mode."
            ) from None
        if not key:
            raise Unavailable(f"The key file {key_file} is empty.", remedy="Write the key into it.")
    else:
        return None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Unavailable(
            "The key holds characters that no header can carry.", remedy="Write the key alone, on one line."
        )
    return key
