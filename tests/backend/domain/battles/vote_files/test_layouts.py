"""Votes as other projects publish them: PandaLM, Chatbot Arena, MT-bench with conversations, LMSYS's competition."""

from __future__ import annotations

import json

import pytest

from backend.domain.battles.vote_files import rows as vote_rows
from backend.domain.battles.vote_files.previews import (
    is_mapping_complete,
    preview_votes,
    propose_mapping,
    read_storable_votes,
)
from backend.domain.battles.vote_files.rows import parse_votes, read_vote_rows
from backend.domain.battles.votes import Label
from backend.errors import InvalidInput

PANDALM = {
    "idx": 0,
    "cmp_key": "bloom-7b_llama-7b",
    "instruction": "Rewrite it.",
    "input": "It is long.",
    "response1": "Long.",
    "response2": "",
    "annotator1": 1,
    "annotator2": 2,
    "annotator3": 0,
}


def conversation(*answers: str) -> list[dict[str, str]]:
    return [
        turn
        for number, answer in enumerate(answers, start=1)
        for turn in ({"role": "user", "content": f"Question {number}"}, {"role": "assistant", "content": answer})
    ]


def test_pandalm_has_a_vote_of_each_annotator_and_an_empty_answer_is_one() -> None:
    rows = list(read_vote_rows(json.dumps([PANDALM])))
    assert [(row.vote.rater, row.vote.a, row.vote.b, str(row.vote.winner)) for row in rows] == [
        ("annotator1", "bloom-7b", "llama-7b", "A"),
        ("annotator2", "bloom-7b", "llama-7b", "B"),
        ("annotator3", "bloom-7b", "llama-7b", "TIE"),
    ]
    assert rows[0].texts == {"prompt_text": "Rewrite it.\n\nIt is long.", "answer_a": "Long.", "answer_b": ""}


