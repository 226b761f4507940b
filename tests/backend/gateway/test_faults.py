"""What the gateway does when replicas break, fill up or leave, and when clients send too much: real HTTP on both
sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx2
import pytest

from backend.domain.serving.protocol import GenerateRequest, TokenEvent
from backend.gateway.directory import ReplicaAddress
from backend.infra.replicas import ReplicaClient, ReplicaTimeouts
from tests.support.gateway_fixtures import MemoryDirectory, ScriptedReplica, eventually, gateway, scripted
from tests.support.serving_replica import stream_events

BLAMED = ("engine_failed", "batch_failed", "leaving")
BODY: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


class Scene:
    """A gateway without keys before three scripted replicas."""

    def __init__(self, url: str, replicas: list[ScriptedReplica], directory: MemoryDirectory) -> None:
        self.url, self.replicas, self.directory = url, replicas, directory

    def post(self, **changes: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/chat/completions", json={**BODY, **changes}, timeout=60)

    def script(self, *scripts: str) -> None:
        for replica, script in zip(self.replicas, scripts, strict=True):
            replica.script = script

    @property
    def seen(self) -> int:
        return sum(replica.seen for replica in self.replicas)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        replicas, addresses = [], []
        for number in range(3):
            replica, url = stack.enter_context(scripted())
            replicas.append(replica)
            addresses.append(ReplicaAddress(id=f"r{number}", url=url, token="t"))
        directory = MemoryDirectory({"m": addresses}, keys_required=False)
        client = ReplicaClient(timeouts=ReplicaTimeouts(between_tokens_s=0.5))
        url = stack.enter_context(gateway(directory, client=client, max_body_bytes=100_000))
        yield Scene(url, replicas, directory)


def test_a_replica_that_breaks_before_its_first_token_is_replaced_unseen(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.tokens = 0
    scene.script("break", "finish", "finish")
    for replica in scene.replicas[1:]:
        replica.tokens = 3
    for stream in (False, True, True, False):
        response = scene.post(stream=stream)
        assert response.status_code == 200
        assert "w0" in response.text
    assert scene.directory.last(4).replica_id in ("r1", "r2")
    assert scene.directory.last(4).status == "finished"


def test_a_port_that_another_replica_has_taken_since_is_no_fault_of_the_client(scene: Scene) -> None:
    scene.script("refuse:401:unauthorized", "refuse:401:unauthorized", "finish")
    assert [scene.post().status_code for _ in range(3)] == [200, 200, 200]


def test_a_request_that_may_have_brought_down_two_replicas_is_not_sent_to_a_third(scene: Scene) -> None:
    scene.script("break", "break", "break")
    for replica in scene.replicas:
        replica.tokens = 0
    response = scene.post()
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "replica_lost"
    assert scene.seen == 2


@pytest.mark.parametrize(
    ("code", "status", "sent"),
    [
        ("queue_timeout", 429, 1),
        ("answer_limit", 504, 1),
        ("invalid_request", 400, 1),
        ("request_failed", 500, 1),
        ("engine_failed", 500, 1),
        ("batch_failed", 502, 2),
        ("leaving", 502, 3),
    ],
)
def test_an_early_error_is_tried_elsewhere_only_where_that_may_help(
    scene: Scene, code: str, status: int, sent: int
) -> None:
    scene.script(*[f"error:{code}"] * 3)
    for replica in scene.replicas:
        replica.tokens = 0
    response = scene.post(stream=True)
    assert (response.status_code, scene.seen) == (status, sent)
    assert ("retry-after" in response.headers) == (status == 429)
    scene.directory.last(1)
    assert eventually(lambda: [row.reason for row in scene.directory.lost] == ([code] * sent if code in BLAMED else []))


def test_unreachable_replicas_are_skipped_and_a_queue_timeout_is_no_fault_of_a_replica(scene: Scene) -> None:
    gone = [ReplicaAddress(id=f"gone{number}", url="http://127.0.0.1:9", token="t") for number in range(2)]
    scene.directory.endpoints["m"] = [*gone, scene.directory.endpoints["m"][0]]
    scene.replicas[0].script = "error:queue_timeout"
    scene.replicas[0].tokens = 0
    assert [scene.post().status_code for _ in range(8)] == [429] * 8
    scene.replicas[0].script, scene.replicas[0].tokens = "finish", 3
    assert scene.post().status_code == 200


@pytest.mark.parametrize("script", ["break", "mute"])
def test_a_replica_lost_in_mid_stream_ends_with_an_error_event_and_no_done(scene: Scene, script: str) -> None:
    scene.script(script, script, script)
    response = scene.post(stream=True, logprobs=True)
    events = [line for line in response.text.split("\n\n") if line]
    assert "w0" in response.text
    assert '"code":"replica_lost"' in events[-1]
    assert "[DONE]" not in response.text
    assert scene.seen == 1, "an answer with probabilities is not continued elsewhere"
    record = scene.directory.last(1)
    assert (record.status, record.completion_tokens) == ("lost", 3)


def test_an_answer_that_two_replicas_lost_is_502(scene: Scene) -> None:
    scene.script("break", "break", "break")
    assert scene.post().status_code == 502
    assert scene.seen == 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("loss", ["break", "error:batch_failed"])
@pytest.mark.parametrize("changes", [{"temperature": 0}, {"seed": 7}, {}], ids=["greedy", "seed", "sampled"])
def test_an_answer_whose_replica_is_lost_goes_on_at_another_without_gap_or_repetition(
    scene: Scene, stream: bool, loss: str, changes: dict[str, Any]
) -> None:
    scene.script(loss, "finish", "finish")
    for replica, tokens in zip(scene.replicas, (2, 5, 5), strict=True):
        replica.tokens = tokens
    for _ in range(2):  # the least used replica comes first, so one of these meets the first
        response = scene.post(stream=stream, **changes)
        assert response.status_code == 200
        if stream:
            lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
            assert lines.pop() == "[DONE]"
            choices = [json.loads(line)["choices"][0] for line in lines]
            text = "".join(choice["delta"].get("content", "") for choice in choices)
            assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
        else:
            text = response.json()["choices"][0]["message"]["content"]
            assert response.json()["usage"]["completion_tokens"] == 5
        assert text == "w0 w1 w2 w3 w4 "
        if scene.replicas[0].seen:
            break
        scene.post(stream=stream, **changes)
    bodies = [body for replica in scene.replicas[1:] for body in replica.bodies if body["begun"]]
    assert [body["begun"] for body in bodies] == [{"token_ids": [0, 1], "characters": 6}]
    first = scene.replicas[0].bodies[0]["params"]
    assert bodies[0]["params"] == first
    assert (first["seed"] is None) == (changes == {"temperature": 0})
    row = scene.directory.wait_for(lambda row: row.replica_id != "r0" and row.completion_tokens == 5)
    assert row.status == "finished"


def test_full_queues_everywhere_are_429_with_retry_after(scene: Scene) -> None:
    scene.script(*["refuse:429:queue_full"] * 3)
    response = scene.post()
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert scene.seen == 3


def test_a_full_or_draining_replica_hands_over_to_a_free_one(scene: Scene) -> None:
    scene.script("refuse:429:queue_full", "refuse:503:draining", "finish")
    assert [scene.post().status_code for _ in range(5)] == [200] * 5


@pytest.mark.parametrize("leaving", ["refuse:503:draining", "break"])
def test_when_the_only_replica_leaves_the_one_that_takes_over_answers(scene: Scene, leaving: str) -> None:
    old, new, _ = scene.directory.endpoints["m"]
    scene.directory.endpoints["m"] = [old]
    scene.script(leaving, "finish", "finish")
    scene.replicas[0].tokens = 0

    def take_over() -> None:
        eventually(lambda: scene.replicas[0].seen)
        scene.directory.endpoints["m"] = [new]

    with ThreadPoolExecutor(1) as pool:
        pool.submit(take_over)
        assert scene.post().status_code == 200
    assert (scene.replicas[0].seen, scene.replicas[1].seen) == (1, 1)


def test_a_refused_request_is_not_tried_elsewhere_and_opens_no_breaker(scene: Scene) -> None:
    scene.script(*["refuse:400:context_length_exceeded"] * 3)
    assert [scene.post().status_code for _ in range(8)] == [400] * 8
    assert scene.seen == 8
    scene.script("finish", "finish", "finish")
    assert scene.post().status_code == 200


def test_requests_are_spread_by_open_ones_and_all_counts_return_to_zero(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.tokens, replica.delay_s = 2, 0.8
    with ExitStack() as stack:
        open_ = [
            stack.enter_context(
                httpx2.stream("POST", f"{scene.url}/v1/chat/completions", json={**BODY, "stream": True}, timeout=60)
            )
            for _ in range(6)
        ]
        assert [replica.seen for replica in scene.replicas] == [2, 2, 2]
        for response in open_:
            response.read()
    assert "roundhouse_requests_running" in (text := httpx2.get(f"{scene.url}/metrics").text)
    assert 'roundhouse_requests_running{model="m"} 0.0' in text


def test_a_client_that_leaves_closes_the_replicas_stream(scene: Scene) -> None:
    for replica in scene.replicas:
        replica.tokens, replica.delay_s = 3000, 0.02
    with httpx2.stream(
        "POST", f"{scene.url}/v1/chat/completions", json={**BODY, "stream": True}, timeout=60
    ) as response:
        next(response.iter_bytes())
    eventually(lambda: sum(replica.left for replica in scene.replicas) == 1)
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{scene.url}/v1/chat/completions", json=BODY, timeout=httpx2.Timeout(20, read=0.5))
    eventually(lambda: sum(replica.left for replica in scene.replicas) == 2)
    assert scene.directory.last(2).status == "aborted"


def test_line_separators_in_a_text_break_no_line_of_the_stream(scene: Scene) -> None:
    separators = "a\x85b\u2028c\u2029d\ne"
    for replica in scene.replicas:
        replica.word = separators
    for line in scene.post(stream=True).text.splitlines():
        assert line in ("", "data: [DONE]") or json.loads(line.removeprefix("data: "))
    address = scene.directory.endpoints["m"][0]
    events = list(stream_events(address.url, token="t", request=GenerateRequest(prompt="x")))
    assert isinstance(events[0], TokenEvent)
    assert events[0].text == separators


def test_a_body_over_the_cap_is_413_declared_or_not(scene: Scene) -> None:
    assert scene.post(messages=[{"role": "user", "content": "x" * 200_000}]).status_code == 413

    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    headers = {"Content-Type": "application/json"}
    response = httpx2.post(f"{scene.url}/v1/chat/completions", content=pieces(), headers=headers)
    assert response.status_code == 413
    error = response.json()["error"]
    assert (error["code"], error["message"]) == ("body_too_large", "The body is larger than 100,000 bytes.")


def test_a_web_page_elsewhere_can_not_use_a_gateway_without_keys(scene: Scene) -> None:
    response = httpx2.post(f"{scene.url}/v1/chat/completions", content=b"{}", headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert httpx2.get(f"{scene.url}/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_usage_survives_an_unavailable_database(scene: Scene) -> None:
    scene.directory.fails = True
    assert scene.post().status_code == 200
    assert httpx2.get(f"{scene.url}/health").status_code == 503
    scene.directory.fails = False
    assert scene.directory.last(1).status == "finished"
    assert httpx2.get(f"{scene.url}/health").json() == {"status": "ok"}


def test_an_unknown_path_has_openais_error_shape(scene: Scene) -> None:
    response = httpx2.get(f"{scene.url}/v1/images")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"
    assert httpx2.get(f"{scene.url}/v1/chat/completions").json()["error"]["type"] == "invalid_request_error"


def test_the_replica_is_sent_what_was_asked(scene: Scene) -> None:
    scene.post(temperature=0.3, top_p=0.5, top_k=-1, stop="END", max_completion_tokens=7, seed=-3, presence_penalty=1)
    params = next(body for replica in scene.replicas for body in replica.bodies)["params"]
    assert (params["temperature"], params["top_p"], params["top_k"], params["stop"]) == (0.3, 0.5, 0, ["END"])
    assert (params["max_tokens"], params["presence_penalty"]) == (7, 1.0)
    assert params["seed"] >= 0


def test_a_wrong_key_is_refused_even_if_none_is_required(scene: Scene) -> None:
    assert httpx2.get(f"{scene.url}/v1/models").status_code == 200
    assert httpx2.get(f"{scene.url}/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
    row = scene.directory.last(1)
    assert (row.endpoint, row.key_id, row.status, row.finish_reason) == ("", None, "refused", "invalid_api_key")
    assert "wrong" not in repr(row)
