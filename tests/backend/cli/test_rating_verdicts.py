"""`rating verdict` and `rating agreement`: documents of files of votes, and errors that name the cure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli.rating import app


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    """40 prompts of three raters and a judge: x wins three of four, the judge votes in both orders and always for side
    a on ten prompts.
    """
    lines = ["prompt,rater,a,b,winner"]
    for prompt in range(40):
        winner = "TIE" if prompt % 8 == 7 else "A" if prompt % 4 else "B"
        lines += [f"p{prompt},person_{rater},x,y,{winner}" for rater in range(3)]
        verdict = winner if winner != "TIE" else "A"
        turned = "A" if prompt < 10 else {"A": "B", "B": "A"}[verdict]
        lines += [f"p{prompt},judge,x,y,{verdict}", f"p{prompt},judge,y,x,{turned}"]
    file = tmp_path / "votes.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def call(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_verdict_holds_outcome_interval_path_and_plan(votes: Path, tmp_path: Path) -> None:
    people = tmp_path / "people.csv"
    people.write_text("\n".join(line for line in votes.read_text().splitlines() if ",judge," not in line))
    document = call("verdict", str(people), "--first", "x", "--second", "y", "--path", "--judge-correlation", "0.5")
    assert (document["votes"], document["prompts"], document["raters"], document["ties"]) == (120, 40, 3, 15)
    assert document["outcome"] in ("better", "undecided")
    assert (document["for_these_raters"] == "better") == (document["e_value"] >= document["threshold"] == 20)
    assert (document["outcome"] == "better") == (min(document["e_value"], document["rater_e_value"]) >= 20)
    assert document["low"] <= document["share"] <= document["high"]
    assert document["level"] == 0.95
    assert len(document["path"]) == 120
    assert document["path"][-1] == document["e_value"]
    assert {(row["gap_elo"], row["design"]) for row in document["plan"]} >= {
        (20, "new_prompts"),
        (35, "one_look"),
        (150, "judge"),
    }
    turned = call("verdict", str(people), "--first", "y", "--second", "x")
    assert turned["e_value"] == pytest.approx(document["e_value"])
    assert turned["share"] == pytest.approx(1 - document["share"])
    assert "path" not in turned


def test_a_verdict_is_printed_as_a_sentence_with_a_table_of_plans(votes: Path) -> None:
    output = CliRunner().invoke(app, ["verdict", str(votes), "--first", "x", "--second", "y", "--pairs", "3"]).stdout
    assert "98.33 % interval for these raters, 3 pairs by Bonferroni" in output
    assert "One vote each on new prompts, a fixed sample" in output


def test_a_judge_is_no_rater_of_a_verdict_but_narrows_its_share(votes: Path) -> None:
    more = votes.read_text() + "".join(f"q{prompt},judge,x,y,{'AAB'[prompt % 3]}\n" for prompt in range(200))
    votes.write_text(more)
    document = call("verdict", str(votes), "--first", "x", "--second", "y", "--judge", "judge")
    assert (document["votes"], document["raters"], document["prompts"]) == (120, 3, 40)
    assisted = document["assisted"]
    assert (assisted["num_voted"], assisted["num_judged"]) == (40, 200)
    assert assisted["share"]["stderr"] < assisted["alone"]["stderr"]
    assert {row["design"] for row in document["plan"]} >= {"judge"}


def test_a_contestant_without_votes_is_named_with_those_that_have(votes: Path) -> None:
    result = CliRunner().invoke(app, ["verdict", str(votes), "--first", "x", "--second", "z"])
    assert result.exit_code == 2
    assert "No vote is on 'z'. The file's contestants are x, y." in result.stderr


def test_agreement_of_raters_and_of_a_judge_with_them(votes: Path) -> None:
    document = call("agreement", str(votes), "--judge", "judge")
    assert document["human_human"]["ties"] == {
        "agreement": 1.0,
        "low": pytest.approx(0.91, abs=0.02),
        "high": 1.0,
        "n": 120,
    }
    assert document["human_human"]["non_tie"]["n"] == 3 * 35
    assert (document["alpha"], document["n"], document["raters"]) == (1.0, 40, 3)
    judged = document["judge_human"]
    assert (judged["judge"], judged["n"], judged["ties"]["n"]) == ("judge", 40, 120)
    assert 0 < judged["flips"]["value"] < 0.25
    assert judged["ties"]["agreement"] < 1
    assert document["human_human"]["ties"]["agreement"] > judged["ties"]["agreement"]


def test_without_a_judge_its_document_is_null_and_a_pattern_selects_raters(votes: Path) -> None:
    document = call("agreement", str(votes), "--raters", "person_[01]")
    assert document["judge_human"] is None
    assert (document["raters"], document["human_human"]["ties"]["n"]) == (2, 40)


def test_agreement_is_printed_with_the_judge_below_its_ceiling(votes: Path) -> None:
    output = CliRunner().invoke(app, ["agreement", str(votes), "--judge", "judge"]).stdout
    assert output.index("raters") < output.index("judge")
    assert "Krippendorff's alpha 1.000" in output
    assert "contradicts itself when sides are swapped" in output


def test_an_interval_without_width_is_not_printed(tmp_path: Path) -> None:
    """A judge that always votes alike has a kappa of 0 in every resample, which was printed as [0.000, 0.000]."""
    votes = [f"p{number},{vote}" for number in range(12) for vote in (f"ann,x,y,{'AB'[number % 2]}", "judge,x,y,A")]
    (tmp_path / "votes.csv").write_text("\n".join(["prompt,rater,a,b,winner", *votes]))
    output = CliRunner().invoke(app, ["agreement", str(tmp_path / "votes.csv"), "--judge", "judge"]).stdout
    assert "Judge: kappa 0.000, AC1" in output


def test_an_unknown_judge_is_an_error(votes: Path) -> None:
    result = CliRunner().invoke(app, ["agreement", str(votes), "--judge", "gpt"])
    assert result.exit_code == 2
    assert "No vote is by 'gpt'." in result.stderr
