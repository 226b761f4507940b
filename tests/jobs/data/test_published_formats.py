"""Formats of published datasets, through the import job: typed parts, message trees, chosen_messages, lists of
strings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from backend.errors import InvalidInput, JobFailed
from jobs.data.run import run
from jobs.modeling.dataset_files import iter_rows
from tests.support.data.data_reporter import RememberingReporter, import_rows
from tests.support.data.message_trees import message, table_rows, tree
from tests.support.jobs import make_spec

ASK = {"role": "user", "content": "Where is Mira?"}
ANSWER = {"role": "assistant", "content": "In the tower."}


def _import(source: Path, **payload: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the job's result and the rows of both splits."""
    spec = make_spec(
        "import_dataset", {"source": str(source), "val_fraction": 0.0, "max_rejected": 1, **payload}, root=source.parent
    )
    result = run(spec, RememberingReporter()).dump()
    stored = source.parent / result["folder"]
    return result, [*iter_rows(stored, split="train"), *iter_rows(stored, split="val")]


def _lines(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _text(text: str, key: str = "text") -> dict[str, str]:
    return {"type": "text", key: text}


@pytest.mark.parametrize(
    "content",
    [
        [_text("In the "), _text("tower.")],
        [_text("In the tower.", "value")],
        [{"type": "output_text", "text": "In the tower.", "annotations": []}],
        [{"type": "text", "text": {"value": "In the tower.", "annotations": []}}],
        ["In the ", _text("tower.")],
        {"type": "text", "text": "In the tower."},
    ],
    ids=["text", "value", "output_text", "assistants api", "strings among them", "one part"],
)
def test_content_in_typed_parts_becomes_text(tmp_path: Path, content: object) -> None:
    source = _lines(
        tmp_path / "rows.jsonl",
        [{"messages": [{"role": "user", "content": [_text("Where is Mira?")]}, {**ANSWER, "content": content}]}],
    )
    result, rows = _import(source)
    assert (result["kind"], result["rejected"]) == ("chat", [])
    assert rows == [{"messages": [ASK, ANSWER]}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "reasoning", "text": "She climbs."},
        {"type": "reasoning", "reasoning": "She climbs."},
        {"type": "thinking", "thinking": "She climbs.", "signature": "x"},
        {"type": "thinking", "thinking": [_text("She climbs.")]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "She climbs."}]},
    ],
    ids=["text", "reasoning", "thinking", "nested", "summary"],
)
def test_reasoning_parts_stay_apart_from_the_answer(tmp_path: Path, part: dict[str, Any]) -> None:
    answer = {"role": "assistant", "content": [part, _text("In the tower.")]}
    _, rows = _import(_lines(tmp_path / "rows.jsonl", [{"messages": [ASK, answer]}]))
    assert rows[0]["messages"][1]["content"] == "<think>\nShe climbs.\n</think>\n\nIn the tower."


def test_tool_parts_become_calls_and_results(tmp_path: Path) -> None:
    call = {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Graz"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [_text("rain")]}
    turns = [
        ASK,
        {"role": "assistant", "content": [_text("Let me look."), call]},
        {"role": "user", "content": [result]},
        ANSWER,
    ]
    _, rows = _import(_lines(tmp_path / "rows.jsonl", [{"messages": turns}]))
    assert rows[0]["messages"] == [
        ASK,
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"city": "Graz"}'}}
            ],
        },
        {"role": "tool", "content": "rain", "tool_call_id": "c1"},
        ANSWER,
    ]


def _reasoned_calls(*calls: object) -> dict[str, Any]:
    """A row as LLaMA-Factory writes it: a part of reasoning, and each call of a tool as JSON text."""
    parts = [{"type": "reasoning", "value": "Look it up."}, *({"type": "tool_call", "value": call} for call in calls)]
    turns = [{"role": "user", "content": [_text("Where is Mira?", "value")]}, {"role": "assistant", "content": parts}]
    answers = [
        {"role": "tool", "content": [_text("tower", "value")]},
        {"role": "assistant", "content": [_text("In the tower.", "value")]},
    ]
    return {"messages": [*turns, *answers], "tools": json.dumps([{"name": "find", "parameters": {}}])}


