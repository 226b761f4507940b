"""Notice that a process of a job is frozen: all others of a run on several devices wait for it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

import psutil

from jobs.memory_limit import processes_of

FROZEN_S = 8.0
"""How long a process may be stopped (SIGSTOP), as by a tool that looks at it, before it counts as frozen."""
SCAN_S = 1.0


@dataclass
class FreezeWatch:
    """Watches the processes of one job by their state. What takes long is not taken for a freeze: a process that
    compiles, evaluates, saves or waits for a disk is not stopped.
    """

    pid: int
    _scanned_at: float = 0.0
    _stopped_at: dict[int, float] = field(default_factory=dict)

    def check(self) -> str:
        """Return which process is frozen; empty if none is."""
        now = time.monotonic()
        if now - self._scanned_at < SCAN_S:
            return ""
        self._scanned_at = now
        stopped = filter(_is_stopped, processes_of(self.pid))
        self._stopped_at = {pid: self._stopped_at.get(pid, now) for pid in stopped}
        for pid, since in self._stopped_at.items():
            if now - since >= FROZEN_S:
                return f"Its process {pid} has been stopped for {now - since:.0f} s."
        return ""


def _is_stopped(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
