"""HTTP API of a replica: `POST /generate`, `GET /health`, `GET /stats`, with the internal token. Its health tells an
engine that hangs from one that is slow, by the steps that it completes.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.domain.serving.protocol import (
    ANSWER_LIMIT,
    INVALID,
    LEAVING,
    PROMPT_TOKENS,
    QUEUE_TIMEOUT,
    REQUEST_FAILED,
    TOOLS_LEFT_OUT,
    Accepted,
    FinishEvent,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    TokenEvent,
    code_of_failure,
    first_problem,
)
from backend.errors import InvalidInput, JobFailed, RoundhouseError, Unavailable
from backend.infra.hosts import HostGuard, HostRules
from jobs.serving.adapters import AdapterFolders
from jobs.serving.answering import Prepared, PromptLimit, ServedNetwork, prepare_answer
from jobs.serving.engine import Engine, Handle, QueueFull, TokenTexts
from jobs.serving.grammar import Grammars
from jobs.serving.reading import PromptReader, ScoringEngine
from jobs.serving.start import generate_one_token

MIN_STALL_S = 30.0
TIMES_P99 = 20.0
MAX_GAPS = 1000


class StepWatch:
    """Ages of an engine's steps. A long prompt takes many steps before its first token, so tokens would not tell that
    it advances.

    Written by one thread, several times a second.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._steps = 0
        self._since: float | None = None
        self._gaps: deque[float] = deque(maxlen=MAX_GAPS)

    def observe(self, steps: int, *, busy: bool) -> None:
        """Note the engine's number of steps, and whether it has requests."""
        now = self._clock()
        if steps != self._steps and self._since is not None and steps > self._steps:
            self._gaps.append((now - self._since) / (steps - self._steps))
        if not busy:
            self._since = None
        elif self._since is None or steps != self._steps:
            self._since = now
        self._steps = steps

    def stall_s(self) -> float:
        """Return the seconds since the last step while requests are open; 0 when idle."""
        return 0.0 if self._since is None else self._clock() - self._since

    def limit_s(self) -> float:
        """Return the age of a step from which an engine hangs: 30 s, or 20 times the 99th percentile of its steps."""
        if not self._gaps:
            return MIN_STALL_S
        ordered = sorted(self._gaps)
        return max(MIN_STALL_S, TIMES_P99 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))])

    def is_hung(self) -> bool:
        """Return whether the engine has made no step for longer than its limit."""
        return self.stall_s() > MIN_STALL_S and self.stall_s() > self.limit_s()


FRESH_S = 10.0
PROBE_S = 15.0
HEARTBEAT_S = 5.0
BLAME_S = 0.5
MAX_QUEUED = 8192  # events of an answer that wait for its reader
STATUS = {QUEUE_TIMEOUT: 429, INVALID: 400}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerLimits:
    """Seconds that a request may wait for its first step, and that its whole answer may take."""

    queue_timeout_s: float = 60.0
    answer_s: float = 600.0


class RequireToken:
    """Pure ASGI middleware: 401 without the internal token."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer 401."""
        if scope["type"] == "http":
            header = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(header, self._expected):
                await _error(401, "The internal token is missing or wrong.", code="unauthorized")(scope, receive, send)
                return
        await self._app(scope, receive, send)


