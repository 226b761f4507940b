"""A planted item is found and named; a turn of phrase is not."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.data.reports.contamination import COMMON, RUN, BenchmarkIndex, BenchmarkItem, item_of, words_of

LONG = (
    "A train leaves the station at noon and travels sixty miles an hour toward a town two hundred miles away. When does"
    " it arrive?"
)
SHORT = "Which planet of the solar system has the most moons?"
TINY = "Who wrote Hamlet?"
ITEMS = [
    BenchmarkItem("maths", 1, LONG, ("20 minutes past three",)),
    BenchmarkItem("facts", 1, SHORT, ("Saturn",)),
    BenchmarkItem("facts", 2, TINY, ("Shakespeare",)),
    BenchmarkItem("chinese", 1, "中国的首都是哪座城市,这座城市有多少年的历史?", ("北京",)),
    BenchmarkItem("grammar", 1, "", ("The cats that the dog chases are very tired today.",)),
]
INDEX = BenchmarkIndex(ITEMS)


def found(*parts: str) -> list[tuple[str, int, str]]:
    return [(overlap.benchmark, overlap.item, overlap.kind) for overlap in INDEX.search([parts])]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((f"Homework. {LONG.upper().replace(' ', '  ')} Thanks!",), ("maths", 1, "run")),
        (
            ("He said: travels sixty miles an hour toward a town two hundred miles away when -- and then stopped.",),
            ("maths", 1, "run"),
        ),
        ((f"Some text. {SHORT} Nobody knew.",), ("facts", 1, "question")),
        ((TINY, "I have no idea."), ("facts", 2, "question")),
        (("In the quiz they asked who wrote Hamlet? It was Shakespeare, of course.",), ("facts", 2, "question")),
        (("问题:中国的首都是哪座城市，这座城市有多少年的历史？",), ("chinese", 1, "run")),
        (("the cats that the dog chases are very tired today",), ("grammar", 1, "question")),
    ],
    ids=["whole", "13-words", "short-in-text", "a-turn", "with-its-answer", "unspaced", "no-question"],
)
def test_a_planted_item_is_found_and_named(parts: tuple[str, ...], expected: tuple[str, int, str]) -> None:
    assert found(*parts) == [expected]


@pytest.mark.parametrize(
    "parts",
    [
        ("He asked who wrote Hamlet and why anybody should care about it at all these days.",),
        ("travels sixty miles an hour toward a town two hundred miles",),
        ("Which planet of the solar system has rings?",),
        ("",),
        (),
        ("who wrote", "Hamlet"),
    ],
    ids=["a-phrase", "fewer-than-13", "half", "empty", "nothing", "over-two-turns"],
)
def test_a_merely_similar_text_is_not_reported(parts: tuple[str, ...]) -> None:
    assert found(*parts) == []


def test_the_overlap_holds_the_common_text_and_its_share_of_the_question() -> None:
    overlap = INDEX.search(
        [("nothing here",), ("He travels sixty miles an hour toward a town two hundred miles away. When?",)]
    )[0]
    assert overlap.row == 1
    assert overlap.text == "travels sixty miles an hour toward a town two hundred miles away when"
    assert (overlap.words, overlap.share) == (13, pytest.approx(13 / len(words_of(LONG))))
    assert INDEX.search([(LONG,)])[0].share == 1.0


def test_an_item_twice_in_a_row_is_one_overlap_and_rows_are_separate() -> None:
    words = LONG.split()
    rows = [(f"{LONG} {LONG}",), (" ".join(words[:12]),), (" ".join(words[12:]),)]
    assert [overlap.row for overlap in INDEX.search(rows)] == [0]


def test_runs_shared_by_many_items_are_ignored() -> None:
    head = "Read the following passage carefully and then choose the one option that best answers the question below:"
    names = ["ash", "birch", "cedar", "elm", "fir", "hazel", "juniper", "larch", "maple", "oak", "pine", "rowan"]
    items = [
        BenchmarkItem("school", number, f"{head} what colour is the bark of the {name}?", ())
        for number, name in enumerate(names, 1)
    ]
    assert len(items) > COMMON
    index = BenchmarkIndex(items)
    assert index.search([(f"{head} anything at all",)]) == []
    assert [overlap.item for overlap in index.search([(items[3].question,)])] == [4]


def test_rows_of_benchmarks_become_items_with_their_right_answers() -> None:
    assert item_of("b", 3, {"question": "Q", "choices": ["x", "y"], "answer": 1}) == BenchmarkItem("b", 3, "Q", ("y",))
    assert item_of("b", 4, {"question": "Q", "answers": ["x", "y"]}).answers == ("x", "y")


def by_hand(text: str, item: str) -> bool:
    """The definition, without an index: some 13 words in a row stand in both."""
    row, other = words_of(text), words_of(item)
    runs = {tuple(other[at : at + RUN]) for at in range(len(other) - RUN + 1)}
    return any(tuple(row[at : at + RUN]) in runs for at in range(len(row) - RUN + 1))


@given(st.integers(0, 10_000))
def test_runs_are_found_exactly_where_the_definition_finds_them(seed: int) -> None:
    draw = random.Random(seed)
    item = [draw.choice("abcd") for _ in range(30)]
    begin, size = draw.randrange(15), draw.randrange(8, 18)
    row = [draw.choice("abcde") for _ in range(draw.randrange(20))] + item[begin : begin + size]
    row += [draw.choice("abcde") for _ in range(draw.randrange(20))]
    text, question = " ".join(row), " ".join(item)
    index = BenchmarkIndex([BenchmarkItem("letters", 1, question, ())])
    assert bool(index.search([(text,)])) == by_hand(text, question)
