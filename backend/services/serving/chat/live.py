"""Answers that this process is generating. They belong to the server: a page that reloads, or a second one, reads the
same answer.

Each answer is one task on an event loop of its own thread. Its text is in memory, and every half second in the
database, where other processes read it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from backend.domain.serving.chat import AnswerUsage
from backend.infra.openai_api.streams import StreamClient

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
