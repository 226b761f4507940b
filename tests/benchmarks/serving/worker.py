"""A process that measures when asked, by lines of JSON: engines side by side take turns, each with one thread."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any


class Worker:
    """One process with one thread."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )

    def ask(self, load: Mapping[str, Any]) -> dict[str, Any]:
        """Return a measurement. Raises RuntimeError where the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(load) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                measured: dict[str, Any] = json.loads(line)
                return measured
        raise RuntimeError("The engine ended.")

    def close(self) -> None:
        """End the process."""
        self._process.kill()
