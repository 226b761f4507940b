"""Calls of OpenAI-compatible APIs: one request with its retries, what an API offers, and whether it answers a token.

Redirects are not followed. A key is read when it is needed, sent in the header, and never logged or put into a message.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import httpx2

from backend.domain.json_values import JsonObject
from backend.domain.openai_servers import read_retry_after
from backend.domain.serving.request_log import JOB
from backend.domain.serving.upstream import Upstream
from backend.errors import InvalidInput, Unavailable
from backend.infra.keys import read_key
from backend.infra.network_errors import system_reason
from backend.infra.openai_api.addresses import refuse_host

ATTEMPTS = 6
TIMEOUT_S, CONNECT_S, FIRST_PAUSE_S, MAX_PAUSE_S = 180.0, 10.0, 1.0, 60.0
CHECK_S = 30.0
PERMANENT = frozenset({401, 403, 404})
"""Statuses of a wrong key, address or model: every call would fail."""
REFUSED = frozenset({400, 422})
"""Statuses of an API that does not take a field of a body."""
CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "n_ctx")
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
SHOWN = 200
SLICE_S = 0.25


class CallFailed(Exception):
    """A call failed after its last retry. `status` is the HTTP status of the answer, None without one."""

    def __init__(
        self, problem: str, *, status: int | None = None, retry_after_s: float = 0.0, is_unreachable: bool = False
    ) -> None:
        super().__init__(problem)
        self.status, self.retry_after_s, self.is_unreachable = status, retry_after_s, is_unreachable

    @property
    def is_final(self) -> bool:
        """Return whether the same request would fail again."""
        return self.status is not None and self.status != 429 and 300 <= self.status < 500


class ApiClient:
    """Calls one API. `name` says in messages what it is; `check_stop` runs before each attempt and while a pause lasts.

    `job` is sent to a gateway of one's own, which adds the cost to it. No proxy stands before this machine itself, and
    none of the environment's before others without `uses_proxy`.
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
        uses_proxy: bool = True,
    ) -> None:
        self._url, self._model, self._name = url.rstrip("/"), model, name
        self._check_stop, self._pause_s, self._key = check_stop, first_pause_s, key
        self._client = httpx2.Client(
            headers=({"Authorization": f"Bearer {key}"} if key else {}) | ({JOB: job} if job else {}),
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            limits=httpx2.Limits(max_connections=connections),
            follow_redirects=False,
            trust_env=uses_proxy and (urlsplit(url).hostname or "") not in LOOPBACK,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, path: str, body: Mapping[str, object], *, attempts: int = ATTEMPTS) -> JsonObject:
        """Return the JSON object that the API answers, asking again after 429, 5xx, a lost connection or an answer that
        is not JSON.

        Raises CallFailed for a request that failed, Unavailable where every one would: a wrong key, address or model,
        or no connection.
        """
        problem = CallFailed("it was not called")
        pause_s = 0.0
        for attempt in range(attempts):
            self._wait(pause_s)
            try:
                return self._ask("POST", path, {"model": self._model, **body})
            except CallFailed as error:
                problem = error
            if problem.status in PERMANENT:
                raise Unavailable(f"{self._name} answers {problem}.", remedy="Check key, address and model.")
            if problem.is_final:
                raise problem
            pause_s = max(self._backoff(attempt), problem.retry_after_s)
        if problem.is_unreachable:
            raise Unavailable(f"{self._name} at {self._url} {problem}.", remedy="Check its address, and that it runs.")
        raise problem

    def list_models(self) -> JsonObject:
        """Return what the API answers to `GET /models`, asked once. Raises CallFailed."""
        return self._ask("GET", "models", None)

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> JsonObject:
        try:
            response = self._client.request(method, f"{self._url}/{path}", json=body)
        except httpx2.ConnectError as error:
            raise CallFailed(f"can't be reached: {system_reason(error) or error}", is_unreachable=True) from error
        except (httpx2.HTTPError, ValueError) as error:
            raise CallFailed(f"{type(error).__name__}: {system_reason(error) or error}") from error
        record = _read(response)
        if record is not None:
            return record
        pause_s = read_retry_after(response.headers.get("retry-after", ""), most_s=MAX_PAUSE_S)
        raise CallFailed(self._describe(response), status=response.status_code, retry_after_s=pause_s)

    def _backoff(self, attempt: int) -> float:
        """Return the pause before the next attempt: 1, 2, 4, ... seconds, each up to a quarter more, to spread."""
        return min(MAX_PAUSE_S, self._pause_s * 2.0**attempt * (1 + random.random() / 4))

    def _describe(self, response: httpx2.Response) -> str:
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