class ReplicaState:
    """State of the routes: engine, tokenizer, and whether new requests are accepted."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Any,
        *,
        name: str,
        reader: PromptReader | None = None,
        limits: AnswerLimits | None = None,
        adapters: AdapterFolders | None = None,
    ) -> None:
        self.engine, self.name = engine, name
        grammars = Grammars(tokenizer, vocab_size=engine.limits.vocab_size, end_ids=sorted(engine.limits.end_ids))
        self.adapters = adapters
        self.served = ServedNetwork(
            engine, tokenizer, TokenTexts(tokenizer), grammars, reader, adapters.load if adapters else None
        )
        self.limits = limits or AnswerLimits()
        self.is_draining = False
        self.arithmetic = ""
        """Kernels that compute the network's layers on a CPU."""
        self.num_served = 0
        self.watch = StepWatch()
        self._open: set[GenerationResponse] = set()
        self._prompts = PromptLimit(tokenizer, context_length=engine.context_length)

    @property
    def num_open(self) -> int:
        """Open requests."""
        return len(self._open)

    def longest_wait_s(self) -> float:
        """Return how long the oldest request has waited for its first step; 0 where none waits."""
        return max((answer.wait_s() for answer in self._open), default=0.0)

    def is_hung(self) -> bool:
        """Note the steps of the engine and passes over prompts only read; return whether both have stopped."""
        reader, stats = self.served.reader, self.engine.stats()
        passes, is_reading = (reader.num_passes, reader.is_busy) if reader is not None else (0, False)
        # The engine's work, not open answers: an answer that its client does not read is open without steps.
        self.watch.observe(stats.steps + passes, busy=bool(stats.running or stats.waiting or is_reading))
        return self.watch.is_hung()

    async def blame_running(self) -> None:
        """End every answer before the process ends: those in the hung step as failed, those that wait as free."""
        batched = sum(not self.engine.is_waiting(answer.handle) for answer in self._open)
        for answer in self._open:
            answer.fail_hung(batched=batched)
        await asyncio.sleep(BLAME_S)

    async def generate(self, request: Request) -> Response:
        """Answer one request, as a stream of JSON lines or as one JSON document."""
        if self.is_draining:
            return _error(503, "This replica is shutting down.", code="draining")
        try:
            body = GenerateRequest.model_validate_json(await request.body())
            self._prompts.check(body)
            events = Events()
            prepared = await asyncio.to_thread(self._prepare, body, events)
            handle = prepared.start()
        except ValidationError as error:
            field, message = first_problem(error.errors())
            return _error(400, message, code=INVALID, field=field)
        except QueueFull as error:
            return _error(429, str(error), code=error.code)
        except (InvalidInput, Unavailable) as error:
            return _refusal(error)
        except Exception as error:  # the replica's edge: a request that it can't read harms no other
            logger.exception("A request failed before its start.")
            return _error(500, f"The replica failed on this request: {type(error).__name__}.", code=REQUEST_FAILED)
        self.num_served += 1
        answer = GenerationResponse(
            handle,
            events,
            engine=self.engine,
            limits=self.limits,
            stream=body.stream,
            accepted=prepared.accepted,
            on_end=self._open.discard,
        )
        self._open.add(answer)
        return answer

    def _prepare(self, body: GenerateRequest, events: Events) -> Prepared:
        try:
            return prepare_answer(self.served, body, events.put, has_room=events.has_room)
        except Exception:
            raise
        except BaseException as error:  # a library in Rust panics with an exception that is no Exception
            raise RuntimeError("a library failed on this request") from error

    async def health(self, request: Request) -> Response:
        """Answer 200 if the engine generated a token recently, or can now. A reward model generates none."""
        if not self.engine.is_alive() or self.watch.is_hung():
            return _error(503, f"No step for {self.watch.stall_s():.0f} s.", code="stalled")
        age = self.engine.stats().last_token_age_s
        if self.engine.name != ScoringEngine.name and not self._open and (age is None or age > FRESH_S):
            try:
                await asyncio.to_thread(generate_one_token, self.engine, timeout_s=PROBE_S)
            except (JobFailed, Unavailable) as error:
                return _error(503, str(error), code="stalled")
        return JSONResponse({"status": "draining" if self.is_draining else "ok", "name": self.name})

    async def change_adapters(self, request: Request) -> Response:
        """Load or unload an adapter: `{"load": FOLDER}` or `{"unload": FOLDER}`."""
        if self.adapters is None:
            return _error(400, "This replica serves no adapters.", code=INVALID)
        try:
            change = json.loads(await request.body())
            if "load" in change:
                await asyncio.to_thread(self.adapters.load, str(change["load"]))
            else:
                self.adapters.unload(str(change["unload"]))
        except (ValueError, KeyError, TypeError):
            return _error(400, "Give load or unload with the folder of an adapter.", code=INVALID)
        except InvalidInput as error:
            return _refusal(error)
        return JSONResponse({"adapters": self.adapters.bank.loaded})

    async def stats(self, request: Request) -> Response:
        """Return the engine's counters, and the requests accepted since the start and still open."""
        counters = {"served": self.num_served, "open": self.num_open, **asdict(self.engine.stats())}
        return JSONResponse({"engine": self.engine.name, "context_length": self.engine.context_length, **counters})


class Events:
    """A queue from the engine's thread to the event loop. An answer ends where over MAX_QUEUED events wait."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[GenerationEvent] = asyncio.Queue()
        self.is_unread = False
        self.on_unread: Callable[[], None] | None = None

    def put(self, event: GenerationEvent) -> None:
        """Add an event, from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._add, event)

    def _add(self, event: GenerationEvent) -> None:
        self.is_unread = self.is_unread or self._queue.qsize() >= MAX_QUEUED
        if not self.is_unread:
            self._queue.put_nowait(event)
        elif self.on_unread is not None:
            self.on_unread()

    def has_room(self) -> bool:
        """Return whether a sender that can wait should put a further event."""
        return self._queue.qsize() < MAX_QUEUED // 2

    async def next_batch(self, *, wait_s: float) -> list[GenerationEvent]:
        """Wait for an event; return it with all queued ones, or nothing after `wait_s` seconds."""
        try:
            async with asyncio.timeout(wait_s):
                batch = [await self._queue.get()]
        except TimeoutError:
            return []
        while not self._queue.empty():
            batch.append(self._queue.get_nowait())
        return batch


