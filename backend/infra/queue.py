"""Send wake-ups through the broker. A message is a wake-up with a queue's name; the jobs table determines what runs.
Uses a Celery producer without tasks, so that pages never import the workers' code.
"""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from celery import Celery
    from redis import Redis

log = logging.getLogger(__name__)

TASK = "roundhouse.work"
SOCKET_TIMEOUT_S = 3.0
SILENT_S = 5.0  # pause after a timeout, so that a frozen broker delays a page once, not at every rerun
TRANSPORT: dict[str, object] = {
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": 2.0,
    "max_retries": 1,
    "visibility_timeout": 3600,
}


def make_celery(url: str) -> Celery:
    """Return a Celery application with the settings every process of an installation shares."""
    from celery import Celery  # importing takes half a second

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
    """Return a broker's URL in kombu's form: a socket file is `unix://` to redis-py and `redis+socket://` to kombu."""
    parts = urlsplit(url)
    if parts.scheme != "unix":
        return url
    database = parse_qs(parts.query).get("db", ["0"])[0]
    return f"redis+socket://{parts.path}?virtual_host={database}"


class JobQueue:
    """Sends wake-ups. Never raises if the broker is down: the recovery sweep sends again."""

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
        """Send one wake-up to a queue. Returns False if the broker does not answer, or timed out recently."""
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
        """Return the number of wake-ups in a queue, or None if the broker does not answer."""
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
        """Return whether the broker answers; False also if it timed out recently."""
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
        """Pause after a timeout. A refused connection is cheap and retried at once."""
        now = time.monotonic()
        if now - started > 1.0:
            self._silent_until = now + SILENT_S
