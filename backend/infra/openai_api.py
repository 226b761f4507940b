"""Calls of an OpenAI-compatible API: one request with its retries, and the question what the API offers.

Redirects are not followed. A key is read when it is needed, sent in the header, and never logged or put into a message.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from backend.domain.serving.request_log import JOB
from backend.errors import InvalidInput, Unavailable

ATTEMPTS = 6
TIMEOUT_S, CONNECT_S, FIRST_PAUSE_S, MAX_PAUSE_S = 180.0, 10.0, 1.0, 60.0
CHECK_S = 30.0
PERMANENT = frozenset({401, 403, 404})
"""Statuses of a wrong key, address or model: every call would fail."""
REFUSED = frozenset({400, 422})
"""Statuses of an API that does not take a field of a body."""
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SHOWN = 200
SLICE_S = 0.25


class CallFailed(Exception):
    """A call failed after its last retry. `status` is the HTTP status of the answer, if there was one."""

    def __init__(self, problem: str, *, status: int | None = None) -> None:
        super().__init__(problem)
        self.status = status


class ApiClient:
    """Posts to one API. `name` says in messages what it is; `check_stop` runs before each attempt and while a pause
    lasts. `job` is sent to a gateway of one's own, which adds the cost to it.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        job: str | None = None,
        name: str = "The endpoint",
        check_stop: Callable[[], None] = lambda: None,
        first_pause_s: float = FIRST_PAUSE_S,
        timeout_s: float = TIMEOUT_S,
        connections: int = 8,
    ) -> None:
        self._url, self._model, self._name, self._check_stop, self._pause_s = (
            url.rstrip("/"),
            model,
            name,
            check_stop,
            first_pause_s,
        )
        self._key = key
        self._client = httpx.Client(
            headers=({"Authorization": f"Bearer {key}"} if key else {}) | ({JOB: job} if job else {}),
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=connections),
            follow_redirects=False,
            trust_env=(urlsplit(url).hostname or "") not in LOOPBACK,  # no proxy stands before this machine itself
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, path: str, body: dict[str, Any], *, attempts: int = ATTEMPTS) -> dict[str, Any]:
        """Return the JSON object that the API answers, asking again after 429, 5xx, a lost connection or an answer that
        is no JSON.

        Raises CallFailed for a request that failed, Unavailable where every one would: a wrong key, address or model,
        or no connection.
        """
        problem: CallFailed | None = None
        pause = 0.0
        for attempt in range(attempts):
            self._wait(pause)
            try:
                response = self._client.post(f"{self._url}/{path}", json={"model": self._model, **body})
            except httpx.ConnectError as error:
                problem = CallFailed(f"can't be reached: {error}")
                pause = self._backoff(attempt)
                continue
            except (httpx.HTTPError, ValueError) as error:
                problem = CallFailed(f"{type(error).__name__}: {error}")
                pause = self._backoff(attempt)
                continue
            record = _read(response)
            if record is not None:
                return record
            problem = CallFailed(self._describe(response), status=response.status_code)
            if response.status_code in PERMANENT:
                raise Unavailable(f"{self._name} answers {problem}.", remedy="Check key, address and model.")
            if response.status_code != 429 and 300 <= response.status_code < 500:
                raise problem
            pause = max(self._backoff(attempt), _retry_after(response))
        if problem is not None and problem.status is None and str(problem).startswith("can't be reached"):
            raise Unavailable(f"{self._name} at {self._url} {problem}.", remedy="Check its address, and that it runs.")
        raise problem or CallFailed("it was not called")

    def _backoff(self, attempt: int) -> float:
        """Return the pause before the next attempt: 1, 2, 4, ... seconds, each with up to a quarter more, so that
        callers spread.
        """
        return min(MAX_PAUSE_S, self._pause_s * 2.0**attempt * (1 + random.random() / 4))

    def _describe(self, response: httpx.Response) -> str:
        """Return the status and the beginning of the text of an answer, without the key where a server repeats it."""
        if response.status_code == 200:
            return "200 without a JSON object"
        text = response.text.replace(self._key, "(key)") if self._key else response.text
        text = " ".join(text[: 4 * SHOWN].split())[:SHOWN]
        return f"{response.status_code}: {text}" if text else str(response.status_code)

    def _wait(self, seconds: float) -> None:
        ends = time.monotonic() + seconds
        self._check_stop()
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(SLICE_S, left))
            self._check_stop()


def _read(response: httpx.Response) -> dict[str, Any] | None:
    if response.status_code != 200:
        return None
    try:
        record = response.json()
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _retry_after(response: httpx.Response) -> float:
    """Return the pause in seconds that an answer asks for, at most a minute; 0 where it names none, or a date."""
    try:
        seconds = float(response.headers.get("retry-after", ""))
    except ValueError:
        return 0.0
    return min(seconds, MAX_PAUSE_S) if math.isfinite(seconds) and seconds > 0 else 0.0


def ask_capabilities(url: str, *, model: str, key: str | None) -> dict[str, bool]:
    """Return whether an API has `chat`, `completions` and an `echo` with log-probabilities, by a request of one token
    each.

    Raises Unavailable if it can't be reached or refuses key and model, InvalidInput if it has neither.
    """
    client = ApiClient(url, model=model, key=key, name="The API", timeout_s=CHECK_S)
    problems: list[str] = []

    def answers(path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return client.call(path, {"max_tokens": 1, "temperature": 0, **body}, attempts=2)
        except CallFailed as error:
            problems.append(f"{path}: {error}")
        except Unavailable as error:
            if not error.message.startswith("The API answers 404"):
                raise
            problems.append(f"{path}: {error.message}")
        return None

    try:
        chat = answers("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
        text = answers("completions", {"prompt": "Hi there"})
        echoed = (
            answers("completions", {"prompt": "Hi there", "echo": True, "logprobs": 1}) if text is not None else None
        )
    finally:
        client.close()
    if chat is None and text is None:
        raise InvalidInput(
            f"The API at {url} has no chat completions and no completions. {'; '.join(problems)[:400]}", field="url"
        )
    return {"chat": chat is not None, "completions": text is not None, "echo": has_echo(echoed)}


def has_echo(record: dict[str, Any] | None) -> bool:
    """Return whether an answer of `completions` holds the log-probabilities of its prompt."""
    try:
        logprobs = (record or {})["choices"][0]["logprobs"]
        return len(logprobs["token_logprobs"]) > 1 and bool(logprobs["text_offset"])
    except (KeyError, IndexError, TypeError):
        return False
