"""The official `openai` client, unchanged, against a real gateway and a real replica of a tiny network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from backend.domain.serving.upstream import Upstream
from backend.gateway.directory import ReplicaAddress
from jobs.modeling.checkpoints import load_network
from tests.support.gateway_fixtures import KEY, MemoryDirectory, eventually, gateway
from tests.support.networks.serving_networks import END_ID, make_llama, make_tokenizer, save_adapter, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica

HELLO: list[Any] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
GREEDY: dict[str, Any] = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 20}
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "look"}}


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    folder: Path = tmp_path_factory.mktemp("replica")
    network = make_llama(context=2048)
    with torch.no_grad():
        network.lm_head.weight[END_ID] = 0  # never the most likely token, so a greedy answer runs to its limit
    save_checkpoint(folder / "checkpoint", network=network)
    running = RunningReplica(folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def directory(replica: RunningReplica) -> MemoryDirectory:
    return MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=replica.url, token=TOKEN)], "asleep": []})


@pytest.fixture(scope="module")
def url(directory: MemoryDirectory) -> Iterator[str]:
    with gateway(directory) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def test_models_are_listed_and_shown(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "asleep"]
    assert client.models.retrieve("tiny").owned_by == "roundhouse"


def test_a_chat_is_answered_with_usage_and_timings(client: openai.OpenAI) -> None:
    began = time.monotonic()
    answer = client.chat.completions.create(**GREEDY)
    took_ms = (time.monotonic() - began) * 1000
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model_extra is not None
    assert 0 < answer.model_extra["timings"]["ttft_ms"] < took_ms


def test_tools_that_a_model_without_a_chat_template_is_not_offered_are_named(tmp_path: Path) -> None:
    """They were left out without a word, as if the model had decided against them."""
    save_checkpoint(tmp_path / "checkpoint", network=make_llama(context=2048), chat_template=None)
    running = RunningReplica(tmp_path)
    function = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"enum": ["fox"]}}}}
    asked: dict[str, Any] = {**GREEDY, "tools": [{"type": "function", "function": function}]}
    said = (
        "The model has no chat template, so tool_choice auto offers it no tools; required does.",
        "x-roundhouse-warning",
    )
    with (
        gateway(MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)]})) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=120) as client,
    ):
        create = client.chat.completions.with_raw_response.create
        plain = create(**asked)
        assert plain.headers[said[1]] == said[0]
        assert plain.parse().model_extra["warnings"] == [said[0]]
        streamed = create(**asked, stream=True)
        assert streamed.headers[said[1]] == said[0]
        assert [one.model_extra["warnings"] for one in streamed.parse() if "warnings" in one.model_extra] == [[said[0]]]
        for choice in ("required", "none"):
            other = create(**asked, tool_choice=choice)
            assert said[1] not in other.headers
            assert "warnings" not in other.parse().model_extra
    running.stop()


def test_a_streamed_chat_equals_the_complete_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY)
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


def test_a_stream_without_the_option_carries_no_usage_and_ends_with_done(url: str) -> None:
    body = {**GREEDY, "stream": True}
    text = httpx2.post(
        f"{url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=120
    ).text
    assert text.endswith("data: [DONE]\n\n")
    assert '"usage"' not in text


def test_text_completions_take_text_and_token_ids(client: openai.OpenAI) -> None:
    params: dict[str, Any] = {"model": "tiny", "temperature": 0, "max_tokens": 8}
    text = client.completions.create(prompt="Once", **params)
    listed = client.completions.create(prompt=["Once"], **params)
    streamed = "".join(c.choices[0].text for c in client.completions.create(prompt="Once", stream=True, **params))
    assert text.choices[0].text == listed.choices[0].text == streamed
    assert client.completions.create(prompt=[40, 41], **params).usage.prompt_tokens == 2  # type: ignore[union-attr]


def test_stop_and_seed_reach_the_engine(client: openai.OpenAI) -> None:
    drawn = {**GREEDY, "temperature": 1.0, "seed": 5, "max_tokens": 60}
    one, two = (client.chat.completions.create(**drawn).choices[0].message.content for _ in range(2))
    assert one == two
    assert one
    stop = next(char for char in one[1:] if char.isprintable() and char != "\ufffd")
    stopped = client.chat.completions.create(**drawn, stop=stop).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == one.split(stop)[0]


def test_repetitions_have_seeds_of_their_own_and_one_usage(client: openai.OpenAI) -> None:
    drawn = {**GREEDY, "temperature": 1.0, "seed": 5, "n": 3}
    answer = client.chat.completions.create(**drawn)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts[0] == client.chat.completions.create(**{**drawn, "n": 1}).choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 60
    pieces: dict[int, str] = {}
    for chunk in client.chat.completions.create(**drawn, stream=True):
        for choice in chunk.choices:
            pieces[choice.index] = pieces.get(choice.index, "") + (choice.delta.content or "")
    assert [pieces[number] for number in range(3)] == texts


def test_chat_probabilities_are_those_of_the_network(client: openai.OpenAI, replica: RunningReplica) -> None:
    answer = client.chat.completions.create(
        **{**GREEDY, "max_tokens": 6}, logprobs=True, top_logprobs=3, logit_bias={"65": -100}
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content or []
    assert len(content) == 6
    for token in content:
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert token.logprob == token.top_logprobs[0].logprob
        assert token.bytes
    assert (
        "".join(bytes(token.bytes or []).decode(errors="replace") for token in content)[:3]
        == (answer.choices[0].message.content or "")[:3]
    )


def test_echo_returns_the_prompt_with_its_log_likelihoods(client: openai.OpenAI, replica: RunningReplica) -> None:
    ids = [72, 101, 108, 108, 111, 5, 9]
    network = AutoModelForCausalLM.from_pretrained(replica.folder / "checkpoint")
    with torch.no_grad():
        scores = torch.log_softmax(network(torch.tensor([ids])).logits[0], dim=-1)
    answer = client.completions.create(model="tiny", prompt=[ids, [72, 101]], max_tokens=0, logprobs=2, echo=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.token_logprobs[0] is None
    expected = [float(scores[i - 1, ids[i]]) for i in range(1, len(ids))]
    assert logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-5)
    assert logprobs.top_logprobs is not None
    assert max(logprobs.top_logprobs[1].values()) == pytest.approx(float(scores[0].max()), abs=1e-5)
    assert [choice.index for choice in answer.choices] == [0, 1]
    spoken = (
        client.completions.create(model="tiny", prompt="Hello", max_tokens=3, temperature=0, echo=True).choices[0].text
    )
    assert (
        spoken
        == "Hello"
        + client.completions.create(model="tiny", prompt="Hello", max_tokens=3, temperature=0).choices[0].text
    )


def test_a_repeated_prompt_is_read_from_the_cache_and_counted(client: openai.OpenAI) -> None:
    long = {**GREEDY, "messages": [{"role": "user", "content": "Once upon a time " * 30}], "max_tokens": 2}
    client.chat.completions.create(**long)
    usage = client.chat.completions.create(**long).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert 256 <= (usage.prompt_tokens_details.cached_tokens or 0) < usage.prompt_tokens


def test_embeddings_have_length_one_and_the_same_text_the_same_vector(client: openai.OpenAI) -> None:
    # the client asks for base64 by itself
    answer = client.embeddings.create(model="tiny", input=["a cat", "a dog", "a cat"])
    first, second, third = (torch.tensor(entry.embedding) for entry in answer.data)
    assert torch.allclose(first.norm(), torch.tensor(1.0), atol=1e-4)
    assert torch.equal(first, third)
    assert not torch.allclose(first, second)
    plain = client.embeddings.create(model="tiny", input="a cat", encoding_format="float")
    assert torch.allclose(first, torch.tensor(plain.data[0].embedding), atol=1e-6)
    assert plain.usage.prompt_tokens == 5


def test_tokenize_counts_a_prompt_as_a_completion_does(client: openai.OpenAI, url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    tokens = httpx2.post(f"{url}/v1/tokenize", json={"model": "tiny", "messages": HELLO}, headers=headers).json()
    usage = client.chat.completions.create(**{**GREEDY, "max_tokens": 1}).usage
    assert usage is not None
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]) == usage.prompt_tokens
    assert tokens["token_strs"][0] == "<|system|>"
    assert httpx2.post(f"{url}/v1/tokenize", json={"model": "tiny"}, headers=headers).status_code == 400


def test_a_wrong_or_missing_key_is_401(url: str) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        openai.OpenAI(base_url=f"{url}/v1", api_key="rh-wrong", max_retries=0).models.list()
    assert caught.value.code == "invalid_api_key"
    assert "rh-wrong" not in str(caught.value)
    for path in ("/v1/models", "/metrics"):
        assert httpx2.get(url + path).status_code == 401


def test_an_unknown_model_is_404(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**{**GREEDY, "model": "nope"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"n": 129}, "n"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a"] * 65}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages.0.role"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"extra_body": {"min_p": 1.5}}, "min_p"),
        ({"extra_body": {"min_tokens": 30}}, "min_tokens"),
        ({"extra_body": {"min_tokens": 3, "guided_regex": "a+"}}, "min_tokens"),
        ({"extra_body": {"repetition_penalty": 0}}, "repetition_penalty"),
        ({"extra_body": {"stop_token_ids": [260]}}, "stop_token_ids"),
        ({"extra_body": {"guided_json": "{"}}, "guided_json"),
        ({"extra_body": {"guided_choice": []}}, "guided_choice"),
        ({"extra_body": {"chat_template_kwargs": {"enable_thinkng": True}}}, "chat_template_kwargs.enable_thinkng"),
        ({"extra_body": {"chat_template_kwargs": {"messages": []}}}, "chat_template_kwargs.messages"),
        ({"extra_body": {"add_generation_prompt": False}}, "add_generation_prompt"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"model": None}, "model"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_bad_body_is_400_and_names_the_field(client: openai.OpenAI, change: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**GREEDY, **change})
    error: Any = caught.value.body
    assert error["param"] is not None
    assert error["param"].startswith(field)
    assert field in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_tokens": True}, "max_tokens: must be a whole number, not true"),
        ({"max_tokens": "5"}, 'max_tokens: must be a whole number, not "5"'),
        ({"temperature": "hot"}, 'temperature: must be a number, not "hot"'),
        ({"temperature": True}, "temperature: must be a number, not true"),
        ({"stream": "yes"}, 'stream: must be true or false, not "yes"'),
        ({"logprobs": 1}, "logprobs: must be true or false, not 1"),
        ({"logit_bias": {"abc": 1}}, "logit_bias.abc: must be a whole number"),
        ({"tools": [TOOL, TOOL]}, "tools: two tools are named 'look'; give each a name of its own"),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused(url: str, change: dict[str, Any], message: str) -> None:
    response = _post(url, "chat/completions", {**GREEDY, **change})
    error = response.json()["error"]
    assert (response.status_code, error["message"], error["param"]) == (400, message, message.partition(":")[0])


@pytest.mark.parametrize("path", ["responses", "messages"])
def test_two_tools_of_one_name_are_refused_by_every_api(url: str, path: str) -> None:
    schema = {"type": "object"}
    tool = {"name": "look", **({"input_schema": schema} if path == "messages" else {"type": "function"})}
    body = {"model": "tiny", "input": "Hi"} if path == "responses" else {**GREEDY, "max_tokens": 4}
    response = _post(url, path, {**body, "tools": [tool, tool]})
    assert response.status_code == 400
    assert "two tools are named 'look'" in response.json()["error"]["message"]


@pytest.mark.parametrize(("path", "name"), [("responses", "input"), ("embeddings", "input"), ("completions", "prompt")])
def test_a_prompt_beyond_the_context_names_the_field_of_its_endpoint(url: str, path: str, name: str) -> None:
    error = _post(url, path, {"model": "tiny", name: "x" * 5000}).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", name)


def test_a_body_that_is_no_object_is_refused_as_such(url: str) -> None:
    assert _post(url, "chat/completions", [1]).json()["error"]["message"] == "The body must be an object."


def test_a_compressed_body_is_415_with_its_cure(url: str) -> None:
    response = _post(url, "chat/completions", GREEDY, **{"Content-Encoding": "gzip"})
    assert response.status_code == 415
    assert response.json()["error"]["message"] == (
        "A body in Content-Encoding: gzip is not read. Send it as it is, without."
    )


def test_a_wrong_method_is_405_and_names_the_right_one(url: str) -> None:
    response = httpx2.get(f"{url}/v1/chat/completions", headers={"Authorization": f"Bearer {KEY}"})
    assert (response.status_code, response.headers["Allow"]) == (405, "POST")
    error = response.json()["error"]
    assert (error["message"], error["code"]) == (
        "There is no GET at /v1/chat/completions; it takes POST.",
        "method_not_allowed",
    )


def test_a_schema_that_cannot_be_read_is_refused_with_the_whole_reason(url: str) -> None:
    schema = {"type": "string", "pattern": "^(?=a)b"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    message = _post(url, "chat/completions", {**GREEDY, "response_format": form}).json()["error"]["message"]
    assert "^(?=a)b error: look-around, including look-ahead and look-behind, is not supported." in message


def _post(url: str, path: str, body: Any, **headers: str) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/{path}", json=body, headers={"Authorization": f"Bearer {KEY}", **headers}, timeout=60)


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"stop": ["a"] * 65}, "stop", "at most 64"),
        ({"stop": [""]}, "stop.0", "at least 1 character"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content.0.type",
            "no images",
        ),
    ],
)
def test_a_union_field_reports_the_error_of_the_given_type(
    client: openai.OpenAI, change: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{**GREEDY, **change})
    error: Any = caught.value.body
    assert error["param"] == param
    assert words in error["message"]


def test_a_body_that_is_not_json_is_400(url: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    response = httpx2.post(f"{url}/v1/chat/completions", content=b"{oops", headers=headers)
    assert response.status_code == 400
    assert "JSON" in response.json()["error"]["message"]


def test_fields_that_change_nothing_are_ignored(client: openai.OpenAI) -> None:
    extra = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "n": 1,
        "logprobs": False,
        "logit_bias": {},
        "response_format": {"type": "text"},
    }
    assert client.chat.completions.create(**GREEDY, **extra).choices  # type: ignore[call-overload]


def test_a_prompt_beyond_the_context_is_400_with_openais_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"2048") as caught:
        client.chat.completions.create(**{**GREEDY, "messages": [{"role": "user", "content": "x" * 3000}]})
    assert caught.value.code == "context_length_exceeded"


def test_an_endpoint_without_a_ready_replica_is_503(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**{**GREEDY, "model": "asleep"})
    assert caught.value.status_code == 503
    assert caught.value.code == "no_replica"


def test_closing_a_stream_stops_the_generation_itself(
    client: openai.OpenAI, replica: RunningReplica, directory: MemoryDirectory
) -> None:
    count = len(eventually(lambda: directory.usage))
    stream = client.chat.completions.create(**{**GREEDY, "max_tokens": 2000}, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: replica.stats()["running"] == 0)
    record = eventually(
        lambda: len(directory.usage) > count and next((u for u in directory.usage if u.status == "aborted"), None)
    )
    assert record.completion_tokens >= 1
    assert record.key_id == "k1"


def test_leaving_a_call_without_streaming_stops_it_too(url: str, replica: RunningReplica) -> None:
    body = {**GREEDY, "max_tokens": 2000}
    before = replica.stats()["generated_tokens"]
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(
            f"{url}/v1/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=httpx2.Timeout(30, read=0.3),
        )
    eventually(lambda: replica.stats()["running"] == 0)
    assert replica.stats()["generated_tokens"] - before < 2000


def test_every_request_leaves_one_usage_record(client: openai.OpenAI, directory: MemoryDirectory) -> None:
    answer = client.chat.completions.create(**GREEDY)
    record = eventually(lambda: next((u for u in directory.usage if u.id == answer.id), None))
    assert answer.usage is not None
    assert (record.prompt_tokens, record.completion_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert (record.status, record.replica_id, record.endpoint) == ("finished", "r1", "tiny")
    assert record.ttft_ms is not None
    assert 0 < record.ttft_ms <= record.total_ms
    assert [u.id for u in directory.usage].count(answer.id) == 1


def test_metrics_count_what_was_served_and_name_no_key(client: openai.OpenAI, url: str) -> None:
    client.chat.completions.create(**GREEDY)
    text = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert 'roundhouse_request_success_total{finish_reason="length",model="tiny"}' in text
    assert 'roundhouse_time_to_first_token_seconds_bucket{le="0.3",model="tiny"}' in text
    assert 'roundhouse_requests_running{model="tiny"} 0.0' in text
    assert KEY not in text


def test_another_gateway_serves_it_as_a_model_on_another_server(
    url: str, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    upstream = Upstream.read({"url": f"{url}/v1", "model": "tiny", "key_env": "FAR_KEY"})
    there = MemoryDirectory({"far": [ReplicaAddress(id="u1", url=upstream.url, token="", upstream=upstream)]})
    with gateway(there) as relay, openai.OpenAI(base_url=f"{relay}/v1", api_key=KEY, max_retries=0, timeout=120) as far:
        wish: dict[str, Any] = {**GREEDY, "logprobs": True, "top_logprobs": 2}
        here, answer = client.chat.completions.create(**wish), far.chat.completions.create(**{**wish, "model": "far"})
        assert answer.choices[0].message.content == here.choices[0].message.content
        assert answer.usage == here.usage
        scored = [choice.logprobs.content or [] for choice in (answer.choices[0], here.choices[0]) if choice.logprobs]
        assert [[(token.token, len(token.top_logprobs)) for token in content] for content in scored[:1]] == [
            [(token.token, 2) for token in scored[1]]
        ]
        text: dict[str, Any] = {
            "prompt": ["Once", "And so"],
            "temperature": 0,
            "max_tokens": 6,
            "echo": True,
            "logprobs": 1,
        }
        echoed = [far.completions.create(model="far", **text), client.completions.create(model="tiny", **text)]
        assert [choice.text for choice in echoed[0].choices] == [choice.text for choice in echoed[1].choices]
        first, second = (
            [choice.logprobs.token_logprobs for choice in answer.choices if choice.logprobs] for answer in echoed
        )
        for ours, theirs in zip(first, second, strict=True):
            assert (ours or [])[1:] == pytest.approx((theirs or [])[1:], abs=1e-4)
        with pytest.raises(openai.BadRequestError, match="context"):
            far.chat.completions.create(model="far", messages=[{"role": "user", "content": "word " * 4000}])
        chunks = list(far.chat.completions.create(**{**GREEDY, "model": "far"}, stream=True))
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == here.choices[0].message.content


def test_an_adapter_is_a_model_of_its_own_beside_its_base(
    url: str, client: openai.OpenAI, replica: RunningReplica, directory: MemoryDirectory
) -> None:
    save_adapter(
        replica.folder / "red", base=replica.folder / "checkpoint", targets=["q_proj", "v_proj", "down_proj"], seed=5
    )
    directory.endpoints["tiny:red"] = [ReplicaAddress(id="r1", url=replica.url, token=TOKEN, adapter="red")]
    base = client.chat.completions.create(**GREEDY).choices[0].message.content
    wish: dict[str, Any] = {**GREEDY, "model": "tiny:red"}
    answer = client.chat.completions.create(**wish, logprobs=True)
    assert (answer.model, answer.choices[0].message.content == base) == ("tiny:red", False)
    ids = [*make_tokenizer().apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)]
    with torch.inference_mode():
        logits = load_network(replica.folder / "red")(input_ids=torch.tensor([ids])).logits[0, -1]
    assert answer.choices[0].logprobs is not None
    assert (answer.choices[0].logprobs.content or [])[0].logprob == pytest.approx(
        float(logits.log_softmax(-1).max()), abs=1e-4
    )
    assert client.chat.completions.create(**GREEDY).choices[0].message.content == base
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**{**GREEDY, "model": "tiny:blue"})
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    directory.wait_for(lambda row: (row.endpoint, row.status) == ("tiny:red", "finished"))
    metrics = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert '{model="tiny:red"}' in metrics
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert httpx2.post(f"{replica.url}/adapters", json={"unload": "red"}, headers=headers).json() == {"adapters": []}
    for folder in ("../outside", "checkpoint"):
        assert httpx2.post(f"{replica.url}/adapters", json={"load": folder}, headers=headers).status_code == 400
    del directory.endpoints["tiny:red"]
