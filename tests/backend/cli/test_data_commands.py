"""`roundhouse data show | diff | derive | card | delete`: one JSON document each, and misuse in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.data.versions.changes import DropDuplicates
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import list_datasets, resolve_version
from backend.services.data.versions import derive_version
from tests.support.command_line import roundhouse
from tests.support.data.dataset_world import done, imported

ROWS = [{"instruction": f"Say {n % 9}", "output": "yes"} for n in range(20)]


@pytest.mark.usefixtures("jobs_done_here")
def test_a_version_is_made_shown_compared_described_and_deleted(command_line: Context, tmp_path: Path) -> None:
    first = imported(command_line, "sayings", ROWS)
    done(command_line, derive_version(command_line, first.id, change=DropDuplicates(), person=LOCAL))
    fewer = roundhouse("data", "derive", "sayings@2", "--leave-out", "text contains SAY 3", "--to", "fewer")
    assert (fewer["dataset"], fewer["version"], fewer["rows"], fewer["dropped_rows"]) == ("fewer", 1, 8, 1)
    diff = roundhouse("data", "diff", "sayings@2", "fewer")
    assert (diff["added"], diff["removed"], diff["unchanged"]) == (0, 1, 8)
    assert diff["examples"][0]["before"]["prompt"] == "Say 3"
    shown = roundhouse("data", "show", "sayings@2", "--rows", "1")
    assert [use["name"] for use in shown["users"]] == ["fewer@1"]
    assert [step["from"] for step in shown["lineage"]] == [[], ["sayings@1"], ["sayings@2"]]
    assert shown["preview"][0].endswith("completion: yes")
    card = roundhouse("data", "card", "sayings@2", "--licence", "mit", "--languages", "en,de")
    assert (card["licence"], card["languages"]) == ("mit", ["en", "de"])
    assert "license: mit" in card["card"]
    assert "“fewer@1”" in roundhouse("data", "delete", "sayings@2", status=2)["error"]
    assert roundhouse("data", "delete", "fewer") == {"deleted": "fewer"}
    assert roundhouse("data", "delete", "sayings@2") == {"deleted": "sayings@2"}
    assert resolve_version(command_line, "sayings").number == 1


@pytest.mark.usefixtures("jobs_done_here")
def test_a_version_is_exported_to_a_folder(command_line: Context, tmp_path: Path) -> None:
    imported(command_line, "sayings", ROWS)
    data = roundhouse("data", "export", "sayings", "--format", "datasets", "--to", str(tmp_path / "out"))
    assert (data["dataset"], data["version"], data["format"], data["rows"]) == (
        "sayings",
        1,
        "datasets",
        {"train": 18, "validation": 2},
    )
    assert (data["folder"], data["pushed"]) == (str(tmp_path / "out"), None)
    assert "dataset_dict.json" in data["files"]
    assert "already exists" in roundhouse("data", "export", "sayings", "--to", str(tmp_path / "out"), status=2)["error"]
    assert (
        "no export format 'xlsx'"
        in roundhouse("data", "export", "sayings", "--format", "xlsx", "--to", "x", status=2)["error"]
    )
    assert "no destination" in roundhouse("data", "export", "sayings", status=2)["error"]


def test_a_preview_shows_columns_by_path_with_samples_and_imports_nothing(
    command_line: Context, tmp_path: Path
) -> None:
    """The manual named the option, which did not exist."""
    file = tmp_path / "tickets.jsonl"
    row = {"ticket": {"agent": None, "body": {"question": "Why?", "answer": "Because. " * 20}}}
    file.write_text(f"{json.dumps(row)}\n" * 9)
    seen = roundhouse("data", "import", str(file), "--name", "tickets", "--preview")
    assert [(column["column"], column["field"]) for column in seen["columns"]] == [
        ("ticket", None),
        ("ticket.agent", None),
        ("ticket.body", None),
        ("ticket.body.question", "prompt"),
        ("ticket.body.answer", "completion"),
    ]
    assert seen["columns"][0]["sample"].startswith('{"agent": null')
    assert seen["rows"][0]["text"].startswith("prompt: Why?")
    options = ["--kind", "text", "--column", "ticket.body.question=text", "--preview"]
    text = CliRunner().invoke(app, ["data", "import", str(file), "--name", "tickets", *options]).stdout
    assert "  ticket.body.question → text: Why?" in text
    assert list_datasets(command_line) == []


def test_text_output_equals_the_pages_and_deletion_asks_for_confirmation(command_line: Context) -> None:
    first = imported(command_line, "sayings", ROWS)
    done(command_line, derive_version(command_line, first.id, change=DropDuplicates(), person=LOCAL))
    run = CliRunner()
    shown = run.invoke(app, ["data", "show", "sayings"]).stdout
    assert "sayings@2  9 rows  from sayings@1: equal rows left out" in shown
    assert "0 rows added, 11 removed, 9 unchanged" in run.invoke(app, ["data", "diff", "sayings@1", "sayings@2"]).stdout
    assert "hold the same 9 rows" in run.invoke(app, ["data", "diff", "sayings@2", "sayings@2"]).stdout
    left = run.invoke(app, ["data", "delete", "sayings@2"], input="n\n")
    assert left.exit_code == 1
    assert resolve_version(command_line, "sayings").number == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "made by one change (given: none)"),
        (("--sample", "2", "--drop-duplicates"), "given: drop_duplicates, sample"),
        (("--keep", "completion longer 3"), "is not a condition"),
        (("--keep", "completion at_least many"), "'many' is not a number"),
        (("--keep", "turns at_least 2"), "have no field 'turns'"),
        (("--drop-rows", "2-99"), "There is no row 99: rows are counted from 1 to"),
        (("--drop-rows", "one"), "'one' is not a row number"),
        (("--resplit", "0.9"), "0.5"),
        (("--merge", "nothing"), "nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_invalid_change_is_refused_at_once(command_line: Context, options: tuple[str, ...], words: str) -> None:
    imported(command_line, "sayings", ROWS)
    assert words in roundhouse("data", "derive", "sayings", *options, status=2)["error"]
