"""Fields of bodies: each one that is known reaches the replica, one that changes nothing is accepted, and any other is
refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from backend.domain.serving.key_limits import KeyLimits
from backend.gateway.directory import Principal, ReplicaAddress
from tests.support.gateway_fixtures import KEY, MemoryDirectory, ScriptedReplica, gateway, scripted

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@dataclass
class Scene:
    url: str
    directory: MemoryDirectory
    replica: ScriptedReplica

    def ask(self, path: str = "chat/completions", *, key: str = KEY, **body: Any) -> httpx2.Response:
        subject = (
            {"prompt": "Hi"}
            if path in ("completions", "tokenize")
            else {"messages": [{"role": "user", "content": "Hi"}]}
        )
        subject = {"input": "Hi"} if path == "embeddings" else subject
        return httpx2.post(
            f"{self.url}/v1/{path}",
            json={"model": "small", **subject, **body},
            headers={"Authorization": f"Bearer {key}"},
        )


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with scripted() as (replica, url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=url, token="t", fingerprint="fp_abc")]})
        with gateway(directory) as gateway_url:
            yield Scene(gateway_url, directory, replica)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    ("body", "params"),
    [
        ({"min_p": 0.1}, {"min_p": 0.1}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
        ({"min_tokens": 3, "max_tokens": 9}, {"min_tokens": 3}),
        ({"stop_token_ids": [5, 6]}, {"stop_token_ids": [5, 6]}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"stop": list("abcdefgh")}, {"stop": list("abcdefgh")}),
        (
            {"guided_json": SCHEMA},
            {
                "constraint": {
                    "kind": "json_schema",
                    "value": '{"type": "object", "properties": {"a": {"type": "integer"}}}',
                }
            },
        ),
        ({"guided_choice": ["yes", "no"]}, {"constraint": {"kind": "regex", "value": "(?:yes)|(?:no)"}}),
        ({"guided_regex": "a+"}, {"constraint": {"kind": "regex", "value": "a+"}}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_field_reaches_the_replica(scene: Scene, path: str, body: dict[str, Any], params: dict[str, Any]) -> None:
    assert scene.ask(path, **body).status_code == 200
    sent = scene.replica.bodies[-1]["params"]
    assert {name: sent[name] for name in params} == params


def test_variables_of_the_chat_template_and_the_effort_reach_the_replica(scene: Scene) -> None:
    assert scene.ask(chat_template_kwargs={"enable_thinking": False}, reasoning_effort="low").status_code == 200
    assert scene.replica.bodies[-1]["template_variables"] == {"enable_thinking": False}
    assert scene.replica.bodies[-1]["effort"] == "low"


@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings", "tokenize"])
@pytest.mark.parametrize(
    "body",
    [
        {"guided_jsn": SCHEMA},
        {"use_beam_search": True},
        {"length_penalty": 0.8},
        {"best_of": 2},
        {"suffix": "end"},
        {"functions": []},
        {"typical_p": 0.9},
        {"truncate_prompt_tokens": 10},
        {"stream_options": {"continuous_usage_stats": True}},
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_a_field_that_is_not_served_is_refused_by_name(scene: Scene, path: str, body: dict[str, Any]) -> None:
    name = next(iter(body))
    seen = scene.replica.seen
    refused = scene.ask(path, **body)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["type"]) == (400, "unknown_parameter", "invalid_request_error")
    assert error["param"].startswith(name)
    assert name in error["message"]
    assert scene.replica.seen == seen


@pytest.mark.parametrize(
    ("written", "meant"), [("max_tokenz", "max_tokens"), ("temprature", "temperature"), ("maxTokens", "max_tokens")]
)
def test_a_misspelt_field_is_refused_with_the_one_that_may_be_meant(scene: Scene, written: str, meant: str) -> None:
    assert f"or is it {meant}?" in scene.ask("completions", **{written: 5}).json()["error"]["message"]


def test_the_usual_verbosity_of_a_chat_is_accepted_and_another_refused(scene: Scene) -> None:
    assert scene.ask("chat/completions", verbosity="medium").status_code == 200
    assert scene.ask("chat/completions", verbosity="low").json()["error"]["param"] == "verbosity"


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_fields_that_change_nothing_are_accepted(scene: Scene, path: str) -> None:
    harmless = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "client_metadata": {"a": "b"},
        "service_tier": "auto",
        "safety_identifier": "x",
        "prompt_cache_key": "k",
    }
    neutral = {
        "best_of": 1,
        "use_beam_search": False,
        "length_penalty": 1.0,
        "skip_special_tokens": True,
        "suffix": None,
        "functions": None,
    }
    assert scene.ask(path, **harmless, **neutral, stream_options=None, guided_json=None).status_code == 200


def test_a_continued_message_may_say_that_no_turn_begins(scene: Scene) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
    assert scene.ask(messages=messages, continue_final_message=True, add_generation_prompt=False).status_code == 200
    assert (
        scene.ask(messages=messages, continue_final_message=True, add_generation_prompt=True).json()["error"]["param"]
        == "add_generation_prompt"
    )
    assert scene.ask(add_generation_prompt=True).status_code == 200


def test_each_answer_names_its_request_and_what_made_it(scene: Scene) -> None:
    whole = scene.ask()
    assert (
        whole.headers["x-request-id"]
        == whole.json()["id"]
        == scene.directory.wait_for(lambda row: row.id == whole.json()["id"]).id
    )
    assert whole.json()["system_fingerprint"] == "fp_abc"
    streamed = scene.ask(stream=True)
    assert f'"id":"{streamed.headers["x-request-id"]}"' in streamed.text
    assert '"system_fingerprint":"fp_abc"' in streamed.text
    others = [
        scene.ask(key="wrong"),
        scene.ask(nonsense=1),
        httpx2.get(f"{scene.url}/v1/nowhere"),
        httpx2.get(f"{scene.url}/health"),
        httpx2.get(f"{scene.url}/health", headers={"Host": "evil.example"}),
    ]
    ids = [answer.headers["x-request-id"] for answer in others]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{24}", ids.pop(1)), "it is stored under its id, with the code of its refusal"
    assert all(re.fullmatch(r"req-[0-9a-f]{24}", id_) for id_ in ids)
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_headers_tell_what_is_left_of_a_keys_limits(scene: Scene, stream: bool) -> None:
    key = f"limited-{stream}"
    scene.directory.principals[key] = Principal(key_id=key, name=key, limits=KeyLimits(requests=3, tokens=60))
    first = scene.ask(key=key, max_tokens=10, stream=stream).headers
    assert (
        first["x-ratelimit-limit-requests"],
        first["x-ratelimit-remaining-requests"],
        first["x-ratelimit-reset-requests"],
    ) == (
        "3",
        "2",
        "60s",
    )
    assert first["x-ratelimit-limit-tokens"] == "60"
    assert 10 <= int(first["x-ratelimit-remaining-tokens"]) <= 49  # the prompt at its estimate, and max_tokens
    refused = scene.ask(key=key, max_tokens=100, stream=stream)
    assert refused.status_code == 400, "no wait lets it through"
    assert int(refused.headers["x-ratelimit-remaining-tokens"]) < 60
    assert refused.headers["x-ratelimit-reset-tokens"].endswith("s")
    assert "x-ratelimit-limit-requests" not in scene.ask().headers  # this key has no limits


@pytest.mark.parametrize("key", ["ollama", "sk-no-key-required", "lm-studio", "DUMMY_KEY", "EMPTY"])
def test_placeholder_keys_are_accepted_where_no_key_is_required(key: str) -> None:
    with scripted() as (_, url):
        directory = MemoryDirectory({"small": [ReplicaAddress(id="r", url=url, token="t")]}, keys_required=False)
        with gateway(directory) as address:
            scene = Scene(address, directory, ScriptedReplica())
            assert scene.ask(key=key).status_code == 200
            assert directory.last(1).key_id is None
            assert scene.ask(key="sk-mistyped").status_code == 401
            directory.keys_required = True
            assert scene.ask(key=key).status_code == 401


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"temperature": "hot"}, 'temperature: must be a number, not "hot"'),
        ({"temperature": 9}, "temperature: must be at most 2, not 9"),
        ({"max_tokens": -1}, "max_tokens: must be at least 1, not -1"),
        ({"messages": "hello"}, 'messages: must be a list, not "hello"'),
        ({"messages": []}, "messages: must have at least 1 entry"),
        ({"stream": "perhaps"}, 'stream: must be true or false, not "perhaps"'),
    ],
)
def test_what_is_wrong_with_a_field_is_told_in_words(scene: Scene, body: dict[str, Any], message: str) -> None:
    assert scene.ask(**body).json()["error"]["message"] == message