class GenerationResponse(Response):
    """Sends a generation and cancels it as soon as the client leaves, streamed or not.

    While nothing happens, a stream carries an empty line every few seconds, which tells the gateway that the replica is
    alive.
    """

    def __init__(
        self,
        handle: Handle,
        events: Events,
        *,
        engine: Engine,
        limits: AnswerLimits,
        stream: bool,
        accepted: Accepted,
        on_end: Callable[[GenerationResponse], None],
    ) -> None:
        super().__init__()
        self.handle, self._events, self._engine, self._limits = handle, events, engine, limits
        self._stream, self._accepted, self._on_end = stream, accepted, on_end
        self._began = time.monotonic()
        events.on_unread = handle.cancel

    def fail_hung(self, *, batched: int) -> None:
        """End this answer: its engine hangs, at a step of this many requests."""
        if self._engine.is_waiting(self.handle):
            self._events.put(GenerationErrorEvent(message="The replica restarts.", code=LEAVING))
        else:
            self._events.put(
                GenerationErrorEvent(message="The engine hung on this request.", code=code_of_failure(batched=batched))
            )

    def wait_s(self) -> float:
        """Return the seconds since this request came if it has had no step yet, else 0."""
        return time.monotonic() - self._began if self._engine.is_waiting(self.handle) else 0.0

    async def _next(self) -> list[GenerationEvent]:
        """Return the next events, none after a few seconds, or the error of a limit."""
        if self._events.is_unread:
            return [
                GenerationErrorEvent(
                    message="The answer was not read as it was written, and has ended.", code=ANSWER_LIMIT
                )
            ]
        age = time.monotonic() - self._began
        is_waiting = self._engine.is_waiting(self.handle)
        left = (self._limits.queue_timeout_s if is_waiting else self._limits.answer_s) - age
        batch = await self._events.next_batch(wait_s=max(0.0, min(HEARTBEAT_S, left)))
        if batch and (
            age < self._limits.answer_s or any(isinstance(event, FinishEvent | GenerationErrorEvent) for event in batch)
        ):
            return batch
        age = time.monotonic() - self._began
        if age >= self._limits.queue_timeout_s and self._engine.is_waiting(self.handle):
            message = f"The request waited {age:.0f} s and was not begun. Try again in a moment."
            return [GenerationErrorEvent(message=message, code=QUEUE_TIMEOUT)]
        if age >= self._limits.answer_s:
            message = f"The answer took longer than {self._limits.answer_s:.0f} s, the limit of this endpoint."
            return [GenerationErrorEvent(message=message, code=ANSWER_LIMIT)]
        return []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        watch = asyncio.create_task(self._cancel_on_disconnect(receive))
        try:
            if self._stream:
                await self._send_lines(send)
            else:
                await (await self._collect())(scope, receive, send)
        finally:
            watch.cancel()
            self.handle.cancel()
            self._on_end(self)

    async def _cancel_on_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.handle.cancel()  # its finish event ends the response

    async def _send_lines(self, send: Send) -> None:
        headers = [(b"content-type", b"application/x-ndjson"), (b"cache-control", b"no-store")]
        headers.append((PROMPT_TOKENS.encode(), str(self._accepted.prompt_tokens).encode()))
        if self._accepted.has_no_tools:
            headers.append((TOOLS_LEFT_OUT.encode(), b"1"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        more = True
        while more:
            batch = await self._next()
            more = not any(isinstance(event, FinishEvent | GenerationErrorEvent) for event in batch)
            lines = "".join(event.model_dump_json(exclude_none=True) + "\n" for event in batch) or "\n"
            await send({"type": "http.response.body", "body": lines.encode(), "more_body": more})

    async def _collect(self) -> Response:
        text: list[str] = []
        ids: list[int] = []
        while True:
            for event in await self._next():
                if isinstance(event, TokenEvent):
                    text.append(event.text)
                    ids.extend(event.token_ids)
                elif isinstance(event, FinishEvent):
                    return JSONResponse(
                        {"text": "".join(text), "token_ids": ids, **event.model_dump(mode="json", exclude={"type"})}
                    )
                elif isinstance(event, GenerationErrorEvent):
                    return _error(STATUS.get(event.code, 500), event.message, code=event.code)


def create_replica_app(replica: ReplicaState, *, internal_token: str, host: str = "127.0.0.1") -> ASGIApp:
    """Return the ASGI app of a replica, which answers under loopback names and `host`."""
    routes = [
        Route("/generate", replica.generate, methods=["POST"]),
        Route("/adapters", replica.change_adapters, methods=["POST"]),
        Route("/health", replica.health),
        Route("/stats", replica.stats),
    ]
    return HostGuard(
        RequireToken(Starlette(routes=routes), token=internal_token), rules=HostRules(names=frozenset({host.lower()}))
    )


def _refusal(error: RoundhouseError) -> Response:
    status = 400 if isinstance(error, InvalidInput) else 503
    return _error(
        status, str(error), code=getattr(error, "code", INVALID if status == 400 else "unavailable"), field=error.field
    )


def _error(status: int, message: str, *, code: str, field: str | None = None) -> Response:
    return JSONResponse({"error": {"message": message, "code": code, "field": field}}, status_code=status)
