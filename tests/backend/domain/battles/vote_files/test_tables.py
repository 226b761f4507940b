"""Arrow reads the votes that the slow reader reads, or leaves the file to it."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.battles.vote_files import tables
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.vote_files.tables import read_vote_file
from backend.domain.battles.votes import VoteColumns, encode_votes
from backend.errors import InvalidInput

FULL = "prompt,rater,a,b,winner,category,sampling_probability,length_a,length_b,bold_a,bold_b\n"
ROWS = "p1,r1,x,y,A,maths,0.5,100,50,0,0\np2,r1,y,x,both bad,,,,,,\np1, r2 ,x,z,tie,code,0.25,10,30,1,3\n"
cells = st.sampled_from(["p", "x", "y", " z", "A", "B", "tie", "", '"q, r"', '"a""b"', "ü", "0.5", "2", "left"])
lines = st.lists(st.lists(cells, min_size=5, max_size=7).map(",".join), max_size=5).map("\n".join)
objects = st.fixed_dictionaries(
    {name: st.sampled_from(["x", "y", " z", 81, "A", "B", "tie"]) for name in ("prompt", "rater", "a", "b", "winner")},
    optional={
        "category": st.sampled_from(["maths", ""]),
        "probability": st.sampled_from([0.5, 1, None]),
        "judge": st.just("j"),
    },
)


def assert_same(first: VoteColumns, second: VoteColumns) -> None:
    for name in ("contestants", "prompts", "raters", "categories"):
        assert getattr(first, name) == getattr(second, name)
    for name in ("a", "b", "label", "prompt", "rater", "category", "probability", "forms"):
        one, other = getattr(first, name), getattr(second, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)


def outcome(text: str, *, fast: bool) -> VoteColumns | str:
    try:
        return read_vote_file(text.encode()) if fast else encode_votes(parse_votes(text))
    except InvalidInput as error:
        return error.message


def assert_read_alike(text: str) -> None:
    fast, slow = outcome(text, fast=True), outcome(text, fast=False)
    if isinstance(fast, VoteColumns) and isinstance(slow, VoteColumns):
        assert_same(fast, slow)
    else:
        assert fast == slow


def as_lines(rows: list[dict[str, Any]]) -> str:
    return "\n" + "\n\n".join(json.dumps(row) for row in rows) + "\n"


def rows_of(text: str) -> list[dict[str, Any]]:
    numbers = ("sampling_probability", "length_a", "length_b", "bold_a", "bold_b")
    return [
        {name: float(cell) if name in numbers else cell for name, cell in row.items() if cell}
        for row in csv.DictReader(io.StringIO(text))
    ]


@pytest.mark.parametrize(
    "text",
    [
        FULL + ROWS,
        "\ufeff" + FULL.upper() + ROWS.replace("\n", "\r\n"),
        FULL + '"p, 1",r,"x ""y""",z,B,,,,,,\n\n' + ROWS,
        "prompt,worker,left,right,winner\n8,58,Elm,Oak,right\n",
        as_lines(rows_of(FULL + ROWS)),
        as_lines(
            [
                {
                    "question_id": 81,
                    "judge": "j",
                    "model_a": "x",
                    "model_b": "y",
                    "winner": "tie (bothbad)",
                    "turn": 1,
                    "more": [1],
                }
            ]
        ),
    ],
    ids=["csv", "upper case and windows", "quotes", "sides", "json lines", "mt-bench"],
)
def test_arrow_reads_what_the_slow_reader_reads(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = encode_votes(parse_votes(text))
    monkeypatch.delattr(tables, "parse_votes")  # so only Arrow can read it
    assert_same(read_vote_file(text.encode()), slow)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(["prompt,rater,a,b,winner\n", FULL, "a,b,winner,prompt,judge,probability,category\n"]), lines)
def test_any_csv_is_read_alike_or_refused_alike(header: str, text: str) -> None:
    assert_read_alike(header + text)


@settings(deadline=None, max_examples=200)
@given(st.lists(objects, max_size=4))
def test_any_json_lines_are_read_alike_or_refused_alike(rows: list[dict[str, Any]]) -> None:
    assert_read_alike(as_lines(rows))


@given(st.binary(max_size=60), st.sampled_from([b"", b"{", b"[", b"prompt,rater,a,b,winner\n"]))
def test_any_bytes_are_read_or_refused(data: bytes, begin: bytes) -> None:
    try:
        result = f"{len(read_vote_file(begin + data))} votes"
    except (InvalidInput, UnicodeDecodeError) as error:
        result = str(error)
    assert result


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("p,r,x,y,A,,1.5,,,,", "Line 5 has the probability '1.5'"),
        ("p,r,x,y,A,,0,,,,", "Line 5 has the probability '0'"),
        ("p,r,x,y,A,,,long,1,,", "Line 5 has the length_a 'long'"),
        ("p,r,x,y,A,,,1,-3,,", "Line 5 has the length_b '-3'"),
        ("p,r,x,y,C,,,,,,", "Line 5 has the unknown winner 'C'"),
        ("p,r,x,x,A,,,,,,", "Line 5 compares 'x' with itself"),
    ],
    ids=["probability", "zero", "length", "negative", "winner", "itself"],
)
def test_an_invalid_value_is_named_with_its_line(row: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_vote_file((FULL + ROWS + row + "\n").encode())


def test_the_form_of_answers_becomes_a_relative_difference() -> None:
    forms = read_vote_file((FULL + ROWS).encode()).forms
    assert forms is not None
    np.testing.assert_allclose(forms[:, 0], [1 / 3, np.nan, -0.5])
    np.testing.assert_allclose(forms[:, 3], [0.0, np.nan, -0.5])
    assert np.isnan(forms[:, 1]).all()
