"""A server with the OpenAI API that sends exactly the bytes that a test tells it to, and then stops, hangs or
closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EVENTS = "text/event-stream"


class HostileApi:
    """`pieces` are sent one by one; a number is a pause in seconds. `status`, `kind` and `headers` come before."""

    def __init__(self) -> None:
        self.url = ""
        self.status, self.kind, self.headers = 200, EVENTS, ""
        self.pieces: list[str | bytes | float] = []
        self.received: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.left = 0

    def answer(self, *pieces: str | bytes | float, status: int = 200, kind: str = EVENTS, headers: str = "") -> None:
        """Set what every later request gets."""
        self.pieces, self.status, self.kind, self.headers = list(pieces), status, kind, headers

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and answer it."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = head.split("\r\n")
            fields = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:]) if name
            }
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            self.received.append((lines[0].split()[1], fields, json.loads(body or b"{}")))
            writer.write(
                f"HTTP/1.1 {self.status} X\r\nContent-Type: {self.kind}\r\n{self.headers}Connection: close\r\n\r\n".encode()  # noqa: E501
            )
            for piece in self.pieces:
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    writer.write(piece if isinstance(piece, bytes) else piece.encode())
                    await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            self.left += 1
        finally:
            writer.close()


def event(**delta: Any) -> str:
    """Return one chunk of a chat's stream; `finish` is its finish reason."""
    finish = delta.pop("finish", None)
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}) + "\n\n"


def usage(prompt: int, completion: int) -> str:
    """Return the chunk of counts, and the end of the stream."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": {"cached_tokens": 1}}
    return "data: " + json.dumps({"choices": [], "usage": counts}) + "\n\ndata: [DONE]\n\n"


@contextmanager
def hostile_api() -> Iterator[HostileApi]:
    """Serve on a free port, on a thread of its own."""
    api, started = HostileApi(), threading.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        server = await asyncio.start_server(api.handle, "127.0.0.1", 0)
        api.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await server.serve_forever()

    task = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield api
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        loop.close()
