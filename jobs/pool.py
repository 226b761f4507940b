"""Threads of a worker: one per job, with a limit for each queue. Every job runs in its own process, so a thread only
waits for it, and one worker process serves all queues of a machine. Celery limits threads over all queues; here a queue
whose slots are in use is not read, and its messages stay for other workers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from celery.concurrency.thread import TaskPool
from kombu.utils.scheduling import round_robin_cycle


class Slots:
    """Running jobs of each queue on this worker, and their limits."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = dict(limits)
        self.closed = False
        """True while the worker takes no job of any queue."""
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, queue: str) -> None:
        """Count a job."""
        with self._lock:
            self._taken[queue] += 1

    def free(self, queue: str) -> None:
        """Count a job less."""
        with self._lock:
            self._taken[queue] -= 1

    def has_room(self, queue: str) -> bool:
        """Return whether one more job of a queue may be taken. A queue without a limit always has room."""
        with self._lock:
            return not self.closed and self._taken[queue] < self.limits.get(queue, self._taken[queue] + 1)


class QueuesWithRoom(round_robin_cycle):
    """Kombu's order of queues, without those whose slots are in use."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def consume(self, n: int) -> list[str]:
        """Return the queues to read from."""
        return [queue for queue in super().consume(n) if self._slots.has_room(queue)]


class JobThreads(TaskPool):
    """Celery's thread pool with a cold shutdown: `stopping` asks the threads to requeue their jobs, and the shutdown
    waits for them.
    """

    stopping = threading.Event()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Stop a running job, for Celery's cold shutdown."""
        self.stopping.set()

    def on_terminate(self) -> None:
        """Wait until every running job is back in its queue."""
        self.stopping.set()
        self.executor.shutdown(cancel_futures=True)
