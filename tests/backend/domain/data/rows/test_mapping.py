"""Rows in their many spellings become the seven canonical forms, and a broken one says what is wrong with it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.recognition import recognise
from backend.domain.data.rows.columns import column_paths, read_column
from backend.domain.data.rows.display import render_preview, row_text
from backend.domain.data.rows.mapping import apply_mapping, canonical_json, check_mapping, clean_row
from backend.domain.data.rows.problem import RowProblem
from backend.errors import InvalidInput
from tests.support.data.row_spellings import CALLED, GOOD, KTO, LOOK, PREFERENCE, SPELLINGS, USER, WINNER


@pytest.mark.parametrize(
    ("row", "kind", "canonical"), [case[1:] for case in SPELLINGS], ids=[case[0] for case in SPELLINGS]
)
def test_a_common_spelling_is_recognised_and_converted(
    row: dict[str, Any], kind: str, canonical: dict[str, Any]
) -> None:
    recognition = recognise([row])
    assert recognition.kind == kind
    assert recognition.reason
    assert apply_mapping(row, kind=recognition.kind, mapping=recognition.mapping) == canonical


@pytest.mark.parametrize("canonical", [case[3] for case in SPELLINGS], ids=[case[0] for case in SPELLINGS])
def test_a_canonical_row_stays_as_it_is(canonical: dict[str, Any]) -> None:
    recognition = recognise([canonical])
    assert apply_mapping(canonical, kind=recognition.kind, mapping=recognition.mapping) == canonical


def test_truthfulqa_puts_the_best_answer_among_the_wrong_ones() -> None:
    row = {
        "Question": "Seeds?",
        "Best Answer": "Nothing happens",
        "Correct Answers": "Nothing",
        "Incorrect Answers": "You grow; You fly",
    }
    recognition = recognise([row])
    item = apply_mapping(row, kind=recognition.kind, mapping=recognition.mapping)
    assert sorted(item["choices"]) == ["Nothing happens", "You fly", "You grow"]
    assert item["choices"][item["answer"]] == "Nothing happens"


def test_a_missing_column_is_named_with_the_existing_columns() -> None:
    german = recognise([{"Frage": "Wie heißt der Fluss?", "Antwort": "Donau"}])
    assert (german.kind, german.mapping) == (DatasetKind.INSTRUCTION, {"Frage": "prompt", "Antwort": "completion"})
    mapping = {"instruction": "prompt", "output": "completion"}
    with pytest.raises(RowProblem, match=r"column `output` is missing \(found: `response`; use it\?\)"):
        apply_mapping({"instruction": "a", "response": "b"}, kind=DatasetKind.INSTRUCTION, mapping=mapping)


@pytest.mark.parametrize(
    ("row", "kind", "mapping", "reason"),
    [
        ({"text": 12}, "text", {"text": "text"}, "`text` holds a number (12) where text is expected"),
        ({"text": "  "}, "text", {"text": "text"}, "`text` is empty"),
        ({"text": None}, "text", {"text": "text"}, "`text` holds nothing"),
        ({"text": "a\x00b"}, "text", {"text": "text"}, "NUL character"),
        ({"text": "half \ud83d"}, "text", {"text": "text"}, "lone surrogate"),
        ({"m": [USER]}, "chat", {"m": "messages"}, "no answer of the assistant"),
        ({"m": [GOOD]}, "chat", {"m": "messages"}, "no turn of the user"),
        ({"m": [{"role": "king", "content": "x"}]}, "chat", {"m": "messages"}, "unknown role 'king'"),
        (
            {"m": [{"role": "user", "content": None}, GOOD]},
            "chat",
            {"m": "messages"},
            "turn 1 of `messages` has no text",
        ),
        ({"m": ["x"]}, "chat", {"m": "messages"}, "turn 1 of `messages` is text"),
        ({"m": []}, "chat", {"m": "messages"}, "holds no turns"),
        (
            {"c": "same", "r": "same", "p": "q"},
            "preference",
            {"p": "prompt", "c": "chosen", "r": "rejected"},
            "are the same",
        ),
        ({"c": "one", "r": "two"}, "preference", {"c": "chosen", "r": "rejected"}, "there is no prompt"),
        (
            {"c": "yes", "p": "q", "l": 0.5},
            "kto",
            {"p": "prompt", "c": "completion", "l": "label"},
            "neither good nor bad",
        ),
        (
            {"c": "yes", "p": "q", "l": None},
            "kto",
            {"p": "prompt", "c": "completion", "l": "label"},
            "`label` holds nothing",
        ),
        (
            {"a": "x", "b": "y", "p": "q", "w": "tie"},
            "preference",
            WINNER,
            "`winner` holds 'tie': no answer is preferred",
        ),
        ({"a": "x", "b": "y", "p": "q", "w": "purple"}, "preference", WINNER, "`winner` holds 'purple': expected a, b"),
        (
            {"m": [USER, GOOD], "t": "search"},
            "chat",
            {"m": "messages", "t": "tools"},
            "text that is not JSON ('search')",
        ),
        (
            {"m": [USER, GOOD], "t": [{"x": 1}]},
            "chat",
            {"m": "messages", "t": "tools"},
            "tool 1 of `tools` has no name",
        ),
        (
            {"m": [USER, {"from": "function_call", "value": "look(1)"}]},
            "chat",
            {"m": "messages"},
            "where a call of a tool is expected",
        ),
        (
            {"m": [USER, {"role": "assistant", "tool_calls": [{"id": 1}]}]},
            "chat",
            {"m": "messages"},
            "calls a tool without a name",
        ),
        (
            {"p": "x", "c": "y", "h": "z"},
            "chat",
            {"p": "prompt", "c": "completion", "h": "history"},
            "[question, answer] pairs",
        ),
        (
            {"q": "?", "c": ["a", "b"], "a": 7},
            "benchmark",
            {"q": "question", "c": "choices", "a": "answer"},
            "none of the 2 choices",
        ),
        (
            {"q": "?", "c": ["a"], "a": 0},
            "benchmark",
            {"q": "question", "c": "choices", "a": "answer"},
            "at least 2 are needed",
        ),
    ],
)
def test_an_unusable_row_is_rejected_with_the_reason(
    row: dict[str, Any], kind: str, mapping: dict[str, str], reason: str
) -> None:
    with pytest.raises(RowProblem) as caught:
        apply_mapping(row, kind=DatasetKind(kind), mapping=mapping)
    assert reason in caught.value.reason


def test_a_column_with_a_nearly_known_name_is_proposed() -> None:
    rows = [{"instruction": "a", "respons": "b", "id": "3"}]
    assert "if `respons` holds answers, choose kind instruction" in recognise(rows).reason
    assert recognise(rows, kind=DatasetKind.INSTRUCTION).mapping == {"instruction": "prompt", "respons": "completion"}
    with pytest.raises(
        InvalidInput, match=r"`instruction` serves as `prompt`, and nothing as `completion`; use `zzz`\?"
    ):
        recognise([{"instruction": "a", "zzz": "b"}], kind=DatasetKind.INSTRUCTION)
    mapping = {"instruction": "prompt", "output": "completion"}
    with pytest.raises(RowProblem, match=r"column `output` is missing \(found: `id`, `Answer`; use `Answer`\?\)"):
        apply_mapping({"instruction": "a", "id": 1, "Answer": "b"}, kind=DatasetKind.INSTRUCTION, mapping=mapping)
    with pytest.raises(RowProblem, match=r"column `output` is missing \(found: `id`\)"):
        apply_mapping({"instruction": "a", "id": 1}, kind=DatasetKind.INSTRUCTION, mapping=mapping)


TICKETS = [
    {"id": str(i), "ticket": {"agent": None, "body": {"question": f"Why {i}?", "answer": "Because. " * 20}}}
    for i in range(3)
]


def test_columns_of_nested_objects_are_proposed_and_read_by_their_path() -> None:
    recognition = recognise(TICKETS)
    assert recognition.kind == "instruction"
    assert recognition.mapping == {"ticket.body.question": "prompt", "ticket.body.answer": "completion"}
    assert apply_mapping(TICKETS[1], kind=recognition.kind, mapping=recognition.mapping) == {
        "prompt": "Why 1?",
        "completion": "Because. " * 20,
    }
    with pytest.raises(RowProblem, match=r"`ticket.body.reply` is missing .*; use `ticket.body.answer`\?"):
        apply_mapping(
            TICKETS[0],
            kind=DatasetKind.INSTRUCTION,
            mapping={"ticket.body.question": "prompt", "ticket.body.reply": "completion"},
        )


def test_paths_stop_at_lists_and_at_five_names_and_a_column_of_that_name_goes_first() -> None:
    deep = {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}, "l": [{"x": 1}]}, "a.b": "own"}
    assert column_paths([deep]) == ["a", "a.b", "a.b.c", "a.b.c.d", "a.b.c.d.e", "a.l"]
    assert read_column(deep, "a.b.c.d.e.f") == 1
    assert read_column(deep, "a.b") == "own"
    assert read_column(deep, "a.l.x") is None
    assert len(column_paths([{"m": {str(i): i for i in range(10_000)}}])) == 201


def test_tables_of_votes_and_of_facts_are_not_taken_for_training_rows() -> None:
    votes = recognise([{"left": "Pizza", "right": "Sushi", "winner": "left"}] * 3)
    assert (votes.kind, votes.confidence) == ("text", 0.3)
    assert "look like votes" in votes.reason
    assert recognise([{"prompt": "8", "left": "A", "right": "B", "winner": "tie"}] * 3).confidence == 0.3
    assert "table of facts" in recognise([{"name": "GPT 4", "org": "x"}]).reason


def test_answers_without_a_verdict_are_prompts() -> None:
    recognition = recognise(
        [{"prompt": "8", "text": "Argue in a haiku.", "result_x": "Leaves fall", "result_y": "Snow melts"}]
    )
    assert (recognition.kind, recognition.mapping) == ("prompts", {"text": "prompt"})
    assert "no verdict on which of `result_x` and `result_y` is better" in recognition.reason


def test_the_columns_of_a_table_leave_no_empty_fields_in_a_row() -> None:
    table = pyarrow.Table.from_pylist([{"messages": CALLED}, {"messages": [USER, GOOD], "tools": "x"}])
    assert [clean_row(row) for row in table.to_pylist()] == [{"messages": CALLED}, {"messages": [USER, GOOD]}]


def test_reasoning_beside_an_answer_stays_in_its_text_and_words_before_a_call_stay_with_it() -> None:
    thought = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    row = apply_mapping({"m": [USER, thought]}, kind=DatasetKind.CHAT, mapping={"m": "messages"})
    assert row["messages"][1]["content"] == "<think>\n2 and 2\n</think>\n\n4"
    turns = [USER, {"from": "gpt", "value": "Let me look."}, {"from": "function_call", "value": {"name": "look"}}]
    turns[2]["value"] = json.dumps(turns[2]["value"])
    (_, answer) = apply_mapping({"m": turns}, kind=DatasetKind.CHAT, mapping={"m": "messages"})["messages"]
    assert answer["content"] == "Let me look."
    assert answer["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}


def test_a_mapping_that_lacks_a_field_says_which_fields_are_needed() -> None:
    with pytest.raises(RowProblem, match=r"needs `prompt` \+ `completion`.* or `.*; mapped so far: prompt"):
        check_mapping(DatasetKind.INSTRUCTION, {"instruction": "prompt"})
    with pytest.raises(RowProblem, match=r"`answers` or `correct` \+ `incorrect`; no column is mapped yet"):
        check_mapping(DatasetKind.BENCHMARK, {})
    with pytest.raises(RowProblem, match="no field `answer`"):
        check_mapping(DatasetKind.TEXT, {"a": "answer"})
    with pytest.raises(RowProblem, match="mapped from 2 columns"):
        check_mapping(DatasetKind.TEXT, {"a": "text", "b": "text"})
    check_mapping(DatasetKind.BENCHMARK, {"q": "question", "a": "choices", "b": "choices", "c": "answer"})


def test_a_person_may_ask_for_another_kind_than_the_recognised_one() -> None:
    rows = [{"instruction": "Where is Mira?", "output": "In the tower."}]
    recognition = recognise(rows, kind=DatasetKind.CHAT)
    assert apply_mapping(rows[0], kind=DatasetKind.CHAT, mapping=recognition.mapping) == {"messages": [USER, GOOD]}
    assert recognise(rows, kind=DatasetKind.PROMPTS).mapping == {"instruction": "prompt"}
    with pytest.raises(InvalidInput, match="as kind preference \\(found: `instruction`, `output`\\)"):
        recognise(rows, kind=DatasetKind.PREFERENCE)


def test_a_few_broken_rows_do_not_change_the_recognised_kind() -> None:
    rows: list[dict[str, Any]] = [{"messages": [USER, GOOD]}] * 8 + [{"messages": "oops"}, {"other": 1}]
    assert recognise(rows).kind == "chat"


def test_long_answers_to_questions_are_training_rows_and_short_ones_a_benchmark() -> None:
    assert recognise([{"question": "Why?", "answer": "Because of this. " * 20}]).kind == "instruction"
    assert recognise([{"question": "Why?", "answer": "Because."}]).kind == "benchmark"


def test_short_answers_in_sentences_are_training_rows() -> None:
    """A benchmark would split such an answer at its semicolon into two."""
    prose = ['It is 1; "sum" adds nothing.', "Mira lives in the tower.", 'Press "save" first; then close it.']
    assert recognise([{"question": "How?", "answer": text} for text in prose]).kind == "instruction"
    names = ["Oslo", "Los Angeles, Calif.", "The Old Mill by the River", "4; four"]
    assert recognise([{"question": "Where?", "answer": text} for text in names]).kind == "benchmark"


def test_previews_are_plain_text_with_the_right_choice_marked() -> None:
    assert render_preview({"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}) == "2 + 2?\n  A. 3\n* B. 4"
    assert render_preview({"messages": [USER, GOOD]}) == "user: Where is Mira?\nassistant: In the tower."
    assert "[rejected] assistant: Who knows." in render_preview(PREFERENCE)
    assert render_preview({"prompt": "a", "completion": "b"}) == "prompt: a\ncompletion: b"
    assert render_preview(KTO).endswith("[good] assistant: In the tower.")
    assert 'assistant: look({"city": "Graz"})' in render_preview({"messages": CALLED, "tools": json.dumps([LOOK])})
    assert (
        row_text({"messages": CALLED, "tools": json.dumps([LOOK])}) == 'Weather?\nlook({"city": "Graz"})\nrain\nRain.'
    )
    assert row_text(PREFERENCE) == "Where is Mira?\nIn the tower.\nWho knows."


@given(text=st.text(min_size=1), column=st.text(min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_text_is_kept_exactly_unless_it_is_blank_or_holds_a_nul(text: str, column: str) -> None:
    try:
        row = apply_mapping({column: text}, kind=DatasetKind.TEXT, mapping={column: "text"})
    except RowProblem:
        assert not text.strip() or "\x00" in text
        return
    assert row == {"text": text}
    assert json.loads(canonical_json(row).encode()) == row


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "text", "x", "tool_calls", "name", "arguments"]), inner
        )
    ),
    max_leaves=12,
)
columns = st.sampled_from(
    [
        "text",
        "messages",
        "prompt",
        "chosen",
        "rejected",
        "question",
        "choices",
        "answer",
        "A",
        "B",
        "output",
        "turns",
        "tools",
        "label",
        "history",
        "instances",
        "response_a",
        "response_b",
        "winner",
        "completion",
    ]
)


def test_a_column_that_serves_as_the_conversation_does_not_serve_as_its_tools_too() -> None:
    recognition = recognise(
        [{"text": None, "messages": None, "prompt": None, "tools": [{"role": None, "content": None}]}]
    )
    assert recognition.mapping in ({"tools": "messages"}, {"tools": "tools", "messages": "messages"})


@given(rows=st.lists(st.dictionaries(columns, json_values, max_size=5), min_size=1, max_size=4))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_shape_of_rows_crashes_recognition_or_conversion(rows: list[dict[str, Any]]) -> None:
    for kind in (None, *DatasetKind):
        try:
            recognition = recognise(rows, kind=kind)
        except InvalidInput:
            continue
        for row in rows:
            try:
                converted = apply_mapping(row, kind=recognition.kind, mapping=recognition.mapping)
            except RowProblem:
                continue
            assert isinstance(render_preview(converted), str)
            canonical_json(converted).encode()


def test_a_missing_column_beside_mapped_ones_says_that_none_is_left() -> None:
    """`found: no other column` stood beside a row that had two."""
    mapping = {"question": "question", "choices": "choices", "answer": "answer"}
    with pytest.raises(RowProblem, match="column `choices` is missing, and no column is left to take its place"):
        apply_mapping({"question": "2 + 2?", "answer": "4"}, kind=DatasetKind.BENCHMARK, mapping=mapping)


def test_pairs_that_never_differ_are_preferences_of_no_use() -> None:
    """They were imported as instructions, without their rejected answers."""
    rows = [{"prompt": f"Ask {n}", "chosen": "Yes.", "rejected": "Yes."} for n in range(4)]
    recognition = recognise(rows)
    assert recognition.kind is DatasetKind.PREFERENCE
    assert recognition.reason.endswith("and the same in every row: there is nothing to prefer")
    assert recognise([*rows, {**rows[0], "rejected": "No."}]).kind is DatasetKind.INSTRUCTION