@pytest.mark.parametrize(
    "calls",
    [
        ['{"name": "find", "arguments": {"who": "Mira"}}'],
        ['{"name": "find", "arguments": {"who": "Mira"}}', '{"name": "find", "arguments": {"who": "Tam"}}'],
        ['[{"name": "find", "arguments": {"who": "Mira"}}, {"name": "find", "arguments": "{}"}]'],
        [{"name": "find", "arguments": {"who": "Mira"}}],
        ['{"function": {"name": "find", "arguments": {"who": "Mira"}}}'],
    ],
    ids=["one", "two parts", "a list in one part", "an object", "openai's nesting"],
)
def test_calls_written_as_json_text_are_read(tmp_path: Path, calls: list[object]) -> None:
    """31 of the 50 rows of LLaMA-Factory's file of tool calls were lost, and the file was taken for text."""
    result, rows = _import(_lines(tmp_path / "rows.jsonl", [_reasoned_calls(*calls)] * 30))
    assert (result["kind"], result["rows"], result["rejected_count"]) == ("chat", 30, 0)
    call = rows[0]["messages"][1]["tool_calls"][0]["function"]
    assert (call["name"], json.loads(call["arguments"])) == ("find", {"who": "Mira"})
    assert len(rows[0]["messages"][1]["tool_calls"]) == (
        1 if len(calls) == 1 and not str(calls[0]).startswith("[") else 2
    )
    assert "Look it up." in rows[0]["messages"][1]["content"]


def test_a_call_that_is_not_json_rejects_its_row_alone(tmp_path: Path) -> None:
    source = _lines(tmp_path / "rows.jsonl", [_reasoned_calls('{"name": "find"}'), _reasoned_calls("find Mira")])
    result, rows = _import(source)
    assert (result["kind"], len(rows)) == ("chat", 1)
    assert "text that is not JSON ('find Mira')" in result["rejected"][0]["reason"]


def test_turns_with_roles_are_never_taken_for_text(tmp_path: Path) -> None:
    """With most turns unreadable, another column of text was imported, as text to train on."""
    unread = {
        "messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}, ANSWER],
        "tools": "[]",
        "note": "long " * 40,
    }
    read = {"messages": [ASK, ANSWER], "tools": "[]", "note": "long " * 40}
    result, rows = _import(_lines(tmp_path / "rows.jsonl", [*[unread] * 7, *[read] * 3]))
    assert (result["kind"], len(rows), result["rejected_count"]) == ("chat", 3, 7)
    spelled = {"messages": [{"role": "user", "body": "Where is Mira?"}], "note": "long " * 40}
    with pytest.raises(InvalidInput, match="turn 1 of `messages` has no text"):
        _import(_lines(tmp_path / "odd.jsonl", [spelled] * 3))


def test_above_the_share_that_may_be_rejected_nothing_is_imported(tmp_path: Path) -> None:
    """The whole file decides, not its beginning; the reasons are counted over all rows, whatever numbers and names they
    hold.
    """
    good = [{"messages": [ASK, {"role": "assistant", "content": f"In tower {n}."}]} for n in range(900)]
    bad = [{"messages": [*([ASK] * (n % 5)), {"role": f"king {n}", "content": "x"}]} for n in range(300)]
    source = _lines(tmp_path / "rows.jsonl", [*good, *bad, {"messages": []}])
    with pytest.raises(InvalidInput) as caught:
        _import(source, max_rejected=0.01)
    assert caught.value.field == "rejected"
    assert "301 of 1,201 rows (25.1 %) of 'rows.jsonl' can't be used" in caught.value.message
    assert "300 rows: turn 1 of `messages` has the unknown role 'king 0'" in caught.value.message
    assert "(first: row 901); 1 row: " in caught.value.message
    assert not [path for path in (tmp_path / "datasets").iterdir() if not path.name.startswith(".")]
    result, rows = _import(source)
    assert (len(rows), result["rejected_count"], len(result["rejected"])) == (900, 301, 200)
    assert [reason["rows"] for reason in result["rejected_reasons"]] == [300, 1]
    few = _lines(tmp_path / "few.jsonl", [*good, *bad[:9]])
    assert _import(few, max_rejected=0.01)[0]["rejected_count"] == 9


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (
            {"type": "image_url", "image_url": {"url": "data:..."}},
            "part 2 of turn 1 of `messages` is an image (image_url)",
        ),
        ({"type": "image"}, "part 2 of turn 1 of `messages` is an image (image)"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "is audio (input_audio)"),
        ({"type": "video", "video": "a.mp4"}, "is a video (video)"),
        ({"type": "hologram", "text": "x"}, "has the unknown type 'hologram' (known: text, reasoning"),
        ({"type": "text", "txt": "x"}, "has no text (found: type, txt)"),
        (7, "is a number, not an object with a type"),
        ({"type": "reasoning", "text": "hm"}, "has the role user and holds reasoning"),
    ],
    ids=["image url", "image", "audio", "video", "unknown", "no text", "number", "reasoning of the user"],
)
def test_a_part_that_is_no_text_rejects_its_row_alone(tmp_path: Path, part: object, reason: str) -> None:
    good = {"messages": [ASK, ANSWER]}
    bad = {"messages": [{"role": "user", "content": [_text("Look:"), part]}, ANSWER]}
    result, rows = _import(_lines(tmp_path / "rows.jsonl", [good, bad, good]))
    assert len(rows) == 2
    assert [row["row"] for row in result["rejected"]] == [2]
    assert reason in result["rejected"][0]["reason"]


