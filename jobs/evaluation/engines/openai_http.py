"""Any OpenAI-compatible endpoint as an engine: answers, and log-likelihoods where `completions` echoes a prompt with log-probabilities.

The address is the operator's or this installation's own; redirects are not followed. The key is read by the caller, sent in the header
and never logged. A call that fails after retries leaves its item missing, not wrong.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx

from backend.errors import InvalidInput, Unavailable
from jobs.evaluation.engines.base import (
    Answer,
    Answers,
    Batch,
    CheckStop,
    EngineFacts,
    GenerateRequest,
    ScoreRequest,
    Scores,
    WindowPolicy,
    never_stop,
)
from jobs.evaluation.engines.plain import sample_sampling
from jobs.modeling.loglikelihood import ContinuationScore, TextNll

CONCURRENT, ATTEMPTS = 8, 4
TIMEOUT_S, FIRST_PAUSE_S = 180.0, 1.0
PERMANENT = frozenset({401, 403, 404})
"""Statuses of a wrong key, address or model: every call would fail."""
MISSING = ContinuationScore(math.nan, 0, False)
T = TypeVar("T")


class CallFailed(Exception):
    """A call failed after its last retry; its item is missing."""


class EndpointEngine:
    """Asks the model of an endpoint. `url` ends in `/v1`; `chat` sends prompts as a user's message."""

    name = "openai_http"

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        chat: bool = False,
        check_stop: CheckStop = never_stop,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._url, self._model, self._chat, self._check_stop, self._pause_s = url.rstrip("/"), model, chat, check_stop, first_pause_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(TIMEOUT_S, connect=10.0), follow_redirects=False)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Batch[Scores]]:
        """Yield log-likelihoods; see Engine.score. Raises InvalidInput for token ids, and if the endpoint echoes no log-probabilities."""
        for request in requests:
            if not all(isinstance(part, str) for pair in request.pairs for part in pair):
                raise InvalidInput("An endpoint scores texts, not a chat template's tokens.", remedy="Set chat to off.", field="chat")
        yield from self._in_batches(requests, lambda request: tuple(self._score(*pair) for pair in request.pairs))

    def generate(self, requests: Sequence[GenerateRequest]) -> Iterator[Batch[Answers]]:
        """Yield answers; see Engine.generate. The endpoint decides whether it draws by the seed."""
        yield from self._in_batches(requests, self._answers)

    def roll(self, texts: Sequence[str], *, policy: WindowPolicy = "each_window") -> Iterator[Batch[TextNll]]:
        """Raise InvalidInput: the endpoint's tokenizer and context are unknown, so windows can't be planned."""
        raise InvalidInput("An endpoint scores no whole texts.", remedy="Evaluate the checkpoint itself.", field="engine")

    def facts(self) -> EngineFacts:
        """Return what the engine computes with; the rest is the endpoint's own."""
        return EngineFacts(name=self.name)

    def _in_batches(self, requests: Sequence[Any], answer: Callable[[Any], T]) -> Iterator[Batch[T]]:
        with ThreadPoolExecutor(CONCURRENT) as pool:
            for at in range(0, len(requests), CONCURRENT):
                self._check_stop()
                yield list(enumerate(pool.map(answer, requests[at : at + CONCURRENT]), at))

    def _answers(self, request: GenerateRequest) -> Answers:
        return tuple(self._answer(request, sample) for sample in range(request.samples))

    def _answer(self, request: GenerateRequest, sample: int) -> Answer:
        sampling = sample_sampling(request.sampling, sample)
        body: dict[str, Any] = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
            **({"stop": list(request.stop)[:4]} if request.stop else {}),
        }
        body |= {"messages": [{"role": "user", "content": request.prompt}]} if self._chat else {"prompt": request.prompt}
        try:
            record = self._call("chat/completions" if self._chat else "completions", body)
            choice, usage = record["choices"][0], record.get("usage") or {}
            text = str((choice["message"]["content"] if self._chat else choice["text"]) or "")
        except (CallFailed, KeyError, IndexError, TypeError) as error:
            return Answer("", 0, 0, "failed", failed=f"{type(error).__name__}: {error}"[:300])
        ends = [text.index(mark) for mark in request.stop if mark in text]  # an endpoint may take fewer stop strings than were asked
        reason = "length" if choice.get("finish_reason") == "length" and not ends else "stop"
        tokens, prompt_tokens = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
        return Answer(text[: min(ends)] if ends else text, tokens, prompt_tokens, reason)  # type: ignore[arg-type]

    def _score(self, context: str, continuation: str) -> ContinuationScore:
        body = {"prompt": context + continuation, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        try:
            record = self._call("completions", body)["choices"][0].get("logprobs")
        except (CallFailed, KeyError, IndexError, TypeError):
            return MISSING
        if not record or not record.get("token_logprobs") or not record.get("text_offset"):
            raise InvalidInput(
                "The endpoint echoes no log-probabilities of a prompt.", remedy="Use a task of generated answers.", field="engine"
            )
        return read_echo(record, start=len(context.rstrip()) if context.strip() else len(context), end=len(context) + len(continuation))

    def _call(self, path: str, body: dict[str, Any]) -> Any:
        """Post a request, again after a pause where that may help. Raises CallFailed, Unavailable if every call would fail."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(self._pause_s * 2.0 ** (attempt - 1))
            self._check_stop()
            try:
                response = self._client.post(f"{self._url}/{path}", json={"model": self._model, **body})
            except httpx.ConnectError as error:
                raise Unavailable(f"The endpoint at {self._url} can't be reached: {error}.", remedy="Check its address.") from error
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in PERMANENT:
                raise Unavailable(f"The endpoint answers {response.status_code}.", remedy="Check key, address and model.")
            if response.status_code == 200:
                try:
                    return response.json()
                except ValueError:
                    raise CallFailed("the answer is not JSON") from None
            problem = f"status {response.status_code}"
            if response.status_code == 400 and body.get("echo"):
                raise InvalidInput(
                    f"The endpoint refuses to echo a prompt: {response.text[:200]}",
                    remedy="Use a task of generated answers.",
                    field="engine",
                )
            if response.status_code != 429 and response.status_code < 500:
                break
        raise CallFailed(problem)


def read_echo(record: dict[str, Any], *, start: int, end: int) -> ContinuationScore:
    """Return the score of the characters from `start` to `end` of an echoed prompt.

    A token that spans the border belongs to the continuation; the first token of a text has no log-probability.
    """
    offsets = [*record["text_offset"], end]
    total, count, greedy = 0.0, 0, True
    for at, logprob in enumerate(record["token_logprobs"]):
        if not (offsets[at + 1] > start and offsets[at] < end) or logprob is None:
            continue
        total, count = total + float(logprob), count + 1
        best = (record.get("top_logprobs") or [None] * (at + 1))[at]
        greedy = greedy and bool(best) and float(logprob) >= max(best.values()) - 1e-9
    return ContinuationScore(total, count, greedy and count > 0)
