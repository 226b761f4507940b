"""Keys at the gateway: scopes, limits, what a request that was cut off counts, and its share of the replica's time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.domain.serving.protocol import ChatMessage, GenerateRequest, Role
from backend.gateway import app, installed
from backend.gateway.directory import Principal, ReplicaAddress
from backend.gateway.installed import InstalledDirectory
from backend.gateway.keys import _Rates, limit_reached
from backend.gateway.limits import Demand, Refusal
from backend.gateway.relay import BusyShares
from backend.gateway.usage import MAX_REFUSED
from backend.services.context import LOCAL, Context
from backend.services.serving.prices import set_price
from backend.services.serving.usage import UsageRow
from tests.support.gateway_fixtures import KEY, MemoryDirectory, ScriptedReplica, eventually, gateway, scripted


@dataclass
class Scene:
    url: str
    directory: MemoryDirectory
    replica: ScriptedReplica

    def admit(self, key: str, **principal: Any) -> None:
        self.directory.principals[key] = Principal(key_id=f"id-{key}", name=key, **principal)

    def ask(self, key: str, **body: Any) -> httpx2.Response:
        content = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10, **body}
        return httpx2.post(f"{self.url}/v1/chat/completions", json=content, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with scripted() as (replica, url):
        address = ReplicaAddress(id="r", url=url, token="t")
        directory = MemoryDirectory({"small": [address], "other": [address]})
        with gateway(directory) as gateway_url:
            yield Scene(gateway_url, directory, replica)


def test_a_key_of_some_models_neither_sees_nor_calls_the_others(scene: Scene) -> None:
    scene.admit("narrow", scopes=KeyScopes(models=("sm*",)))
    headers = {"Authorization": "Bearer narrow"}
    listed = httpx2.get(f"{scene.url}/v1/models", headers=headers).json()["data"]
    assert [model["id"] for model in listed] == ["small"]
    assert httpx2.get(f"{scene.url}/v1/models/other", headers=headers).status_code == 404
    assert scene.ask("narrow").status_code == 200
    refused = scene.ask("narrow", model="other")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")


def test_a_key_of_one_part_of_the_api_is_refused_at_the_others(scene: Scene) -> None:
    scene.admit("texts", scopes=KeyScopes(endpoints=("completions",)))
    assert scene.ask("texts").json()["error"]["code"] == "endpoint_not_allowed"


def test_metrics_of_all_keys_are_shown_to_the_admin_scope_alone(scene: Scene) -> None:
    scene.admit("tenant")
    refused = httpx2.get(f"{scene.url}/metrics", headers={"Authorization": "Bearer tenant"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_allowed")
    assert "roundhouse" not in refused.text.replace("roundhouse_", "")
    assert httpx2.get(f"{scene.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_the_request_over_the_limit_gets_429_with_the_time_to_wait(scene: Scene, stream: bool) -> None:
    key = f"slow-{stream}"
    scene.admit(key, limits=KeyLimits(requests=1))
    assert scene.ask(key, stream=stream).status_code == 200
    refused = scene.ask(key, stream=stream)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 55 <= int(refused.headers["Retry-After"]) <= 61


def test_a_request_that_can_never_fit_the_tokens_per_minute_is_not_told_to_wait(scene: Scene) -> None:
    scene.admit("little", limits=KeyLimits(tokens=100))
    refused = scene.ask("little", max_tokens=200)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "rate_limit_exceeded")
    assert "Retry-After" not in refused.headers
    assert "this key's limit is 100 per minute" in refused.json()["error"]["message"]


def test_a_request_that_can_never_fit_a_budget_of_tokens_is_not_told_to_wait(scene: Scene) -> None:
    scene.admit("daily", limits=KeyLimits(tokens_per_day=100))
    refused = scene.ask("daily", max_tokens=200)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "insufficient_quota")
    assert "Retry-After" not in refused.headers
    assert "This key's budget for a day is 100 tokens" in refused.json()["error"]["message"]


def test_a_spent_budget_refuses_and_names_used_and_asked(scene: Scene) -> None:
    scene.admit("poor", limits=KeyLimits(tokens_per_month=1000))
    scene.directory.spending["id-poor", "tokens", "month"] = 995.0
    refused = scene.ask("poor")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert "995 of 1,000 tokens" in refused.json()["error"]["message"]


def test_a_budget_holds_what_a_template_adds_to_short_prompts_one_by_one_and_at_once(scene: Scene) -> None:
    """Prompts were counted by their bytes alone: 40 requests at once took 1,280 tokens of a budget of 400."""
    scene.replica.tokens, scene.replica.prompt_tokens = 1, 31
    scene.admit("crowd", limits=KeyLimits(tokens_per_day=400))
    with ThreadPoolExecutor(40) as pool:
        statuses = list(pool.map(lambda _: scene.ask("crowd", model="other", max_tokens=1).status_code, range(40)))
    assert 10 <= statuses.count(200) <= 400 // 32
    assert statuses.count(429) == 40 - statuses.count(200)
    scene.replica.tokens, scene.replica.prompt_tokens = 10, 36
    scene.admit("single", limits=KeyLimits(tokens_per_day=130))
    asked = [scene.ask("single", model="other", max_tokens=10) for _ in range(3)]
    assert [answer.status_code for answer in asked] == [200, 200, 429]
    scene.replica.tokens, scene.replica.prompt_tokens = 3, 5


def test_tokens_of_a_prompt_are_expected_by_its_length_and_what_the_template_adds() -> None:
    def chat(size: int) -> GenerateRequest:
        return GenerateRequest(messages=(ChatMessage(role=Role.USER, content="a" * size),))

    rates = _Rates()
    assert (rates.expected_tokens(chat(10)), rates.expected_tokens(GenerateRequest(prompt="a" * 10))) == (36, 4)
    rates.learn(prompt_bytes=10, prompt_tokens=34, tokens=0, usd=0.0)
    assert rates.expected_tokens(chat(10)) == 34
    for size in (10, 1000, 40, 400, 100, 2000, 20, 600) * 6:
        rates.learn(prompt_bytes=size, prompt_tokens=31 + size // 4, tokens=0, usd=0.0)
    assert [rates.expected_tokens(chat(size)) for size in (1, 40, 400, 2000)] == pytest.approx(
        [31, 41, 131, 531], abs=2
    )
    assert rates.expected_tokens(GenerateRequest(prompts=((1, 2, 3), (4,)))) == 4


def test_dollars_are_reserved_at_the_highest_rate_of_late() -> None:
    """Among many requests a token cost a third of what it costs alone: 150 tokens were let through for half the price
    of the 101 before, and a budget ended at 109 %.
    """
    rates = _Rates()
    for _ in range(30):
        rates.learn(prompt_bytes=9, prompt_tokens=9, tokens=100, usd=0.002)
    rates.learn(prompt_bytes=9, prompt_tokens=9, tokens=100, usd=0.006)
    assert rates.highest_usd_per_token == pytest.approx(0.00006)
    for _ in range(40):
        rates.forget()
    assert rates.highest_usd_per_token == pytest.approx(rates.usd_per_token, rel=0.05)


def test_a_key_whose_budget_is_spent_lowers_no_rate_that_others_are_reserved_at(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.admit("broke", limits=KeyLimits(usd_per_day=1.0))
    assert scene.ask("broke").status_code == 200
    lowered: list[_Rates] = []
    monkeypatch.setattr(_Rates, "forget", lowered.append)
    scene.admit("late", limits=KeyLimits(usd_per_day=1.0))
    scene.directory.spending["id-late", "usd", "day"] = 1.0
    assert scene.ask("late").json()["error"]["code"] == "insufficient_quota"
    assert lowered == []


def test_a_budget_counts_at_a_price_that_is_set_later(
    scene: Scene, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = KeyLimits(usd_per_day=0.5)
    scene.admit("free", limits=limits)
    assert scene.ask("free").status_code == 200
    scene.directory.spending["id-free", "usd", "day"] = 0.7
    assert scene.ask("free").status_code == 200, "counted since the first request"
    monkeypatch.setattr(installed, "PRICES_S", 0.0)
    with closing(InstalledDirectory(ctx)) as directory:
        directory.list_models()
        before = directory.prices_version
        set_price(ctx, "", 2.0, person=LOCAL)
        eventually(lambda: bool(directory.list_models() or directory.prices_version != before))
        scene.directory.prices_version = directory.prices_version
    refused = scene.ask("free")
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert "$0.70 of $0.50" in refused.json()["error"]["message"]


def test_a_request_that_was_cut_off_counts_its_prompt_and_its_tokens(scene: Scene) -> None:
    scene.admit("short", limits=KeyLimits(tokens=10_000))
    scene.replica.tokens, scene.replica.delay_s, scene.replica.prompt_tokens = 500, 0.01, 37
    body = {"model": "small", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx2.stream(
        "POST", f"{scene.url}/v1/chat/completions", json=body, headers={"Authorization": "Bearer short"}
    ) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:") and json.loads(line[5:])["choices"][0]["delta"].get("content"):
                break
    scene.replica.tokens, scene.replica.delay_s = 3, 0.0
    row = scene.directory.wait_for(lambda row: row.prompt_tokens == 37)
    assert row.status == "aborted"
    assert 1 <= row.completion_tokens < 500


def test_a_request_is_priced_by_its_share_of_the_device(scene: Scene) -> None:
    scene.directory.prices["r"] = 3600.0  # a dollar a second
    scene.replica.delay_s = 0.02
    scene.ask(KEY)
    scene.replica.delay_s = 0.0
    row = scene.directory.wait_for(lambda row: row.cost_usd is not None)
    assert row.device_s is not None
    assert 0.05 < row.device_s <= row.total_ms / 1000
    assert row.cost_usd == pytest.approx(row.device_s)


def test_shares_of_requests_that_overlap_sum_to_the_busy_time() -> None:
    """By hand: a alone 0-2 s, a and b 2-6 s, b alone 6-7 s, idle, c 10-11 s: a has 2 + 2, b has 2 + 1, c has 1."""
    clock = [0.0]
    shares = BusyShares(now=lambda: clock[0])
    a = shares.begin("r")
    clock[0] = 2.0
    b = shares.begin("r")
    clock[0] = 6.0
    took_a = shares.end("r", a)
    clock[0] = 7.0
    took_b = shares.end("r", b)
    clock[0] = 10.0
    c = shares.begin("r")
    clock[0] = 11.0
    assert (took_a, took_b, shares.end("r", c)) == (4.0, 3.0, 1.0)


def test_a_request_over_the_limit_is_stored_as_refused_with_its_reason(scene: Scene) -> None:
    scene.admit("rarely", limits=KeyLimits(requests=1))
    assert [scene.ask("rarely").status_code, scene.ask("rarely", stream=True).status_code] == [200, 429]
    row = scene.directory.wait_for(lambda row: row.status == "refused" and row.key_id == "id-rarely")
    stored = (row.endpoint, row.finish_reason, row.prompt_tokens, row.cost_usd)
    assert stored == ("small", "rate_limit_exceeded", 0, None)


@pytest.mark.parametrize(
    ("path", "body", "content", "code", "endpoint"),
    [
        ("chat/completions", {"model": "other"}, None, "model_not_allowed", "other"),
        ("embeddings", {"model": "small", "input": "x"}, None, "endpoint_not_allowed", "small"),
        ("chat/completions", {"model": "nowhere"}, None, "model_not_allowed", "nowhere"),
        ("chat/completions", {"model": "smaller"}, None, "model_not_found", "smaller"),
        ("chat/completions", {"model": "small", "temperature": 9}, None, "invalid_value", "small"),
        ("chat/completions", {"model": "small", "beams": 3}, None, "unknown_parameter", "small"),
        ("completions", {"model": "small"}, None, "invalid_value", "small"),
        ("responses", {"model": "small", "input": "x", "temperature": 9}, None, "invalid_value", "small"),
        (
            "responses",
            {"model": "small", "input": "x", "previous_response_id": "resp_none"},
            None,
            "previous_response_not_found",
            "small",
        ),
        ("messages", {"model": "small", "max_tokens": 4}, None, "invalid_value", "small"),
        ("chat/completions", None, b'{"model": "small", ', "invalid_value", ""),
        ("chat/completions", None, b"[" * 300_000, "invalid_value", ""),
    ],
)
def test_every_refused_request_of_a_key_is_stored_with_its_code(
    scene: Scene, path: str, body: dict[str, Any] | None, content: bytes | None, code: str, endpoint: str
) -> None:
    """Only those over a limit were: a client without a right, with a wrong name or a bad field was seen nowhere."""
    scene.admit("seen", scopes=KeyScopes(models=("small*",), endpoints=("chat", "completions")))
    messages = {} if path != "chat/completions" or body is None else {"messages": [{"role": "user", "content": "Hi"}]}
    headers = {"Authorization": "Bearer seen", "Content-Type": "application/json", "anthropic-version": "2023-06-01"}
    url = f"{scene.url}/v1/{path}"
    sent = json.dumps({**messages, **body}).encode() if body is not None else content
    answer = httpx2.post(url, content=sent, headers=headers)
    assert 400 <= answer.status_code < 500
    id_ = answer.headers["x-request-id"]
    row = scene.directory.wait_for(lambda row: row.id == id_)
    assert (row.status, row.finish_reason, row.endpoint) == ("refused", code, endpoint)
    assert (row.key_id, row.prompt_tokens, row.completion_tokens, row.replica_id) == ("id-seen", 0, 0, None)


def test_a_request_without_a_valid_key_is_stored_without_it_and_names_make_no_metrics(scene: Scene) -> None:
    before = len(scene.directory.usage)
    assert scene.ask("nobody").status_code == 401
    for number in range(3):
        assert scene.ask(KEY, model=f"made-up-{number}").json()["error"]["code"] == "model_not_found"
    scene.directory.wait_for(lambda row: row.endpoint == "made-up-2")
    keyless, *others = scene.directory.usage[before:]
    assert (keyless.endpoint, keyless.key_id, keyless.finish_reason) == ("", None, "invalid_api_key")
    assert "nobody" not in repr(keyless)
    assert [row.endpoint for row in others] == [f"made-up-{number}" for number in range(3)]
    metrics = httpx2.get(f"{scene.url}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    assert 'roundhouse_request_failed_total{code="model_not_found",model="(unknown)"}' in metrics
    assert "made-up" not in metrics


def test_the_gateway_answers_others_while_it_reads_a_large_body(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bodies of 4 MB stopped every stream for about a second: they were read on the event loop."""
    begun, released = threading.Event(), threading.Event()
    read = app.parse_body

    def read_slowly(raw: bytes, kind: type[Any]) -> Any:
        if len(raw) > 10**6:
            begun.set()
            assert released.wait(60)
        return read(raw, kind)

    monkeypatch.setattr(app, "parse_body", read_slowly)
    scene.admit("large")
    with ThreadPoolExecutor() as pool:
        large = pool.submit(scene.ask, "large", messages=[{"role": "user", "content": "x"}] * 40_000, temperature=9)
        assert begun.wait(60)
        assert scene.ask(KEY).status_code == 200
        assert not large.done()
        released.set()
        assert large.result(60).status_code == 400


