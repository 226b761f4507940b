"""Generate one answer through the gateway: stream it, leave out the oldest turns of a full context, and store it.
Answers belong to the server: a page that reloads, or a second one, reads the same answer.

Each answer is one task on an event loop of its own thread. Its text is in memory, and every half second in the
database, where other processes read it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from backend.db.tables import Message
from backend.domain.json_values import JsonObject
from backend.domain.serving.chat import AnswerToken, AnswerUsage, CalledTool, ChatSettings
from backend.domain.serving.latency import decode_rate
from backend.domain.serving.protocol import CONTEXT_EXCEEDED, ChatMessage
from backend.errors import RoundhouseError
from backend.infra.openai_api.streams import ApiRefused, StreamClient
from backend.services.context import Context
from backend.services.serving.chat.contexts import without_oldest, without_oldest_turn
from backend.services.serving.own_keys import known_key, playground_key

MAX_WAIT_S, CLOSE_S = 10.0, 3.0


class LiveAnswer:
    """One answer on its way: its text so far, and who waits for more. Written by the loop's thread, read by any."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.text = ""
        self.usage = AnswerUsage()
        self.status = "running"
        self.version = 0
        self.is_stopped = False  # by a person; otherwise a cancelled task was interrupted
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def is_done(self) -> bool:
        """Return whether nothing more comes."""
        return self.status != "running"

    def changed(self) -> None:
        """Wake who waits."""
        with self._lock:
            self.version += 1
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)

    async def wait(self, version: int) -> None:
        """Return when there is more than a version that is known, or after ten seconds."""
        event = asyncio.Event()
        with self._lock:
            if self.version != version or self.is_done:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await event.wait()
        except TimeoutError:
            return


Work = Callable[[LiveAnswer, StreamClient], Coroutine[Any, Any, None]]


class LiveAnswers:
    """The answers of this process, and the thread that generates them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, LiveAnswer] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: StreamClient | None = None

    def start(self, message_id: str, work: Work) -> LiveAnswer:
        """Begin an answer. `work` fills it, and stores it at its end."""
        answer = LiveAnswer(message_id)
        with self._lock:
            self._answers[message_id] = answer
            loop = self._running_loop()
        loop.call_soon_threadsafe(self._begin, answer, work)
        return answer

    def get(self, message_id: str) -> LiveAnswer | None:
        """Return an answer that is on its way in this process."""
        return self._answers.get(message_id)

    def stop(self, message_id: str) -> bool:
        """Stop an answer; False if it is not generated here."""
        task, loop = self._tasks.get(message_id), self._loop
        if task is None or loop is None:
            return False
        if (answer := self._answers.get(message_id)) is not None:
            answer.is_stopped = True
        loop.call_soon_threadsafe(task.cancel)
        return True

    def close(self) -> None:
        """Interrupt every answer, let it be stored, and end the thread."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(), loop).result(CLOSE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(CLOSE_S)
        loop.close()

    async def _close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="answers", daemon=True)
            self._thread.start()
        return self._loop

    def _begin(self, answer: LiveAnswer, work: Work) -> None:
        if self._client is None:
            self._client = StreamClient()
        task = asyncio.get_running_loop().create_task(work(answer, self._client))
        self._tasks[answer.message_id] = task
        task.add_done_callback(lambda _task: self._end(answer))

    def _end(self, answer: LiveAnswer) -> None:
        self._tasks.pop(answer.message_id, None)
        self._answers.pop(answer.message_id, None)
        if not answer.is_done:
            answer.status = "failed"
        answer.changed()


ANSWERS = LiveAnswers()
"""The answers of this process."""


log = logging.getLogger(__name__)
STORE_S = 0.5
MAX_TOKENS_STORED = 4_000
INTERRUPTED = "The server stopped while this answer was being generated. What had arrived is stored."
LOST_AFTER_S = 8.0
UNAUTHORIZED = 401


@dataclass(frozen=True)
class Request:
    """One answer to generate: `messages` to an endpoint. `prefix` is the beginning of the answer that is continued."""

    message_id: str
    endpoint: str
    messages: tuple[ChatMessage, ...]
    settings: ChatSettings
    left_out: int = 0
    prefix: str = ""
    prefix_tokens: tuple[AnswerToken, ...] = ()
    user: str = ""  # whose conversation it is: each user of the playground has turns and cached prompts of their own

    def body(self, messages: tuple[ChatMessage, ...]) -> JsonObject:
        """Return the gateway's body."""
        body = self.settings.body(self.endpoint, messages) | ({"user": self.user} if self.user else {})
        if not self.prefix:
            return body
        free = {name: value for name, value in body.items() if name not in ("tools", "response_format")}
        return free | {"continue_final_message": True, "add_generation_prompt": False}


