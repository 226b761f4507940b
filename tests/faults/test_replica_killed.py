"""A replica's real process is killed while it answers: the client is told, and the next request finds the other
replica.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import psutil
import pytest

from backend.gateway.directory import ReplicaAddress
from backend.infra.replicas import ReplicaClient, ReplicaTimeouts
from jobs.memory_limit import job_limit_bytes
from jobs.runner import kill_group
from tests.support.forks import fork_module
from tests.support.gateway_fixtures import KEY, MemoryDirectory, eventually, gateway
from tests.support.jobs import make_spec
from tests.support.networks.serving_networks import make_llama, save_checkpoint

pytestmark = pytest.mark.timeout(900)  # a whole installation starts slowly on a busy machine


@contextmanager
def replica_process(root: Path, name: str) -> Iterator[tuple[psutil.Process, str]]:
    """A replica started as a worker starts it, killed at the end whatever happens."""
    folder = root / name
    folder.mkdir()
    payload = {"checkpoint": "checkpoint", "name": "tiny", "internal_token": "t", "device": "cpu"}
    make_spec("replica", payload, root=root, job=name, folder=folder).write(
        folder / "job.json", memory_bytes=job_limit_bytes()
    )
    child = fork_module("jobs.run", ["--child", str(folder)], folder / "output.log")
    try:
        events = folder / "events.jsonl"
        eventually(
            lambda: (events.exists() and '"ready"' in events.read_text()) or child.poll() is not None, timeout_s=300
        )
        url = next(e["url"] for line in events.read_text().splitlines() if (e := json.loads(line))["type"] == "ready")
        yield psutil.Process(child.pid), url
    finally:
        kill_group(child, grace_s=0)


def test_a_killed_replica_ends_its_streams_with_an_error_and_the_other_takes_over(
    tmp_path: Path,
) -> None:
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(context=4096))
    with ExitStack() as stack:
        started = [stack.enter_context(replica_process(tmp_path, name)) for name in ("a", "b")]
        addresses = [ReplicaAddress(id=str(i), url=url, token="t") for i, (_, url) in enumerate(started)]
        directory = MemoryDirectory({"tiny": addresses[:1]}, keys_required=False)
        base = stack.enter_context(gateway(directory))
        client = openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0, timeout=300)
        stream = client.completions.create(
            model="tiny", prompt="x", max_tokens=4000, temperature=0.8, seed=1, stream=True
        )
        pieces = iter(stream)
        next(pieces)
        started[0][0].send_signal(signal.SIGKILL)
        with pytest.raises(openai.APIError, match="broke off"):
            list(pieces)
        directory.endpoints["tiny"] = addresses  # the dead one is still listed, as until its lease runs out
        for _ in range(4):
            assert client.completions.create(model="tiny", prompt="x", max_tokens=3).choices[0].text is not None
        eventually(lambda: [u.status for u in directory.usage].count("finished") == 4)
        assert [u.status for u in directory.usage].count("lost") == 1


def test_answers_of_every_api_go_on_at_another_replica_as_they_would_have(tmp_path: Path) -> None:
    """Penalties, filters and the least number of tokens depend on what was written before the kill."""
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(context=4096))
    said: list[Any] = [{"role": "user", "content": "Hello"}]
    drawn: dict[str, Any] = {"temperature": 0.9, "seed": 3, "max_tokens": 1500}
    fields = {"repetition_penalty": 1.2, "min_p": 0.02, "min_tokens": 1400, "stop_token_ids": list(range(60, 120))}
    with ExitStack() as stack:
        started = [stack.enter_context(replica_process(tmp_path, name)) for name in ("a", "b")]
        addresses = [ReplicaAddress(id=str(i), url=url, token="t") for i, (_, url) in enumerate(started)]
        directory = MemoryDirectory({"tiny": addresses[:1]}, keys_required=False)
        base = stack.enter_context(gateway(directory))
        ours = openai.OpenAI(base_url=f"{base}/v1", api_key="EMPTY", max_retries=0, timeout=300)
        theirs = anthropic.Anthropic(base_url=base, api_key="EMPTY", max_retries=0, timeout=300)

        def chat() -> Iterator[str]:
            for chunk in ours.chat.completions.create(
                model="tiny", messages=said, **drawn, stream=True, extra_body=fields
            ):
                yield chunk.choices[0].delta.content or "" if chunk.choices else ""

        def response() -> Iterator[str]:
            for event in ours.responses.create(
                model="tiny", input=said, temperature=0, max_output_tokens=1500, stream=True
            ):
                yield event.delta if event.type == "response.output_text.delta" else ""

        def message() -> Iterator[str]:
            greedy = {"temperature": 0}
            for event in theirs.messages.create(
                model="tiny", messages=said, max_tokens=1500, stream=True, extra_body=greedy
            ):
                yield (
                    event.delta.text if event.type == "content_block_delta" and event.delta.type == "text_delta" else ""
                )

        asked = [chat, response, message]
        streams = [ask() for ask in asked]
        begun = ["".join(next(stream) for _ in range(5)) for stream in streams]
        directory.endpoints["tiny"] = addresses
        started[0][0].send_signal(signal.SIGKILL)
        answers = [text + "".join(stream) for text, stream in zip(begun, streams, strict=True)]
        eventually(lambda: len(directory.lost) == len(asked))  # each was under way when the replica died
        directory.endpoints["tiny"] = addresses[1:]
        assert answers == ["".join(ask()) for ask in asked]
        eventually(lambda: len([row for row in directory.usage if row.status == "finished"]) == 6)
        assert all(len(answer) > 100 for answer in answers)


def test_a_frozen_replica_passes_its_stream_on_and_one_without_another_ends_it_with_an_error(
    tmp_path: Path,
) -> None:
    """No time limit of a request ends here: only missed health checks do."""
    patient = ReplicaTimeouts(connect_s=900, first_token_s=900, between_tokens_s=900)
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(context=4096))
    with ExitStack() as stack:
        started = [stack.enter_context(replica_process(tmp_path, name)) for name in ("a", "b")]
        addresses = [ReplicaAddress(id=str(i), url=url, token="t") for i, (_, url) in enumerate(started)]
        directory = MemoryDirectory({"tiny": addresses[:1]}, keys_required=False)
        base = stack.enter_context(gateway(directory, client=ReplicaClient(timeouts=patient)))
        client = openai.OpenAI(base_url=f"{base}/v1", api_key=KEY, max_retries=0, timeout=300)
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1500, "temperature": 0.8, "seed": 1}
        expected = "".join(
            part.choices[0].text for part in client.completions.create(**body, stream=True) if part.choices
        )
        pieces = iter(client.completions.create(**body, stream=True))
        text = next(pieces).choices[0].text
        directory.endpoints["tiny"] = addresses
        process = started[0][0]
        process.suspend()
        text += "".join(part.choices[0].text for part in pieces if part.choices)
        assert text == expected, "another replica continued it, without gap or repetition"
        directory.endpoints["tiny"] = addresses[:1]
        with pytest.raises(openai.InternalServerError, match="does not answer"):
            client.completions.create(model="tiny", prompt="x", max_tokens=3)
        process.resume()
        eventually(lambda: is_answered(client))  # once it has answered a health check
        pieces = iter(client.completions.create(**body, stream=True))
        next(pieces)
        process.suspend()
        try:
            with pytest.raises(openai.APIError, match="broke off"):
                list(pieces)
        finally:
            process.resume()


def is_answered(client: openai.OpenAI) -> bool:
    try:
        client.completions.create(model="tiny", prompt="x", max_tokens=3)
    except openai.InternalServerError:
        return False
    return True
