"""The broker, seen from the sending side. A message is a wake-up with a queue's name in it; the jobs table decides what runs.

Knows Celery's wire format only through a producer without tasks, so that pages never import the workers' code.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

log = logging.getLogger(__name__)

TASK = "roundhouse.work"
SOCKET_TIMEOUT_S = 3.0
SILENT_S = 5.0  # how long a broker that timed out is not asked again: a frozen one costs a page its timeout once, not at every draw
TRANSPORT: dict[str, Any] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": 2.0,
    "max_retries": 1,
    "visibility_timeout": 3600,
}


def make_celery(url: str) -> Celery:
    """Return a Celery application with the settings every process of an installation shares."""
    from celery import Celery  # half a second that only senders and workers spend

    app = Celery("roundhouse", broker=_for_kombu(url), set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=False,  # a late ack duplicates every job that outlives the visibility timeout
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # without it a worker hoards one job behind the running one
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=TRANSPORT,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_max": 0.2},
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        task_create_missing_queues=True,
    )
    return app


def _for_kombu(url: str) -> str:
    """Return a broker's URL as kombu spells it: a socket file is `unix://` to redis-py and `redis+socket://` to kombu."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


class JobQueue:
    """Sends wake-ups. Never raises for a broker that is down: the sweep sends again."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._silent_until = 0.0

    @cached_property
    def _celery(self) -> Celery:
        return make_celery(self.url)

    @cached_property
    def _redis(self) -> Redis:
        from redis import Redis

        return Redis.from_url(self.url, socket_timeout=SOCKET_TIMEOUT_S, socket_connect_timeout=2.0)

    def publish(self, queue: str) -> bool:
        """Send one wake-up to a queue. Returns False when the broker does not answer, or did not a moment ago."""
        if self._is_silent():
            return False
        started = time.monotonic()
        try:
            self._celery.send_task(TASK, args=[queue], queue=queue)
        except Exception as error:  # kombu wraps broker errors in many types; the row is committed, so nothing is lost
            self._note_silence(started)
            log.info("broker does not answer, the sweep will send again: %s", error)
            return False
        return True

    def waiting(self, queue: str) -> int | None:
        """Return how many wake-ups lie in a queue, or None when the broker does not answer."""
        if self._is_silent():
            return None
        from redis import RedisError

        started = time.monotonic()
        try:
            return int(self._redis.llen(queue))
        except RedisError:
            self._note_silence(started)
            return None

    def is_alive(self) -> bool:
        """Return whether the broker answers, or did not a moment ago."""
        if self._is_silent():
            return False
        from redis import RedisError

        started = time.monotonic()
        try:
            return bool(self._redis.ping())
        except RedisError:
            self._note_silence(started)
            return False

    def _is_silent(self) -> bool:
        return time.monotonic() < self._silent_until

    def _note_silence(self, started: float) -> None:
        """A refused connection costs nothing and is tried again at once; one that had to time out is left alone for a while."""
        now = time.monotonic()
        if now - started > 1.0:
            self._silent_until = now + SILENT_S
