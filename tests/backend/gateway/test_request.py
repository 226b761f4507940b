"""A request's identity, timing and consumption, and what is expected of it before it is answered."""

from __future__ import annotations

import math

import pytest

from backend.domain.serving.protocol import (
    UNSTATED_TOKENS,
    Accepted,
    ChatMessage,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    Role,
    SamplingParams,
    Task,
    TokenEvent,
    TokenUsage,
)
from backend.domain.serving.upstream import Upstream
from backend.gateway.directory import Principal, ReplicaAddress
from backend.gateway.request import REQUEST_ID, ApiExchange, Consumption, Identity, TokenTiming, make_request_id

FINISH = FinishEvent(
    finish_reason=FinishReason.STOP,
    usage=TokenUsage(prompt_tokens=10, completion_tokens=4, cached_tokens=6),
    tok_per_sec=20.0,
)


def test_the_id_has_its_apis_prefix_and_is_a_header_of_the_answer() -> None:
    assert make_request_id("chatcmpl").startswith("chatcmpl-")
    assert make_request_id("resp_").startswith("resp_")
    assert make_request_id("resp_")[5] != "-"
    exchange = ApiExchange(Identity("cmpl-1", "m"), headers={"request-id": "x"})
    assert exchange.headers == {"request-id": "x", REQUEST_ID: "cmpl-1"}


def test_a_user_stays_on_one_variant_by_its_name_or_its_key() -> None:
    principal = Principal(key_id="k1", name="tester")
    assert Identity("1", "m", principal, user="ada").sticky == "ada"
    assert Identity("1", "m", principal).sticky == "k1"
    assert Identity("1", "m").sticky == ""


def test_times_between_tokens_are_counted_and_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.5, 10.6, 10.8, 11.0])
    monkeypatch.setattr("backend.gateway.request.time.perf_counter", lambda: next(clock))
    timing = TokenTiming(started=10.0)
    assert (timing.ttft_ms, timing.mean_gap_ms, math.isnan(timing.ttft_s)) == (None, None, True)
    assert timing.note_token() is None
    assert [timing.note_token(), timing.note_token()] == pytest.approx([0.1, 0.2])
    assert (timing.ttft_ms, timing.mean_gap_ms, timing.total_ms) == (500.0, 150.0, 1000.0)
    assert sum(timing.gaps.values()) == 2


def test_tokens_cost_device_time_here_and_their_price_elsewhere() -> None:
    consumed = Consumption()
    assert consumed.usd(None) is None
    consumed.add_device_time(1.0, None)
    assert consumed.usd(None) is None, "no device with a price took part"
    consumed.add_device_time(2.0, 1800.0)
    assert (consumed.device_s, consumed.usd(None)) == (3.0, 1.0)
    consumed.finish(FINISH)
    upstream = Upstream(url="http://127.0.0.1:9/v1", model="x", input_price=1.0, output_price=10.0)
    assert consumed.usd(upstream) == pytest.approx((10 * 1.0 + 4 * 10.0) / 1e6)


def test_a_request_that_is_cut_off_counts_its_prompt_and_the_relayed_tokens() -> None:
    exchange = ApiExchange(Identity("1", "m"))
    exchange.replica = ReplicaAddress(id="r", url="", token="", variant="canary", fingerprint="fp_1")
    exchange.accept(Accepted(7))
    exchange.note(TokenEvent(text="ab", token_ids=(1, 2), index=0))
    row = exchange.usage_row()
    assert (row.prompt_tokens, row.completion_tokens, row.cached_tokens, row.status) == (7, 2, 0, "aborted")
    assert (row.variant, exchange.fingerprint, exchange.upstream) == ("canary", "fp_1", None)
    exchange.finish = FINISH
    exchange.consumed.finish(FINISH)
    assert exchange.usage_row().cached_tokens == 6
    assert exchange.additions() == {"timings": {"ttft_ms": None, "tok_per_sec": 20.0}}


def test_tokens_are_expected_from_ids_bytes_and_what_the_answer_may_have() -> None:
    text = GenerateRequest(prompt="a" * 40, params=SamplingParams(max_tokens=0))
    assert (text.estimate_prompt(), text.most_new_tokens) == (10, 0)
    assert GenerateRequest(prompt="é" * 4).estimate_prompt() == 2, "bytes count, not characters"
    ids = GenerateRequest(prompts=((1, 2, 3), (4, 5)), n=2)
    assert (ids.estimate_prompt(), ids.most_new_tokens) == (5, 4 * UNSTATED_TOKENS)
    chat = GenerateRequest(messages=(ChatMessage(role=Role.USER, content="abcd" * 3),), task=Task.TOKENIZE)
    assert (chat.estimate_prompt(), chat.most_new_tokens) == (3, 0)
