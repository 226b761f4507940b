"""A TCP connection between an installation and its database, by which each question reaches the server late."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class SlowLink:
    """A port that passes everything on to another. `delay_s` is added to each message of a client."""

    def __init__(self, target: int) -> None:
        self.target, self.delay_s = target, 0.0
        self.port = 0

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_question: bool) -> None:
        with suppress(ConnectionError):
            while message := await source.read(65_536):
                if is_question and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                sink.write(message)
                await sink.drain()
        sink.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, questions = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # the server is away
            writer.close()
            return
        await asyncio.gather(
            self._carry(reader, questions, is_question=True), self._carry(answers, writer, is_question=False)
        )

    async def _serve(self, ready: threading.Event) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await server.serve_forever()


@contextmanager
def slow_link(target: int) -> Iterator[SlowLink]:
    """A link to a port of this machine, served by a thread."""
    link, ready, loop = SlowLink(target), threading.Event(), asyncio.new_event_loop()

    def serve() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(link._serve(ready))

    thread = threading.Thread(target=serve, daemon=True, name="link")
    thread.start()
    ready.wait(10)
    try:
        yield link
    finally:
        loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
        thread.join(10)
