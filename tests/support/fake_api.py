"""A small OpenAI-compatible server on a free port: answers by a function, fails on request, and remembers what it was
asked.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from typing import Any


class FakeApi:
    """What the server does. `answer` gives the text to a prompt; `failures` are statuses, or bodies, sent before it is
    asked.

    With `echo`, `completions` gives log-probabilities of the prompt: every character is a token, with minus its place
    in the alphabet. `begins` is a token before them that the prompt does not contain.
    """

    def __init__(self) -> None:
        self.url = ""
        self.answer: Callable[[str], str] = lambda prompt: prompt[::-1]
        self.failures: list[int | bytes] = []
        self.chat, self.completions, self.echo, self.begins = True, True, False, ""
        self.key: str | None = None
        self.pause = threading.Event()
        self.pause.set()
        self.received: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.retry_after: str | None = None

    @property
    def prompts(self) -> list[str]:
        """The prompts that were asked, checks of one token left out."""
        return [_prompt(body) for _, body in self.received if body.get("max_tokens") != 1]

    def respond(self, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return status and body of the answer to a request."""
        if self.failures:
            failure = self.failures.pop(0)
            return (200, failure) if isinstance(failure, bytes) else (failure, b'{"error": {"message": "busy"}}')
        prompt = _prompt(body)
        if path.endswith("/chat/completions"):
            if not self.chat:
                return 404, b"{}"
            choice: dict[str, Any] = {
                "message": {"role": "assistant", "content": self.answer(prompt)},
                "finish_reason": "stop",
            }
        else:
            if not self.completions or (body.get("echo") and not self.echo):
                return (422, b"{}") if self.completions else (404, b"{}")
            choice = {"text": self.answer(prompt), "finish_reason": "stop"}
            if body.get("echo"):
                choice["logprobs"] = _logprobs(prompt, begins=self.begins)
        record = {
            "model": f"{body['model']}-0715",
            "choices": [choice],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
        }
        return 200, json.dumps(record).encode()


def _prompt(body: dict[str, Any]) -> str:
    return str(body.get("prompt") or body["messages"][-1]["content"])


def _logprobs(prompt: str, *, begins: str) -> dict[str, Any]:
    """Return a token for each letter, after one that the text does not contain, whose letters are counted with it."""
    tokens = [begins, *prompt] if begins else list(prompt)
    values = [None, *(-(ord(token) % 32) / 10 for token in tokens[1:])]
    tops = [None, *({token: value} for token, value in zip(tokens[1:], values[1:], strict=True))]
    offsets = list(accumulate(map(len, tokens[:-1]), initial=0))
    return {"tokens": tokens, "token_logprobs": values, "text_offset": offsets, "top_logprobs": tops}


@contextmanager
def serve_api() -> Iterator[FakeApi]:
    """Run the server in threads while the block lasts."""
    api = FakeApi()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            api.pause.wait(200)
            api.received.append((self.path, body))
            api.headers.append(dict(self.headers.items()))
            refused = api.key is not None and self.headers.get("Authorization") != f"Bearer {api.key}"
            status, answer = (
                (401, str(self.headers.get("Authorization")).encode()) if refused else api.respond(self.path, body)
            )
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            if api.retry_after is not None and status == 429:
                self.send_header("Retry-After", api.retry_after)
            with contextlib.suppress(BrokenPipeError):  # a client that was killed
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    api.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield api
    finally:
        api.pause.set()
        server.shutdown()
        server.server_close()
