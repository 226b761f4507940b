"""Equality of mathematical expressions by math-verify, in a child process that hostile text can't stall or fill."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import IO

CHILD = Path(__file__).with_name("expressions_child.py")
REMEMBERED = 20_000


class MathChecker:
    """Compares expressions, one after another, in one child process; it starts with the first and again after one that
    was too hard.

    `cpu_s` and `memory_bytes` bound the child; `wall_s` ends one that sleeps.
    """

    def __init__(self, *, cpu_s: int = 5, memory_bytes: int = 2**31, wall_s: float = 120.0) -> None:
        self._cpu_s, self._memory_bytes, self._wall_s = cpu_s, memory_bytes, wall_s
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._ask)

    def equal(self, prediction: str, references: Sequence[str]) -> bool:
        """Return whether a prediction's last expression, in LaTeX, equals one of the references.

        A comparison that exceeds the limits, or that can't be read, is not equal.
        """
        return self._remembered(prediction, tuple(references))

    def close(self) -> None:
        """End the child process."""
        with self._lock:
            self._end()

    def _ask(self, prediction: str, references: tuple[str, ...]) -> bool:
        order = json.dumps({"prediction": prediction, "references": references}).encode() + b"\n"
        with self._lock:
            child = self._child or self._start()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                child.stdin.write(order)
                child.stdin.flush()
                answered = _has_answer(child.stdout, self._wall_s)
                reply = child.stdout.readline() if answered else b""
            except BrokenPipeError:
                reply = b""
            if not reply:
                self._end()
            return reply == b"1\n"

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-I", str(CHILD), str(self._cpu_s), str(self._memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None


@cache
def math_checker() -> MathChecker:
    """Return this process's checker."""
    return MathChecker()


def _has_answer(pipe: IO[bytes], wall_s: float) -> bool:
    """Wait for what a child writes. `select` itself fails in a process with more than 1,024 open files."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(wall_s))
