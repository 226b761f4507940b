"""Any OpenAI-compatible endpoint as an engine: answers, and log-likelihoods where `completions` echoes a prompt with
log-probabilities.

A call that fails after its retries leaves its item missing, not wrong; many failures in a row end the work, because the
next ones would fail too.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from backend.domain.attributes import attributes_of
from backend.domain.json_values import JsonObject
from backend.domain.serving.token_offsets import TokenOffsets, token_bytes
from backend.errors import InvalidInput, Unavailable
from backend.infra.openai_api.calls import FIRST_PAUSE_S, REFUSED, ApiClient, CallFailed, read_counts
from jobs.evaluation.engines.base import (
    Answer,
    Answers,
    Batch,
    CheckStop,
    EngineFacts,
    PromptRequest,
    ScoreRequest,
    Scores,
    WindowPolicy,
    never_stop,
)
from jobs.evaluation.engines.plain import sample_sampling
from jobs.modeling.scores import ContinuationScore, TextNll

CONCURRENCY = 8
MAX_FAILURES = 16
"""Calls in a row that may fail before the work ends."""
MISSING = ContinuationScore(math.nan, 0, False)
T = TypeVar("T")


class EndpointEngine:
    """Asks the model of an endpoint. `url` ends in `/v1`; `concurrency` calls run at once; `job` is named to a gateway
    of one's own.
    """

    name = "openai_http"

    def __init__(
        self,
        url: str,
        *,
        model: str,
        key: str | None = None,
        job: str | None = None,
        concurrency: int = CONCURRENCY,
        check_stop: CheckStop = never_stop,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._concurrency = concurrency
        self._client = ApiClient(
            url,
            model=model,
            key=key,
            job=job,
            check_stop=check_stop,
            first_pause_s=first_pause_s,
            connections=concurrency,
        )
        self._lock = threading.Lock()
        self._spent: dict[int, list[int]] = {}
        self._failures = 0
        self.reported_model: str | None = None

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Batch[Scores]]:
        """Yield log-likelihoods; see Engine.score. Raises InvalidInput for token ids, and if the endpoint echoes no
        log-probabilities.
        """
        for request in requests:
            if not all(isinstance(part, str) for pair in request.pairs for part in pair):
                raise InvalidInput(
                    "An endpoint scores texts, not a chat template's tokens.", remedy="Set chat to off.", field="chat"
                )
        yield from self._as_completed(
            requests, lambda request: tuple(self._score(request, *pair) for pair in request.pairs)
        )

    def generate(self, requests: Sequence[PromptRequest]) -> Iterator[Batch[Answers]]:
        """Yield answers; see Engine.generate. The endpoint decides whether it draws by the seed."""
        yield from self._as_completed(requests, self._answers)

    def roll(self, texts: Sequence[str], *, policy: WindowPolicy = "each_window") -> Iterator[Batch[TextNll]]:
        """Raise InvalidInput: the endpoint's tokenizer and context are unknown, so windows can't be planned."""
        raise InvalidInput(
            "An endpoint scores no whole texts.", remedy="Evaluate the checkpoint itself.", field="engine"
        )

    def facts(self) -> EngineFacts:
        """Return what the engine computes with; the rest is the endpoint's own."""
        return EngineFacts(name=self.name)

    def spent(self, request: object) -> dict[str, float]:
        """Return the tokens that the endpoint counted for a request, and forget them: prompt_tokens and
        completion_tokens.
        """
        with self._lock:
            prompt, completion = self._spent.pop(id(request), [0, 0])
        return {"prompt_tokens": float(prompt), "completion_tokens": float(completion)} if prompt or completion else {}

    def _as_completed(self, requests: Sequence[Any], answer: Callable[[Any], T]) -> Iterator[Batch[T]]:
        """Yield results as they come, with a bounded number of requests; those end before an error leaves."""
        waiting = iter(enumerate(requests))
        running: dict[Future[T], int] = {}
        with ThreadPoolExecutor(self._concurrency) as pool:
            while True:
                for index, request in waiting:
                    running[pool.submit(answer, request)] = index
                    if len(running) >= self._concurrency:
                        break
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                if any(future.exception() for future in done):
                    done, _ = wait(running)  # answers that are paid for are recorded before the work ends
                error = next((error for future in done if (error := future.exception())), None)
                yield [(running.pop(future), future.result()) for future in done if future.exception() is None]
                if error is not None:
                    raise error

    def _answers(self, request: PromptRequest) -> Answers:
        return tuple(self._answer(request, sample) for sample in range(request.samples))

    def _answer(self, request: PromptRequest, sample: int) -> Answer:
        sampling = sample_sampling(request.sampling, sample)
        body: dict[str, object] = {
            **attributes_of(sampling, "max_tokens", "temperature", "top_p", "seed"),
            **({"stop": list(request.stop)[:4]} if request.stop else {}),
        }
        chat = isinstance(request.prompt, tuple)
        body |= {"messages": list(request.prompt)} if chat else {"prompt": request.prompt}
        try:
            record = self._call(request, "chat/completions" if chat else "completions", body)
            choice = record["choices"][0]
            text = str((choice["message"]["content"] if chat else choice["text"]) or "")
            finish = choice.get("finish_reason")
        except (CallFailed, KeyError, IndexError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, CallFailed) else "the answer has no choice with a text"
            self._count_failure(reason)
            return Answer("", 0, 0, "failed", failed=reason[:300])
        self._failures = 0
        tokens, prompt_tokens = read_counts(record)
        # an endpoint may take fewer stop strings than were asked
        ends = [text.index(mark) for mark in request.stop if mark in text]
        return Answer(
            text[: min(ends)] if ends else text,
            tokens,
            prompt_tokens,
            "length" if finish == "length" and not ends else "stop",
        )

    def _score(self, request: ScoreRequest, context: str, continuation: str) -> ContinuationScore:
        body = {"prompt": context + continuation, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        try:
            record = self._call(request, "completions", body)["choices"][0].get("logprobs")
        except CallFailed as error:
            if error.status in REFUSED:
                raise InvalidInput(
                    f"The endpoint refuses to echo a prompt: {error}",
                    remedy="Use a task of generated answers.",
                    field="engine",
                ) from error
            self._count_failure(str(error))
            return MISSING
        except (KeyError, IndexError, TypeError, AttributeError):
            self._count_failure("the answer has no choice")
            return MISSING
        if not record or not record.get("token_logprobs") or not record.get("text_offset"):
            raise InvalidInput(
                "The endpoint echoes no log-probabilities of a prompt.",
                remedy="Use a task of generated answers.",
                field="engine",
            )
        self._failures = 0
        return read_echo(
            record,
            context + continuation,
            start=len(context.rstrip()) if context.strip() else len(context),
        )

    def _call(self, request: object, path: str, body: Mapping[str, object]) -> JsonObject:
        record = self._client.call(path, body)
        tokens, prompt_tokens = read_counts(record)
        model = record.get("model")
        with self._lock:
            spent = self._spent.setdefault(id(request), [0, 0])
            spent[0], spent[1] = spent[0] + prompt_tokens, spent[1] + tokens
            self.reported_model = model[:200] if isinstance(model, str) else self.reported_model
        return record

    def _count_failure(self, reason: str) -> None:
        """Count a failed call. Raises Unavailable after many in a row: the rest would be missing too."""
        with self._lock:
            self._failures += 1
            if self._failures < MAX_FAILURES:
                return
        raise Unavailable(
            f"{MAX_FAILURES} calls in a row failed, the last with: {reason[:300]}",
            remedy="The answers so far are kept: try again when the endpoint answers.",
        )


def read_echo(record: JsonObject, prompt: str, *, start: int) -> ContinuationScore:
    """Return the score of an echoed prompt from character `start` to its end.

    A token that spans the border belongs to the continuation; the first token of a text has no log-probability.
    Where tokens begin is read from their texts: some servers count those that the tokenizer adds in `text_offset`. That
    is used where the texts do not make up the prompt.
    """
    end, counted = len(prompt), TokenOffsets(prompt)
    begins = counted.of(token_bytes(str(token)) for token in record.get("tokens") or ())
    offsets = [*(begins if counted.is_complete else record["text_offset"]), end]
    total, count, greedy = 0.0, 0, True
    for at, logprob in enumerate(record["token_logprobs"]):
        if logprob is None or not (offsets[at] < end and (offsets[at] >= start or offsets[at + 1] > start)):
            continue
        total, count = total + float(logprob), count + 1
        best = (record.get("top_logprobs") or [None] * (at + 1))[at]
        greedy = greedy and bool(best) and float(logprob) >= max(best.values()) - 1e-9
    return ContinuationScore(total, count, greedy and count > 0)
