"""Answers of a required form, tools and reasoning: the official `openai` client against a gateway and a tiny
network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from backend.gateway.directory import ReplicaAddress
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway
from tests.support.networks.chat_styles import QWEN3
from tests.support.networks.serving_networks import make_llama, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica

QUESTION: list[Any] = [{"role": "user", "content": "Weather in Graz?"}]
DRAWN: dict[str, Any] = {"model": "tiny", "messages": QUESTION, "temperature": 1.0, "max_tokens": 120}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Graz", "Wien"]}, "days": {"type": "integer", "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {
    "type": "function",
    "function": {"name": "time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder: Path = tmp_path_factory.mktemp("replica")
    save_checkpoint(folder / "checkpoint", network=make_llama(context=2048), chat_template=QWEN3)
    running = RunningReplica(folder)
    directory = MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)]})
    with (
        gateway(directory) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=60) as client,
    ):
        yield client
    running.stop()


def test_every_answer_to_a_schema_is_valid_even_where_its_tokens_run_out(client: openai.OpenAI) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(**{**DRAWN, "n": 8, "seed": 1, "max_tokens": 70}, response_format=form)
    assert len(answer.choices) == 8
    for choice in answer.choices:
        pet = json.loads(choice.message.content or "")
        assert set(pet) == {"name", "age", "kind"}
        assert isinstance(pet["age"], int)
        assert pet["kind"] in ("cat", "dog")
        assert choice.finish_reason == "stop"


def test_json_objects_expressions_choices_and_grammars_are_kept_to(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**DRAWN, response_format={"type": "json_object"})
    assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    extra: list[tuple[dict[str, Any], str]] = [
        ({"response_format": {"type": "regex", "pattern": "[a-c]{4}-[0-9]+"}}, "[a-c]{4}-[0-9]+"),
        ({"structured_outputs": {"choice": ["red wine", "beer (cold)"]}}, r"red wine|beer \(cold\)"),
        ({"structured_outputs": {"grammar": 'start: "a" B\nB: /b+/'}}, "ab+"),
    ]
    for body, pattern in extra:
        text = (
            client.chat.completions.create(**{**DRAWN, "max_tokens": 40}, extra_body=body).choices[0].message.content
            or ""
        )
        assert re.fullmatch(pattern, text)
    completion = client.completions.create(
        model="tiny", prompt="x", max_tokens=30, extra_body={"structured_outputs": {"regex": "yes|no"}}
    )
    assert completion.choices[0].text in ("yes", "no")


@pytest.mark.parametrize(
    "form",
    [
        {"type": "regex", "pattern": "(("},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wizard"}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "multipleOf": 999_983}}},
    ],
    ids=["expression", "schema", "minutes to read"],
)
def test_a_form_that_cannot_be_read_is_refused_with_its_reason(client: openai.OpenAI, form: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="can't be enforced") as caught:
        client.chat.completions.create(**DRAWN, extra_body={"response_format": form})
    assert caught.value.param == "response_format"


def test_a_required_tool_is_called_with_valid_arguments_and_its_result_read(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**DRAWN, tools=[WEATHER, TIME], tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert answer.message.tool_calls is not None
    assert [call.function.name for call in answer.message.tool_calls] in (["weather"], ["time"])  # type: ignore[union-attr]
    named: Any = {"type": "function", "function": {"name": "weather"}}
    message = client.chat.completions.create(**DRAWN, tools=[WEATHER, TIME], tool_choice=named).choices[0].message
    assert message.tool_calls is not None
    call: Any = message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ("Graz", "Wien")
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    history = [*QUESTION, message.model_dump(exclude_none=True), result]
    again = client.chat.completions.create(**{**DRAWN, "messages": history, "max_tokens": 4}, tools=[WEATHER])
    bare = client.chat.completions.create(**{**DRAWN, "max_tokens": 4}, tools=[WEATHER])
    assert again.usage is not None
    assert bare.usage is not None
    assert again.usage.prompt_tokens > bare.usage.prompt_tokens + len(call.function.arguments)


NO_PARAMETERS: list[dict[str, Any]] = [{}, {"parameters": {}}, {"parameters": {"type": "object", "properties": {}}}]


@pytest.mark.parametrize("parameters", NO_PARAMETERS, ids=["none", "empty", "no properties"])
def test_a_tool_without_parameters_is_called_without_arguments(
    client: openai.OpenAI, parameters: dict[str, Any]
) -> None:
    function: Any = {"name": "now", **parameters}
    answer: Any = client.chat.completions.create(
        **DRAWN, seed=1, tools=[{"type": "function", "function": function}], tool_choice="required"
    )
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {}
    response: Any = client.responses.create(
        model="tiny", input="Time?", tools=[{"type": "function", **function}], tool_choice="required"
    )
    assert json.loads(response.output[-1].arguments) == {}


def test_a_tool_whose_schema_lists_no_properties_is_called_without_input(client: openai.OpenAI) -> None:
    body = {
        "model": "tiny",
        "max_tokens": 120,
        "messages": QUESTION,
        "tools": [{"name": "now", "input_schema": {"type": "object", "properties": {}}}],
        "tool_choice": {"type": "any"},
    }
    message: Any = client.post("/messages", body=body, cast_to=object)
    assert message["content"][-1]["input"] == {}


def test_a_streamed_call_joins_to_the_complete_one(client: openai.OpenAI) -> None:
    asked: Any = {**DRAWN, "seed": 4, "tools": [WEATHER], "tool_choice": "required"}
    expected: Any = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]  # type: ignore[index]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
    deltas = [delta for chunk in chunks for delta in chunk.delta.tool_calls or ()]
    assert deltas[0].id
    assert [delta.function.name for delta in deltas if delta.function and delta.function.name] == ["weather"]
    assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == expected.function.arguments
    assert len(deltas) > 3
    assert chunks[-1].finish_reason == "tool_calls"


def test_no_tool_is_offered_where_none_may_be_called(client: openai.OpenAI) -> None:
    short = {**DRAWN, "max_tokens": 1}
    plain, silent = (
        client.chat.completions.create(**short),
        client.chat.completions.create(**short, tools=[WEATHER], tool_choice="none"),
    )
    assert silent.usage is not None
    assert plain.usage is not None
    assert silent.usage.prompt_tokens == plain.usage.prompt_tokens


def test_reasoning_is_a_field_of_its_own(client: openai.OpenAI) -> None:
    # a template of Qwen 3 lets the network open its reasoning itself, here by a grammar
    form = {"structured_outputs": {"regex": "<think>\n[a-c]{3,9}\n</think>\n\n[x-z]{2,5}"}}
    answer: Any = client.chat.completions.create(**DRAWN, extra_body=form)
    message = answer.choices[0].message
    assert re.fullmatch("[x-z]{2,5}", message.content)
    assert re.fullmatch("[a-c]{3,9}", message.reasoning_content)
    assert answer.usage.completion_tokens_details.reasoning_tokens >= 3


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"choice": [f"option {number}" for number in range(50_000)]}, "at most 4,096 entries"),
        ({"choice": ["x" * 100] * 4000}, "characters; at most 200,000"),
        ({"json": DEEP}, "not JSON"),
        ({"json": "{"}, "not JSON"),
        ({"regex": "x" * 200_001}, "at most 200,000 characters"),
    ],
    ids=["choices", "long choices", "deep schema", "no schema", "expression"],
)
def test_a_form_beyond_its_bound_is_400_and_names_field_and_bound(client: openai.OpenAI, form: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        client.chat.completions.create(**DRAWN, extra_body={"structured_outputs": form})
    assert str(caught.value.param).startswith("structured_outputs")
