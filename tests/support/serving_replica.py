"""A replica running in a thread of the test, through its room's own entry."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from backend.domain.serving.protocol import GenerateRequest, GenerationEvent
from backend.infra.replicas import ReplicaClient
from jobs.reporter import FileReporter
from jobs.serving.replica import run
from tests.support.gateway_fixtures import eventually
from tests.support.jobs import make_spec

TOKEN = "internal-token-of-the-test"


def stream_events(url: str, *, token: str, request: GenerateRequest) -> Iterator[GenerationEvent]:
    """Yield the events of one generation, for tests without an event loop."""
    loop, client = asyncio.new_event_loop(), ReplicaClient()
    stream = client.stream(url, token=token, request=request)
    try:
        while True:
            yield loop.run_until_complete(anext(stream))
    except StopAsyncIteration:
        return
    finally:
        loop.run_until_complete(stream.aclose())
        loop.run_until_complete(client.close())
        loop.close()


class RunningReplica:
    """A replica in a thread, spoken to through files and HTTP as a worker and a gateway do."""

    def __init__(self, folder: Path, **payload: Any) -> None:
        self.folder = folder
        values = {"checkpoint": "checkpoint", "name": "tiny", "internal_token": TOKEN, "device": "auto", **payload}
        spec = make_spec("replica", values, root=folder, folder=folder)
        self.reporter = FileReporter(folder / "events.jsonl", folder / "control")
        self.result: dict[str, Any] = {}
        self.thread = threading.Thread(target=lambda: self.result.update(run(spec, self.reporter).dump()), daemon=True)
        self.thread.start()
        self.url = eventually(lambda: self.events("ready"))[0]["url"]

    def events(self, type_: str) -> list[dict[str, Any]]:
        lines = (self.folder / "events.jsonl").read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["type"] == type_]

    def stats(self) -> dict[str, Any]:
        return dict(httpx2.get(f"{self.url}/stats", headers={"Authorization": f"Bearer {TOKEN}"}).json())

    def stop(self) -> dict[str, Any]:
        (self.folder / "control").write_text("cancel")
        self.thread.join(200)
        assert not self.thread.is_alive()
        return self.result
