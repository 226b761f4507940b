"""Requests that would harm others, with a good client beside each: a real gateway and a real replica of a tiny
network.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
import torch

from backend.gateway import answers
from backend.gateway.directory import ReplicaAddress
from jobs.serving import answering, replica_app
from tests.support.gateway_fixtures import MemoryDirectory, eventually, gateway
from tests.support.networks.serving_networks import END_ID, make_llama, save_checkpoint
from tests.support.serving.good_client import good_client
from tests.support.serving_replica import TOKEN, RunningReplica

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "Hi", "max_tokens": 8}


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    folder: Path = tmp_path_factory.mktemp("replica")
    network = make_llama(context=512)
    with torch.no_grad():
        network.lm_head.weight[END_ID] = 0  # a greedy answer runs to its limit
    save_checkpoint(folder / "checkpoint", network=network)
    running = RunningReplica(folder)
    yield running
    running.stop()


@pytest.fixture
def directory(replica: RunningReplica) -> MemoryDirectory:
    return MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=replica.url, token=TOKEN)]}, keys_required=False)


@pytest.fixture
def url(directory: MemoryDirectory) -> Iterator[str]:
    with gateway(directory) as url:
        yield url


def post(url: str, path: str, body: dict[str, Any]) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/{path}", json=body, timeout=200)


def test_a_client_that_reads_nothing_leaves_an_idle_replica_alone(
    replica: RunningReplica, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has made all of its answer, and makes no further step while the client does not read it. The answer
    is more than the kernel's buffers on the way take (14 MB).
    """
    monkeypatch.setattr(answering, "MAX_PROBABILITIES", 2**20)
    body = json.dumps(
        TEXT | {"prompt": ["x" * 480] * 90, "echo": True, "logprobs": 20, "max_tokens": 1, "stream": True}
    ).encode()
    host, port = url.removeprefix("http://").split(":")
    with good_client(url):
        pass
    before = replica.stats()["generated_tokens"]
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\n" % host.encode()
        )
        connection.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        eventually(lambda: replica.stats()["generated_tokens"] >= before + 90, timeout_s=120)
        eventually(lambda: replica.stats()["running"] == 0)
        with monkeypatch.context() as impatient:  # only while the engine has nothing to do: a busy machine stalls it
            impatient.setattr(replica_app, "MIN_STALL_S", 1.0)
            impatient.setattr(replica_app, "TIMES_P99", 1.0)
            time.sleep(5)
        assert replica.stats()["open"] == 1, "it still waits for its reader"
        assert replica.thread.is_alive()
        with good_client(url):
            pass
    eventually(lambda: replica.stats()["open"] == 0)


