"""Server-sent events of the answers of one conversation, from this process's memory or, for another's answers, from the
database.

Each event holds the blocks of an answer's Markdown that changed. A reader that comes later, after a reload or in a
second tab, gets the answer from its beginning.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool

from backend.domain.markdown_nodes import Node, markdown_nodes
from backend.domain.serving.answers import AnswerUsage
from backend.services.context import Context, Person
from backend.services.serving.chat.documents import changed_nodes
from backend.services.serving.chat.live import ANSWERS, LiveAnswer
from backend.services.serving.chat.reading import read_chat

MIN_PAUSE_S = 0.04
SHARE_OF_PARSING = 0.2  # of one core, at most, for one answer
POLL_S = 0.4
KEEP_OPEN_S = 10.0


async def stream_chat(
    ctx: Context,
    conversation_id: str,
    running: Sequence[tuple[str, bool]],
    *,
    document: Mapping[str, object] | None = None,
    person: Person,
) -> AsyncGenerator[str, None]:
    """Yield events until none of the answers, given with whether they are hidden, is on its way; the last one is `end`,
    the first one the conversation's `document` where it is given.
    """
    if document is not None:
        yield f"event: document\ndata: {json.dumps(document, separators=(',', ':'))}\n\n"
    events: asyncio.Queue[str | None] = asyncio.Queue()
    reader = _Reader(ctx, conversation_id, person, events)
    reading = asyncio.create_task(reader.read_all(running))
    try:
        while True:
            try:
                async with asyncio.timeout(KEEP_OPEN_S):
                    event = await events.get()
            except TimeoutError:
                yield ": waiting\n\n"
                continue
            if event is None:
                break
            yield event
        yield "event: end\ndata: {}\n\n"
    finally:
        reading.cancel()


@dataclass(frozen=True)
class _Reader:
    """Reads the answers of one conversation for one reader."""

    ctx: Context
    conversation_id: str
    person: Person
    events: asyncio.Queue[str | None]

    async def read_all(self, running: Sequence[tuple[str, bool]]) -> None:
        """Read every answer to its end, then put None."""
        try:
            await asyncio.gather(*(self._read(message_id, is_hidden) for message_id, is_hidden in running))
        finally:
            self.events.put_nowait(None)

    async def _read(self, message_id: str, is_hidden: bool) -> None:
        answer = ANSWERS.get(message_id)
        if answer is None:
            await self._read_stored(message_id)
        elif is_hidden:
            while not answer.is_done:
                await answer.wait(answer.version)
        else:
            await self._read_live(answer)

    async def _read_live(self, answer: LiveAnswer) -> None:
        drawn: list[Node] = []
        while True:
            version, is_done, text = answer.version, answer.is_done, answer.text
            started = time.perf_counter()
            nodes = markdown_nodes(text)
            spent = time.perf_counter() - started
            begun = bool(text or answer.usage.tool_calls)
            if begun or is_done:
                self.events.put_nowait(
                    _event(answer.message_id, drawn, nodes, usage=answer.usage, status=answer.status)
                )
                drawn = nodes
            if is_done:
                return
            if begun:
                await asyncio.sleep(max(MIN_PAUSE_S, spent / SHARE_OF_PARSING))
            await answer.wait(version)

    async def _read_stored(self, message_id: str) -> None:
        drawn: list[Node] = []
        while True:
            view = await run_in_threadpool(read_chat, self.ctx, self.conversation_id, person=self.person)
            message = next((m for turn in view.turns for m in turn.messages if m.id == message_id), None)
            if message is None or not message.is_running:
                return
            nodes = await run_in_threadpool(markdown_nodes, message.content)
            if nodes != drawn:
                self.events.put_nowait(_event(message_id, drawn, nodes, usage=message.usage, status="running"))
                drawn = nodes
            await asyncio.sleep(POLL_S)


def _event(message_id: str, before: list[Node], after: list[Node], *, usage: AnswerUsage, status: str) -> str:
    keep, nodes = changed_nodes(before, after)
    document = {
        "id": message_id,
        "keep": keep,
        "nodes": nodes,
        "tokens": usage.completion_tokens,
        "status": status,
    }
    if calls := usage.tool_calls:
        document["calls"] = calls
    return f"data: {json.dumps(document, separators=(',', ':'))}\n\n"