@dataclass
class AnswerProgress:
    """The arrived part of an answer. Times are measured here, as the reader of the page has them."""

    started: float = field(default_factory=time.perf_counter)
    first_at: float | None = None
    num_chunks: int = 0
    num_call_parts: int = 0
    usage: JsonObject = field(default_factory=dict)
    tokens: list[AnswerToken] = field(default_factory=list)
    calls: dict[int, CalledTool] = field(default_factory=dict)
    reasoning: str = ""
    # the question is stored; a write would delay the first token
    stored_at: float = field(default_factory=time.perf_counter)

    def take(self, chunk: JsonObject) -> str:
        """Take a chunk and return its text."""
        if isinstance(usage := chunk.get("usage"), dict):
            self.usage |= {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}
        if isinstance(timings := chunk.get("timings"), dict) and timings.get("tok_per_sec"):
            self.usage["tok_per_sec"] = timings["tok_per_sec"]
        if isinstance(chunk.get("id"), str):
            self.usage["request_id"] = chunk["id"][:40]
        choice = (chunk.get("choices") or [{}])[0]
        if reason := choice.get("finish_reason"):
            self.usage["finish_reason"] = reason
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        self.tokens += [_token(item) for item in logprobs[: max(0, MAX_TOKENS_STORED - len(self.tokens))]]
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or []:
            self._take_call(call)
        text, reasoning = delta.get("content") or "", delta.get("reasoning_content") or ""
        self.reasoning += str(reasoning)
        if (text or reasoning or logprobs or delta.get("tool_calls")) and self.first_at is None:
            self.first_at = time.perf_counter()
            self.usage["ttft_ms"] = round((self.first_at - self.started) * 1000, 1)
        self.num_chunks += bool(text or reasoning)
        return str(text)

    def _take_call(self, call: JsonObject) -> None:
        self.num_call_parts += 1
        function = call.get("function") or {}
        known = self.calls.setdefault(int(call.get("index") or 0), {"id": "", "name": "", "arguments": ""})
        known["id"] = known["id"] or str(call.get("id") or "")
        known["name"] += str(function.get("name") or "")
        known["arguments"] += str(function.get("arguments") or "")

    def summary(self, *, left_out: int) -> AnswerUsage:
        """Return the usage to store."""
        usage = {"completion_tokens": self.num_chunks, "left_out": left_out, **self.usage}
        usage["total_ms"] = round((time.perf_counter() - self.started) * 1000, 1)
        if self.first_at is not None and "tok_per_sec" not in usage:
            rate = decode_rate(self.num_chunks - 1, time.perf_counter() - self.first_at)
            usage |= {} if rate is None else {"tok_per_sec": rate}
        if self.reasoning:
            usage["reasoning"] = self.reasoning
        if self.calls:
            usage["tool_calls"] = [self.calls[index] for index in sorted(self.calls)]
        return AnswerUsage.model_validate(usage)


async def generate(ctx: Context, request: Request, answer: LiveAnswer, client: StreamClient) -> None:
    """Generate an answer to its end, its stop or its error, and store it."""
    progress, left_out = AnswerProgress(), request.left_out
    problem: dict[str, str] = {}
    answer.text, status = request.prefix, "done"
    messages = without_oldest(request.messages, left_out)
    try:
        key, is_fresh = known_key(ctx), False
        if key is None:
            key = await asyncio.to_thread(playground_key, ctx)
        while True:
            try:
                await _read(
                    ctx, request, messages, answer=answer, client=client, key=key, progress=progress, left_out=left_out
                )
                break
            except ApiRefused as error:
                if error.status == UNAUTHORIZED and not is_fresh:
                    key, is_fresh = await asyncio.to_thread(playground_key, ctx), True
                    continue
                shorter = without_oldest_turn(messages)
                if error.code != CONTEXT_EXCEEDED or shorter is None or progress.first_at is not None:
                    raise
                messages, left_out = shorter, left_out + 1
    except asyncio.CancelledError:
        if answer.is_stopped:
            status, problem = "stopped", {"finish_reason": "stopped"}
        else:
            status, problem = "failed", {"error": INTERRUPTED, "error_code": "interrupted"}
    except RoundhouseError as error:
        code = getattr(error, "code", "endpoint_unavailable")
        status, problem = "failed", {"error": f"{error.message} {error.remedy}".strip(), "error_code": code}
    except Exception:  # an outer edge: the answer must not stay on its way
        log.exception("An answer failed.")
        cause = "The answer failed on this server; its log has the cause."
        status, problem = "failed", {"error": cause, "error_code": "internal_error"}
    answer.usage = progress.summary(left_out=left_out).model_copy(update=problem)
    tokens = [*request.prefix_tokens, *progress.tokens]
    await asyncio.to_thread(_store, ctx, answer, status=status, tokens=tokens or None)
    answer.status = status


async def _read(
    ctx: Context,
    request: Request,
    messages: tuple[ChatMessage, ...],
    *,
    answer: LiveAnswer,
    client: StreamClient,
    key: str,
    progress: AnswerProgress,
    left_out: int,
) -> None:
    stream = client.chat(ctx.gateway_url, key=key, body=request.body(messages))
    try:
        async for chunk in stream:
            num_parts = progress.num_call_parts
            if (text := progress.take(chunk)) or progress.num_call_parts > num_parts:
                answer.text += text
                answer.usage = progress.summary(left_out=left_out)
                answer.changed()
            now = time.perf_counter()
            if now - progress.stored_at > STORE_S:
                progress.stored_at = now
                if await asyncio.to_thread(_store, ctx, answer, status="running", tokens=None) == "stopping":
                    answer.is_stopped = True
                    raise asyncio.CancelledError
    finally:
        await stream.aclose()


def _store(ctx: Context, answer: LiveAnswer, *, status: str, tokens: list[AnswerToken] | None) -> str:
    """Store what has arrived; return the status that the row had."""
    with ctx.db.write() as session:
        row = session.get(Message, answer.message_id)
        if row is None:
            return "stopping"  # its conversation was deleted
        before = row.status
        row.usage = answer.usage.model_copy(update=row.usage.given)
        row.content, row.updated_at = answer.text.replace("\x00", ""), ctx.now()
        if status != "running":
            row.status, row.tokens = status, tokens
        return before


def _token(item: JsonObject) -> AnswerToken:
    top = [(str(other.get("token", "")), other.get("logprob")) for other in item.get("top_logprobs") or []]
    text = str(item.get("token", ""))
    token: AnswerToken = {"text": text, "logprob": item.get("logprob"), "top": top[:8]}
    if "\ufffd" in text and item.get("bytes"):  # part of a character
        token["bytes"] = item["bytes"]
    return token