def test_a_wrong_key_where_none_is_required_is_refused_with_what_to_send(url: str) -> None:
    refused = httpx2.get(f"{url}/v1/models", headers={"Authorization": "Bearer x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert "send `none`" in refused.json()["error"]["message"]
    assert httpx2.get(f"{url}/v1/models", headers={"Authorization": "Bearer none"}).status_code == 200


HUGE = {
    "top_k 2^63": ("chat/completions", CHAT, "top_k", 2**63),
    "top_k 2^63 - 1": ("chat/completions", CHAT, "top_k", 2**63 - 1),
    "top_k of text": ("completions", TEXT, "top_k", 2**63),
    "max_tokens": ("chat/completions", CHAT, "max_tokens", 2**63),
    "max_completion_tokens": ("chat/completions", CHAT, "max_completion_tokens", 2**64),
    "max_tokens of text": ("completions", TEXT, "max_tokens", 10**30),
    "prompt": ("completions", TEXT, "prompt.0", 2**63),
    "input": ("embeddings", {"model": "tiny"}, "input.1.0", 2**40),
    "n": ("completions", TEXT, "n", 2**31),
}


@pytest.mark.parametrize("attack", HUGE)
def test_a_number_beyond_its_bound_is_400_with_field_value_and_bound(url: str, attack: str) -> None:
    path, body, field, value = HUGE[attack]
    name, *at = field.split(".")
    with good_client(url):
        for _ in range(3):
            answer = post(url, path, body | {name: value if not at else [value] if len(at) == 1 else [[1], [value]]})
            assert answer.status_code == 400, answer.text
            error = answer.json()["error"]
            assert (error["param"], str(value) in error["message"]) == (field, True)
            assert "must be at most" in error["message"]


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings": ("embeddings", {"model": "tiny", "input": [5, 260]}),
    "embeddings of several": ("embeddings", {"model": "tiny", "input": [[5], [300]]}),
    "several prompts": ("completions", TEXT | {"prompt": [[5], [1_000_000]]}),
    "echo with probabilities": ("completions", TEXT | {"prompt": [260], "echo": True, "logprobs": 2}),
    "only scored": ("completions", TEXT | {"prompt": [7, 999], "echo": True, "logprobs": 1, "max_tokens": 0}),
    "two with a bias": ("completions", TEXT | {"n": 2, "logit_bias": {"260": 5}}),
    "a chat of two with a bias": ("chat/completions", CHAT | {"n": 2, "logit_bias": {"99999": 5}}),
    "one prompt": ("completions", TEXT | {"prompt": [260]}),
}


@pytest.mark.parametrize("attack", BAD)
@pytest.mark.parametrize("stream", [False, True])
def test_a_token_that_the_network_has_not_is_400_and_blames_no_replica(
    url: str, directory: MemoryDirectory, attack: str, stream: bool
) -> None:
    path, body = BAD[attack]
    with good_client(url):
        for _ in range(7):  # a replica that fails five times in a row is left alone
            answer = post(url, path, body | ({"stream": True} if stream and path != "embeddings" else {}))
            assert answer.status_code == 400, answer.text
            assert "outside the vocabulary of 260" in answer.json()["error"]["message"]
    assert directory.lost == [], "a canary would be aborted for them"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("completions", TEXT | {"prompt": "x" * 480, "echo": True, "logprobs": 20, "n": 128, "max_tokens": 20}, "n"),
        (
            "completions",
            TEXT | {"prompt": ["x" * 400] * 600, "echo": True, "logprobs": 5, "max_tokens": 0},
            "max_tokens",
        ),
        ("completions", TEXT | {"prompt": ["x"] * 2048, "max_tokens": 500}, "max_tokens"),
        ("chat/completions", CHAT | {"n": 128, "logprobs": True, "top_logprobs": 20, "max_tokens": 400}, "n"),
    ],
    ids=["echo x logprobs x n", "echo x prompts", "prompts x tokens", "chat x n"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_beyond_its_budget_is_400_and_names_it(
    url: str, path: str, body: dict[str, Any], field: str, stream: bool
) -> None:
    with good_client(url):
        answer = post(url, path, body | {"stream": stream})
    assert answer.status_code == 400, answer.text[:300]
    error = answer.json()["error"]
    assert error["param"] == field
    assert "At most" in error["message"]
    assert f"{2**18:,}" in error["message"] or f"{2**19:,}" in error["message"]


def test_whole_answers_with_probabilities_share_a_memory_and_others_need_none(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_HELD", 500)
    body = TEXT | {"prompt": "x" * 100, "echo": True, "logprobs": 9}
    with good_client(url):
        for _ in range(3):
            refused = post(url, "completions", body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "answers_full")
            assert int(refused.headers["retry-after"]) == 1
        assert post(url, "completions", body | {"stream": True}).status_code == 200
        assert post(url, "completions", body | {"logprobs": 1}).status_code == 200
    assert answers.HELD.values == 0


def test_an_echo_of_many_answers_is_read_and_sent_once_and_each_choice_has_it(url: str) -> None:
    body = TEXT | {
        "prompt": ["Hello there", "You"],
        "echo": True,
        "logprobs": 1,
        "n": 3,
        "max_tokens": 2,
        "temperature": 0,
    }
    whole = post(url, "completions", body).json()
    assert [choice["text"][:3] for choice in whole["choices"]] == ["Hel"] * 3 + ["You"] * 3
    assert all(len(choice["logprobs"]["tokens"]) == {"H": 13, "Y": 5}[choice["text"][0]] for choice in whole["choices"])
    texts: dict[int, str] = {}
    offsets: dict[int, list[int]] = {}
    with httpx2.stream("POST", f"{url}/v1/completions", json=body | {"stream": True}, timeout=200) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
                    offsets.setdefault(choice["index"], []).extend((choice["logprobs"] or {}).get("text_offset", []))
    assert [texts[number] for number in range(6)] == [choice["text"] for choice in whole["choices"]]
    assert [offsets[number] for number in range(6)] == [
        choice["logprobs"]["text_offset"] for choice in whole["choices"]
    ]


def test_an_answer_without_a_stated_end_ends_within_its_budget(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "MAX_PROBABILITIES", 2**15)  # an eighth of it, made in an eighth of the time
    body = {key: value for key, value in CHAT.items() if key != "max_tokens"} | {
        "n": 64,
        "logprobs": True,
        "top_logprobs": 20,
        "seed": 1,
    }
    whole = post(url, "chat/completions", body).json()
    tokens = [len(choice["logprobs"]["content"]) for choice in whole["choices"]]
    assert len(tokens) == 64
    assert 2**14 < sum(tokens) * 21 <= 2**15


WRONG = {
    "numbers and a text": (
        "completions",
        b'{"model": "tiny", "prompt": [' + b"1," * 300_000 + b'"x"]}',
        "prompt.300000",
    ),
    "many prompts": ("completions", b'{"model": "tiny", "prompt": [' + b"[]," * 500_000 + b"[]]}", "prompt"),
    "many texts": ("embeddings", b'{"model": "tiny", "input": [' + b'"",' * 500_000 + b"{}]}", "input"),
    "empty messages": (
        "chat/completions",
        b'{"model": "tiny", "messages": [' + b"{}," * 500_000 + b"{}]}",
        "messages.0.role",
    ),
    "biases": (
        "completions",
        json.dumps(TEXT | {"logit_bias": {f"a{n}": 1 for n in range(100_000)}}).encode(),
        "logit_bias",
    ),
    "a long name": ("completions", json.dumps(TEXT | {"x" * 2_000_000: 1}).encode(), "x" * 400),
    "a long kind": (
        "responses",
        b'{"model": "tiny", "input": [{"type": "' + b"x" * 2_000_000 + b'"}]}',
        "input.0",
    ),
    "unknown fields": ("completions", json.dumps(TEXT | {f"a{n}": 1 for n in range(100_000)}).encode(), None),
}


INFINITE = {
    "metadata": ("responses", '{"model": "tiny", "input": "x", "metadata": {"a": 1e999}}'),
    "a tool": (
        "responses",
        '{"model": "tiny", "input": "x",'
        ' "tools": [{"type": "function", "name": "f", "parameters": {"maximum": 1e999}}]}',
    ),
    "a tool of Anthropic's": (
        "messages",
        '{"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "x"}],'
        ' "tools": [{"name": "f", "input_schema": {"maximum": -1e999}}]}',
    ),
    "a tool of a chat": (
        "chat/completions",
        '{"model": "tiny", "messages": [{"role": "user", "content": "x"}],'
        ' "tools": [{"type": "function", "function": {"name": "f", "parameters": {"maximum": 1e999}}}]}',
    ),
}


@pytest.mark.parametrize("attack", INFINITE)
def test_a_number_that_json_cannot_write_again_is_400(url: str, attack: str) -> None:
    path, body = INFINITE[attack]
    answer = httpx2.post(f"{url}/v1/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "is not finite" in answer.json()["error"]["message"]


@pytest.mark.parametrize("attack", WRONG)
def test_a_body_of_a_million_faults_is_answered_for_its_first(url: str, attack: str) -> None:
    """Each fault in a list has needed a kilobyte, and a body of 4 MB stopped the gateway for minutes."""
    path, body, field = WRONG[attack]
    before = psutil.Process().memory_info().rss
    with good_client(url):
        for _ in range(3):
            answer = httpx2.post(
                f"{url}/v1/{path}", content=body, headers={"Content-Type": "application/json"}, timeout=200
            )
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)
            assert len(answer.content) < 1200
    assert psutil.Process().memory_info().rss - before < 300 * 2**20
