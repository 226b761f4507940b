"""The engine of a replica whose tokens come from another project's server: queue, turns, limits and text are ours."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import aiohttp

from backend.domain.serving.protocol import NOT_RESUMED, REQUEST_FAILED, SamplingParams
from backend.errors import InvalidInput, Unavailable
from jobs.serving.engine import (
    FIRST,
    Choice,
    EngineStats,
    Generation,
    GenerationMaker,
    Handle,
    NetworkLimits,
    OnEvent,
    RateMeter,
    TokenDecoder,
    in_turn,
    most_running,
    refuse_full,
)
from jobs.serving.engines import Piece, ServerProcess

logger = logging.getLogger(__name__)
STOPPED = "The engine stopped before this completion finished."
MAX_LINE_BYTES = 1 << 23


class OutsideEngine:
    """Implements Engine over a server of another project. One request has one place of the server at a time."""

    def __init__(
        self,
        process: ServerProcess,
        tokenizer: TokenDecoder,
        *,
        limits: NetworkLimits,
        max_running: int,
        max_waiting: int = 64,
    ) -> None:
        self.name, self.limits, self.context_length = process.server.name, limits, limits.context_length
        self._process, self._server = process, process.server
        self._maker = GenerationMaker(self.limits, tokenizer)
        self._max_running, self._max_waiting = max_running, max_waiting
        self._tenants: list[str | None] = [None] * max_running  # who filled the prompt cache of each slot
        self._waiting: dict[str, Generation] = {}
        self._running: dict[str, tuple[Generation, int, asyncio.Task[None]]] = {}
        self._lock = threading.Lock()
        self._rate = RateMeter()
        self._num_lines = 0
        self._is_closed = False
        self._is_ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def check_room(self, tenant: str = "") -> None:
        """Raise QueueFull if no further request of a tenant fits."""
        with self._lock:
            self._check_room(tenant)

    def _check_room(self, tenant: str) -> None:
        tenants = [generation.choice.tenant for generation in self._open()]
        refuse_full(tenants, tenant, max_running=self._max_running, max_waiting=self._max_waiting)

    def _open(self) -> list[Generation]:
        return [*(generation for generation, _, _ in self._running.values()), *self._waiting.values()]

    def submit(
        self, ids: Sequence[int], params: SamplingParams, on_event: OnEvent, *, choice: Choice = FIRST
    ) -> Generation:
        """Queue a prompt; see Engine.submit."""
        generation = self._maker.make(ids, params, on_event, choice=choice, abort=self._abort)
        if params.constraint is not None and params.min_tokens:
            raise InvalidInput(
                f"engine {self.name} has no min_tokens with a constraint.",
                remedy="Leave one of them out.",
                field="min_tokens",
            )
        if not self.is_alive():
            raise Unavailable(
                "The engine has stopped.", remedy="It restarts automatically; try again in a few seconds."
            )
        if choice.begun and choice.matcher is not None:
            generation.fail(f"{self.name} can't continue a constrained answer.", code=NOT_RESUMED)
        generation.catch_up()
        if not generation.is_over:
            with self._lock:
                self._check_room(choice.tenant)
                self._waiting[generation.request_id] = generation
            self._loop.call_soon_threadsafe(self._fill)
        return generation

    def is_waiting(self, handle: Handle) -> bool:
        """Return whether a request is in the queue; see Engine.is_waiting."""
        with self._lock:
            return isinstance(handle, Generation) and handle.request_id in self._waiting

    def stats(self) -> EngineStats:
        """Return the engine's counters. Each line of the server's streams, progress with prompts too, is a step."""
        with self._lock:
            running, waiting = len(self._running), len(self._waiting)
        return EngineStats(
            running=running,
            waiting=waiting,
            tokens_per_second=self._rate.per_second(),
            steps=self._num_lines,
            generated_tokens=self._rate.total,
            last_token_age_s=self._rate.last_age_s(),
        )

    def is_alive(self) -> bool:
        """Return False once the server has ended or this engine was closed."""
        return not self._is_closed and self._process.is_alive() and self._thread.is_alive()

    def close(self) -> None:
        """Cancel every request, end the server and join the thread."""
        if self._is_closed:
            return
        with self._lock:
            left = self._open()
        for generation in left:
            generation.cancel()
        self._is_closed = True
        self._process.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)

    def _work(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._session = self._loop.run_until_complete(self._open_session())
            self._is_ready.set()
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._session.close())
        finally:
            self._is_ready.set()
            self._loop.close()

    async def _open_session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            base_url=self._process.url,
            headers={"Authorization": f"Bearer {self._process.key}"},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            read_bufsize=MAX_LINE_BYTES,
            trust_env=False,
        )

    def _fill(self) -> None:
        """Give waiting requests the places that are free, tenants in turn; on the loop's thread."""
        with self._lock:
            taken = {place for _, place, _ in self._running.values()}
            free = [place for place in range(self._max_running) if place not in taken]
            order = in_turn(
                ((generation.choice.tenant, generation) for generation in self._waiting.values()),
                running=Counter(generation.choice.tenant for generation, _, _ in self._running.values()),
                most=most_running(self._max_running),
            )
            for generation in order[: len(free)]:
                tenant, key = generation.choice.tenant, generation.request_id
                place = next((one for one in free if self._tenants[one] == tenant), free[0])
                free.remove(place)
                # how fast a prompt is answered must not tell that another account sent it before
                is_cached = self._tenants[place] == tenant
                self._tenants[place] = tenant
                task = self._loop.create_task(self._answer(generation, place, is_cached=is_cached))
                task.add_done_callback(partial(self._leave, key))
                self._running[key] = (self._waiting.pop(key), place, task)

    def _leave(self, key: str, _: asyncio.Task[None]) -> None:
        with self._lock:
            self._running.pop(key, None)
        self._fill()

    def _abort(self, generation: Generation) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop, generation)

    def _stop(self, generation: Generation) -> None:
        with self._lock:
            self._waiting.pop(generation.request_id, None)
            running = self._running.get(generation.request_id)
        if running is not None:
            running[2].cancel()  # closes the connection, by which the server sees that the client left

    async def _answer(self, generation: Generation, place: int, *, is_cached: bool) -> None:
        generation.begin()
        try:
            while not generation.is_over:
                before = generation.num_generated
                await self._stream(generation, place, is_cached=is_cached)
                is_cached = True
                if generation.num_generated == before:
                    generation.fail(f"{self.name} gave no token.", code=REQUEST_FAILED)
        except aiohttp.ClientError as error:  # the server ended, or is about to
            logger.warning("%s broke a connection off: %s", self.name, type(error).__name__)
            generation.fail(STOPPED)
        except Exception as error:  # the task's edge: a client must see an end, and others their answers
            logger.exception("A request to %s failed.", self.name)
            generation.fail(f"{self.name} failed on this request: {type(error).__name__}.", code=REQUEST_FAILED)

    async def _stream(self, generation: Generation, place: int, *, is_cached: bool) -> None:
        """Ask for the tokens that follow, and take them until the answer is over or the server's own end: an end token
        that this request takes no notice of, or the last token that must not be the end.
        """
        body = self._server.ask(generation, place, is_cached)
        async with self._session.post(self._server.path, json=body) as response:
            if response.status != 200:
                await self._fail(generation, f"refused this request: {(await response.text())[:300]}")
                return
            async for line in response.content:
                if line.startswith(b"data: {"):
                    self._num_lines += 1
                    piece = self._server.read(json.loads(line.removeprefix(b"data: ")))
                    if piece.failure:
                        await self._fail(generation, f"failed on this request: {piece.failure}")
                        return
                    self._take(generation, piece)
                if generation.is_over:
                    return

    async def _fail(self, generation: Generation, message: str) -> None:
        """End a request that the server answers with an error: another replica may, where this server is ending."""
        async with self._session.get("/health") as health:
            is_healthy = health.status == 200
        if is_healthy:
            generation.fail(f"{self.name} {message}", code=REQUEST_FAILED)
        else:
            logger.warning("%s %s", self.name, message)
            generation.fail(STOPPED)

    def _take(self, generation: Generation, piece: Piece) -> None:
        if piece.cached_tokens is not None and not generation.num_generated:
            generation.cached_tokens = piece.cached_tokens
        for index, token in enumerate(piece.token_ids):
            if generation.is_over:
                return
            self._rate.add(1)
            if generation.params.logprobs is not None:
                record = piece.records[index]
                generation.draw.records.append(replace(record, top=record.top[: generation.params.logprobs]))
            generation.draw.take(token)
            generation.accept([token])
