"""Files of votes in the columns that people publish."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from backend.cli.rating import app
from backend.domain.battles.vote_files import rows as vote_rows
from backend.domain.battles.vote_files.rows import parse_votes
from backend.domain.battles.votes import VoteRecord
from backend.errors import InvalidInput

OWN = [
    {"prompt": "p1", "rater": "r1", "a": "x", "b": "y", "winner": "A"},
    {"prompt": "p2", "rater": "r1", "a": "y", "b": "x", "winner": "both bad"},
]
OWN_RECORDS = [VoteRecord("p1", "r1", "x", "y", "A"), VoteRecord("p2", "r1", "y", "x", "BOTH_BAD")]


def _mt_bench(winner: str, question: int = 81, judge: Any = "author_2", turn: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "question_id": question,
        "model_a": "x",
        "model_b": "y",
        "winner": winner,
        "judge": judge,
        "turn": turn,
        **more,
    }


MT_BENCH = [
    _mt_bench("model_a"),
    _mt_bench("model_b", turn=2, conversation_a=[{"role": "user", "content": "Hi, " + "there " * 40_000}]),
    _mt_bench("tie", 82),
    _mt_bench("tie (inconsistent)", 82, ["gpt-4", "pair-v2"]),
    _mt_bench("tie (bothbad)", 83, "expert_0"),
]
MT_BENCH_RECORDS = [
    VoteRecord("81", "author_2", "x", "y", "A", turn="1"),
    VoteRecord("81", "author_2", "x", "y", "B", turn="2"),
    VoteRecord("82", "author_2", "x", "y", "TIE", turn="1"),
    VoteRecord("82", "gpt-4 pair-v2", "x", "y", "TIE", turn="1"),
    VoteRecord("83", "expert_0", "x", "y", "BOTH_BAD", turn="1"),
]


def _csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(
        [{k: " ".join(v) if k == "judge" and isinstance(v, list) else v for k, v in row.items()} for row in rows]
    )
    return out.getvalue()


def _lines(rows: list[dict[str, Any]]) -> str:
    return "\n" + "\n".join(json.dumps(row) for row in rows) + "\n\n"


@pytest.mark.parametrize("write", [_csv, _lines, json.dumps], ids=["csv", "json lines", "json list"])
@pytest.mark.parametrize(
    ("rows", "records"), [(OWN, OWN_RECORDS), (MT_BENCH, MT_BENCH_RECORDS)], ids=["own columns", "mt-bench"]
)
def test_votes_are_read_in_every_form(write: Any, rows: list[dict[str, Any]], records: list[VoteRecord]) -> None:
    assert parse_votes("\ufeff" + write(rows)) == records


def test_a_left_and_a_right_side_with_workers_are_read() -> None:
    text = "id,prompt,model_x,model_y,worker,winner,left,right\n0,8,97,98,58,tie,Elm,Oak\n0,8,97,98,83,right,Elm,Oak\n"
    assert parse_votes(text) == [VoteRecord("8", "58", "Elm", "Oak", "TIE"), VoteRecord("8", "83", "Elm", "Oak", "B")]


def test_in_our_own_columns_a_winner_is_a_side_and_no_contestant() -> None:
    text = "prompt,rater,a,b,winner\np,r,model_b,model_a,model_a\n"
    with pytest.raises(InvalidInput, match="Line 2 has the unknown winner 'model_a'"):
        parse_votes(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            _lines([*MT_BENCH[:1], _mt_bench("model_c")]),
            "Line 3 has the unknown winner 'model_c'.*the sides are model_a and model_b",
        ),
        (
            _lines([{k: v for k, v in MT_BENCH[0].items() if k != "judge"}]),
            "lack the column rater; Line 2 has question_id, model_a",
        ),
        (_lines([*MT_BENCH[:1]]) + "{broken\n", "Line 4 is not JSON"),
        (_lines([*MT_BENCH[:1]]) + "[1]\n", "Line 4 is not an object"),
        (json.dumps([*MT_BENCH[:1], _mt_bench("tie", judge=None)]), "Vote 2 has no judge"),
        (json.dumps([*MT_BENCH[:1], _mt_bench("tie", model_b="x")]), "Vote 2 compares 'x' with itself"),
        ("[1, 2", "The file is not JSON"),
        ("question_id,model_a,model_b,winner,judge\n81,x,y,model_a\n", "Line 2 has no judge"),
    ],
    ids=["winner", "column", "no json", "no object", "no judge", "itself", "cut off", "short line"],
)
def test_a_vote_at_fault_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_votes(text)


@given(st.text(max_size=200), st.sampled_from(["", "{", "[", '{"prompt": ', "prompt,rater,a,b,winner\n"]))
def test_any_text_is_read_or_refused_with_a_remedy(text: str, begin: str) -> None:
    try:
        outcome = f"{len(parse_votes(begin + text))} votes"
    except InvalidInput as error:
        outcome = error.remedy
    assert outcome


def test_rating_fit_gives_the_same_ratings_for_a_csv_and_for_json_lines(tmp_path: Path) -> None:
    rows = [
        _mt_bench(winner, question)
        for question in range(81, 91)
        for winner in ("model_a", "model_a", "model_b", "tie (inconsistent)")
    ]
    tables = []
    for name, text in (("votes.csv", _csv(rows)), ("votes.jsonl", _lines(rows))):
        (tmp_path / name).write_text(text)
        result = CliRunner().invoke(app, ["fit", str(tmp_path / name), "--json"])
        assert result.exit_code == 0, result.output
        tables.append(json.loads(result.stdout))
    assert tables[0] == tables[1]
    assert (tables[0]["votes"], tables[0]["prompts"], tables[0]["raters"]) == (40, 10, 1)
    best, worst = tables[0]["ratings"]
    assert (best["contestant"], best["wins"], best["ties"], worst["contestant"]) == ("x", 20, 10, "y")
    assert parse_votes(_csv(rows)) == parse_votes(_lines(rows))


def test_rating_fit_takes_columns_of_other_names_and_its_refusal_says_how(tmp_path: Path) -> None:
    """The columns of an import could be named, those of `rating fit` could not, and no refusal said how."""
    path = tmp_path / "votes.csv"
    path.write_text("one,two,winner,who\n" + "x,y,A,r1\nx,y,B,r2\nx,y,A,r1\n")
    columns = [part for pair in ("a=one", "b=two", "rater=who") for part in ("--column", pair)]
    refused = _fit(path, *columns)
    assert refused.exit_code == 2
    assert "`--column prompt=COLUMN`, or `--column prompt=` if the file has none." in refused.output
    table = _fit(path, *columns, "--column", "prompt=", "--json")
    assert (table["votes"], table["prompts"], table["raters"]) == (3, 3, 2)


def _fit(path: Path, *arguments: str) -> Any:
    result = CliRunner().invoke(app, ["fit", str(path), *arguments])
    return json.loads(result.stdout) if "--json" in arguments and result.exit_code == 0 else result


def test_rating_fit_takes_method_clusters_control_weights_and_category(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"p{n % 10}",
            "rater": f"r{n % 4}",
            "a": "x",
            "b": "y",
            "winner": winner,
            "category": "maths" if n % 2 else "code",
        }
        | {"length_a": 100 + n, "length_b": 200 - n, "probability": 0.5}
        for n, winner in enumerate(["A", "tie", "A", "B", "tie", "A", "A", "B"] * 5)
    ]
    path = tmp_path / "votes.csv"
    path.write_text(_csv(rows))
    document = _fit(
        path, "--method", "davidson", "--cluster-by", "prompt", "--control", "length", "--reweight", "--json"
    )
    assert (document["method"], document["options"]["cluster_by"], document["options"]["reweight"]) == (
        "davidson",
        "prompt",
        True,
    )
    assert document["tie_parameter"] > 0
    assert document["log_likelihood"] < 0
    assert [row["method"] for row in document["fits"]] == ["bradley_terry", "davidson", "rao_kupper"]
    assert [row["feature"] for row in document["controls"]] == ["length"]
    gap = document["differences"][0]
    assert (gap["first"], gap["second"]) == ("x", "y")
    assert gap["difference"] == pytest.approx(document["ratings"][0]["rating"] - document["ratings"][1]["rating"])
    assert gap["low"] < gap["difference"] < gap["high"]
    assert document["position_bias"] is None
    assert _fit(path, "--category", "maths", "--json")["votes"] == 20
    text = _fit(path, "--control", "length").stdout
    assert "Length:" in text
    assert "rao_kupper: log-likelihood" in text
    wrong = _fit(path, "--method", "elo")
    assert wrong.exit_code == 2
    assert "bradley_terry" in wrong.output


def test_all_rows_at_fault_are_named_at_once_up_to_ten() -> None:
    """It named one row, so that a file with four of them was edited four times."""
    header, right = "prompt,rater,a,b,winner", "p,r,x,y,A"
    with pytest.raises(InvalidInput) as refusal:
        parse_votes("\n".join([header, "p,r,x,y,links", right, "p,,x,y,A", "p,r,x,x,A"]))
    assert refusal.value.message == (
        "3 votes can't be read. Line 2 has the unknown winner 'links'. Line 4 has no rater. Line 5 compares 'x' with"
        " itself."
    )
    with pytest.raises(InvalidInput, match=r"^14 votes .* Line 11 has no rater\. And 4 more\.") as refusal:
        parse_votes("\n".join([header, *["p,,x,y,A"] * 14]))
    assert refusal.value.remedy.count("Fill it in") == 1


@pytest.mark.parametrize("write", [_csv, _lines, json.dumps], ids=["csv", "json lines", "json list"])
def test_a_file_of_rows_at_fault_is_read_once_more_for_its_column_names(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row at fault read the file from its beginning: 4 MB took 12 seconds, 10 MB did not end."""
    calls: list[str] = []
    file_columns = vote_rows.file_columns
    monkeypatch.setattr(vote_rows, "file_columns", lambda text: calls.append(text) or file_columns(text))
    rows = [{"Prompt": "p", "Rater": "", "a": "x", "b": "y", "winner": "A"}] * 50
    with pytest.raises(InvalidInput, match=r"^50 votes .* has no Rater\. And 40 more\."):
        parse_votes(write(rows))
    assert len(calls) == 1


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"], ids=ascii)
def test_a_line_of_json_ends_at_a_line_feed_alone(end: str) -> None:
    """These stand raw in JSON as pydantic writes it; the text behind one was a line at fault."""
    lines = [json.dumps({**row, "prompt_text": f"one{end}two"}, ensure_ascii=False) for row in OWN]
    assert parse_votes("\r\n".join(lines)) == OWN_RECORDS


@pytest.mark.parametrize("quote", ['"', ""], ids=["quoted", "plain"])
@pytest.mark.parametrize("delimiter", [";", "\t", "|"], ids=["semicolon", "tab", "bar"])
def test_the_delimiter_is_seen_by_the_header_where_the_first_vote_is_long(delimiter: str, quote: str) -> None:
    """A first vote longer than the head was cut, so the file had one column."""
    breaks = "\n" if quote else " "
    answer = f"{quote}{('word, word.' + breaks) * 10_000}{quote}"
    rows = [["prompt", "rater", "a", "b", "winner", "answer_a", "answer_b"], ["p1", "r1", "x", "y", "A", answer, "no"]]
    for row in (rows[1], [answer, *rows[1][1:]]):
        assert len(parse_votes("\n".join(delimiter.join(cells) for cells in (rows[0], row, row)))) == 2


def test_a_semicolon_file_may_omit_empty_cells_at_the_end_of_its_rows() -> None:
    text = "prompt;rater;a;b;winner;category\np1;r1;x;y;A\np2;r1;y;x;both bad\n"
    assert parse_votes(text) == OWN_RECORDS