def test_a_client_that_loops_on_refusals_is_counted_and_fills_no_table(scene: Scene) -> None:
    """Each of its requests was a row: a client that did not wait wrote thousands a minute. A good client beside it is
    answered meanwhile.
    """
    scene.admit("loop", limits=KeyLimits(requests=1))
    assert scene.ask("loop").status_code == 200
    with ThreadPoolExecutor(4) as pool:
        hammered = pool.map(lambda _: scene.ask("loop").status_code, range(120))
        good = [scene.ask(KEY).status_code for _ in range(10)]
        assert set(hammered) == {429}
    assert set(good) == {200}

    def refused() -> list[UsageRow]:
        return [row for row in scene.directory.usage if row.key_id == "id-loop" and row.status == "refused"]

    eventually(lambda: sum(row.requests for row in refused()) == 120, timeout_s=60)
    assert {row.requests for row in refused()[:MAX_REFUSED]} == {1}
    assert len(refused()) <= MAX_REFUSED + 7


@pytest.mark.parametrize(
    ("used", "words"),
    [
        (
            0.00574,
            "$0.00574 of $0.0005 of its budget for this day, and this request may use $0.0001. Wait for",
        ),
        (0.00045, "$0.00045 of $0.0005 of its budget for this day, and this request may use $0.0001. Send a"),
    ],
    ids=["spent", "nearly spent"],
)
def test_a_smaller_answer_is_proposed_only_while_something_of_a_budget_is_left(used: float, words: str) -> None:
    refusal = Refusal("budget", 0.0005, used, 60, unit="usd", period="day")
    demand = Demand("r", "k", KeyLimits(), tokens=10, usd=0.0001, now=0.0)
    assert words in limit_reached(refusal, demand).message


def test_one_open_request_is_one() -> None:
    demand = Demand("r", "k", KeyLimits(), tokens=10, usd=0.0, now=0.0)
    assert "has 1 open request, its limit" in limit_reached(Refusal("concurrency", 1, 1, 1), demand).message
    assert "has 2 open requests, its limit" in limit_reached(Refusal("concurrency", 2, 2, 1), demand).message