def _read(response: httpx2.Response) -> dict[str, object] | None:
    if response.status_code != 200:
        return None
    try:
        record = response.json()
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def read_counts(record: Mapping[str, object]) -> tuple[int, int]:
    """Return the tokens of answer and prompt that an API counted; 0 where it says nothing usable."""
    usage = record.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(name) for name in ("completion_tokens", "prompt_tokens")]
    tokens, prompt_tokens = (count if isinstance(count, int) and count > 0 else 0 for count in counts)
    return tokens, prompt_tokens


def ask_capabilities(url: str, *, model: str, key: str | None) -> dict[str, bool]:
    """Return whether an API has `chat`, `completions` and an `echo` with log-probabilities, by a request of one token
    each.

    Raises Unavailable if it can't be reached or refuses key and model, InvalidInput if it has neither.
    """
    client = ApiClient(url, model=model, key=key, name="The API", timeout_s=CHECK_S)
    problems: list[str] = []

    def answers(path: str, body: Mapping[str, object]) -> JsonObject | None:
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


def has_echo(record: JsonObject | None) -> bool:
    """Return whether an answer of `completions` holds the log-probabilities of its prompt."""
    try:
        logprobs = (record or {})["choices"][0]["logprobs"]
        return len(logprobs["token_logprobs"]) > 1 and bool(logprobs["text_offset"])
    except (KeyError, IndexError, TypeError):
        return False


def ask_token(upstream: Upstream) -> float:
    """Let a server generate one token, and return the seconds. Raises Unavailable with the reason, without the key.

    A server that is busy (429) is well; its seconds count.
    """
    refuse_host(upstream.url)
    body: dict[str, object] = {"max_tokens": 1, "temperature": 0}
    path = "completions"
    if upstream.capabilities.chat:
        path, body["messages"] = "chat/completions", [{"role": "user", "content": "Hi"}]
    else:
        body["prompt"] = "Hi"
    began = time.monotonic()
    client = _client_of(upstream)
    try:
        has_choice = bool(client.call(path, body, attempts=1).get("choices"))
    except CallFailed as error:
        if error.status == 429:
            return time.monotonic() - began
        cause = f"status {error.status}" if error.status else str(error)
        raise Unavailable(f"{upstream.host} answered a request of one token with {cause}.") from error
    finally:
        client.close()
    if not has_choice:
        raise Unavailable(f"{upstream.host} answered a request of one token without a choice.")
    return time.monotonic() - began


def ask_context(upstream: Upstream) -> int | None:
    """Return the context length that a server states of a model in `/models`; None where it states none."""
    try:
        client = _client_of(upstream)
        try:
            entries = client.list_models()["data"]
        finally:
            client.close()
        alone = entries[0] if len(entries) == 1 else {}
        entry = next((entry for entry in entries if entry.get("id") == upstream.model), alone)
        stated = [source.get(name) for source in (entry, entry.get("meta") or {}) for name in CONTEXT_FIELDS]
    except (CallFailed, Unavailable, KeyError, TypeError, AttributeError, IndexError):
        return None
    return next((value for value in stated if isinstance(value, int) and value > 0), None)


def _client_of(upstream: Upstream) -> ApiClient:
    key = read_key(key_env=upstream.key_env, key_file=upstream.key_file)
    return ApiClient(
        upstream.url, model=upstream.model, key=key, name=upstream.host, timeout_s=CHECK_S, uses_proxy=False
    )
