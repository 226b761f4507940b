"""A broker that is frozen costs its timeout once, not every caller."""

from __future__ import annotations

import socket

from backend.infra.queue import JobQueue


def count_knocks(listener: socket.socket) -> int:
    """Take the connections that wait at a listener that does not block."""
    count = 0
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return count
        connection.close()
        count += 1


def test_a_frozen_broker_is_not_asked_again_at_once() -> None:
    with socket.socket() as frozen:  # accepts and never answers, as a stopped process does
        frozen.bind(("127.0.0.1", 0))
        frozen.listen(8)
        queue = JobQueue(f"redis://127.0.0.1:{frozen.getsockname()[1]}/0")
        frozen.setblocking(False)
        assert not queue.is_alive()
        assert count_knocks(frozen) > 0
        assert not queue.is_alive()
        assert queue.waiting("train") is None
        assert not queue.publish("train")
        assert count_knocks(frozen) == 0


def test_a_broker_that_refuses_is_asked_every_time() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = JobQueue(f"redis://127.0.0.1:{port}/0")
    assert not queue.is_alive()
    assert not queue._is_silent()
