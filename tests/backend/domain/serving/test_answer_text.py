"""Answers split into reasoning, calls and text: whole, and a character at a time, with the same result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.serving.answer_text import AnswerPiece, AnswerSplitter, CallStyle, arguments_schema, call_style

CALL = '{"name": "look", "arguments": {"place": "the }\\" tower", "deep": [1, {"a": 2}]}}'
ARGUMENTS = {"place": 'the }" tower', "deep": [1, {"a": 2}]}
SECOND = '{"name": "wait", "arguments": {}}'


def split(text: str, style: CallStyle | None, *, step: int, **options: Any) -> tuple[str, str, list[tuple[str, str]]]:
    """The text, the reasoning and the (name, arguments) of an answer that arrives `step` characters at a time."""
    splitter = AnswerSplitter(style, names={"look", "wait"}, **options)
    pieces: list[AnswerPiece] = [splitter.push(text[at : at + step]) for at in range(0, len(text), step)]
    pieces.append(splitter.finish())
    calls: dict[int, list[str]] = {}
    for delta in (delta for piece in pieces for delta in piece.calls):
        if delta.name is not None:
            assert delta.id
            calls[delta.index] = [delta.name, ""]
        calls[delta.index][1] += delta.arguments
    return (
        "".join(p.text for p in pieces),
        "".join(p.reasoning for p in pieces),
        [(name, value) for name, value in calls.values()],
    )


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize(
    ("style", "text", "shown", "names"),
    [
        (CallStyle.HERMES, f"I look.\n<tool_call>\n{CALL}\n</tool_call>", "I look.", ["look"]),
        (
            CallStyle.HERMES,
            f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{SECOND}\n</tool_call>",
            "",
            ["look", "wait"],
        ),
        (CallStyle.MISTRAL, f"[TOOL_CALLS] [{CALL}, {SECOND}]", "", ["look", "wait"]),
        (CallStyle.MISTRAL, f"[TOOL_CALLS]look[ARGS]{CALL[CALL.index('arguments') + 12 : -1]}", "", ["look"]),
        (CallStyle.LLAMA, CALL.replace("arguments", "parameters"), "", ["look"]),
        (CallStyle.LLAMA, "<|python_tag|>" + CALL.replace("arguments", "parameters"), "", ["look"]),
    ],
    ids=["hermes", "hermes-two", "mistral", "mistral-bare", "llama", "llama-tag"],
)
def test_each_familys_calls_are_read(style: CallStyle, text: str, shown: str, names: list[str], step: int) -> None:
    content, reasoning, calls = split(text, style, step=step)
    assert (content, reasoning) == (shown, "")
    assert [name for name, _ in calls] == names
    assert json.loads(calls[0][1]) == ARGUMENTS


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(
    ("style", "text"),
    [
        (CallStyle.LLAMA, '{"name": "stranger", "parameters": {}}'),
        (CallStyle.LLAMA, '{"answer": 42}'),
        (CallStyle.LLAMA, "{not json"),
        (CallStyle.HERMES, "a < b <tool"),
        (CallStyle.MISTRAL, "[TOOL"),
        (None, f"<tool_call>\n{CALL}\n</tool_call>"),
    ],
)
def test_text_that_is_no_call_stays_text(style: CallStyle | None, text: str, step: int) -> None:
    content, _, calls = split(text, style, step=step)
    assert content == text
    assert calls == []


@pytest.mark.parametrize("step", [1, 4, 1000])
def test_reasoning_is_separated_from_the_answer_and_its_calls(step: int) -> None:
    content, reasoning, calls = split(
        f"<think>\nIs it late?\n</think>\n\nYes.\n<tool_call>{SECOND}</tool_call>", CallStyle.HERMES, step=step
    )
    assert reasoning == "Is it late?"
    assert content == "Yes."
    assert calls == [("wait", "{}")]
    assert split("Is it late?</think>Yes.", None, step=step, is_reasoning=True) == ("Yes.", "Is it late?", [])


def test_a_forced_call_begins_inside_the_call() -> None:
    assert split(CALL, CallStyle.HERMES, step=2, is_calling=True)[2][0][0] == "look"
    assert split(CALL, CallStyle.MISTRAL, step=2, is_calling=True)[2][0][0] == "look"


def test_arguments_written_as_text_are_unwrapped() -> None:
    text = '<tool_call>{"name": "look", "arguments": "{\\"place\\": \\"here\\"}"}</tool_call>'
    assert json.loads(split(text, CallStyle.HERMES, step=1)[2][0][1]) == {"place": "here"}


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet='<tool_call>{}"[]\n,:think/ab', max_size=60),
    st.sampled_from([*CallStyle, None]),
    st.integers(1, 7),
)
def test_no_text_breaks_the_splitter_and_steps_do_not_matter(text: str, style: CallStyle | None, step: int) -> None:
    assert split(text, style, step=step) == split(text, style, step=1)


def test_the_style_is_read_from_the_template() -> None:
    assert call_style("... '<tool_call>\\n{\"name\": ' ...") is CallStyle.HERMES
    assert call_style("{{ '[TOOL_CALLS] [' }}") is CallStyle.MISTRAL
    assert call_style("""{{ '{"name": "' + name + '", "parameters": ' }}""") is CallStyle.LLAMA
    assert call_style("{{ messages }}") is CallStyle.HERMES


def test_a_required_argument_that_is_not_described_can_be_given() -> None:
    loose = {"type": "object", "properties": {}, "required": ["x"]}
    assert arguments_schema({"parameters": loose}) == loose
    assert arguments_schema({})["additionalProperties"] is False
