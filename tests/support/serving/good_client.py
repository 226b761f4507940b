"""A client that does nothing wrong, beside one that attacks: it streams one answer after the other and loses nothing of
them.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from tests.support.gateway_fixtures import eventually

BODY: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Hello"}],
    "temperature": 0,
    "max_tokens": 16,
    "stream": True,
}


class GoodClient:
    """Streams the same greedy answer again and again."""

    def __init__(self, url: str, *, key: str = "") -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"} if key else {}
        self.expected = self.ask()
        self.num_answers = 0
        self.losses: list[str] = []
        self._has_to_stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def ask(self) -> str:
        """Return the text of one streamed answer. Raises AssertionError where the answer is not complete."""
        text, last = "", ""
        with httpx2.stream(
            "POST", f"{self._url}/v1/chat/completions", json=BODY, headers=self._headers, timeout=200
        ) as response:
            lines = list(response.iter_lines())
            assert response.status_code == 200, f"{response.status_code}: {' '.join(lines)[:300]}"
        for line in lines:
            if not line.startswith("data: "):
                continue
            last = line.removeprefix("data: ")
            if last != "[DONE]":
                document = json.loads(last)
                assert "error" not in document, document
                text += document["choices"][0]["delta"].get("content") or ""
        assert last == "[DONE]", last
        return text

    def start(self) -> None:
        """Begin to ask, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask once more, after the attack, and check that every answer was the one before it."""
        asked = self.num_answers
        eventually(lambda: self.num_answers >= asked + 2 or self.losses)
        self._has_to_stop.set()
        self._thread.join(120)
        assert not self.losses, self.losses
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._has_to_stop.is_set():
            try:
                text = self.ask()
                if text != self.expected:
                    self.losses.append(f"{text!r} in place of {self.expected!r}")
            except (AssertionError, httpx2.HTTPError) as error:
                self.losses.append(f"{type(error).__name__}: {error}")
            self.num_answers += 1


@contextmanager
def good_client(url: str, *, key: str = "") -> Iterator[GoodClient]:
    """A client that asks while an attack goes on. At the end it must have lost nothing."""
    client = GoodClient(url, key=key)
    client.start()
    eventually(lambda: client.num_answers or client.losses)
    yield client
    client.stop()