def test_parts_in_a_parquet_column_have_nulls_where_another_part_has_a_key(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": "Where is Mira?", "value": None}]}]
    turns.append({"role": "assistant", "content": [{"type": "text", "text": None, "value": "In the tower."}]})
    parquet.write_table(pyarrow.Table.from_pylist([{"messages": turns}] * 3), tmp_path / "rows.parquet")
    result, rows = _import(tmp_path / "rows.parquet")
    assert result["rejected_count"] == 0
    assert rows == [{"messages": [ASK, ANSWER]}] * 3


def test_chosen_messages_and_rejected_messages_are_preferences(tmp_path: Path) -> None:
    row = {"id": "1", "chosen_messages": [ASK, ANSWER], "rejected_messages": [ASK, {**ANSWER, "content": "Who knows."}]}
    same = {"id": "2", "chosen_messages": [ASK, ANSWER], "rejected_messages": [ASK, ANSWER]}
    lacking = {"id": "3", "chosen_messages": [ASK, ANSWER]}
    result, rows = _import(_lines(tmp_path / "rows.jsonl", [row, same, lacking, row]))
    assert result["kind"] == "preference"
    assert rows == [{"prompt": [ASK], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "Who knows."}]}] * 2
    assert [(r["row"], r["reason"][:48]) for r in result["rejected"]] == [
        (2, "`chosen` and `rejected` are the same"),
        (3, "column `rejected_messages` is missing (found: `id`"[:48]),
    ]


def _turns(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


CONVERSATIONS = [
    _turns("What is 7 + 0?", "It is 7.", "And why is it 7?", "Counting 7."),
    _turns("What is 7 + 0?", "It is 7.", "And why is it 7?", "Arithmetic 7."),
    _turns("What is 7 + 0?", "It is 7.", "And why is it 7?", "Unranked 7."),
    _turns("What is 7 + 0?", "Perhaps 8."),
]


def test_each_path_of_a_nested_tree_is_a_conversation(tmp_path: Path) -> None:
    result, rows = _import(_lines(tmp_path / "trees.jsonl", [tree(7)]))
    assert result["kind"] == "chat"
    assert [row["messages"] for row in rows] == CONVERSATIONS


def test_ranks_among_the_answers_to_one_message_are_preferences(tmp_path: Path) -> None:
    unranked = {"prompt": message("x", "Hi", message("y", "Ho"), role="prompter")}
    result, rows = _import(_lines(tmp_path / "trees.jsonl", [tree(7), unranked]), kind="preference")
    before = _turns("What is 7 + 0?", "It is 7.", "And why is it 7?")
    assert rows == [
        {"prompt": before[:1], "chosen": [before[1]], "rejected": [{"role": "assistant", "content": "Perhaps 8."}]},
        {
            "prompt": before,
            "chosen": [{**ANSWER, "content": "Arithmetic 7."}],
            "rejected": [{**ANSWER, "content": "Counting 7."}],
        },
    ]
    assert [(row["row"], row["reason"]) for row in result["rejected"]] == [
        (2, "no two answers to the same message have different ranks, so nothing is preferred")
    ]


@pytest.mark.parametrize("kind", ["chat", "preference"])
@pytest.mark.parametrize("order", ["parents first", "shuffled"])
def test_a_table_of_messages_gives_the_rows_of_its_nested_trees(tmp_path: Path, kind: str, order: str) -> None:
    trees = [tree(number) for number in range(400)]
    messages = [row for one in trees for row in table_rows(one["prompt"])]
    if order == "shuffled":
        random.Random(3).shuffle(messages)
    _, nested = _import(_lines(tmp_path / "trees.jsonl", trees), kind=kind, out_root="nested")
    parquet.write_table(pyarrow.Table.from_pylist(messages), tmp_path / "messages.parquet")
    result, rows = _import(tmp_path / "messages.parquet", kind=kind)
    assert (result["rejected_count"], len(rows)) == (0, len(nested))
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, nested)) or order == "shuffled"
    assert {json.dumps(row) for row in rows} == {json.dumps(row) for row in nested}
    assert not list((tmp_path / "datasets").glob(".messages-*"))


