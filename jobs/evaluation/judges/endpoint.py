"""Ask a judge behind an OpenAI-compatible chat endpoint: several questions at once, retries, and a failure that is
recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from backend.domain.evaluation.judges.prompts import JudgeQuestion
from backend.domain.evaluation.judges.verdicts import JudgeAnswer
from backend.domain.serving.request_log import JOB
from backend.errors import Unavailable

CONCURRENT = 4
ATTEMPTS = 4
TIMEOUT_S = 180.0
PERMANENT = frozenset({401, 403, 404})
"""Statuses of a wrong key, address or model: every question would fail."""


def ask_endpoint(
    url: str,
    *,
    model: str,
    key: str | None,
    job: str | None,
    max_tokens: int,
    pending: Sequence[JudgeQuestion],
    check_stop: Callable[[], None],
) -> Iterator[list[JudgeAnswer]]:
    """Yield the answers in batches. A question that fails after retries is answered with `failed`.

    Raises Unavailable if the endpoint can't be reached at all, or refuses key, address or model.
    """
    headers = ({"Authorization": f"Bearer {key}"} if key else {}) | ({JOB: job} if job else {})
    timeout = httpx.Timeout(TIMEOUT_S, connect=10.0)
    with (
        httpx.Client(headers=headers, timeout=timeout, follow_redirects=False) as client,
        ThreadPoolExecutor(CONCURRENT) as pool,
    ):
        for at in range(0, len(pending), CONCURRENT):
            check_stop()
            yield list(
                pool.map(lambda question: _ask(client, url, model, max_tokens, question), pending[at : at + CONCURRENT])
            )


def _ask(client: httpx.Client, url: str, model: str, max_tokens: int, question: JudgeQuestion) -> JudgeAnswer:
    body = {"model": model, "messages": list(question.messages), "max_tokens": max_tokens, "temperature": 0}
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(2.0 ** (attempt - 1))
        try:
            response = client.post(f"{url.rstrip('/')}/chat/completions", json=body)
        except httpx.ConnectError as error:
            raise Unavailable(f"The judge at {url} can't be reached: {error}.", remedy="Check its address.") from error
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
            continue
        if response.status_code in PERMANENT:
            raise Unavailable(
                f"The judge at {url} answers {response.status_code}: {response.text[:200]}",
                remedy="Check key, address and model.",
            )
        if response.status_code == 200:
            return _read(question.key, response)
        problem = f"status {response.status_code}: {response.text[:200]}"
        if response.status_code != 429 and response.status_code < 500:
            break
    return JudgeAnswer(question.key, "", failed=problem[:300])


def _read(key: str, response: httpx.Response) -> JudgeAnswer:
    try:
        record: Any = response.json()
        text = record["choices"][0]["message"]["content"] or ""
        usage = record.get("usage") or {}
        return JudgeAnswer(
            key, str(text), int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return JudgeAnswer(key, "", failed=f"no chat completion: {response.text[:200]}")
