"""Requests to an endpoint that sleeps: streams get comments while they wait, whole answers wait, and both say when it
takes too long.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from backend.gateway.directory import ReplicaAddress
from backend.services.serving.autoscaling import Waking
from tests.support.gateway_fixtures import MemoryDirectory, eventually, gateway, scripted

BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, MemoryDirectory, ReplicaAddress]]:
    monkeypatch.setattr("backend.gateway.relay.SAY_S", 0.1)
    directory = MemoryDirectory({"m": []}, keys_required=False)
    directory.sleeping["m"] = Waking(whole_s=5.0, stream_s=10.0)
    with scripted() as (_, address), gateway(directory) as url:
        yield url, directory, ReplicaAddress(id="r", url=address, token="t")


@pytest.mark.parametrize("stream", [True, False])
def test_the_first_request_wakes_an_endpoint_and_is_answered_once_it_is_up(
    scene: tuple[str, MemoryDirectory, ReplicaAddress], stream: bool
) -> None:
    url, directory, address = scene
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=BODY | {"stream": stream}, timeout=60)
        eventually(lambda: len(directory.woken) > 1)
        directory.endpoints["m"] = [address]
        response = answer.result()
    assert response.status_code == 200
    if stream:
        comments = [line for line in response.text.split("\n\n") if line.startswith(":")]
        assert comments[0] == ": starting m"
        assert len(comments) > 1
        assert response.text.endswith("data: [DONE]\n\n")
    assert "w0" in response.text
    row = directory.last(1)
    assert (row.status, row.ttft_ms is not None and row.ttft_ms > 100) == ("finished", True)


@pytest.mark.parametrize("stream", [True, False])
def test_a_wait_that_is_too_long_ends_with_an_error(
    scene: tuple[str, MemoryDirectory, ReplicaAddress], stream: bool
) -> None:
    url, directory, _ = scene
    directory.sleeping["m"] = Waking(whole_s=0.3, stream_s=0.3)
    response = httpx2.post(f"{url}/v1/chat/completions", json=BODY | {"stream": stream}, timeout=60)
    assert '"code":"no_replica"' in response.text
    assert (response.status_code, response.headers.get("retry-after")) == ((200, None) if stream else (503, "5"))


@pytest.mark.parametrize("stream", [True, False])
def test_an_endpoint_that_is_removed_while_a_request_waits_does_not_exist(
    scene: tuple[str, MemoryDirectory, ReplicaAddress], stream: bool
) -> None:
    url, directory, _ = scene
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=BODY | {"stream": stream}, timeout=60)
        eventually(lambda: bool(directory.woken))
        del directory.endpoints["m"]
        response = answer.result()
    assert '"code":"model_not_found"' in response.text
    assert response.status_code == (200 if stream else 404)


def test_an_endpoint_that_never_sleeps_answers_soon_that_it_has_no_replica(
    scene: tuple[str, MemoryDirectory, ReplicaAddress],
) -> None:
    url, directory, _ = scene
    directory.sleeping.clear()
    response = httpx2.post(f"{url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=60)
    assert response.status_code == 503
    assert len(directory.woken) == 1


def test_a_replica_that_is_ready_since_the_list_was_read_gets_the_request(
    scene: tuple[str, MemoryDirectory, ReplicaAddress],
) -> None:
    url, directory, address = scene
    directory.sleeping.clear()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=BODY, timeout=60)
        eventually(lambda: bool(directory.woken))
        directory.endpoints["m"] = [address]
        assert answer.result().status_code == 200


def test_an_endpoint_that_has_fallen_asleep_since_its_list_was_read_is_woken(
    scene: tuple[str, MemoryDirectory, ReplicaAddress],
) -> None:
    url, directory, address = scene
    with scripted() as (ending, ending_url), ThreadPoolExecutor(1) as pool:
        ending.script = "refuse:503:draining"
        directory.endpoints["m"] = [ReplicaAddress(id="old", url=ending_url, token="t")]
        answer = pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=BODY | {"stream": True}, timeout=60)
        eventually(lambda: ending.seen == 1)
        directory.endpoints["m"] = []
        eventually(lambda: bool(directory.woken))
        directory.endpoints["m"] = [address]
        response = answer.result()
    assert response.status_code == 200
    assert ": starting m" in response.text
    assert response.text.endswith("data: [DONE]\n\n")
