"""A file of answers scored, with and without extraction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.evaluation.extraction import named_filters
from backend.domain.evaluation.metrics.registry import get_metric
from backend.errors import InvalidInput, NotFound
from backend.services.evaluation.metric_scores import score_file


def write_rows(file: Path, *rows: tuple[object, list[str]]) -> Path:
    file.write_text("".join(json.dumps({"prediction": p, "references": r}) + "\n" for p, r in rows))
    return file


def test_an_answer_that_no_filter_finds_is_counted_and_wrong(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ("so #### 7", ["7"]), ("no idea", [""]), ("9 then 8", ["8"]))
    result = score_file(file, metric=get_metric("exact_match"), filters=named_filters("gsm8k"))
    assert (result.score.estimate.value, result.unparsed) == (pytest.approx(2 / 3), 1)
    samples = write_rows(tmp_path / "samples.jsonl", (["#### 7", "no idea"], ["7"]))
    assert score_file(samples, metric=get_metric("pass@1"), filters=named_filters("gsm8k")).score.estimate.value == 0.5


def test_a_file_that_can_not_be_scored_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        score_file(tmp_path / "none.jsonl", metric=get_metric("f1"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prediction": "\xe9", "references": ["a"]}\n')
    with pytest.raises(InvalidInput, match="UTF-8"):
        score_file(tmp_path / "latin.jsonl", metric=get_metric("f1"))


def test_the_command_prints_value_interval_and_signature(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ("US", ["U.S."]), ("its", ["it's"]), ("x", ["y"]))
    result = CliRunner().invoke(app, ["eval", "score", "--metric", "em", "--file", str(file), "--json"])
    scored = json.loads(result.stdout)
    assert (scored["metric"], scored["n"], round(scored["value"], 6)) == ("exact_match", 3, 0.666667)
    assert scored["interval"][0] < scored["value"] < scored["interval"][1]
    assert scored["stderr"] > 0
    assert scored["signature"]
    refused = CliRunner().invoke(
        app, ["eval", "score", "--metric", "em", "--file", str(file), "--option", "x=1", "--json"]
    )
    assert refused.exit_code == 2
    assert "no option" in json.loads(refused.stdout)["error"]
