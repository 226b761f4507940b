"""A replica as its room's entry starts it: real checkpoint folder, real HTTP, a real stop request in a file; and
readings of its processes.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from pydantic import ValidationError

from backend.domain.serving.protocol import (
    ChatMessage,
    FinishEvent,
    GenerateRequest,
    GenerationErrorEvent,
    Role,
    SamplingParams,
    TokenEvent,
)
from backend.errors import InvalidInput, JobFailed, NotFound
from backend.infra.replicas import ReplicaClient, ReplicaLost, ReplicaRefused, ReplicaTimeouts
from jobs.reporter import FileReporter
from jobs.serving.replica import ProcessUse, listen_on, run
from tests.support.gateway_fixtures import eventually
from tests.support.jobs import make_spec
from tests.support.networks.serving_networks import make_llama, make_tokenizer, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica, stream_events


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    folder = tmp_path_factory.mktemp("replica")
    save_checkpoint(folder / "checkpoint", network=make_llama(context=4096))
    running = RunningReplica(folder, max_running=8, max_waiting=2)
    yield running
    if running.thread.is_alive():
        running.stop()


def ask(text: str = "Hello", **params: Any) -> GenerateRequest:
    return GenerateRequest(
        prompt=text, params=SamplingParams(**{"max_tokens": 12, "temperature": 0, "ignore_eos": True, **params})
    )


def answer(replica: RunningReplica, request: GenerateRequest) -> list[Any]:
    return list(stream_events(replica.url, token=TOKEN, request=request))


def test_a_stream_carries_every_token_once_and_ends_with_usage_and_timings(replica: RunningReplica) -> None:
    began = time.monotonic()
    events = answer(replica, ask())
    took_ms = (time.monotonic() - began) * 1000
    tokens = [e for e in events if isinstance(e, TokenEvent)]
    assert [e.index for e in tokens if e.token_ids] == list(range(12))
    finish = events[-1]
    assert isinstance(finish, FinishEvent)
    assert (finish.usage.prompt_tokens, finish.usage.completion_tokens) == (5, 12)
    assert finish.ttft_ms is not None
    assert 0 < finish.ttft_ms < took_ms


def test_a_complete_answer_equals_the_stream(replica: RunningReplica) -> None:
    streamed = "".join(e.text for e in answer(replica, ask()) if isinstance(e, TokenEvent))
    body = ask().model_copy(update={"stream": False}).model_dump_json()
    response = httpx2.post(
        f"{replica.url}/generate", content=body, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120
    )
    assert response.json()["text"] == streamed
    assert response.json()["finish_reason"] == "length"


def test_a_chat_is_rendered_with_the_checkpoints_template(replica: RunningReplica) -> None:
    chat = GenerateRequest(messages=(ChatMessage(role=Role.USER, content="Hi"),), params=ask().params)
    by_hand = GenerateRequest(
        token_ids=tuple(make_tokenizer()("<|user|>Hi<|assistant|>")["input_ids"]), params=ask().params
    )
    assert [e.text for e in answer(replica, chat)[:-1]] == [e.text for e in answer(replica, by_hand)[:-1]]


def test_the_beginning_of_an_answer_is_continued_in_place_of_a_new_one(replica: RunningReplica) -> None:
    question, beginning = ChatMessage(role=Role.USER, content="Hi"), ChatMessage(role=Role.ASSISTANT, content="Well, ")
    chat = GenerateRequest(messages=(question, beginning), params=ask().params, continue_final=True)
    by_hand = GenerateRequest(
        token_ids=tuple(make_tokenizer()("<|user|>Hi<|assistant|>Well, ")["input_ids"]), params=ask().params
    )
    assert [e.text for e in answer(replica, chat)[:-1]] == [e.text for e in answer(replica, by_hand)[:-1]]
    with pytest.raises(ValidationError, match="end with text of the assistant"):
        GenerateRequest(messages=(question,), continue_final=True)


def test_without_the_internal_token_nothing_answers(replica: RunningReplica) -> None:
    for path, method in (("/generate", "POST"), ("/health", "GET"), ("/stats", "GET")):
        assert httpx2.request(method, replica.url + path).status_code == 401
        assert httpx2.request(method, replica.url + path, headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_a_prompt_beyond_the_context_is_refused_with_its_code(replica: RunningReplica) -> None:
    with pytest.raises(ReplicaRefused, match=r"5000 tokens.*4096") as caught:
        answer(replica, ask("x" * 5000))
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")


@pytest.mark.filterwarnings("ignore:Sending a large body directly")  # 5 MB, more than a gateway takes
def test_a_prompt_of_millions_of_characters_is_refused_before_it_is_tokenized(replica: RunningReplica) -> None:
    with pytest.raises(ReplicaRefused, match="characters") as caught:
        answer(replica, ask("long " * 1_000_000))
    assert caught.value.code == "context_length_exceeded"


def test_a_body_that_is_no_request_is_refused_with_the_field_named(replica: RunningReplica) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    response = httpx2.post(
        f"{replica.url}/generate", json={"prompt": "x", "params": {"temperature": -1}}, headers=headers
    )
    assert response.status_code == 400
    assert response.json()["error"]["field"] == "params.temperature"


def test_leaving_a_stream_stops_its_generation(replica: RunningReplica) -> None:
    stream = stream_events(replica.url, token=TOKEN, request=ask(max_tokens=4000))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    eventually(lambda: replica.stats()["running"] == 0)
    made = replica.stats()["generated_tokens"]
    assert made < 4000
    assert replica.stats()["generated_tokens"] == made


def test_leaving_a_complete_answer_stops_its_generation_too(replica: RunningReplica) -> None:
    body = ask(max_tokens=4000).model_copy(update={"stream": False}).model_dump_json().encode()
    host, port = replica.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = (
            f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length:"
            f" {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        eventually(lambda: replica.stats()["running"] == 1)
    eventually(lambda: replica.stats()["running"] == 0)


def test_the_asynchronous_client_leaves_as_well(replica: RunningReplica) -> None:
    async def leave_early() -> None:
        client = ReplicaClient()
        stream = client.stream(replica.url, token=TOKEN, request=ask(max_tokens=4000))
        async for _ in stream:
            break
        await stream.aclose()
        await client.close()

    asyncio.run(leave_early())
    eventually(lambda: replica.stats()["running"] == 0)


def test_eight_clients_share_the_engines_steps(replica: RunningReplica) -> None:
    before = replica.stats()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: answer(replica, ask(f"number {i}", max_tokens=100)), range(8)))
    after = replica.stats()
    assert after["generated_tokens"] - before["generated_tokens"] == 800
    assert after["steps"] - before["steps"] < 400


def test_clients_above_the_limit_are_refused(replica: RunningReplica) -> None:
    held = [stream_events(replica.url, token=TOKEN, request=ask(max_tokens=4000)) for _ in range(8)]
    for stream in held:
        next(stream)
    with ThreadPoolExecutor(2) as pool:
        queued = [pool.submit(answer, replica, ask(max_tokens=1)) for _ in range(2)]
        eventually(lambda: replica.stats()["waiting"] == 2)
        with pytest.raises(ReplicaRefused) as caught:
            answer(replica, ask())
        assert (caught.value.status, caught.value.code) == (429, "queue_full")
        for stream in held:
            stream.close()  # type: ignore[attr-defined]
        assert all(isinstance(f.result(120)[-1], FinishEvent) for f in queued)
    eventually(lambda: replica.stats()["running"] == 0)


def test_health_makes_a_token_when_idle(replica: RunningReplica) -> None:
    assert (
        httpx2.get(f"{replica.url}/health", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120).json()["status"]
        == "ok"
    )


def test_gauges_are_reported(replica: RunningReplica) -> None:
    gauge = eventually(lambda: replica.events("gauge"))[-1]
    assert {"running", "waiting", "tokens_per_second"} <= set(gauge)


def test_a_closed_port_is_a_lost_replica() -> None:
    with pytest.raises(ReplicaLost) as caught:
        list(stream_events("http://127.0.0.1:9", token=TOKEN, request=ask()))
    assert caught.value.reason == "connection"


def test_a_silent_replica_is_lost() -> None:
    async def speak_to_a_mute() -> str:
        over, closed = asyncio.Event(), asyncio.Event()

        async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await over.wait()
            writer.close()
            closed.set()

        mute = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
        port = mute.sockets[0].getsockname()[1]
        client = ReplicaClient(timeouts=ReplicaTimeouts(first_token_s=0.2))
        try:
            async for _ in client.stream(f"http://127.0.0.1:{port}", token=TOKEN, request=ask()):
                pass
        except ReplicaLost as error:
            return error.reason
        finally:
            await client.close()
            over.set()
            await closed.wait()
            mute.close()
        return ""

    assert asyncio.run(speak_to_a_mute()) == "timeout"


def test_a_drained_replica_ends_its_answers_and_times_out_its_queue(tmp_path: Path, replica: RunningReplica) -> None:
    shutil.copytree(replica.folder / "checkpoint", tmp_path / "checkpoint")
    other = RunningReplica(tmp_path, max_running=1, queue_timeout_s=0.2)
    stream = stream_events(other.url, token=TOKEN, request=ask(max_tokens=1200))
    next(stream)
    late = answer(other, ask())
    assert isinstance(late[-1], GenerationErrorEvent)
    assert late[-1].code == "queue_timeout"
    (tmp_path / "control").write_text("drain")
    eventually(
        lambda: (
            httpx2.get(f"{other.url}/health", headers={"Authorization": f"Bearer {TOKEN}"}).json()["status"]
            == "draining"
        )
    )
    with pytest.raises(ReplicaRefused) as caught:
        answer(other, ask())
    assert caught.value.code == "draining"
    assert isinstance(list(stream)[-1], FinishEvent)
    other.thread.join(120)
    assert (other.result["stopped"], other.result["requests"]) == ("drain", 2)


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_a_replica_listens_at_its_machines_address(host: str) -> None:
    with listen_on(host) as listener:
        assert listener.getsockname()[0] == ("127.0.0.2" if host == "127.0.0.2" else "127.0.0.1")
        assert listener.proto == socket.IPPROTO_TCP, "or asyncio leaves Nagle's algorithm on"


def test_an_address_of_another_machine_is_one_of_a_router_in_front() -> None:
    with listen_on("192.0.2.1") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"
    with pytest.raises(JobFailed, match="ROUNDHOUSE_REPLICA_HOST"):
        listen_on("no.such.host.invalid")


def test_a_folder_without_weights_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    payload = {"checkpoint": "checkpoint", "name": "x", "internal_token": TOKEN}
    spec = make_spec("replica", payload, root=tmp_path, folder=tmp_path)
    with pytest.raises(InvalidInput, match=r"config\.json"):
        run(spec, FileReporter(tmp_path / "events.jsonl", tmp_path / "control"))


def test_a_checkpoint_whose_files_were_deleted_names_the_cure_and_no_path(tmp_path: Path) -> None:
    payload = {"checkpoint": "gone", "name": "tales", "internal_token": TOKEN}
    spec = make_spec("replica", payload, root=tmp_path, folder=tmp_path)
    with pytest.raises(NotFound) as refusal:
        run(spec, FileReporter(tmp_path / "events.jsonl", tmp_path / "control"))
    assert str(tmp_path) not in str(refusal.value)
    assert refusal.value.remedy == "Deploy another checkpoint as tales, or stop the endpoint."


def test_a_foreign_name_is_refused_even_with_the_token(replica: RunningReplica) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "evil.example"}
    assert httpx2.get(f"{replica.url}/stats", headers=headers).status_code == 400


def test_a_process_that_ends_while_it_is_read_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended the replica that had started it."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = psutil.Process(child.pid)
    use = ProcessUse()
    monkeypatch.setattr(psutil.Process, "children", lambda _, recursive: [ended])
    monkeypatch.setattr(ended, "is_running", lambda: True)  # it ends after this is asked
    assert use.read()["memory_bytes"] > psutil.Process().memory_info().rss / 2
    child.kill()
    child.communicate()
    reading = use.read()
    assert reading["memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert reading["cpu_cores"] is not None
    assert reading["cpu_cores"] >= 0
