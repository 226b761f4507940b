"""Copies of requests to a shadow: compared, never shown, never billed, and never in the way of the request itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from backend.domain.serving.protocol import GenerateRequest
from backend.gateway.directory import ReplicaAddress, ShadowRoute
from backend.gateway.shadow import MAX_WAITING, Shadows
from backend.infra.replicas import ReplicaClient
from tests.support.gateway_fixtures import KEY, MemoryDirectory, ScriptedReplica, eventually, gateway, scripted


class Scene:
    """A gateway with a primary replica and a shadow that gets a copy of every request."""

    def __init__(self, url: str, primary: ScriptedReplica, shadow: ScriptedReplica, directory: MemoryDirectory) -> None:
        self.url, self.primary, self.shadow, self.directory = url, primary, shadow, directory

    def ask(self, **changes: Any) -> httpx2.Response:
        body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0, **changes}
        return httpx2.post(
            f"{self.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
        )


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        (primary, first), (shadow, second) = (stack.enter_context(scripted()) for _ in range(2))
        directory = MemoryDirectory({"m": [ReplicaAddress(id="r", url=first, token="t")]})
        directory.shadows["m"] = ShadowRoute("s1", 100.0, (ReplicaAddress(id="s", url=second, token="t"),))
        yield Scene(stack.enter_context(gateway(directory)), primary, shadow, directory)


def test_copies_are_compared_and_only_the_request_itself_is_counted(scene: Scene) -> None:
    scene.shadow.tokens = 3
    assert scene.ask(stream=True).text.count("[DONE]") == 1
    eventually(lambda: len(scene.directory.compared) == 1)
    scene.shadow.tokens = 4
    assert scene.ask(temperature=0.7).status_code == 200
    assert scene.ask().json()["choices"][0]["message"]["content"] == "w0 w1 w2 "
    eventually(lambda: len(scene.directory.compared) == 3)
    scene.shadow.script = "break"
    scene.ask()
    rows = eventually(
        lambda: len(scene.directory.compared) == 4 and [row.comparison for row in scene.directory.compared]
    )
    assert [(row.is_equal, row.primary_tokens, row.shadow_tokens, row.error) for row in rows] == [
        (True, 3, 3, ""),
        (None, 3, 4, ""),
        (False, 3, 4, ""),
        (None, 3, 4, "broken"),
    ]
    assert rows[0].shadow_ttft_ms is not None
    assert {row.deployment_id for row in scene.directory.compared} == {"s1"}
    assert {body["messages"][0]["content"] for body in scene.shadow.bodies} == {"x"}
    assert len(scene.directory.usage) == 4
    assert {row.replica_id for row in scene.directory.usage} == {"r"}
    assert scene.directory.lost == []


def test_a_slow_or_missing_shadow_delays_no_request_and_what_is_lost_or_refused_is_not_copied(scene: Scene) -> None:
    scene.shadow.script, scene.shadow.tokens = "mute", 0
    assert [scene.ask().status_code for _ in range(6)] == [200] * 6
    assert scene.shadow.left == 0, "the copies still wait for an answer"
    seen = scene.shadow.seen
    scene.directory.shadows["m"] = ShadowRoute("s1", 100.0, ())
    assert scene.ask().status_code == 200
    assert scene.directory.compared == [], "without a replica nothing is copied"
    scene.primary.script = "refuse:400:context_length_exceeded"
    assert scene.ask().status_code == 400
    scene.primary.script = "finish"
    assert scene.ask(n=2).status_code == 200, "several answers are not copied"
    assert scene.shadow.seen == seen <= 2


def test_the_share_is_drawn_and_a_full_queue_drops() -> None:
    directory = MemoryDirectory({})
    shadows = Shadows(directory, ReplicaClient(), rng=random.Random(1))
    request = GenerateRequest(prompt="x")
    assert shadows.draw("m", request) is None
    directory.shadows["m"] = ShadowRoute("s1", 25.0, (ReplicaAddress(id="s", url="http://127.0.0.1:9", token="t"),))
    copies = [copy for _ in range(2000) if (copy := shadows.draw("m", request)) is not None]
    assert 430 < len(copies) < 570
    for copy in copies:
        shadows.offer(copy)
    assert shadows.num_dropped == len(copies) - MAX_WAITING
