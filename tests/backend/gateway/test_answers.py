"""Answers from events alone: chunks of a stream, whole answers, and what ends both early."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import pytest

from backend.domain.serving.protocol import (
    ChoiceEvent,
    EmbeddingEvent,
    FinishEvent,
    FinishReason,
    PromptEvent,
    ScoredToken,
    TokenEvent,
    TokenUsage,
    ToolCallDelta,
)
from backend.gateway import answers
from backend.gateway.answers import (
    AnswerForm,
    collect_answer,
    collect_embeddings,
    collect_tokens,
    encode_stream,
    read_to_end,
    stream_answer,
)
from backend.gateway.errors import ApiError
from backend.gateway.request import ApiExchange, Events, Identity, Starting

USAGE = TokenUsage(prompt_tokens=5, completion_tokens=2, cached_tokens=1)
FINISH = FinishEvent(finish_reason=FinishReason.STOP, usage=USAGE)
WORDS = [TokenEvent(text=text, token_ids=(index,), index=index) for index, text in enumerate(("Once ", "upon"))]


class Source:
    """Events one after the other; remembers whether its reader closed it."""

    def __init__(self, *events: Any) -> None:
        self.events, self.is_closed = events, False

    async def __call__(self) -> Events:
        try:
            for event in self.events:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            self.is_closed = True


def exchange() -> ApiExchange:
    return ApiExchange(Identity("cmpl-1", "m"))


def stream(*events: Any, form: AnswerForm) -> list[bytes]:
    async def read() -> list[bytes]:
        return [chunk async for chunk in stream_answer(Source(*events)(), form=form, exchange=exchange())]

    return asyncio.run(read())


def documents(chunks: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in b"".join(chunks).split(b"\n\n"):
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])


def test_a_stream_has_a_chunk_per_event_and_ends_in_one_piece() -> None:
    chunks = stream(Starting("m"), *WORDS, FINISH, form=AnswerForm(kind="chat", include_usage=True))
    assert chunks[0] == b": starting m\n\n"
    assert len(chunks) == 4, "a sign of life, two words, the end"
    assert chunks[-1].endswith(b"data: [DONE]\n\n")
    read = list(documents(chunks))
    assert {document["id"] for document in read} == {"cmpl-1"}
    assert "".join(d["choices"][0]["delta"].get("content", "") for d in read if d["choices"]) == "Once upon"
    assert read[-2]["choices"][0]["finish_reason"] == "stop"
    assert read[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert all(document["usage"] is None for document in read[:-1])


def test_an_error_in_the_middle_passes_through_and_no_done_is_sent() -> None:
    chunks: list[bytes] = []

    async def read() -> None:
        broken = Source(WORDS[0], ApiError(502, "gone"))
        async for chunk in stream_answer(broken(), form=AnswerForm(kind="text", prompts=("x",)), exchange=exchange()):
            chunks.append(chunk)

    with pytest.raises(ApiError, match="gone"):
        asyncio.run(read())
    assert [document["choices"][0]["text"] for document in documents(chunks)] == ["Once "]


def test_a_reader_that_leaves_closes_the_events() -> None:
    source = Source(*WORDS, FINISH)

    async def read() -> None:
        async with aclosing(encode_stream(source(), lambda event: b"x")) as chunks:
            async for _ in chunks:
                return

    asyncio.run(read())
    assert source.is_closed


def test_a_whole_answer_has_its_choices_in_order_and_the_calls_joined() -> None:
    calls = [
        TokenEvent(text="", token_ids=(1,), index=0, tool_calls=(ToolCallDelta(index=0, id="c1", name="look"),)),
        TokenEvent(text="", token_ids=(2,), index=1, tool_calls=(ToolCallDelta(index=0, arguments='{"a":'),)),
        TokenEvent(text="", token_ids=(3,), index=2, tool_calls=(ToolCallDelta(index=0, arguments="1}"),)),
    ]
    second = [event.model_copy(update={"choice": 1}) for event in WORDS]
    ended = [ChoiceEvent(choice=1, finish_reason=FinishReason.LENGTH), ChoiceEvent(choice=0, finish_reason="stop")]
    source = Source(Starting("m"), *second, *calls, *ended, FINISH)
    answer = asyncio.run(collect_answer(source(), form=AnswerForm(kind="chat", n=2), exchange=exchange()))
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"a":1}'}
    assert answer["choices"][0]["message"]["content"] is None
    assert (answer["choices"][1]["message"]["content"], answer["choices"][1]["finish_reason"]) == (
        "Once upon",
        "length",
    )
    assert answer["usage"]["total_tokens"] == 7


def test_events_without_an_end_are_no_answer() -> None:
    with pytest.raises(RuntimeError, match="without a finish event"):
        asyncio.run(read_to_end(Source(*WORDS)(), lambda event: None))


def test_probabilities_of_whole_answers_share_a_bound_and_give_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_HELD", 3)
    scored = [event.model_copy(update={"logprobs": (ScoredToken(token_id=1, token="a"),) * 2}) for event in WORDS]
    source = Source(*scored, FINISH)
    with pytest.raises(ApiError) as caught:
        asyncio.run(collect_answer(source(), form=AnswerForm(kind="chat", logprobs=True), exchange=exchange()))
    assert (caught.value.status, caught.value.code, answers.HELD.values) == (429, "answers_full", 0)
    assert source.is_closed


def test_embeddings_and_tokens_are_collected() -> None:
    vectors = [EmbeddingEvent(vector=(0.5, -1.0), choice=0)]
    plain = asyncio.run(collect_embeddings(Source(*vectors, FINISH)(), exchange=exchange(), as_base64=False))
    assert (plain["data"][0]["embedding"], plain["usage"]["prompt_tokens"]) == ([0.5, -1.0], 5)
    packed = asyncio.run(collect_embeddings(Source(*vectors, FINISH)(), exchange=exchange(), as_base64=True))
    assert packed["data"][0]["embedding"] == "AAAAPwAAgL8="
    tokens = PromptEvent(tokens=(ScoredToken(token_id=7, token="On"), ScoredToken(token_id=8, token="ce")))
    assert asyncio.run(collect_tokens(Source(tokens, FINISH)())) == {
        "count": 2,
        "tokens": [7, 8],
        "token_strs": ["On", "ce"],
    }
