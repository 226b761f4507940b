"""Commands that start the servers of other projects on this machine."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from backend.errors import Unavailable


@dataclass(frozen=True)
class Installation:
    """Ways to find a project's server: `variable` names the environment variable with the path of its `command`, used
    in place of the package `library`, whose server is `module`; `remedy` installs it.
    """

    variable: str
    command: str
    library: str
    module: str
    remedy: str


INSTALLATIONS = {
    "llama.cpp": Installation(
        variable="ROUNDHOUSE_LLAMA_SERVER",
        command="llama-server",
        library="xllamacpp",
        module="jobs.serving.llama_cpp",
        remedy="pip install 'roundhouse[llama-cpp]'",
    ),
    "vllm": Installation(
        variable="ROUNDHOUSE_VLLM",
        command="vllm",
        library="vllm",
        module="vllm.entrypoints.cli.main",
        remedy="install vLLM in an environment of its own, and set ROUNDHOUSE_VLLM to the path of its command `vllm`",
    ),
    "sglang": Installation(
        variable="ROUNDHOUSE_SGLANG",
        command="sglang",
        library="sglang",
        module="sglang.cli.main",
        remedy="install SGLang in an environment of its own, and set ROUNDHOUSE_SGLANG to the path of its command"
        " `sglang`",
    ),
}
"""Servers of other projects by the engine's name. vLLM and SGLang need other versions of torch, so each has an
environment of its own.
"""

VARIABLES = tuple(one.variable for one in INSTALLATIONS.values())


def engine_command(engine: str) -> list[str]:
    """Return the command of an engine's server, without arguments. Raises Unavailable, with the cure, where it is not
    installed.
    """
    server = INSTALLATIONS[engine]
    if named := os.environ.get(server.variable):
        if shutil.which(named) is None:
            raise Unavailable(
                f"{server.variable}={named} is not a command that can be run.",
                remedy=f"Give the path of {server.command}, or leave the variable out.",
            )
        return [named]
    if find_spec(server.library) is None:
        raise Unavailable(
            f"engine {engine} needs {server.library}, which is not installed.",
            remedy=f"On each machine whose worker serves: {server.remedy}. Then restart the worker.",
        )
    return [sys.executable, "-m", server.module]


def installed_engines() -> tuple[str, ...]:
    """Return the names of the engines of other projects that this machine can start."""
    return tuple(engine for engine in INSTALLATIONS if _is_installed(engine))


def _is_installed(engine: str) -> bool:
    try:
        return bool(engine_command(engine))
    except Unavailable:
        return False
