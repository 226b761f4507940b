"""`roundhouse data import`: what a source on the command line means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from backend.cli.data.imports import read_source
from backend.cli.main import app
from backend.domain.jobs.payloads import HubSource
from backend.errors import InvalidInput
from backend.services.data.sources import ImportSource


def test_a_source_is_a_path_an_address_or_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    assert read_source("owner/name") == ImportSource(path=Path("owner/name"))
    assert read_source("hf://owner/name", split="test") == ImportSource(hub=HubSource(id="owner/name", split="test"))
    assert read_source("other/name", config="a", revision="v1") == ImportSource(
        hub=HubSource(id="other/name", config="a", revision="v1")
    )
    assert read_source("data/missing.jsonl") == ImportSource(path=Path("data/missing.jsonl"))
    assert read_source("s3://bucket/rows") == ImportSource(url="s3://bucket/rows")
    with pytest.raises(InvalidInput, match="--split is for datasets of the Hub"):
        read_source("s3://bucket/rows", split="train")


@pytest.mark.usefixtures("command_line", "jobs_done_here")
def test_a_fallback_to_text_is_reported_before_the_import_with_the_columns_searched(tmp_path: Path) -> None:
    source = tmp_path / "lamps.jsonl"
    source.write_text(
        "".join(
            json.dumps({"sku": f"A{n}", "blurb": f"A lamp of {n} watts for a whole room."}) + "\n" for n in range(30)
        )
    )
    answer = import_file(source)
    assert answer.exit_code == 0, answer.stderr
    stderr = answer.stderr
    detected = "Detected: text (30 % sure): no other kind fits; no column has a known name; `blurb` holds the most text"
    assert detected in stderr
    assert "  a chosen and a rejected answer (chosen, rejected)" in stderr
    assert "give --kind and --column COLUMN=FIELD" in stderr
    data = json.loads(answer.stdout)
    assert (data["kind"], data["rows"], data["mapping"]) == ("text", 30, {"blurb": "text"})
    assert (data["detected"]["confidence"], data["detected"]["fallback"]) == (0.3, True)


@pytest.mark.usefixtures("command_line", "jobs_done_here")
def test_above_one_percent_of_bad_rows_the_command_stops_as_the_page_does(tmp_path: Path) -> None:
    """It skipped 29 of 200 rows and ended as a success."""
    source = tmp_path / "lamps.jsonl"
    rows = [{"prompt": "?", "completion": "" if number % 7 == 0 else "A lamp."} for number in range(70)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused = import_file(source)
    assert refused.exit_code == 1
    said = json.loads(refused.stdout)["error"]
    assert "10 of 70 rows (14.3 %) of 'lamps.jsonl' can't be used. 10 rows: `completion` is empty" in said
    assert said.endswith("or skip such rows: --max-rejected 1.")
    accepted = import_file(source, "--max-rejected", "0.2")
    assert accepted.exit_code == 0, accepted.stderr
    assert json.loads(accepted.stdout)["rejected_rows"] == 10


@pytest.mark.usefixtures("command_line", "jobs_done_here")
def test_files_that_are_not_utf_8_and_columns_left_out_are_named(tmp_path: Path) -> None:
    """Both were lost without a word."""
    (source := tmp_path / "source").mkdir()
    rows = "prompt,completion,author,note\n" + "Wie groß?,Zwölf Fuß.,Jürgen,x\n" * 30
    for name, encoding in (("a.csv", "utf-8"), ("b.csv", "cp1252")):
        (source / name).write_bytes(rows.encode(encoding))
    refused = import_file(source)
    assert refused.exit_code == 1
    assert "Not UTF-8: b.csv (byte 0xDF in line 2; perhaps cp1252). Choose the encoding" in refused.stderr
    assert "(first: b.csv, row 1)" in json.loads(refused.stdout)["error"]
    done = CliRunner().invoke(app, ["data", "import", str(source), "--name", "feet", "--encoding", "cp1252"])
    assert done.exit_code == 0, done.stderr
    assert "60 rows" in done.stdout
    assert "2 columns left out: author, note." in done.stdout


@pytest.mark.usefixtures("command_line", "jobs_done_here")
def test_what_an_import_does_not_follow_is_named(tmp_path: Path) -> None:
    """A validation share of records, and a text beside rows, were left out without a word."""
    (source := tmp_path / "source").mkdir()
    (source / "rows.csv").write_text("prompt,completion\n" + "Why?,So.\n" * 30)
    (source / "about.txt").write_text("These rows are ours.")
    done = import_file(source, "--kind", "records", "--val-fraction", "0.2")
    assert done.exit_code == 0, done.stderr
    assert "Rows of kind records are not split: --val-fraction 0.2 has no effect." in done.stderr
    assert json.loads(done.stdout)["val_rows"] == 0
    shown = CliRunner().invoke(app, ["data", "import", str(source), "--name", "x", "--kind", "records", "--preview"])
    assert "prompt → kept as it is: Why?" in shown.stdout
    assert "Left out: about.txt (text beside data files)." in shown.stderr


def import_file(source: Path, *options: str) -> Result:
    """Run the command where no worker runs."""
    return CliRunner().invoke(app, ["data", "import", str(source), "--name", "lamps", "--json", *options])
