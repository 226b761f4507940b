"""Results leave in the form of lm-evaluation-harness and of spreadsheets, and those of others come in as rows of their
own.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from typing import Any

import pytest

from backend.domain.csv_text import write_csv
from backend.domain.evaluation.exchange import StatedScore, read_results
from backend.domain.evaluation.report import ReportSection, evaluation_report_html
from backend.domain.evaluation.tasks.reading import read_task
from backend.errors import Conflict, InvalidInput
from backend.services.context import LOCAL, Context
from backend.services.evaluation.board import read_board
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.evaluation.exchange import (
    board_html,
    export_evaluation,
    import_results,
    list_imported,
    remove_imported,
    scores_csv,
)
from backend.services.evaluation.items import get_item
from tests.support.safety_world import add_fine_tune, answered
from tests.support.scenario import Scenario

EVIL = '<img src="http://evil.example/x.png"><script>alert(1)</script>'


def test_lm_eval_files_hold_scores_and_samples_and_read_back(ctx: Context, scenario: Scenario) -> None:
    oak = scenario.evaluation("Oak", "facts", [1, 1, 1, 0])
    with zipfile.ZipFile(io.BytesIO(export_evaluation(ctx, oak.id, form="lm-eval"))) as archive:
        results_name, samples_name = archive.namelist()
        results = json.loads(archive.read(results_name))
        samples = [json.loads(line) for line in archive.read(samples_name).splitlines()]
    assert results["results"]["facts"] == {"alias": "facts", "acc,none": 0.75, "acc_stderr,none": 0.05}
    assert results["n-samples"]["facts"] == {"original": 4, "effective": 4}
    assert results["higher_is_better"]["facts"] == {"acc": True}
    assert [sample["acc"] for sample in samples] == [1.0, 1.0, 1.0, 0.0]
    assert {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
    } <= set(samples[0])
    (row,) = read_results(results, source="results.json")
    assert (row.model, row.benchmark, row.scores) == (
        "Oak",
        "facts",
        (StatedScore(metric="acc", value=0.75, stderr=0.05, n=4),),
    )


def test_items_have_the_numbers_of_their_pages_in_the_csv(ctx: Context, scenario: Scenario) -> None:
    """Item 5 of the page was position 4 of the file."""
    oak = scenario.evaluation("Oak", "facts", [1, 1, 0])
    rows = list(csv.DictReader(io.StringIO(export_evaluation(ctx, oak.id, form="csv").decode("utf-8-sig"))))
    assert [row["item_number"] for row in rows] == [str(get_item(ctx, oak, str(n)).number) for n in (1, 2, 3)]


def test_an_evaluation_without_scores_is_not_exported(ctx: Context, scenario: Scenario) -> None:
    waiting = scenario.evaluation("Oak", "facts")
    with pytest.raises(Conflict, match="no scores yet"):
        export_evaluation(ctx, waiting.id, form="html")


@pytest.mark.parametrize("form", ["board", "evaluation"])
def test_html_reports_escape_every_text_and_ask_for_nothing(ctx: Context, scenario: Scenario, form: str) -> None:
    evil = scenario.evaluation(EVIL, "facts", [1, 0])
    html = board_html(ctx) if form == "board" else export_evaluation(ctx, evil.id, form="html").decode()
    assert EVIL not in html
    assert "&lt;script&gt;" in html
    assert "default-src 'none'" in html
    assert not re.search(
        r"<(script|img|link|iframe)\b|\b(src|href)=|url\(", html.replace("&quot;", '"').replace("&lt;img src=", "")
    )


def test_csv_quotes_formulas_and_leaves_missing_cells_empty(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 0])
    assert scores_csv(list_evaluations(ctx)).splitlines()[1].startswith("Oak,facts@1,multiple_choice,0,acc,,0.5,0.05")
    assert write_csv([{"a": "=1+1", "b": None}, {"a": -1.5, "b": "x"}]) == "a,b\n'=1+1,\n-1.5,x\n"
    assert evaluation_report_html("t", "", [ReportSection("empty", [])]).count("<h2>") == 0


def test_csv_names_the_task_and_keeps_finished_evaluations_without_a_score(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 0], task=read_task("name: law\nkind: multiple_choice\n" + FIELDS))
    scenario.evaluation("Oak", "facts", [1, 0])
    add_fine_tune(ctx)
    answered(ctx, "base", ["..."] * 80)
    rows = list(csv.DictReader(io.StringIO(scores_csv(list_evaluations(ctx)))))
    assert {(row["checkpoint"], row["benchmark"], row["task"], row["metric"]) for row in rows} >= {
        ("Oak", "facts@1", "law", "acc"),
        ("Oak", "facts@1", "", "acc"),
        ("base", "xs@1", "", ""),
    }


FIELDS = "prompt: '{{question}}'\nchoices: choices\nanswer: answer\n"


def results_file(**changes: Any) -> dict[str, Any]:
    data = {
        "results": {
            "facts": {
                "alias": "facts",
                "acc,none": 0.5,
                "acc_stderr,none": 0.1,
                "bleu,none": float("nan"),
                "f1,strict": 0.25,
            }
        },
        "n-samples": {"facts": {"original": 20, "effective": 20}},
        "model_name": "Elsewhere 7B",
    }
    return {**data, **changes}


def test_imported_scores_stand_beside_ours_without_a_rank(ctx: Context, scenario: Scenario) -> None:
    scenario.evaluation("Oak", "facts", [1, 0])
    content = json.dumps(results_file()).encode()
    (row,) = import_results(ctx, content, source="dir/results.json", person=LOCAL)
    assert (row.model, row.source) == ("Elsewhere 7B", "results.json")
    assert [one.metric for one in row.scores] == ["acc", "harness_f1,strict"]  # NaN is left out
    assert len(import_results(ctx, content, source="again.json", person=LOCAL)) == 1
    board = read_board(ctx)
    assert [one.checkpoint for one in board.rows] == ["Oak"]
    (elsewhere,) = board.imported
    assert elsewhere.cells[board.columns[0].key][0].value == 0.5
    assert "Elsewhere 7B" in board_html(ctx)
    assert remove_imported(ctx, row.id, person=LOCAL) == 1
    assert list_imported(ctx) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not json", "not JSON"),
        (b"[1]", "holds no results"),
        (b'{"results": {}}', "holds no results"),
        (b'{"results": {"a": {"acc": "N/A"}}}', "none of them has a finite number"),
        (b"[" * 100_000, "not JSON"),
    ],
    ids=["text", "list", "empty", "no number", "deep"],
)
def test_a_file_of_another_kind_is_refused_by_name(ctx: Context, content: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as error:
        import_results(ctx, content, source="x.json", person=LOCAL)
    assert "x.json" in error.value.message


def test_the_form_of_versions_before_0_4_is_read() -> None:
    old = {
        "results": {"piqa": {"acc": 0.63, "acc_stderr": 0.01}},
        "versions": {"piqa": 0},
        "config": {"model_args": "pretrained=a/b,dtype=x"},
    }
    (row,) = read_results(old, source="old.json")
    assert (row.model, row.harness, row.config) == ("a/b", "lm-evaluation-harness", {"task_version": "0"})
    assert row.scores == (StatedScore(metric="acc", value=0.63, stderr=0.01, n=0),)
