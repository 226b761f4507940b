"""`/v1/responses` by the official `openai` client: whole and streamed answers, tools, forms, and state by account."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.support.gateway_fixtures import KEY
from tests.support.serving.api_place import Place

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Graz"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FORM = {"name": "place", "schema": SCHEMA, "strict": True}
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "weather",
    "description": "The weather.",
    "parameters": SCHEMA,
    "strict": True,
}
GREEDY: dict[str, Any] = {"model": "tiny", "input": "Hello", "temperature": 0, "max_output_tokens": 20}


@pytest.fixture
def client(place: Place) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{place.url}/v1", api_key=KEY, max_retries=0, timeout=60) as client:
        yield client


def client_of(place: Place, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{place.url}/v1", api_key=key, max_retries=0, timeout=60)


def test_a_response_is_that_of_the_chat_with_usage_and_log(client: openai.OpenAI, place: Place) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=20)
    response = client.responses.create(**GREEDY, instructions="Be brief.", metadata={"a": "b"})
    assert response.output_text == chat.choices[0].message.content
    assert (response.status, response.incomplete_details and response.incomplete_details.reason) == (
        "incomplete",
        "max_output_tokens",
    )
    assert response.usage is not None
    assert chat.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (chat.usage.prompt_tokens, 20)
    assert (response.metadata, response.model, response.object) == ({"a": "b"}, "tiny", "response")
    row = place.directory.wait_for(lambda row: row.id == response.id)
    assert (row.status, row.key_id, row.completion_tokens) == ("finished", "k1", 20)
    assert row.ttft_ms is not None
    assert row.logged is not None
    assert row.logged.messages == messages
    assert row.logged.answer == response.output_text


def test_a_stream_has_openais_events_in_order_and_the_same_answer(client: openai.OpenAI) -> None:
    whole = client.responses.create(**GREEDY)
    events = list(client.responses.create(**GREEDY, stream=True))
    kinds = [event.type for event in events]
    middle = [kind for kind in kinds if kind != "response.output_text.delta"]
    assert middle == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage


def test_the_clients_own_reader_of_a_stream_gets_the_whole_response(client: openai.OpenAI) -> None:
    with client.responses.stream(
        **{**GREEDY, "max_output_tokens": 60}, text={"format": {"type": "json_schema", **FORM}}
    ) as stream:  # type: ignore[arg-type]
        kinds = {event.type for event in stream}
        assert json.loads(stream.get_final_response().output_text) == {"city": "Graz"}
    assert "response.completed" in kinds


def test_a_tool_is_called_and_the_answer_goes_on_with_its_result(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        **GREEDY,
        "tools": [TOOL],
        "tool_choice": "required",
        "max_output_tokens": 60,
        "parallel_tool_calls": False,
    }
    response = client.responses.create(**asked)
    call = next(item for item in response.output if item.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Graz"})
    assert response.status == "completed"
    events = list(client.responses.create(**asked, stream=True))
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert "".join(deltas) == done.arguments == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    after = client.responses.create(**{**GREEDY, "input": [result]}, previous_response_id=response.id, tools=[TOOL])  # type: ignore[list-item]
    history: list[Any] = [{"role": "user", "content": "Hello"}, *response.output, result]
    stateless = client.responses.create(**{**GREEDY, "input": history}, tools=[TOOL], store=False)  # type: ignore[list-item]
    assert after.output_text == stateless.output_text
    assert after.usage == stateless.usage or after.usage.input_tokens == stateless.usage.input_tokens  # type: ignore[union-attr]
    chosen = client.responses.create(**{**asked, "tool_choice": {"type": "function", "name": "weather"}})
    assert any(item.type == "function_call" for item in chosen.output)


def test_an_answer_has_the_form_of_a_schema(client: openai.OpenAI) -> None:
    text: Any = {"format": {"type": "json_schema", **FORM}}
    response = client.responses.create(**{**GREEDY, "max_output_tokens": 60}, text=text)
    assert json.loads(response.output_text) == {"city": "Graz"}


def test_probabilities_are_those_of_the_chat(client: openai.OpenAI) -> None:
    response = client.responses.create(**GREEDY, include=["message.output_text.logprobs"], top_logprobs=2)
    part: Any = response.output[0].content[0]  # type: ignore[union-attr,index]
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Hello"}],
        temperature=0,
        max_tokens=20,
        logprobs=True,
        top_logprobs=2,
    )
    assert chat.choices[0].logprobs is not None
    assert [entry.logprob for entry in part.logprobs] == [
        entry.logprob for entry in chat.choices[0].logprobs.content or []
    ]
    assert all(len(entry.top_logprobs) == 2 for entry in part.logprobs)


def test_a_conversation_is_continued_by_the_id_of_its_last_response(client: openai.OpenAI) -> None:
    first = client.responses.create(**GREEDY)
    second = client.responses.create(**{**GREEDY, "input": "And then?"}, previous_response_id=first.id)
    third = client.responses.create(
        **{**GREEDY, "input": "And last?"}, previous_response_id=second.id, instructions="Be brief."
    )
    said: list[Any] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": second.output_text},
        {"role": "user", "content": "And last?"},
    ]
    chat = client.chat.completions.create(model="tiny", messages=said, temperature=0, max_tokens=20)
    assert third.output_text == chat.choices[0].message.content
    assert client.responses.retrieve(third.id).output_text == third.output_text
    items = list(client.responses.input_items.list(third.id))
    assert len(items) == 5
    client.responses.delete(second.id)
    for gone in (second.id, third.id):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**GREEDY, previous_response_id=gone)
        assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


def test_a_response_is_its_accounts_alone(client: openai.OpenAI, place: Place) -> None:
    with client_of(place, "other") as owner, client_of(place, "colleague") as colleague:
        response = owner.responses.create(**GREEDY)
        assert colleague.responses.retrieve(response.id).id == response.id  # another key of the same account
        assert colleague.responses.create(**GREEDY, previous_response_id=response.id).output_text
    absent = []
    for name in (response.id, "resp_none"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**GREEDY, previous_response_id=name)
        absent.append(str(caught.value).replace(name, "ID"))
        for act in (client.responses.retrieve, client.responses.delete):
            with pytest.raises(openai.NotFoundError):
                act(name)
    assert absent[0] == absent[1]  # nobody learns which ids there are


def test_what_is_not_to_be_stored_is_not(client: openai.OpenAI, place: Place) -> None:
    response = client.responses.create(**GREEDY, store=False)
    assert response.id not in place.directory.responses
    assert client.responses.create(**GREEDY).id in place.directory.responses
    place.directory.keeps_responses = False
    try:
        assert client.responses.create(**GREEDY).store is False  # type: ignore[attr-defined]
        for change in ({"store": True}, {"previous_response_id": "resp_1"}):
            with pytest.raises(openai.BadRequestError, match="ROUNDHOUSE_KEEP_RESPONSES_DAYS"):
                client.responses.create(**GREEDY, **change)
    finally:
        place.directory.keeps_responses = True
    place.directory.fails = True
    try:
        response = client.responses.create(**GREEDY)
        assert response.output_text
        assert response.store is False  # type: ignore[attr-defined]
    finally:
        place.directory.fails = False


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"min_q": 0.1}}, "min_q"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"input": []}, "input"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_what_is_not_served_is_refused_by_name(client: openai.OpenAI, change: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{**GREEDY, **change})
    assert str(caught.value.param).startswith(field)


def test_keys_scopes_and_limits_hold_as_for_chats(place: Place) -> None:
    with client_of(place, "texts") as narrow, pytest.raises(openai.PermissionDeniedError):
        narrow.responses.create(**GREEDY)
    with client_of(place, "wrong") as wrong, pytest.raises(openai.AuthenticationError):
        wrong.responses.create(**GREEDY)
    with client_of(place, "once") as once:
        first = once.responses.with_raw_response.create(**GREEDY)
        assert first.headers["x-ratelimit-remaining-requests"] == "0"
        assert first.headers["x-request-id"] == first.parse().id
        with pytest.raises(openai.RateLimitError):
            once.responses.create(**GREEDY)


def test_an_answer_that_breaks_off_ends_as_failed(client: openai.OpenAI, place: Place) -> None:
    place.scripted.script = "error:engine_failed"
    events = list(client.responses.create(**{**GREEDY, "model": "scripted"}, stream=True))
    last = events[-1]
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.output_text == "w0 w1 w2 "
    with pytest.raises(openai.InternalServerError):
        client.responses.create(**{**GREEDY, "model": "scripted"})
    assert (
        "engine_failed"
        in httpx2.post(
            f"{place.url}/v1/responses",
            json={**GREEDY, "model": "scripted"},
            headers={"Authorization": f"Bearer {KEY}"},
        ).text
    )
