"""An answer that another replica began goes on exactly as it would have: same tokens, text, calls and end, from any
point.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from backend.domain.serving.protocol import (
    NOT_RESUMED,
    Begun,
    ChatMessage,
    Constraint,
    FinishEvent,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    Role,
    SamplingParams,
    TokenEvent,
    ToolChoice,
)
from jobs.serving.answering import ServedNetwork, prepare_answer
from jobs.serving.batching import BatchingEngine
from jobs.serving.engine import TokenTexts
from jobs.serving.grammar import Grammars
from jobs.serving.serial import SerialEngine
from tests.support.networks.chat_styles import QWEN3
from tests.support.networks.serving_networks import END_ID, make_llama, make_tokenizer

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Graz", "Wien"]}}},
    },
}
ASKED = (ChatMessage(role=Role.USER, content="Weather in Graz?"),)
CASES: dict[str, dict[str, Any]] = {
    "greedy": {"params": {"temperature": 0}},
    "seed": {"params": {"seed": 3}},
    "penalties": {"params": {"seed": 3, "presence_penalty": 0.7, "frequency_penalty": 1.1, "logit_bias": ((65, 2.0),)}},
    "filters": {"params": {"seed": 4, "top_k": 20, "top_p": 0.9}},
    "repetitions": {
        "params": {
            "seed": 9,
            "repetition_penalty": 1.5,
            "min_p": 0.02,
            "min_tokens": 30,
            "stop_token_ids": tuple(range(60, 100)),
        }
    },
    "past the end": {
        "params": {"seed": 10, "ignore_eos": True, "min_tokens": 12, "stop": ("a", "e", "i"), "repetition_penalty": 0.7}
    },
    "stop string": {"params": {"seed": 5, "stop": ("zz", "\n")}},
    "schema": {"params": {"seed": 6, "constraint": Constraint(kind="json_schema", value=json.dumps(SCHEMA))}},
    "forced call": {"params": {"seed": 7}, "tools": (TOOL,), "tool_choice": ToolChoice(mode="required")},
    "offered call": {"params": {"seed": 8}, "tools": (TOOL,)},
}


@pytest.fixture(scope="module", params=[BatchingEngine, SerialEngine], ids=["batching", "serial"])
def served(request: pytest.FixtureRequest) -> Iterator[ServedNetwork]:
    tokenizer = make_tokenizer(chat_template=QWEN3)
    engine = request.param(make_llama(context=1024), tokenizer)
    yield ServedNetwork(engine, tokenizer, TokenTexts(tokenizer), Grammars(tokenizer, vocab_size=260, end_ids=[END_ID]))
    engine.close()


def answer(served: ServedNetwork, request: GenerateRequest) -> list[GenerationEvent]:
    events: list[GenerationEvent] = []
    done = threading.Event()

    def take(event: GenerationEvent) -> None:
        events.append(event)
        if isinstance(event, FinishEvent | GenerationErrorEvent):
            done.set()

    prepare_answer(served, request, take).start()
    assert done.wait(120)
    return events


def parts(events: list[GenerationEvent]) -> tuple[str, str, str, tuple[int, ...]]:
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    arguments = [call.arguments for event in tokens for call in event.tool_calls or ()]
    ids = tuple(token for event in tokens for token in event.token_ids)
    return (
        "".join(event.text for event in tokens),
        "".join(event.reasoning or "" for event in tokens),
        "".join(arguments),
        ids,
    )


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_an_answer_goes_on_from_any_of_its_events_as_it_would_have(served: ServedNetwork, case: str) -> None:
    values = dict(CASES[case])
    params = SamplingParams(**{"max_tokens": 40, **values.pop("params")})
    request = GenerateRequest(messages=ASKED, params=params, split=True, **values)
    whole = answer(served, request)
    finish = whole[-1]
    assert isinstance(finish, FinishEvent)
    tokens = [event for event in whole[:-1] if isinstance(event, TokenEvent) and event.token_ids]
    cuts = sorted({1, 2, len(tokens) // 2, len(tokens) - 1, len(tokens)} - {0})
    for cut in [cut for cut in cuts if cut <= len(tokens)]:
        before, ids = whole[:cut], parts(whole[:cut])[3]
        begun = Begun(
            token_ids=ids, characters=sum(event.num_characters for event in before if isinstance(event, TokenEvent))
        )
        rest = answer(served, request.model_copy(update={"begun": begun}))
        assert tuple(a + b for a, b in zip(parts(before), parts(rest), strict=True)) == parts(whole), (
            f"cut after {cut} events"
        )
        last = rest[-1]
        assert isinstance(last, FinishEvent)
        assert last.finish_reason == finish.finish_reason
        assert last.usage.total_tokens == finish.usage.total_tokens


def test_a_beginning_that_was_not_sent_so_ends_with_an_error_instead_of_a_doubled_text(served: ServedNetwork) -> None:
    request = GenerateRequest(messages=ASKED, params=SamplingParams(max_tokens=8, temperature=0))
    events = answer(served, request.model_copy(update={"begun": Begun(token_ids=(65, 66), characters=1)}))
    assert [event.code for event in events if isinstance(event, GenerationErrorEvent)] == [NOT_RESUMED]
    assert len(events) == 1


def test_several_answers_and_probabilities_are_not_continued() -> None:
    begun = Begun(token_ids=(1,), characters=1)
    with pytest.raises(ValueError, match="only a single answer"):
        GenerateRequest(prompt="x", n=2, begun=begun)
    with pytest.raises(ValueError, match="only a single answer"):
        GenerateRequest(prompt="x", params=SamplingParams(logprobs=1), begun=begun)
