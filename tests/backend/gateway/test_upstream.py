"""A model on another server behind the gateway: answers, counts and costs as of a replica, and whatever a broken server
sends.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import httpx2
import pytest

from backend.domain.serving.upstream import Upstream
from backend.errors import InvalidInput
from backend.gateway.directory import ReplicaAddress
from backend.services.serving.usage import UsageRow
from tests.support.gateway_fixtures import MemoryDirectory, eventually, gateway
from tests.support.serving.hostile_api import HostileApi, event, hostile_api, usage

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there"}]}


class Scene:
    """A gateway without keys before a server that misbehaves."""

    def __init__(self, url: str, api: HostileApi, directory: MemoryDirectory) -> None:
        self.url, self.api, self.directory, self.numbers = url, api, directory, count()
        self.name = ""

    def connect(self, **fields: Any) -> None:
        limits = {"first_token_s": 0.4, "between_tokens_s": 0.4, "answer_limit_s": 5.0}
        upstream = Upstream.read({"url": self.api.url, "model": "qwen", **limits, **fields})
        number = next(self.numbers)
        self.name = f"far{number}"  # of its own, so that records of earlier requests do not count
        self.directory.endpoints[self.name] = [
            ReplicaAddress(id=f"r{number}", url=upstream.url, token="", upstream=upstream)
        ]

    def record(self, status: str) -> UsageRow:
        return self.directory.wait_for(lambda row: (row.endpoint, row.status) == (self.name, status))

    def post(self, path: str = "chat/completions", **changes: Any) -> httpx2.Response:
        body = {"model": self.name, **BODY, **changes}
        return httpx2.post(
            f"{self.url}/v1/{path}", json={key: value for key, value in body.items() if value is not None}, timeout=60
        )


@pytest.fixture(scope="module")
def module_scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        api = stack.enter_context(hostile_api())
        directory = MemoryDirectory({}, keys_required=False)
        yield Scene(stack.enter_context(gateway(directory)), api, directory)


@pytest.fixture
def scene(module_scene: Scene) -> Scene:
    module_scene.connect()
    module_scene.api.received.clear()
    return module_scene


def test_an_answer_has_the_servers_text_counts_and_price(scene: Scene) -> None:
    scene.connect(input_price=1.0, output_price=4.0)
    scene.api.answer(
        event(role="assistant", content=""),
        event(content="Hel"),
        ": ping\n\n",
        event(content="lo", finish="stop"),
        usage(7, 2),
    )
    answer = scene.post(seed=3, top_p=0.5).json()
    assert answer["choices"][0]["message"]["content"] == "Hello"
    assert answer["model"] == scene.name
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    row = scene.record("finished")
    assert (row.prompt_tokens, row.completion_tokens, row.status, row.device_s) == (7, 2, "finished", 0.0)
    assert row.cost_usd == pytest.approx((7 * 1.0 + 2 * 4.0) / 1e6)
    path, _, sent = scene.api.received[0]
    assert path == "/v1/chat/completions"
    assert (sent["model"], sent["seed"], sent["top_p"], sent["stream"]) == ("qwen", 3, 0.5, True)


def test_reasoning_calls_and_probabilities_pass_through(scene: Scene) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": '}}
    rest = {"index": 0, "function": {"arguments": "1}"}}
    scored = {
        "content": [{"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": [{"token": "y", "logprob": -1.0}]}]
    }
    chunk = {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": scored}]}
    scene.api.answer(
        event(reasoning="hm"),
        f"data: {json.dumps(chunk)}\n\n",
        event(tool_calls=[call]),
        event(tool_calls=[rest], finish="tool_calls"),
        usage(3, 9),
    )
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    choice = scene.post(tools=[tool], logprobs=True, top_logprobs=1).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert choice["logprobs"]["content"][0]["top_logprobs"][0]["token"] == "y"


def test_the_key_is_sent_and_a_missing_one_is_named_nowhere(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sesame")
    scene.connect(key_env="FAR_KEY")
    scene.api.answer(event(content="a", finish="stop"), usage(1, 1))
    assert scene.post().status_code == 200
    assert scene.api.received[0][1]["authorization"] == "Bearer sesame"
    monkeypatch.delenv("FAR_KEY")
    refused = scene.post()
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "upstream_failed")
    assert "FAR_KEY" not in refused.text


@pytest.mark.parametrize(
    ("status", "body", "expected", "code"),
    [
        (429, '{"error": {"message": "slow down"}}', 429, "upstream_limit"),
        (400, '{"error": {"message": "too long", "code": "context_length_exceeded"}}', 400, "context_length_exceeded"),
        (401, '{"error": {"message": "bad key sk-123"}}', 502, "upstream_failed"),
        (404, "{}", 502, "upstream_failed"),
        (500, "<html>", 502, "upstream_failed"),
        (302, "", 502, "upstream_failed"),
    ],
)
def test_errors_have_openais_shape(scene: Scene, status: int, body: str, expected: int, code: str) -> None:
    scene.api.answer(
        body, status=status, kind="application/json", headers="Retry-After: 7\r\nLocation: http://127.0.0.1:1/\r\n"
    )
    for stream in (False, True):
        answer = scene.post(stream=stream)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (expected, code)
        assert "sk-123" not in answer.text
    assert answer.headers.get("retry-after") == ("7" if status == 429 else None)
    if expected == 502:
        assert f"The server of {scene.name!r}" in error["message"]


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [event(content="a")],
        ["data: {nonsense\n\n"],
        ["data: []\n\n"],
        ['data: {"choices": [{"index": 5, "delta": {"content": "x"}}]}\n\n'],
        ['data: {"choices": {"0": 1}}\n\n'],
        ['data: {"choices": [{"index": 0, "delta": "text"}]}\n\n'],
        ['data: {"choices": [{"index": 0, "delta": {"content": "\\ud83d"}}]}\n\n'],
        ['data: {"error": {"message": "out of memory"}}\n\n'],
        [b"data: " + b"x" * (3 << 20)],
        [": ping\n\n", 1.0],
        ["data: [DONE]\n\n"],
        [event(content="a", finish="stop")[:-2], 1.0],
    ],
)
def test_a_broken_stream_ends_with_an_error_and_never_with_done(scene: Scene, pieces: list[Any]) -> None:
    scene.api.answer(*pieces)
    answer = scene.post(stream=True)
    assert "[DONE]" not in answer.text
    assert "upstream_failed" in answer.text
    assert scene.record("lost").replica_id


def test_a_server_that_takes_no_connection_counts_as_unreachable(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.infra.openai_api.upstream.CONNECT_S", 0.2)
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = silent.getsockname()[1]
        for _ in range(3):  # a full backlog: further connections get no answer
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        scene.connect(url=f"http://127.0.0.1:{port}/v1", first_token_s=5.0)
        assert "can't be reached" in scene.post().text
    eventually(
        lambda: any(
            (lost.replica_id, lost.reason) == (scene.record("lost").replica_id, "connection")
            for lost in scene.directory.lost
        )
    )


def test_a_count_that_no_database_holds_is_not_stored(scene: Scene) -> None:
    scene.api.answer(event(content="a", finish="stop"), usage(2**31, 10**30))
    assert scene.post().json()["usage"]["total_tokens"] == 0
    assert scene.record("finished").completion_tokens == 0


def test_an_answer_that_takes_too_long_ends_by_its_limit(scene: Scene) -> None:
    scene.connect(answer_limit_s=0.3)
    scene.api.answer(*[piece for _ in range(20) for piece in (event(content="a"), 0.1)])
    assert "answer_limit" in scene.post(stream=True).text
    assert not scene.directory.lost or scene.directory.lost[-1].reason != "answer_limit"


def test_more_requests_than_the_config_allows_are_refused(scene: Scene) -> None:
    scene.connect(max_requests=1)
    scene.api.answer(event(content="a"), 0.3, event(content="b", finish="stop"), usage(1, 2))
    with httpx2.stream(
        "POST", f"{scene.url}/v1/chat/completions", json={**BODY, "model": scene.name, "stream": True}
    ) as first:
        lines = first.iter_lines()
        next(lines)
        assert scene.post().status_code == 429
        assert "[DONE]" in "".join(lines)
    assert scene.post().status_code == 200


def test_a_client_that_leaves_ends_the_call_and_counts_what_it_got(scene: Scene) -> None:
    scene.connect(answer_limit_s=600, between_tokens_s=60)
    scene.api.left = 0
    scene.api.answer(*[piece for _ in range(300) for piece in (event(content="a" * 1000), 0.01)])
    with httpx2.stream(
        "POST", f"{scene.url}/v1/chat/completions", json={**BODY, "model": scene.name, "stream": True}
    ) as answer:
        for _ in zip(range(8), answer.iter_lines(), strict=False):
            pass
    eventually(lambda: scene.api.left)
    row = scene.record("aborted")
    assert (row.prompt_tokens, row.completion_tokens > 0) == (3, True)


def test_a_server_that_does_not_stream_is_read_whole(scene: Scene) -> None:
    calls = [{"id": f"c{n}", "function": {"name": "add", "arguments": "{}"}} for n in range(2)]
    message = {"role": "assistant", "content": "whole", "tool_calls": calls}
    answer = {
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 4},
    }
    scene.api.answer(json.dumps(answer), kind="application/json")
    choice = scene.post().json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("whole", "length")
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["c0", "c1"]


def test_a_prompt_is_echoed_with_its_probabilities(scene: Scene) -> None:
    logprobs = {
        "tokens": ["<s>", "ab", "c", "d"],
        "token_logprobs": [None, -0.5, -1.0, -2.0],
        "top_logprobs": [None, {"ab": -0.5}, {"c": -1.0}, {"d": -2.0}],
    }
    answer = {
        "choices": [{"index": 0, "text": "abcd", "logprobs": logprobs, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 2},
    }
    scene.api.answer(json.dumps(answer), kind="application/json")
    choice = scene.post("completions", messages=None, prompt="abc", echo=True, logprobs=1, max_tokens=1).json()[
        "choices"
    ][0]
    assert choice["text"] == "abcd"
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -1.0, -2.0]
    assert choice["logprobs"]["text_offset"] == [0, 0, 2, 3], "the prompt has no <s>"


def test_embeddings_and_tokens_come_from_the_server(scene: Scene) -> None:
    vectors = {"data": [{"index": 0, "embedding": [0.5, -1]}], "usage": {"prompt_tokens": 4}}
    scene.api.answer(json.dumps(vectors), kind="application/json")
    body = {"model": scene.name, "input": "x"}
    assert httpx2.post(f"{scene.url}/v1/embeddings", json=body).json()["data"][0]["embedding"] == [0.5, -1.0]
    scene.api.answer(json.dumps({"count": 2, "tokens": [5, 6]}), kind="application/json")
    assert httpx2.post(f"{scene.url}/v1/tokenize", json={"model": scene.name, "prompt": "x"}).json()["tokens"] == [5, 6]
    assert scene.api.received[-1][0] == "/tokenize"


def test_a_server_without_embeddings_is_no_fault_of_the_network(scene: Scene) -> None:
    scene.api.answer("{}", status=404, kind="application/json")
    refused = httpx2.post(f"{scene.url}/v1/embeddings", json={"model": scene.name, "input": "x"})
    assert refused.status_code == 400
    assert refused.json()["error"]["message"] == f"The server of {scene.name!r} returns no embeddings (404)."


def test_a_server_that_ignores_n_is_named_and_not_tried_again(scene: Scene) -> None:
    scene.api.answer(event(content="a", finish="stop"), "data: [DONE]\n\n")
    expected = f"The server of {scene.name!r} gave 1 of 2 answers: ask for each by itself."
    refused = scene.post(n=2)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "n")
    assert refused.json()["error"]["message"] == expected
    assert expected in scene.post(n=2, stream=True).text
    whole = {
        "choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 2},
    }
    scene.api.answer(json.dumps(whole), kind="application/json")
    assert scene.post(n=2).json()["error"]["message"] == expected


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "100.100.100.200", "0.0.0.0", "224.0.0.1"]
)
def test_addresses_of_no_model_server_are_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="not called"):
        Upstream.read({"url": f"http://{host}/v1", "model": "m"})


def test_a_name_that_resolves_to_such_an_address_is_not_called(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.infra.openai_api.addresses.is_forbidden", lambda address: address.is_loopback)
    upstream = Upstream(url=scene.api.url.replace("127.0.0.1", "localhost"), model="m")
    scene.directory.endpoints[scene.name] = [
        ReplicaAddress(id="rebound", url=upstream.url, token="", upstream=upstream)
    ]
    assert scene.post().status_code == 502
    assert not scene.api.received
