"""What gateway tests speak to: an in-memory directory, a gateway on a real port, and replicas that misbehave on
demand.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from backend.domain.serving.key_limits import KeyScopes
from backend.domain.serving.protocol import PROMPT_TOKENS
from backend.domain.serving.request_log import LogMode
from backend.errors import NotFound
from backend.gateway.app import create_gateway
from backend.gateway.directory import ModelEntry, Principal, ReplicaAddress, ShadowRoute
from backend.services.serving.autoscaling import Waking
from backend.services.serving.shadows import ComparedRequest
from backend.services.serving.stored_responses import ResponseRecord
from backend.services.serving.usage import LostRequest, UsageRow

KEY = "rh-test-key"


def eventually(condition: Callable[[], Any], *, timeout_s: float = 200.0) -> Any:
    """Wait for a condition and return its value."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError("the condition never held")


class MemoryDirectory:
    """Endpoints, keys and usage in memory."""

    def __init__(self, endpoints: dict[str, list[ReplicaAddress]], *, keys_required: bool = True) -> None:
        self.endpoints = endpoints
        self.keys_required = keys_required
        self.usage: list[UsageRow] = []
        self.lost: list[LostRequest] = []
        self.fails = False
        self.version: int | None = 0
        self.sleeping: dict[str, Waking] = {}
        self.woken: list[str] = []
        self.shadows: dict[str, ShadowRoute] = {}
        self.compared: list[ComparedRequest] = []
        self.principals = {KEY: Principal(key_id="k1", name="tester", scopes=KeyScopes(admin=True))}
        self.spending: dict[tuple[str, str, str], float] = {}
        self.prices: dict[str, float] = {}
        self.prices_version = ""
        self.log_modes: dict[str, LogMode] = {}
        self.keeps_responses = True
        self.responses: dict[str, ResponseRecord] = {}
        self.feedback: list[tuple[str, int | None, str]] = []

    def authenticate(self, key: str) -> Principal | None:
        return self.principals.get(key)

    def keys_version(self) -> int | None:
        return self.version

    def note_use(self, key_id: str) -> None:
        pass

    def known_replicas(self, endpoint: str) -> Sequence[ReplicaAddress] | None:
        return self.endpoints.get(endpoint)

    def spent(self, key_id: str, unit: str, period: str) -> float:
        return self.spending.get((key_id, unit, period), 0.0)

    def log_mode(self, endpoint: str) -> LogMode:
        return self.log_modes.get(endpoint, "off")

    def give_feedback(
        self, request_id: str, *, key_id: str | None, rating: int | None, correction: str, comment: str
    ) -> bool:
        is_own = any(row.id == request_id and row.key_id == key_id for row in self.usage)
        if is_own:
            self.feedback.append((request_id, rating, correction))
        return is_own

    def keep_response(self, record: ResponseRecord) -> None:
        if self.fails:
            raise OSError("the database is gone")
        self.responses[record.id] = record

    def list_turns(self, response_id: str, *, owner: str) -> Sequence[ResponseRecord]:
        record = self.responses.get(response_id)
        if record is None or record.owner != owner:
            raise NotFound(f"There is no response {response_id!r}.")
        return [*(self.list_turns(record.previous_id, owner=owner) if record.previous_id else ()), record]

    def erase_response(self, response_id: str, *, owner: str) -> None:
        self.list_turns(response_id, owner=owner)
        del self.responses[response_id]

    def live_gauges(self) -> None:
        return None

    def device_hour_usd(self, replica_id: str) -> float | None:
        return self.prices.get(replica_id)

    def list_models(self) -> Sequence[ModelEntry]:
        if self.fails:
            raise OSError("the database is gone")
        return [ModelEntry(name=name, created=datetime(2026, 1, 1, tzinfo=UTC)) for name in self.endpoints]

    def replicas_for(self, endpoint: str) -> Sequence[ReplicaAddress]:
        if endpoint not in self.endpoints:
            raise NotFound(f"There is no endpoint {endpoint!r}.")
        return self.endpoints[endpoint]

    def wake(self, endpoint: str) -> Waking | None:
        self.woken.append(endpoint)
        return self.sleeping.get(endpoint)

    def shadow_for(self, endpoint: str) -> ShadowRoute | None:
        return self.shadows.get(endpoint)

    def record_comparisons(self, rows: Sequence[ComparedRequest]) -> None:
        self.compared.extend(rows)

    def record_usage(self, rows: Sequence[UsageRow]) -> None:
        if self.fails:
            raise OSError("the database is gone")
        self.usage.extend(rows)

    def record_failures(self, rows: Sequence[LostRequest]) -> None:
        self.lost.extend(rows)

    def last(self, count: int) -> UsageRow:
        """Wait until `count` records are stored and return the newest."""
        return eventually(lambda: len(self.usage) >= count and self.usage[-1])  # type: ignore[no-any-return]

    def wait_for(self, is_it: Callable[[UsageRow], bool]) -> UsageRow:
        """Wait for a record, whatever earlier requests are stored meanwhile."""
        return eventually(lambda: next(filter(is_it, self.usage), None))  # type: ignore[no-any-return]


