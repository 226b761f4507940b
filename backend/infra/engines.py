"""Commands that start the servers of other projects on this machine."""

from __future__ import annotations

import os
import shutil
import sys

from backend.errors import Unavailable, require_library

LLAMA_SERVER = "ROUNDHOUSE_LLAMA_SERVER"
"""Environment variable with the path of a `llama-server` that is used in place of the package's, as one for a GPU."""


def engine_command(engine: str) -> list[str]:
    """Return the command of an engine's server, without arguments. Raises Unavailable, with the cure, where it is not
    installed.
    """
    if named := os.environ.get(LLAMA_SERVER):
        if shutil.which(named) is None:
            raise Unavailable(
                f"{LLAMA_SERVER}={named} is no command that can be run.",
                remedy="Give the path of llama.cpp's llama-server, or leave the variable out.",
            )
        return [named]
    require_library("xllamacpp", extra="llama-cpp", needed_for=f"engine {engine}")
    return [sys.executable, "-m", "jobs.serving.llama_cpp"]
