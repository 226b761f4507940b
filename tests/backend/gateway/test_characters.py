"""Characters of several tokens, as clients see them: a network whose tokenizer writes most characters as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from backend.gateway.directory import ReplicaAddress
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway
from tests.support.networks.serving_networks import make_byte_fallback_tokenizer, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("replica")
    save_checkpoint(folder / "checkpoint", chat_template=None)
    make_byte_fallback_tokenizer().save_pretrained(folder / "checkpoint")
    running = RunningReplica(folder)
    directory = MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)]})
    with (
        gateway(directory) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as client,
    ):
        yield client
    running.stop()


def _smile(client: openai.OpenAI, max_tokens: int, **changes: Any) -> Any:
    return client.completions.create(
        model="tiny",
        prompt="a🙂",
        max_tokens=max_tokens,
        extra_body={"structured_outputs": {"regex": "🙂🙂🙂🙂"}},
        **changes,
    )


@pytest.mark.parametrize(("max_tokens", "text"), [(2, "�"), (6, "🙂�"), (8, "🙂🙂"), (9, "🙂🙂�")])
def test_an_answer_cut_within_a_character_keeps_those_before_it(
    client: openai.OpenAI, max_tokens: int, text: str
) -> None:
    whole = _smile(client, max_tokens).choices[0]
    assert (whole.text, whole.finish_reason) == (text, "length")
    assert "".join(chunk.choices[0].text for chunk in _smile(client, max_tokens, stream=True)) == text


def test_an_echo_and_its_offsets_count_characters(client: openai.OpenAI) -> None:
    whole = _smile(client, 6, echo=True, logprobs=0).choices[0]
    chunks = [chunk.choices[0] for chunk in _smile(client, 6, echo=True, logprobs=0, stream=True)]
    assert whole.text == "".join(chunk.text for chunk in chunks) == "a🙂🙂�"
    offsets = [offset for chunk in chunks if chunk.logprobs for offset in chunk.logprobs.text_offset]
    assert whole.logprobs.text_offset == offsets == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3]
