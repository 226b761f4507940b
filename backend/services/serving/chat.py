"""Stream the answers of one or two endpoints to a page. Closing the stream stops the generation."""

from __future__ import annotations

import asyncio
import queue
import random
import secrets
import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count

from backend.domain.serving.protocol import (
    CONTEXT_EXCEEDED,
    ChatMessage,
    ErrorEvent,
    FinishEvent,
    GenerateRequest,
    GenerationEvent,
    Role,
    SamplingParams,
    TokenEvent,
)
from backend.errors import NotFound, RoundhouseError, Unavailable
from backend.infra.replicas import ReplicaClient, ReplicaRefused
from backend.services.context import Context
from backend.services.serving.replicas import ready_targets
from backend.services.serving.usage import UsageRow, UsageStatus, add_usage

BATCH_S = 0.05  # tokens are shown in batches: a redraw per token would cost more than the token


@dataclass(frozen=True)
class Question:
    """The prompt and sampling for one endpoint."""

    endpoint: str
    messages: tuple[ChatMessage, ...]
    params: SamplingParams


@dataclass
class Answer:
    """An answer while it streams. `ttft_ms` and `tok_per_sec` are measured on the pages' server; `left_out` counts dropped turns."""

    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    ttft_ms: float | None = None
    tok_per_sec: float | None = None
    finish_reason: str | None = None
    error: str | None = None
    error_code: str | None = None
    left_out: int = 0
    started: float = field(default_factory=time.monotonic, repr=False)
    first_at: float | None = field(default=None, repr=False)

    @property
    def is_done(self) -> bool:
        """Return whether nothing more comes."""
        return self.finish_reason is not None or self.error is not None

    def take(self, event: GenerationEvent) -> None:
        """Add an event to the answer."""
        now = time.monotonic()
        if isinstance(event, TokenEvent):
            if self.first_at is None:
                self.first_at = now
                self.ttft_ms = (now - self.started) * 1000
            self.text += event.text
            self.tokens += len(event.token_ids)
            if self.tokens > 1 and now > self.first_at:
                self.tok_per_sec = (self.tokens - 1) / (now - self.first_at)
        elif isinstance(event, FinishEvent):
            self.finish_reason = event.finish_reason.value
            self.tokens, self.prompt_tokens = event.usage.completion_tokens, event.usage.prompt_tokens
            self.tok_per_sec = event.tok_per_sec or self.tok_per_sec
        elif isinstance(event, ErrorEvent):
            self.error, self.error_code = event.message, event.code

    def as_usage(self) -> dict[str, object]:
        """Return the usage stored with the message."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.tokens,
            "ttft_ms": self.ttft_ms,
            "tok_per_sec": self.tok_per_sec,
            "finish_reason": self.finish_reason or (None if self.error else "stopped"),
            "error": self.error,
            "error_code": self.error_code,
            "left_out": self.left_out,
        }


def shuffle_sides(names: list[str]) -> list[str]:
    """Return endpoints in random order, so that a vote on the sides is blind."""
    return random.sample(names, k=len(names))


def stream_within_context(ctx: Context, questions: list[Question]) -> Generator[list[Answer], None, None]:
    """Stream as `stream_answers` does, leaving out the oldest turns for as long as a prompt exceeds a network's context.

    Both sides of a comparison lose the same turns. If the last message alone exceeds the context, the error is returned.
    """
    for left_out in count():
        shorter, is_refused = without_oldest_turn(questions[0].messages), False
        with closing(stream_answers(ctx, questions)) as stream:
            for answers in stream:
                is_refused = any(answer.error_code == CONTEXT_EXCEEDED for answer in answers)
                if is_refused and shorter is not None:
                    break
                for answer in answers:
                    answer.left_out = left_out
                yield answers
        if not is_refused or shorter is None:
            return
        questions = [replace(question, messages=shorter) for question in questions]


def without_oldest_turn(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...] | None:
    """Return the messages without the oldest question and its answer; the system prompt stays. None if one question is left."""
    system = messages[:1] if messages and messages[0].role is Role.SYSTEM else ()
    turns = messages[len(system) :]
    next_question = next((number for number, message in enumerate(turns) if number and message.role is Role.USER), None)
    return None if next_question is None else system + turns[next_question:]


def stream_answers(ctx: Context, questions: list[Question]) -> Generator[list[Answer], None, None]:
    """Send all questions at once and yield the answers so far, at most every 50 ms, until all are done.

    Closing the iterator cancels the requests that still run. Raises NotFound for an unknown endpoint and Unavailable for one without a
    ready replica, before any request is sent.
    """
    places = ready_targets(ctx)
    targets = []
    for question in questions:
        if question.endpoint not in places:
            raise NotFound(f"There is no endpoint {question.endpoint!r}.", remedy="Deploy a checkpoint under this name first.")
        if not places[question.endpoint]:
            raise Unavailable(
                f"No replica of {question.endpoint!r} is ready yet.", remedy="Try again in a few seconds, or see the Endpoints page."
            )
        targets.append(random.choice(places[question.endpoint]))
    answers = [Answer() for _ in questions]
    events: queue.SimpleQueue[tuple[int, GenerationEvent]] = queue.SimpleQueue()
    asking = _Asking([(t.url, t.internal_token, q) for t, q in zip(targets, questions, strict=True)], events)
    try:
        while not all(answer.is_done for answer in answers):
            deadline = time.monotonic() + BATCH_S
            while (left := deadline - time.monotonic()) > 0:
                try:
                    index, event = events.get(timeout=left)
                except queue.Empty:
                    break
                answers[index].take(event)
                if answers[index].is_done or (isinstance(event, TokenEvent) and event.index == 0):
                    break  # show the first token and the end without delay
            yield answers
    finally:
        asking.stop()
        add_usage(ctx, [_row(ctx, q.endpoint, t.replica_id, a) for q, t, a in zip(questions, targets, answers, strict=True)])


class _Asking:
    """Run the requests in an event loop on their own thread; `stop` cancels them, even before the first token."""

    def __init__(self, requests: list[tuple[str, str, Question]], events: queue.SimpleQueue[tuple[int, GenerationEvent]]) -> None:
        self._requests, self._events = requests, events
        self._loop = asyncio.new_event_loop()
        self._all: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True, name="asking")
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._all = self._loop.create_task(self._ask_all())
        try:
            self._loop.run_until_complete(self._all)
        except asyncio.CancelledError:
            pass  # the page was stopped
        finally:
            self._loop.close()

    async def _ask_all(self) -> None:
        client = ReplicaClient()
        try:
            await asyncio.gather(*(self._ask(client, index, *request) for index, request in enumerate(self._requests)))
        finally:
            await client.close()

    async def _ask(self, client: ReplicaClient, index: int, url: str, token: str, question: Question) -> None:
        request = GenerateRequest(messages=question.messages, params=question.params)
        try:
            async for event in client.stream(url, token=token, request=request):
                self._events.put((index, event))
        except ReplicaRefused as error:
            self._events.put((index, ErrorEvent(message=error.message, code=error.code)))
        except RoundhouseError as error:
            self._events.put((index, ErrorEvent(message=str(error))))

    def stop(self) -> None:
        task = self._all
        if task is not None and self._thread.is_alive():
            try:
                self._loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:
                return  # the loop has just closed by itself
        self._thread.join(timeout=2.0)


def _row(ctx: Context, endpoint: str, replica_id: str, answer: Answer) -> UsageRow:
    return UsageRow(
        id=f"play-{secrets.token_hex(12)}",
        endpoint=endpoint,
        key_id=None,
        replica_id=replica_id,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.tokens,
        ttft_ms=answer.ttft_ms,
        total_ms=(time.monotonic() - answer.started) * 1000,
        status=_status_of(answer),
        created_at=ctx.now(),
    )


def _status_of(answer: Answer) -> UsageStatus:
    if answer.finish_reason:
        return "finished"
    if answer.error is None:
        return "aborted"
    return "refused" if answer.error_code == CONTEXT_EXCEEDED else "lost"