def test_conversations_of_one_tree_stay_in_one_split(tmp_path: Path) -> None:
    result, _ = _import(_lines(tmp_path / "trees.jsonl", [tree(number) for number in range(600)]), val_fraction=0.2)
    stored = tmp_path / result["folder"]
    train, val = (
        {row["messages"][0]["content"] for row in iter_rows(stored, split=split)} for split in ("train", "val")
    )
    assert train
    assert val
    assert not train & val


def test_messages_that_no_tree_reaches_are_rejected_with_the_reason(tmp_path: Path) -> None:
    rows = [
        *table_rows(tree(7)["prompt"]),
        {"message_id": "lost", "parent_id": "gone", "role": "assistant", "text": "Nobody asked.", "rank": None},
        {"message_id": "below", "parent_id": "lost", "role": "prompter", "text": "Why?", "rank": None},
        {"message_id": "7.a1", "parent_id": None, "role": "prompter", "text": "Again?", "rank": None},
        {"message_id": "r1", "parent_id": "r2", "role": "prompter", "text": "Round", "rank": None},
        {"message_id": "r2", "parent_id": "r1", "role": "assistant", "text": "and round", "rank": None},
        {"parent_id": None, "role": "prompter", "text": "No id", "rank": None},
        {"message_id": "odd", "parent_id": "7.u1", "role": "assistant", "text": "Odd", "rank": "first"},
        {"message_id": "mute", "parent_id": "7.u1", "role": "assistant", "text": None, "rank": None},
    ]
    result, imported = _import(_lines(tmp_path / "messages.jsonl", rows))
    assert [row["messages"] for row in imported] == CONVERSATIONS
    reasons = {row["row"]: row["reason"] for row in result["rejected"]}
    first = len(table_rows(tree(7)["prompt"])) + 1
    assert reasons == {
        1: "turn 2 of `messages` has no text (found: role)",
        first: "the message `gone` that it answers is not in the source",
        first + 1: "its thread leads to no first message: a message above `lost` is missing or answers itself",
        first + 2: "the message id '7.a1' is also that of row 2",
        first + 3: "its thread leads to no first message: a message above `r2` is missing or answers itself",
        first + 4: "its thread leads to no first message: a message above `r1` is missing or answers itself",
        first + 5: "column `message_id` is missing (found: `parent_id`, `role`, `text`, `rank`)",
        first + 6: "`rank` holds 'first' where a number is expected",
    }


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("What?", "`tree` holds text where a message with replies is expected"),
        (
            {**message("m", "Hi", role="prompter"), "replies": "none"},
            "`replies` of the message 'm' is not a list of messages",
        ),
        (message("m", "Hi", role="prompter"), "the conversation has no answer of the assistant"),
        (
            message("m", "Hi", message("n", "Ho", role="king"), role="prompter"),
            "turn 2 of `messages` has the unknown role 'king'",
        ),
    ],
    ids=["no tree", "replies are text", "nobody answers", "unknown role"],
)
def test_a_broken_tree_is_rejected_and_the_others_stay(tmp_path: Path, prompt: object, reason: str) -> None:
    result, rows = _import(_lines(tmp_path / "trees.jsonl", [tree(7), {"prompt": prompt}, tree(8)]))
    assert len(rows) == 8
    assert [row["row"] for row in result["rejected"]] == [2]
    assert reason in result["rejected"][0]["reason"]