class ScriptedReplica:
    """Speaks a replica's protocol without a network: `tokens` words, then what `script` says happens."""

    def __init__(self) -> None:
        self.script = "finish"  # finish | break | refuse:STATUS:CODE | mute | error:CODE | call:NAME:ARGUMENTS | length
        self.tokens = 3
        self.delay_s = 0.0
        self.word: str | None = None
        self.prompt_tokens: int | None = 5  # None counts four characters of the prompt as one
        self.seen = 0
        self.left = 0
        self.written: dict[int, int] = {}
        """Tokens written so far, by the request's number."""
        self.bodies: list[dict[str, Any]] = []

    async def generate(self, request: Request) -> Response:
        self.seen += 1
        self.bodies.append(await request.json())
        if self.script.startswith("refuse"):
            _, status, code = self.script.split(":")
            return JSONResponse({"error": {"message": "no", "code": code, "field": None}}, status_code=int(status))
        return StreamingResponse(self._events(self.seen), headers={PROMPT_TOKENS: str(self._count_prompt())})

    def _count_prompt(self) -> int:
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        return sum(len(message["content"]) for message in self.bodies[-1]["messages"]) // 4

    def _call(self, name: str, arguments: str) -> list[str]:
        deltas = [
            {"index": 0, "id": f"call_{name}", "name": name},
            *({"index": 0, "arguments": part} for part in arguments),
        ]
        events = [
            {"type": "token", "text": "", "token_ids": [at], "index": at, "tool_calls": [delta]}
            for at, delta in enumerate(deltas)
        ]
        usage = {"prompt_tokens": self._count_prompt(), "completion_tokens": len(events)}
        finish = {"type": "finish", "finish_reason": "tool_calls", "usage": usage, "ttft_ms": 1.0, "tok_per_sec": 9.0}
        return [json.dumps(event) + "\n" for event in (*events, finish)]

    async def _events(self, number: int) -> Any:
        breaks = self.script == "break"  # also if a test scripts the next answer while this one is on its way
        try:
            if self.script.startswith("call"):
                for line in self._call(*self.script.split(":", 2)[1:]):
                    yield line
                return
            begun = self.bodies[-1].get("begun")
            for index in range(len(begun["token_ids"]) if begun else 0, self.tokens):
                text = self.word or f"w{index} "
                yield (
                    json.dumps(
                        {"type": "token", "text": text, "token_ids": [index], "index": index}, ensure_ascii=False
                    )
                    + "\n"
                )
                self.written[number] = self.written.get(number, 0) + 1
                await asyncio.sleep(self.delay_s)
            if self.script.startswith("error"):
                yield (
                    "\n"
                    + json.dumps({"type": "error", "message": "as scripted", "code": self.script.split(":")[1]})
                    + "\n"
                )
                return
            if self.script == "mute":
                await asyncio.sleep(3600)
            if breaks or self.script == "break":
                raise ConnectionResetError("as if killed")
            usage = {"prompt_tokens": self._count_prompt(), "completion_tokens": self.tokens}
            reason = "length" if self.script == "length" else "stop"
            yield (
                json.dumps(
                    {"type": "finish", "finish_reason": reason, "usage": usage, "ttft_ms": 1.0, "tok_per_sec": 9.0}
                )
                + "\n"
            )
        except (asyncio.CancelledError, GeneratorExit):
            self.left += 1
            raise


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an app on a real port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        eventually(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(60)


@contextmanager
def scripted() -> Iterator[tuple[ScriptedReplica, str]]:
    """A scripted replica and its address."""
    replica = ScriptedReplica()
    with served(Starlette(routes=[Route("/generate", replica.generate, methods=["POST"])])) as url:
        yield replica, url


@contextmanager
def gateway(directory: MemoryDirectory, **options: Any) -> Iterator[str]:
    """A gateway over a directory, on a real port."""
    with served(create_gateway(directory, **options)) as url:
        yield url
