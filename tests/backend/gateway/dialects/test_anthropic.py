"""`/v1/messages` by the official `anthropic` client: whole and streamed answers, tools, forms, counts and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.support.gateway_fixtures import KEY
from tests.support.serving.api_place import Place

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Graz"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL: dict[str, Any] = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
GREEDY: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 20, "extra_body": {"temperature": 0}}


@pytest.fixture
def client(place: Place) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=place.url, api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def chat(place: Place, messages: list[Any], **options: Any) -> Any:
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        return client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=20, **options)


def test_a_message_is_that_of_the_chat_with_usage_and_log(client: anthropic.Anthropic, place: Place) -> None:
    said = [{"role": "system", "content": "Be brief."}, *HELLO]
    expected = chat(place, said)
    message = client.messages.create(**GREEDY, system="Be brief.")
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text == expected.choices[0].message.content  # type: ignore[union-attr]
    assert (message.stop_reason, message.stop_sequence, message.role, message.model) == (
        "max_tokens",
        None,
        "assistant",
        "tiny",
    )
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == expected.usage.prompt_tokens
    assert message.usage.output_tokens == 20
    row = place.directory.wait_for(lambda row: row.id == message.id)
    assert (row.status, row.key_id, row.completion_tokens) == ("finished", "k1", 20)
    assert row.ttft_ms is not None
    assert row.logged is not None
    assert row.logged.messages == said
    parts = client.messages.create(
        **{**GREEDY, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    )
    assert parts.content == message.content


def test_a_stream_has_anthropics_events_in_order_and_the_same_answer(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**GREEDY)
    events = list(client.messages.create(**GREEDY, stream=True))
    kinds = [event.type for event in events if event.type != "content_block_delta"]
    assert kinds == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
    assert events[0].message.usage.input_tokens > 0  # type: ignore[union-attr]
    assert events[-2].usage.output_tokens == 20  # type: ignore[union-attr]
    with client.messages.stream(**GREEDY) as stream:  # the client's own reader of the events
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text  # type: ignore[union-attr]
    assert (final.content[0].text, final.stop_reason) == (text, whole.stop_reason)  # type: ignore[union-attr]


def test_a_tool_is_called_and_the_answer_goes_on_with_its_result(client: anthropic.Anthropic, place: Place) -> None:
    asked: dict[str, Any] = {
        **GREEDY,
        "max_tokens": 60,
        "tools": [TOOL],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    }
    message = client.messages.create(**asked)
    use: Any = next(block for block in message.content if block.type == "tool_use")
    assert (use.name, use.input, message.stop_reason) == ("weather", {"city": "Graz"}, "tool_use")
    with client.messages.stream(**asked) as stream:
        pieces = [
            event.delta.partial_json
            for event in stream
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta"
        ]
        streamed: Any = next(block for block in stream.get_final_message().content if block.type == "tool_use")
    assert json.loads("".join(pieces)) == streamed.input == use.input
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "12 degrees"}]}
    history: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    after = client.messages.create(**{**GREEDY, "messages": history}, tools=[TOOL])  # type: ignore[list-item]
    call = {"id": use.id, "type": "function", "function": {"name": "weather", "arguments": json.dumps(use.input)}}
    said: list[Any] = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": use.id, "content": "12 degrees"},
    ]
    function = {"name": "weather", "description": "The weather.", "parameters": SCHEMA}
    expected = chat(place, said, tools=[{"type": "function", "function": function}])
    assert "".join(block.text for block in after.content if block.type == "text") == (
        expected.choices[0].message.content or ""
    )
    named = client.messages.create(**{**asked, "tool_choice": {"type": "tool", "name": "weather"}})
    assert named.stop_reason == "tool_use"


def test_the_sequence_that_stopped_an_answer_is_named(client: anthropic.Anthropic) -> None:
    text: str = client.messages.create(**GREEDY).content[0].text  # type: ignore[union-attr]
    stop = next(character for character in text[2:] if character.isprintable() and character != "\ufffd")
    message = client.messages.create(**GREEDY, stop_sequences=["zzz", stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    assert text.startswith("".join(block.text for block in message.content if block.type == "text"))
    with client.messages.stream(**GREEDY, stop_sequences=[stop]) as stream:
        assert stream.get_final_message().stop_sequence == stop


def test_an_answer_has_the_form_of_a_schema(client: anthropic.Anthropic) -> None:
    message = client.messages.create(
        **{**GREEDY, "max_tokens": 60}, output_config={"format": {"type": "json_schema", "schema": SCHEMA}}
    )
    assert json.loads(message.content[0].text) == {"city": "Graz"}  # type: ignore[union-attr]


def test_the_last_message_of_the_assistant_is_continued(client: anthropic.Anthropic, place: Place) -> None:
    begun: list[Any] = [*HELLO, {"role": "assistant", "content": "Well"}]
    expected = chat(place, begun, extra_body={"continue_final_message": True})
    assert (
        client.messages.create(**{**GREEDY, "messages": begun}).content[0].text == expected.choices[0].message.content
    )  # type: ignore[union-attr]
    with pytest.raises(anthropic.BadRequestError, match="messages"):
        client.messages.create(**{**GREEDY, "messages": begun}, tools=[TOOL])  # type: ignore[list-item]


def test_tokens_are_counted_as_an_answer_counts_them(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="tiny", messages=HELLO, system="Be brief.", tools=[TOOL])  # type: ignore[list-item]
    usage = client.messages.create(**GREEDY, system="Be brief.", tools=[TOOL]).usage  # type: ignore[list-item]
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_anthropics(client: anthropic.Anthropic, place: Place) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**GREEDY, "model": "nope"})
    assert missing.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    with (
        anthropic.Anthropic(base_url=place.url, api_key="wrong", max_retries=0) as wrong,
        pytest.raises(anthropic.AuthenticationError),
    ):
        wrong.messages.create(**GREEDY)
    with (
        anthropic.Anthropic(base_url=place.url, api_key="texts", max_retries=0) as narrow,
        pytest.raises(anthropic.PermissionDeniedError),
    ):
        narrow.messages.create(**GREEDY)
    with anthropic.Anthropic(base_url=place.url, auth_token=KEY, max_retries=0) as bearer:
        assert bearer.messages.create(**GREEDY).content
    with pytest.raises(anthropic.BadRequestError, match="2048"):
        client.messages.create(**{**GREEDY, "messages": [{"role": "user", "content": "x" * 3000}]})
    place.scripted.script = "error:engine_failed"
    with pytest.raises(anthropic.APIError, match="scripted"):
        list(client.messages.create(**{**GREEDY, "model": "scripted"}, stream=True))
    headers = {"x-api-key": KEY, "anthropic-version": "next"}
    refused = httpx2.post(
        f"{place.url}/v1/messages", json={"model": "tiny", "messages": HELLO, "max_tokens": 1}, headers=headers
    )
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "invalid_request_error")
    assert refused.headers["request-id"] == refused.headers["x-request-id"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "none"}}, "tool_choice"),
        ({"container": "c"}, "container"),
        (
            {"extra_body": {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}},
            "context_management",
        ),
        ({"extra_body": {"mcp_servers": []}}, "mcp_servers"),
        ({"extra_body": {"temperature": 1.5}}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_is_not_served_is_refused_by_name(client: anthropic.Anthropic, change: dict[str, Any], field: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=field):
        client.messages.create(**{**GREEDY, **change})