def test_a_tree_whose_paths_would_fill_the_disk_is_refused(tmp_path: Path) -> None:
    rows = [{"message_id": "0", "parent_id": None, "role": "user", "text": "a"}]
    for n in range(1, 3000):  # a thread of answers, each with one more answer beside: 3,000 leaves of up to 3,000 turns
        rows.append({"message_id": str(n), "parent_id": str(n - 1), "role": "assistant", "text": "a"})
        rows.append({"message_id": f"{n}b", "parent_id": str(n - 1), "role": "assistant", "text": "b"})
    with pytest.raises(InvalidInput, match="the paths of this tree hold more than 200,000 turns"):
        _import(_lines(tmp_path / "messages.jsonl", rows))


def test_a_stopped_import_of_a_message_table_resumes(tmp_path: Path) -> None:
    messages = [row for number in range(9000) for row in table_rows(tree(number)["prompt"])]
    source = _lines(tmp_path / "messages.jsonl", messages)
    whole = import_rows(source, tmp_path / "whole")
    out = tmp_path / "parts"
    tries = 0
    while True:
        tries += 1
        try:
            result = import_rows(source, out, reporter=_StopsOnceKept(out), part_s=0.0)
            break
        except JobFailed:
            assert tries < 40
    assert result.resumed
    assert result.content_hash == whole.content_hash
    assert (result.rows, result.rejected_count) == (36_000, 0)


class _StopsOnceKept(RememberingReporter):
    """Asks to stop as soon as one more part is finished than when it began."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self._out = out
        self._before = self._parts()

    def _parts(self) -> int:
        states = list(self._out.glob(".importing-*/state.json"))
        return json.loads(states[0].read_text())["parts"] if states else 0

    def should_stop(self) -> Any:
        return "cancel" if self._parts() > self._before else None


@pytest.mark.parametrize(
    ("strings", "kind", "field"),
    [
        (["How do I tie a knot?", "Explain tides.", "Write a poem about rain."], "prompts", "prompt"),
        (["Mira climbed the tower.", "Rain fell all night.", "The bell rang twice."], "text", "text"),
        (["emma", "olivia", "ava"], "text", "text"),
    ],
    ids=["prompts", "texts", "names"],
)
@pytest.mark.parametrize("ending", [".json", ".jsonl"])
def test_a_list_of_strings_is_prompts_or_text(
    tmp_path: Path, strings: list[str], kind: str, field: str, ending: str
) -> None:
    source = tmp_path / f"strings{ending}"
    source.write_text(json.dumps(strings) if ending == ".json" else "".join(json.dumps(one) + "\n" for one in strings))
    result, rows = _import(source)
    assert (result["kind"], result["mapping"]) == (kind, {"string": field})
    if kind == "prompts":
        assert rows == [{"prompt": one} for one in strings]
        assert _import(source, kind="text")[0]["kind"] == "text"
    else:
        assert "\n".join(row["text"] for row in rows) == "\n".join(strings)
        assert _import(source, kind="prompts")[1] == [{"prompt": one} for one in strings]


def test_a_string_among_objects_and_a_number_among_strings_are_named(tmp_path: Path) -> None:
    mixed = tmp_path / "mixed.json"
    mixed.write_text(json.dumps([{"prompt": "a", "completion": "b"}, "stray", {"prompt": "c", "completion": "d"}]))
    result, rows = _import(mixed)
    assert len(rows) == 2
    assert [(row["row"], row["reason"]) for row in result["rejected"]] == [
        (2, "the row is a bare string where an object with named columns is expected")
    ]
    numbers = tmp_path / "numbers.json"
    numbers.write_text(json.dumps(["Why?", 3, "", "How?", None]))
    result, rows = _import(numbers)
    assert rows == [{"prompt": "Why?"}, {"prompt": "How?"}]
    assert [row["row"] for row in result["rejected"]] == [2, 3, 5]


def test_what_stands_beside_the_text_in_images_video_and_sound_is_counted(tmp_path: Path) -> None:
    """LLaMA-Factory's mllm_* files lost their images without a word; `<image>` was trained on as text."""
    asked = {"messages": [{"role": "user", "content": "<image>What is it?"}, ANSWER]}
    rows = [{**asked, "images": ["1.jpg"]}] * 5 + [{**asked, "videos": ["1.mp4"], "images": []}] * 2 + [asked]
    source = _lines(tmp_path / "mllm_demo.jsonl", rows)
    result, stored = _import(source)
    assert (len(stored), result["dropped_media"]) == (8, {"images": 5, "videos": 2})
    kept, _ = _import(source, kind="records")
    assert kept["dropped_media"] == {}
