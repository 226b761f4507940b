"""A draft changes how fast an answer comes, never the answer: every test compares with an engine that has none."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from backend.domain.serving.protocol import FinishEvent, GenerationEvent, SamplingParams, TokenEvent
from backend.errors import InvalidInput
from jobs.serving.batching import BatchingEngine
from jobs.serving.drafts import Draft
from jobs.serving.engine import Choice, TextMatcher
from jobs.serving.fused_layers import fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.start import start_engine
from tests.support.networks.serving_networks import make_gpt2, make_llama, make_tokenizer

VOCABULARY = 260
REQUESTS: list[dict[str, Any]] = [
    {"temperature": 0, "max_tokens": 40, "ignore_eos": True},
    {"temperature": 1.0, "seed": 1, "max_tokens": 70, "ignore_eos": True, "logprobs": 3},
    {"temperature": 0.7, "seed": 2, "top_p": 0.8, "stop": ("e", "a")},
    {"temperature": 0, "max_tokens": 1},
    {"temperature": 1.0, "seed": 3, "presence_penalty": 0.5, "frequency_penalty": 0.3, "max_tokens": 2},
    {"temperature": 0, "logit_bias": ((65, 4.0),), "frequency_penalty": 0.4, "max_tokens": 40, "logprobs": 0},
    {"temperature": 1.3, "top_k": 20, "seed": 4, "max_tokens": 40},
    {"temperature": 0, "stop": ("i",), "max_tokens": 66, "ignore_eos": True},
    {
        "temperature": 0,
        "repetition_penalty": 1.3,
        "min_tokens": 20,
        "stop_token_ids": tuple(range(60, 120)),
        "max_tokens": 24,
    },
    {"temperature": 0.9, "seed": 5, "min_p": 0.05, "max_tokens": 60},
]


class Always:
    """A pace that always drafts the same number of tokens."""

    def __init__(self, length: int) -> None:
        self.length = length

    def choose(self, num_requests: int) -> int:
        return self.length

    def token_s(self, num_requests: int) -> float:
        return math.inf

    def note(self, num_requests: int, length: int, *, right: int, wrong: int, seconds: float | None) -> None:
        """Learn nothing."""


class Pending:
    """One request and its events."""

    def __init__(
        self, engine: BatchingEngine, ids: list[int], params: dict[str, Any], matcher: TextMatcher | None = None
    ) -> None:
        self.events: list[GenerationEvent] = []
        self._done = threading.Event()
        self.handle = engine.submit(
            ids, SamplingParams(**{"max_tokens": 24, **params}), self._take, choice=Choice(matcher=matcher)
        )

    def _take(self, event: GenerationEvent) -> None:
        self.events.append(event)
        if event.type != "token":
            self._done.set()

    def answer(self) -> tuple[Any, ...]:
        """Wait; return tokens, text, log-probabilities, the reason of the end and usage."""
        assert self._done.wait(200), "no end within 200 s"
        finish, tokens = self.events[-1], [event for event in self.events if isinstance(event, TokenEvent)]
        assert isinstance(finish, FinishEvent), finish
        ids = [token for event in tokens for token in event.token_ids]
        scored = [entry for event in tokens for entry in event.logprobs or ()]
        return ids, "".join(event.text for event in tokens), scored, finish.finish_reason, finish.usage


def another_llama(**shape: Any) -> Any:
    """A Llama whose weights have nothing to do with those of `make_llama`."""
    network = make_llama(**shape)
    torch.manual_seed(7)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return network


@contextmanager
def running(library: Library, draft: Any = None, *, length: int = 4, **limits: Any) -> Iterator[BatchingEngine]:
    """Run an engine over one and the same network, with or without a draft."""
    torch.set_num_threads(1)
    network = make_llama()
    fuse_layers(network, library=library)
    if draft is not None:
        fuse_layers(draft, library=library)
    engine = BatchingEngine(network, make_tokenizer(), draft=None if draft is None else Draft(draft), **limits)
    if engine.speculation is not None:
        engine.speculation.pace = Always(length)
    yield engine
    engine.close()


def ids_of(text: str) -> list[int]:
    return list(make_tokenizer()(text)["input_ids"])


def answers(engine: BatchingEngine, *, at_once: int) -> list[tuple[Any, ...]]:
    """Return the answers to all requests, this many of them open at once."""
    given = []
    for first in range(0, len(REQUESTS), at_once):
        numbers = range(first, min(first + at_once, len(REQUESTS)))
        pending = [
            Pending(engine, ids_of(f"Tell me story {number}: " * (1 + number % 3)), REQUESTS[number])
            for number in numbers
        ]
        given += [one.answer() for one in pending]
    return given


@pytest.fixture(scope="module")
def expected(library: Library) -> list[tuple[Any, ...]]:
    with running(library) as engine:
        return answers(engine, at_once=1)


@pytest.mark.parametrize(
    ("make", "length"), [(make_llama, 1), (make_llama, 4), (another_llama, 3)], ids=["same-1", "same-4", "another"]
)
def test_answers_are_the_same_with_a_draft_alone_and_with_others(
    library: Library, expected: list[tuple[Any, ...]], make: Callable[[], Any], length: int
) -> None:
    with running(library, make(), length=length) as engine:
        for at_once in (1, 4):
            given = answers(engine, at_once=at_once)
            assert [answer[:4] for answer in given] == [answer[:4] for answer in expected]
            assert [answer[4].completion_tokens for answer in given] == [
                answer[4].completion_tokens for answer in expected
            ]
        stats = engine.stats()
        assert stats.drafted_tokens is not None
        assert stats.accepted_tokens is not None
        assert stats.drafted_tokens > 100
        share = stats.accepted_tokens / stats.drafted_tokens
        assert share > 0.6 if make is make_llama else share < 0.1


def test_a_draft_that_is_the_network_itself_is_accepted_to_the_last_token(library: Library) -> None:
    """41 tokens: one behind the prompt, then eight steps of a token and a draft of four."""
    with running(library, make_llama()) as engine:
        before = engine.stats()
        Pending(engine, ids_of("Once upon a time"), {"temperature": 0, "max_tokens": 41, "ignore_eos": True}).answer()
        after = engine.stats()
        assert (after.drafted_tokens, after.accepted_tokens) == (32, 32)
        assert after.steps - before.steps == 9


def test_a_draft_never_reaches_beyond_the_last_token(library: Library) -> None:
    """Of six tokens, five are left behind the prompt: four drafted, no draft for the last one."""
    with running(library, make_llama()) as engine:
        ids, *_, usage = Pending(
            engine, ids_of("Once"), {"temperature": 0, "max_tokens": 7, "ignore_eos": True}
        ).answer()
        assert (len(ids), usage.completion_tokens) == (7, 7)
        assert engine.stats().drafted_tokens == 4


def test_prompts_share_pages_as_without_a_draft(library: Library) -> None:
    """The second turn of a conversation finds the pages that drafted steps filled, and no page of tokens that were
    refused.
    """
    settings = {"temperature": 0, "max_tokens": 60, "ignore_eos": True}
    turns = []
    for draft in (None, make_llama(), another_llama()):
        with running(library, draft) as engine:
            first = Pending(engine, ids_of("A" * 70), settings).answer()
            second = Pending(engine, ids_of("A" * 70) + first[0] + ids_of("B"), {**settings, "max_tokens": 20}).answer()
            turns.append((first, second))
    assert turns[0][1][4].cached_tokens == 128
    assert turns[1] == turns[0]
    assert turns[2] == turns[0]


def test_requests_that_give_up_their_pages_and_begin_again_get_the_same_answers(library: Library) -> None:
    """Five pages for four requests that need two each: the engine takes pages away and reads the tokens again later."""
    settings = {"temperature": 1.0, "max_tokens": 60, "ignore_eos": True}
    given = []
    for draft, limits in ((None, {}), (make_llama(), {"cache_tokens": 320}), (another_llama(), {"cache_tokens": 320})):
        with running(library, draft, **limits) as engine:
            pending = [Pending(engine, ids_of(f"{number}: " * 12), {**settings, "seed": number}) for number in range(4)]
            given.append([one.answer()[:4] for one in pending])
    assert given[1] == given[0]
    assert given[2] == given[0]


class NoRepeat:
    """A constraint that never allows the token that came last, and ends the text at 30 tokens."""

    budget: int | None = None

    def __init__(self) -> None:
        self.taken: list[int] = []

    @property
    def complete_at(self) -> int | None:
        """Return the number of tokens of the whole text."""
        return 30 if len(self.taken) >= 30 else None

    def allowed(self) -> torch.Tensor:
        """Return the tokens that may come next."""
        mask = torch.ones(VOCABULARY, dtype=torch.bool)
        mask[self.taken[-1:]] = False
        return mask

    def take(self, token: int) -> None:
        """Note a token."""
        self.taken.append(token)


def test_a_constraint_sees_its_own_tokens_alone_and_ends_the_text_where_it_would(library: Library) -> None:
    settings = {"temperature": 1.2, "seed": 5, "max_tokens": 60, "ignore_eos": True}
    given = []
    for draft in (None, make_llama(), another_llama()):
        with running(library, draft) as engine:
            matchers = [NoRepeat(), NoRepeat()]
            pending = [
                Pending(engine, ids_of(text), settings, matcher)
                for text, matcher in zip(("One", "Two"), matchers, strict=True)
            ]
            given.append([one.answer()[:4] for one in pending])
            for (ids, *_), matcher in zip(given[-1], matchers, strict=True):
                assert ids == matcher.taken[: len(ids)]
                assert len(ids) == 30
    assert given[1] == given[0]
    assert given[2] == given[0]


def test_a_cancelled_request_leaves_the_others_as_they_were(library: Library, expected: list[tuple[Any, ...]]) -> None:
    with running(library, make_llama()) as engine:
        leaving = [Pending(engine, ids_of("Leave " * 4), {"max_tokens": 200, "ignore_eos": True}) for _ in range(2)]
        staying = Pending(engine, ids_of("Tell me story 1: " * 2), REQUESTS[1])
        for one in leaving:
            one.handle.cancel()
        assert staying.answer()[:4] == expected[1][:4]


def test_a_draft_with_a_shorter_context_or_a_smaller_vocabulary_stops_drafting_where_they_end(library: Library) -> None:
    settings = {"temperature": 0, "max_tokens": 80, "ignore_eos": True}
    with running(library) as engine:
        plain = Pending(engine, ids_of("Once upon"), settings).answer()
    with running(library, make_llama(context=64)) as engine:
        assert Pending(engine, ids_of("Once upon"), settings).answer() == plain
        assert 0 < (engine.stats().drafted_tokens or 0) < 64
    narrow = make_llama()
    narrow.resize_token_embeddings(80)
    with running(library, narrow) as engine:
        assert Pending(engine, ids_of("Once upon"), settings).answer() == plain
        assert engine.stats().drafted_tokens == 0


class Gate(NoRepeat):
    """A constraint that holds the engine's thread at the first token until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def allowed(self) -> torch.Tensor:
        """Return that all tokens may come next."""
        assert self.opened.wait(200)
        return torch.ones(VOCABULARY, dtype=torch.bool)


def test_only_steps_with_few_requests_are_drafted(library: Library) -> None:
    """Eight requests go side by side to their ends, the first one token ahead."""
    settings, gate = {"temperature": 0, "max_tokens": 20, "ignore_eos": True}, Gate()
    with running(library, make_llama()) as engine:
        first = Pending(engine, ids_of("Once"), settings, gate)
        others = [Pending(engine, ids_of("Once"), settings) for _ in range(7)]
        gate.opened.set()
        for one in (first, *others):
            assert len(one.answer()[0]) == 20
        assert engine.stats().drafted_tokens == 0


def test_networks_that_cannot_draft_or_be_checked_exactly_are_refused(library: Library) -> None:
    draft = make_llama()
    fuse_layers(draft, library=library)
    with pytest.raises(InvalidInput, match="can't draft: it is not a Llama"):
        Draft(make_gpt2())
    with pytest.raises(InvalidInput, match="No draft can be checked by this model"):
        start_engine(make_gpt2(), make_tokenizer(), draft=Draft(draft))
    uncompiled = make_llama()
    fuse_layers(uncompiled)
    with pytest.raises(InvalidInput, match="compiled decoder layers"):
        start_engine(uncompiled, make_tokenizer(), draft=Draft(draft))
