"""Engines on real tiny networks: greedy equals `generate`, requests share steps, and every request has its own
parameters.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch

from backend.domain.serving.memory import PAGE_TOKENS
from backend.domain.serving.protocol import (
    BATCH_FAILED,
    ENGINE_FAILED,
    LEAVING,
    REQUEST_FAILED,
    FinishReason,
    GenerationErrorEvent,
    GenerationEvent,
    SamplingParams,
)
from backend.errors import InvalidInput
from jobs.serving.batching import BatchingEngine
from jobs.serving.engine import Choice, Engine, PromptTooLong, QueueFull, read_limits
from jobs.serving.serial import SerialEngine
from jobs.serving.start import start_engine
from tests.support.networks.serving_networks import END_ID, make_gpt2, make_llama, make_mamba, make_tokenizer
from tests.support.serving.requests import Caught, reference

PROMPTS = [f"Tell me story number {i}: " * (i % 3 + 1) for i in range(8)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    torch.set_num_threads(1)
    engine = start_engine(make_llama(), make_tokenizer(), kind="batching")
    yield engine
    engine.close()


@pytest.fixture(params=[BatchingEngine, SerialEngine], ids=["batching", "serial"])
def either(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = request.param(make_llama(context=96), make_tokenizer(), max_waiting=4)
    yield engine
    engine.close()


@pytest.mark.parametrize("make", [make_llama, make_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["batching", "serial"])
def test_greedy_tokens_equal_generate_for_eight_requests_at_once(make: Any, kind: Any) -> None:
    network = make()
    expected = [reference(network, prompt) for prompt in PROMPTS]
    engine = start_engine(network, make_tokenizer(), kind=kind)
    try:
        caught = [Caught(engine, prompt) for prompt in PROMPTS]
        assert [c.wait().ids for c in caught] == expected
    finally:
        engine.close()


def test_auto_chooses_batching_and_falls_back_when_the_library_refuses() -> None:
    engine = start_engine(make_llama(), make_tokenizer())
    assert engine.name == "batching"
    engine.close()
    engine = start_engine(make_mamba(), make_tokenizer())
    try:
        assert engine.name == "serial"
        assert Caught(engine, "x", ignore_eos=True).wait().finish.usage.completion_tokens == 24
    finally:
        engine.close()


def test_eight_requests_share_their_steps(engine: Engine) -> None:
    before = engine.stats()
    caught = [Caught(engine, prompt, max_tokens=40, ignore_eos=True) for prompt in PROMPTS]
    for c in caught:
        c.wait()
    after = engine.stats()
    assert after.generated_tokens - before.generated_tokens == 8 * 40
    assert after.steps - before.steps < 2 * 40


def test_the_same_seed_draws_the_same_text_whatever_shares_the_batch(engine: Engine) -> None:
    drawn = {"temperature": 1.0, "top_p": 0.9, "top_k": 40, "ignore_eos": True}
    alone = Caught(engine, PROMPTS[0], seed=7, **drawn).wait()
    crowd = [Caught(engine, prompt, seed=i, **drawn) for i, prompt in enumerate(PROMPTS)]
    again, other = Caught(engine, PROMPTS[0], seed=7, **drawn), Caught(engine, PROMPTS[0], seed=8, **drawn)
    for c in [*crowd, again, other]:
        c.wait()
    assert again.ids == alone.ids
    assert other.ids != alone.ids


def test_drawn_requests_go_on_while_long_prompts_are_prefilled_in_parts(engine: Engine) -> None:
    """Six prompts of 200 tokens exceed one batch of 512, so some requests have no next token in it."""
    alone = Caught(engine, list(range(200)), temperature=1.0, seed=7, ignore_eos=True).wait()
    short = [Caught(engine, f"Tell me {i}: ", temperature=1.0, seed=i, ignore_eos=True) for i in range(4)]
    long = [
        Caught(engine, [(token + i) % 256 for token in range(200)], temperature=1.0, seed=7, ignore_eos=True)
        for i in range(6)
    ]
    assert [caught.wait().finish.finish_reason for caught in [*short, *long]] == [FinishReason.LENGTH] * 10
    assert long[0].ids == alone.ids


class BrokenMatcher:
    """A constraint whose library fails at the third token."""

    budget: int | None = None
    complete_at: int | None = None
    calls = 0

    def allowed(self) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3:
            raise ValueError("Invalid buffer size")
        return torch.ones(260, dtype=torch.bool)

    def take(self, token: int) -> None:
        """Take any token."""


def test_a_constraint_that_fails_ends_its_own_request_alone(either: Engine) -> None:
    other = Caught(either, PROMPTS[0])
    events: list[GenerationEvent] = []
    done = threading.Event()

    def take(event: GenerationEvent) -> None:
        events.append(event)
        if event.type != "token":
            done.set()

    either.submit([1, 2, 3], SamplingParams(max_tokens=24, temperature=0), take, choice=Choice(matcher=BrokenMatcher()))
    assert done.wait(120)
    assert isinstance(events[-1], GenerationErrorEvent)
    assert "Invalid buffer size" in events[-1].message
    assert len(other.wait().ids) == 24
    assert Caught(either, PROMPTS[1]).wait().finish.finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    "params", [{"temperature": 0}, {"seed": 5, "top_k": 9, "logprobs": 2}], ids=["greedy", "drawn"]
)
def test_a_row_that_the_sampler_fails_on_ends_alone(either: Engine, params: dict[str, Any]) -> None:
    expected = Caught(either, PROMPTS[0], **params).wait()
    other = Caught(either, PROMPTS[0], **params)
    events: list[GenerationEvent] = []
    done = threading.Event()

    def take(event: GenerationEvent) -> None:
        events.append(event)
        if event.type != "token":
            done.set()

    generation: Any = either.submit([1, 2, 3], SamplingParams(max_tokens=24, temperature=0), take)
    # as if no check had seen it
    generation.draw.params = generation.params.model_copy(update={"logit_bias": ((2**63, 1.0),)})
    assert done.wait(120)
    assert isinstance(events[-1], GenerationErrorEvent)
    assert (events[-1].code, "Overflow" in events[-1].message) == (REQUEST_FAILED, True)
    assert other.wait().ids == expected.ids
    assert Caught(either, PROMPTS[0], **params).wait().ids == expected.ids


def test_a_batch_that_fails_leaves_its_requests_free_to_continue_elsewhere() -> None:
    """One of several may be the cause; what waits is not."""
    network = make_llama()
    engine = BatchingEngine(network, make_tokenizer(), max_running=2)
    caught = [Events(engine) for _ in range(3)]
    for one in caught:
        one.submit()
    caught[1].first.wait(60)
    with patch.object(network, "forward", side_effect=RuntimeError("no memory")):
        codes = [one.end().code for one in caught]
    assert sorted(codes) == [BATCH_FAILED, BATCH_FAILED, LEAVING]
    engine.close()
    engine = BatchingEngine(network, make_tokenizer())
    alone = Events(engine)
    alone.submit()
    alone.first.wait(60)
    with patch.object(network, "forward", side_effect=RuntimeError("no memory")):
        assert alone.end().code == ENGINE_FAILED, "there is no doubt which one it was"
    engine.close()


def fails_on(network: Any, poison: int) -> Any:
    """Return a forward pass that fails where a batch holds a token."""
    forward = network.forward

    def guarded(*arguments: Any, **named: Any) -> Any:
        if (named["input_ids"] == poison).any():
            raise RuntimeError("CUDA kernel failed on this batch")
        return forward(*arguments, **named)

    return patch.object(network, "forward", guarded)


@pytest.mark.parametrize("params", [{"temperature": 0.0}, {"temperature": 0.9, "seed": 11}], ids=["greedy", "drawn"])
def test_the_streams_beside_a_request_that_fails_a_batch_continue_on_the_same_replica(params: dict[str, Any]) -> None:
    """They ended with `batch_failed`, which a single replica has no second one for."""
    network = make_llama()
    engine = BatchingEngine(network, make_tokenizer(), max_running=4)
    prompts = [[5, 6, 7], [8, 9], [11, 12, 13, 14]]
    expected = [Caught(engine, prompt, max_tokens=200, ignore_eos=True, **params).wait() for prompt in prompts]
    poison = next(token for token in range(20, 256) if not any(token in one.ids for one in expected))
    with fails_on(network, poison):
        streams = [Caught(engine, prompt, max_tokens=200, ignore_eos=True, **params) for prompt in prompts]
        for stream in streams:
            assert stream.first.wait(120)
        poisoned = [Events(engine, [1, poison, 2]), Events(engine, [poison])]
        for one in poisoned:
            one.submit()
        assert [one.end().code for one in poisoned] == [REQUEST_FAILED] * 2
        for stream, before in zip(streams, expected, strict=True):
            assert stream.wait().ids == before.ids, "not a token more or less, and none changed"
            assert stream.finish.finish_reason is FinishReason.LENGTH
        assert engine.is_alive()
        assert Caught(engine, [5, 6, 7], max_tokens=200, ignore_eos=True, **params).wait().ids == expected[0].ids
    assert engine.stats().running == 0
    engine.close()


def test_a_batch_that_fails_twice_though_none_of_its_requests_does_alone_ends_the_engine() -> None:
    network = make_llama()
    engine = BatchingEngine(network, make_tokenizer(), max_running=2)
    caught = [Events(engine) for _ in range(2)]
    forward = network.forward

    def fails_on_two(*arguments: Any, **named: Any) -> Any:
        if named["input_ids"].shape[1] == 2:  # two decoding requests
            raise RuntimeError("no memory")
        return forward(*arguments, **named)

    with patch.object(network, "forward", fails_on_two):
        for one in caught:
            one.submit()
        assert [one.end().code for one in caught] == [BATCH_FAILED] * 2
    engine.close()


class Events:
    """The events of a long request."""

    def __init__(self, engine: Engine, prompt: Sequence[int] = (1, 2, 3)) -> None:
        self._engine, self._prompt = engine, prompt
        self._done, self.first = threading.Event(), threading.Event()
        self._last: GenerationEvent | None = None

    def submit(self) -> None:
        self._engine.submit(self._prompt, SamplingParams(max_tokens=240, temperature=0, ignore_eos=True), self._take)

    def _take(self, event: GenerationEvent) -> None:
        self.first.set()
        if event.type != "token":
            self._last = event
            self._done.set()

    def end(self) -> GenerationErrorEvent:
        assert self._done.wait(60)
        assert isinstance(self._last, GenerationErrorEvent), self._last
        return self._last


def test_a_greedy_request_is_not_disturbed_by_drawn_ones(engine: Engine) -> None:
    expected = Caught(engine, PROMPTS[1]).wait().ids
    mixed = [Caught(engine, PROMPTS[1]), *(Caught(engine, PROMPTS[1], temperature=1.5) for _ in range(3))]
    for c in mixed:
        c.wait()
    assert mixed[0].ids == expected


def test_top_k_1_is_greedy_at_any_temperature(engine: Engine) -> None:
    assert Caught(engine, PROMPTS[2], temperature=2.0, top_k=1).wait().ids == Caught(engine, PROMPTS[2]).wait().ids


def test_a_frequency_penalty_reduces_repetition(engine: Engine) -> None:
    plain = Caught(engine, "aaaa", max_tokens=60, ignore_eos=True).wait().ids
    penalised = Caught(engine, "aaaa", max_tokens=60, ignore_eos=True, frequency_penalty=2.0).wait().ids
    assert len(set(penalised)) > len(set(plain))


def test_cancel_stops_the_generation_within_a_step(either: Engine) -> None:
    caught = Caught(either, "go", max_tokens=90, ignore_eos=True)
    assert caught.first.wait(120)
    caught.handle.cancel()
    caught.wait()
    assert caught.finish.finish_reason is FinishReason.CANCELLED
    made = either.stats().generated_tokens
    caught.handle.cancel()
    assert sum(e.type != "token" for e in caught.events) == 1
    Caught(either, "next", max_tokens=1).wait()  # runs only once the engine is free again
    assert either.stats().generated_tokens - made <= 3
    assert either.stats().running == 0 or either.stats().waiting == 0


def test_a_stop_string_ends_the_text_before_itself(either: Engine) -> None:
    whole = Caught(either, "once", ignore_eos=True, temperature=1.0, seed=3).wait()
    visible = whole.text.replace("\ufffd", "")
    stop = next(visible[i : i + 2] for i in range(3, len(visible) - 2) if visible[i : i + 2] in whole.text)
    caught = Caught(either, "once", ignore_eos=True, temperature=1.0, seed=3, stop=(stop,)).wait()
    assert caught.finish.finish_reason is FinishReason.STOP
    assert stop not in caught.text
    assert whole.text.startswith(caught.text + stop)
    assert caught.finish.usage.completion_tokens < whole.finish.usage.completion_tokens


def test_the_end_token_ends_a_request_without_showing(either: Engine) -> None:
    drawn = (Caught(either, "x", temperature=2.0, seed=seed, max_tokens=80).wait() for seed in range(60))
    network_end = next((caught for caught in drawn if END_ID in caught.ids), None)
    assert network_end is not None, "no draw reached the end token"
    assert network_end.ids[-1] == END_ID
    assert network_end.finish.finish_reason is FinishReason.STOP
    assert "<|end|>" not in network_end.text


def test_max_tokens_is_clipped_to_the_context(either: Engine) -> None:
    caught = Caught(either, [65] * 90, max_tokens=500, ignore_eos=True).wait()
    assert caught.finish.finish_reason is FinishReason.LENGTH
    assert caught.finish.usage.prompt_tokens + caught.finish.usage.completion_tokens == 96


def test_a_prompt_beyond_the_context_names_both_numbers(either: Engine) -> None:
    with pytest.raises(PromptTooLong, match=r"120 tokens.*96") as caught:
        Caught(either, [65] * 120)
    assert caught.value.code == "context_length_exceeded"


def test_a_token_id_outside_the_vocabulary_is_refused(either: Engine) -> None:
    with pytest.raises(InvalidInput, match="9999"):
        Caught(either, [1, 9999])


def test_more_requests_than_the_queue_holds_are_refused(either: Engine) -> None:
    held: list[Caught] = []

    def fill() -> None:
        for _ in range(40):
            held.append(Caught(either, "hold", max_tokens=90, ignore_eos=True))

    with pytest.raises(QueueFull):
        fill()
    for c in held:
        c.handle.cancel()


def test_more_text_than_the_cache_holds_still_completes() -> None:
    engine = BatchingEngine(make_llama(), make_tokenizer(), max_running=8, cache_tokens=256)
    try:
        prompts = [[65 + i] * 100 for i in range(6)]
        alone = [
            Caught(engine, p, max_tokens=150, ignore_eos=True, temperature=1.0, seed=i).wait().ids
            for i, p in enumerate(prompts)
        ]
        caught = [
            Caught(engine, p, max_tokens=150, ignore_eos=True, temperature=1.0, seed=i) for i, p in enumerate(prompts)
        ]
        assert [len(c.wait().ids) for c in caught] == [150] * 6
        assert [c.ids for c in caught] == alone
        assert all(0 <= (c.finish.queue_ms or -1) <= (c.finish.ttft_ms or 0) for c in caught)
    finally:
        engine.close()


def test_the_last_part_of_a_prompt_is_cached_whatever_its_answer_is_allowed() -> None:
    engine = BatchingEngine(make_llama(context=2048), make_tokenizer())
    try:
        for number, tokens in enumerate((1, 2)):
            # three parts of at most 512 tokens
            prompt = f"{number} begins " + "The roundhouse holds seven engines. " * 40
            assert Caught(engine, prompt, max_tokens=tokens).wait().finish.usage.cached_tokens == 0
            cached = Caught(engine, prompt, max_tokens=1).wait().finish.usage.cached_tokens
            assert cached >= len(prompt) - PAGE_TOKENS, f"{cached} of {len(prompt)} after an answer of {tokens}"
    finally:
        engine.close()


def test_closing_ends_what_runs_and_refuses_what_comes(either: Engine) -> None:
    caught = Caught(either, "go", max_tokens=90, ignore_eos=True)
    either.close()
    caught.wait()
    assert not either.is_alive()


def test_the_first_token_of_a_million_parameter_network_comes_within_300_ms() -> None:
    engine = start_engine(make_llama(hidden=128, layers=6), make_tokenizer(), kind="batching")
    try:
        fastest = min(float(Caught(engine, PROMPTS[0]).wait().finish.ttft_ms or 1e9) for _ in range(5))
        assert fastest < 300
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["batching", "serial"])
def test_a_context_below_the_networks_own_limits_prompts_and_answers_and_the_cache(kind: Any) -> None:
    network = make_llama(context=4096)
    engine = start_engine(network, make_tokenizer(), kind=kind, context=64, max_running=1)
    try:
        assert engine.context_length == 64
        assert len(Caught(engine, "short", max_tokens=500, ignore_eos=True).wait().ids) == 64 - len("short")
        with pytest.raises(PromptTooLong, match="context holds 64"):
            Caught(engine, [65] * 64)
        if isinstance(engine, BatchingEngine):
            processor = engine._batches._manager.batch_processor
            assert processor is not None
            assert processor.cache.num_blocks * PAGE_TOKENS < 4096
    finally:
        engine.close()
    assert read_limits(network, make_tokenizer(), context=10_000).context_length == 4096
