"""Answers of the fast engine are those of `generate`, whatever ends early, shares a beginning or is sampled."""

from __future__ import annotations

import pytest

from backend.errors import InvalidInput
from jobs.evaluation.engines.base import Answers, EvaluationEngine, PromptRequest, Sampling
from jobs.evaluation.engines.fast import FastEngine
from jobs.evaluation.engines.plain import PlainEngine
from jobs.evaluation.subject import EvaluatedNetwork
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.networks.inspection_networks import make_network

TEXTS = ["Tell me of the sea.", "h", "A much longer prompt, so that others are padded.", "Why?"]


def subject(family: str = "llama") -> EvaluatedNetwork:
    return EvaluatedNetwork(make_network(family), byte_tokenizer(context=96), False)


def answers(engine: EvaluationEngine, requests: list[PromptRequest]) -> list[Answers]:
    pairs = [pair for batch in engine.generate(requests) for pair in batch]
    assert sorted(index for index, _ in pairs) == list(range(len(requests)))
    return [result for _, result in sorted(pairs, key=lambda pair: pair[0])]


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "bloom"])
@pytest.mark.parametrize("before", ["", "Each of the prompts begins with this. "], ids=["apart", "shared"])
def test_greedy_answers_equal_those_of_generate(family: str, before: str) -> None:
    one = subject(family)
    requests = [PromptRequest(before + text, sampling=Sampling(max_tokens=12)) for text in TEXTS]
    assert answers(FastEngine(one, batch_size=3), requests) == answers(PlainEngine(one), requests)


def test_stop_string_ends_its_own_answer_alone() -> None:
    one = subject()
    free = answers(FastEngine(one), [PromptRequest(text, sampling=Sampling(max_tokens=12)) for text in TEXTS])
    stop = free[0][0].text[2:4]
    requests = [
        PromptRequest(text, stop=(stop,) if not place else (), sampling=Sampling(max_tokens=12))
        for place, text in enumerate(TEXTS)
    ]
    fast, plain = answers(FastEngine(one), requests), answers(PlainEngine(one), requests)
    assert fast == plain
    assert (fast[0][0].text, fast[0][0].finish_reason) == (free[0][0].text[:2], "stop")
    assert fast[0][0].tokens < free[0][0].tokens
    assert [part[0].text for part in fast[1:]] == [part[0].text for part in free[1:]]


def test_samples_depend_on_seed_prompt_and_number_alone() -> None:
    one, sampling = subject(), Sampling(max_tokens=8, temperature=1.0, top_p=0.95, seed=3)
    requests = [PromptRequest(text, sampling=sampling, samples=3) for text in TEXTS]
    fast = answers(FastEngine(one, batch_size=5), requests)
    assert fast == answers(PlainEngine(one), requests)
    assert all(len({answer.text for answer in drawn}) == 3 for drawn in fast)
    assert answers(FastEngine(one), requests[2:3])[0] == fast[2]
    assert answers(FastEngine(one), [PromptRequest(TEXTS[2], sampling=sampling)])[0][0] == fast[2][0]


def test_prompt_without_room_loses_its_beginning_and_one_without_a_token_is_refused() -> None:
    one = subject()
    (answer,) = answers(FastEngine(one), [PromptRequest("x" * 200, sampling=Sampling(max_tokens=12))])[0]
    assert (answer.prompt_tokens, answer.cut) == (96 - 12, 201 - 84)
    with pytest.raises(InvalidInput, match="no token"):
        answers(FastEngine(one), [PromptRequest([], sampling=Sampling(max_tokens=4))])
    with pytest.raises(InvalidInput, match="leave no room"):
        answers(FastEngine(one), [PromptRequest("x", sampling=Sampling(max_tokens=96))])
