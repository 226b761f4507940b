"""Threads of a worker: one a job, with a limit for each queue.

Every job runs in a process of its own, so a thread only waits for it, and one worker process serves all queues of a machine. Celery
counts threads over all queues; a queue whose share is in use is left out of what the worker reads next, and its messages stay for
other workers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any

from celery.concurrency.thread import TaskPool
from kombu.utils.scheduling import round_robin_cycle


class Slots:
    """Jobs of each queue that this worker holds, and their limits."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = dict(limits)
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
        """Return whether one more job of a queue may be taken. A queue without a limit has always room."""
        with self._lock:
            return self._taken[queue] < self.limits.get(queue, self._taken[queue] + 1)


class QueuesWithRoom(round_robin_cycle):
    """Kombu's order of queues, without those whose slots are in use: the worker asks the broker for the others."""

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots

    def consume(self, n: int) -> list[str]:
        """Return the queues to read from."""
        return [queue for queue in super().consume(n) if self._slots.has_room(queue)]


class JobThreads(TaskPool):
    """Celery's thread pool with a cold shutdown: `stopping` tells the threads to put their jobs back, and they are waited for."""

    stopping = threading.Event()

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """Stop as Celery's cold shutdown asks for every job in hand."""
        self.stopping.set()

    def on_terminate(self) -> None:
        """Wait until every job in hand is back in its queue."""
        self.stopping.set()
        self.executor.shutdown(cancel_futures=True)
