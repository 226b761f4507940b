"""Tells an engine that hangs from one that is slow, by the steps that it completes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

MIN_STALL_S = 30.0
TIMES_P99 = 20.0
MAX_GAPS = 1000


class StepWatch:
    """Ages of an engine's steps. A long prompt takes many steps before its first token, so tokens would not tell that
    it advances.

    Written by one thread, several times a second.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps = 0
        self._since: float | None = None
        self._gaps: deque[float] = deque(maxlen=MAX_GAPS)

    def observe(self, steps: int, *, busy: bool) -> None:
        """Note the engine's number of steps, and whether it has requests."""
        now = self._clock()
        if steps != self._steps and self._since is not None and steps > self._steps:
            self._gaps.append((now - self._since) / (steps - self._steps))
        if not busy:
            self._since = None
        elif self._since is None or steps != self._steps:
            self._since = now
        self._steps = steps

    def stall_s(self) -> float:
        """Return the seconds since the last step while requests are open; 0 when idle."""
        return 0.0 if self._since is None else self._clock() - self._since

    def limit_s(self) -> float:
        """Return the age of a step from which an engine hangs: 30 s, or 20 times the 99th percentile of its steps."""
        if not self._gaps:
            return MIN_STALL_S
        ordered = sorted(self._gaps)
        return max(MIN_STALL_S, TIMES_P99 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))])

    def is_hung(self) -> bool:
        """Return whether the engine has made no step for longer than its limit."""
        return self.stall_s() > MIN_STALL_S and self.stall_s() > self.limit_s()
