"""The right choice of a file's rows is read alike in all of them: as index from 0 or 1, as letter or as text."""

from __future__ import annotations

from typing import Any

import pytest

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.mapping import apply_mapping, settle_answers
from backend.errors import InvalidInput

MAPPING = {"question": "question", "choices": "choices", "answer": "answer"}
NAMES = ["iron", "wood", "sand", "salt"]


def golds(*rows: tuple[list[str], Any]) -> list[str]:
    given = [{"question": "Which?", "choices": choices, "answer": answer} for choices, answer in rows]
    mapping = settle_answers(given, MAPPING, kind=DatasetKind.BENCHMARK)
    mapped = [apply_mapping(row, kind=DatasetKind.BENCHMARK, mapping=mapping) for row in given]
    return [row["choices"][row["answer"]] for row in mapped]


def test_numbers_that_are_choices_are_meant_as_text() -> None:
    assert golds((["3", "4", "5", "6"], "3"), (["7", "8", "9", "10"], "9")) == ["3", "9"]


def test_an_index_is_no_text_because_one_row_has_that_number_among_its_choices() -> None:
    assert golds((["0", "1", "2", "3"], "1"), (["4", "2", "1", "0"], "2"), (NAMES, "0"), (NAMES, "3")) == [
        "1",
        "1",
        "iron",
        "salt",
    ]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1", "2", "2", "4"], ["iron", "wood", "wood", "salt"]),
        (["1", "2", "0"], ["wood", "sand", "iron"]),
        ([1, 3, 4.0], ["iron", "sand", "salt"]),
        (["A", "d", "(B)"], ["iron", "salt", "wood"]),
        (["wood", "salt"], ["wood", "salt"]),
    ],
)
def test_answers_are_counted_as_the_file_counts_them(answers: list[Any], expected: list[str]) -> None:
    assert golds(*((NAMES, answer) for answer in answers)) == expected


def test_a_file_that_does_not_tell_is_asked_about() -> None:
    with pytest.raises(
        InvalidInput, match=r"`answer` \(1, 2, 3\) may count the choices from 0 or from 1.*answer_from_0"
    ):
        golds((NAMES, "1"), (NAMES, "2"), (NAMES, "3"))
    settled = apply_mapping(
        {"question": "Which?", "choices": NAMES, "answer": "3"},
        kind=DatasetKind.BENCHMARK,
        mapping={**MAPPING, "answer": "answer_from_1"},
    )
    assert settled["answer"] == 2


@pytest.mark.parametrize(
    ("rows", "base"),
    [
        ([(["2", "0", "3", "1"], answer) for answer in "0123"], 0),
        ([(["1", "3", "0", "2"], 3), (["0", "1", "2", "3"], 0)], 0),
        ([(["4", "3", "2", "1"], answer) for answer in (1, 4)], 1),
    ],
    ids=["a permutation of 0 to 3", "numbers", "from 1"],
)
def test_choices_that_are_numbers_are_asked_about_where_index_and_text_both_fit(
    rows: list[tuple[list[str], Any]], base: int
) -> None:
    """Choices that permute 0 to 3 were read as text, so that most golds were another choice than the file meant."""
    with pytest.raises(
        InvalidInput, match=rf"may be the text of a choice or count the choices from {base}.*answer_from_{base}"
    ):
        golds(*rows)


def test_index_and_text_that_mean_the_same_choice_in_every_row_are_not_asked_about() -> None:
    assert golds((["0", "1", "2", "3"], "1"), (["0", "1"], "0")) == ["1", "0"]


def test_labels_of_a_row_come_first() -> None:
    rows = [{"question": "Which?", "choices": {"text": NAMES, "label": ["1", "2", "3", "4"]}, "answer": "1"}]
    mapping = settle_answers(rows, MAPPING, kind=DatasetKind.BENCHMARK)
    assert apply_mapping(rows[0], kind=DatasetKind.BENCHMARK, mapping=mapping)["answer"] == 0