@pytest.mark.parametrize(
    ("change", "words"), [({"cmp_key": "bloom"}, "cmp_key 'bloom'"), ({"annotator2": 7}, "verdict '7' of annotator2")]
)
def test_what_pandalm_does_not_write_is_refused_by_name(change: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_votes(json.dumps([PANDALM | change]))


@pytest.mark.parametrize("as_text", [False, True], ids=["lists", "JSON in a cell"])
def test_a_conversation_becomes_the_texts_of_its_turn(as_text: bool) -> None:
    sides = {"conversation_a": conversation("a1", "a2"), "conversation_b": conversation("b1", "b2")}
    shared = {"question_id": 81, "judge": "ann", "model_a": "x", "model_b": "y", "winner": "model_a"}
    cells = {name: json.dumps(value) if as_text else value for name, value in sides.items()}
    first, second = read_vote_rows("\n".join(json.dumps({**shared, **cells, "turn": turn}) for turn in (1, 2)))
    assert first.texts == {"prompt_text": "Question 1", "answer_a": "a1", "answer_b": "b1"}
    assert second.texts == {"prompt_text": "Question 1\n\nQuestion 2", "answer_a": "a1\n\na2", "answer_b": "b1\n\nb2"}


def test_a_column_for_each_outcome_is_a_winner() -> None:
    text = "id,model_a,model_b,prompt,winner_model_a,winner_model_b,winner_tie\n1,x,y,p,0,1,0\n2,x,y,q,0,0,1\n"
    assert [str(vote.winner) for vote in parse_votes(text, mapping={"rater": ""})] == ["B", "TIE"]
    with pytest.raises(InvalidInput, match="Line 2 has no winner"):
        parse_votes(text.replace("0,1,0", "1,1,0"), mapping={"rater": ""})


def test_a_preview_counts_the_whole_file_and_says_what_it_lacks() -> None:
    text = "left,right,winner\nOak,Elm,left\nElm,Oak,tie\n"
    columns, mapping = propose_mapping(text)
    assert tuple(columns) == ("left", "right", "winner")
    assert is_mapping_complete(mapping)
    preview = preview_votes(read_storable_votes(text, mapping=mapping))
    assert preview.summary == "2 votes by 1 rater on 2 prompts, 2 contestants"
    assert preview.labels == {"A": 1, "TIE": 1}
    assert [note.split(",")[0] for note in preview.notes] == [
        "No column names the prompt",
        "No column names the rater",
        "No answers: the votes can be rated",
    ]


def test_a_preview_finds_votes_that_repeat_for_want_of_a_turn() -> None:
    rows = [
        {"question_id": 1, "judge": "ann", "model_a": "x", "model_b": "y", "winner": "tie", "turn": turn}
        for turn in (1, 2)
    ]
    text = "\n".join(map(json.dumps, rows))
    _, mapping = propose_mapping(text)
    assert preview_votes(read_storable_votes(text, mapping=mapping)).num_repeats == 0
    assert preview_votes(read_storable_votes(text, mapping=mapping | {"turn": ""})).num_repeats == 1


@pytest.mark.parametrize(
    "text",
    [
        "Aufgabe, Left ,right,WINNER\n1,Oak,Elm,left\n",
        '{"Aufgabe": 1, " Left ": "Oak", "right": "Elm", "WINNER": "left"}',
    ],
    ids=["csv", "json"],
)
def test_columns_have_the_names_that_the_file_writes(text: str) -> None:
    columns, mapping = propose_mapping(text)
    assert columns == {"aufgabe": "Aufgabe", "left": "Left", "right": "right", "winner": "WINNER"}
    assert is_mapping_complete(mapping)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"], ids=["semicolon", "tab", "pipe"])
def test_a_table_of_another_delimiter_is_read(delimiter: str) -> None:
    """A spreadsheet of a country with decimal commas separates by semicolons; it was one column."""
    text = 'prompt,rater,a,b,winner\np1,ann,Oak,"Elm, old",A\n'.replace(",", delimiter).replace(f"{delimiter} ", ", ")
    columns, mapping = propose_mapping(text)
    assert tuple(columns) == ("prompt", "rater", "a", "b", "winner")
    assert preview_votes(read_storable_votes(text, mapping=mapping)).contestants == ("Elm, old", "Oak")


def test_votes_of_a_contestant_on_itself_are_left_out_and_named() -> None:
    """One refused the whole file."""
    text = "prompt,rater,a,b,winner\np1,ann,Oak,Oak,A\np1,ann,Oak,Elm,A\n"
    preview = preview_votes(read_storable_votes(text, mapping={}))
    assert (preview.num_votes, preview.left_out) == (1, ("Line 2",))
    assert "Left out, since a contestant would meet itself: 1 vote (Line 2)." in preview.notes
    with pytest.raises(InvalidInput, match="Line 2 compares 'Oak' with itself"):
        read_storable_votes(text[: text.index("p1,ann,Oak,Elm")])


def test_words_for_the_winner_are_given_a_meaning() -> None:
    text = "prompt,rater,a,b,winner\np1,ann,Oak,Elm,links\np2,ann,Oak,Elm,Elm\np3,ann,Oak,Elm,gleich\n"
    read = read_storable_votes(text, asks=True)
    assert (read.words, len(read.votes)) == (("links", "gleich"), 1)
    named = read_storable_votes(text, labels={"links": Label.A, "gleich": Label.TIE})
    assert preview_votes(named).labels == {"A": 1, "B": 1, "TIE": 1}


def test_a_file_is_read_once_for_its_words_and_its_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The import read it for the words, for the preview and for the votes."""
    readings: list[str] = []
    rows = vote_rows._rows
    monkeypatch.setattr(vote_rows, "_rows", lambda text, **given: readings.append(text) or rows(text, **given))
    text = "prompt,rater,a,b,winner\np1,ann,Oak,Elm,A\np2,ann,Oak,Elm,Elm\n"
    read = read_storable_votes(text, asks=True)
    assert (preview_votes(read).num_votes, len(read.votes), read.words) == (2, 2, ())
    assert len(readings) == 1


def test_many_unknown_words_are_no_words_for_the_winner() -> None:
    rows = [f"p,ann,Oak,Elm,answer {number}" for number in range(11)]
    assert len(read_storable_votes("\n".join(["prompt,rater,a,b,winner", *rows[:10]]), asks=True).words) == 10
    with pytest.raises(InvalidInput, match=r"^11 votes can't be read\. Line 2 has the unknown winner 'answer 0'"):
        read_storable_votes("\n".join(["prompt,rater,a,b,winner", *rows]), asks=True)


def test_words_are_asked_for_before_rows_at_fault_are_named() -> None:
    text = "prompt,rater,a,b,winner\np1,ann,Oak,Elm,links\np2,,Oak,Elm,A\n"
    assert read_storable_votes(text, asks=True).words == ("links",)
    with pytest.raises(InvalidInput, match=r"^Line 3 has no rater\."):
        read_storable_votes(text, labels={"links": Label.A})


def test_a_file_of_something_else_has_no_complete_mapping() -> None:
    _, mapping = propose_mapping("algorithm,item,score\nelo,Oak,1\n")
    assert not is_mapping_complete(mapping)
