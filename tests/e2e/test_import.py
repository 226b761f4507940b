"""Bringing data in through the browser: what is broken is said beside its cure, what is half broken is imported, the
rest downloaded.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from backend.services.data.datasets import list_datasets, resolve_version
from tests.support.browser import Visitor
from tests.support.installation import Installation, make_home, wait_until

pytestmark = pytest.mark.timeout(900)


def lines(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Installation]:
    home = tmp_path_factory.mktemp("import")
    data = home / "data" / "letters"
    data.mkdir(parents=True)
    rows = [{"instruction": f"Greet person {i}.", "letter": f"Dear {i}!"} for i in range(60)]
    (data / "greetings.jsonl").write_text(
        lines(rows[:40]) + '{"instruction": "half a line\n' + lines(rows[40:]) + lines([{"letter": "x"}])
    )
    (data / "outside.jsonl").symlink_to("/etc/hostname")
    running = Installation(
        make_home(home / "home", migrated_database), DATA_PATH=str(home / "data"), HF_ENDPOINT="http://127.0.0.1:1"
    ).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def _nothing_bad_was_seen(visitor: Visitor) -> Iterator[None]:
    visitor.findings.clear()
    yield
    assert visitor.findings == []


def choose(visitor: Visitor, label: str, option: str) -> None:
    """Choose an option of a select box by typing."""
    box = visitor.page.get_by_role("combobox", name=re.compile(label)).first
    box.click()
    box.fill(option)
    visitor.page.get_by_role("option", name=option).first.click()
    visitor.settle()


def broken_files(folder: Path) -> list[tuple[Path, str]]:
    """Write files that can't be imported; return each with what must be said about it."""
    with zipfile.ZipFile(folder / "climbs.zip", "w") as archive:
        archive.writestr("../../evil.jsonl", '{"text": "a"}\n')
    made: list[tuple[str, bytes | None, str]] = [
        ("nothing.jsonl", b"", "nothing.jsonl is empty"),
        ("climbs.zip", None, "a path that leads out of it"),
        ("no.zip", b"PK\x03\x04 and then nothing", "is damaged"),
        ("page.jsonl", b"<!doctype html><html>not found</html>\n", "No row of 'page.jsonl' can be read. Row 1:"),
        ("no.parquet", b"PAR1 no table PAR1", "not readable as Parquet"),
        (
            "cafe.csv",
            b"prompt,completion\n" + "O\xf9 ?,Au caf\xe9\n".encode("latin-1") * 9,
            "cafe.csv is not UTF-8 (byte 0xF9 in line 2)",
        ),
    ]
    for name, content, _ in made:
        if content is not None:
            (folder / name).write_bytes(content)
    return [(folder / name, words) for name, _, words in made]


def test_every_broken_file_gets_its_error(visitor: Visitor, tmp_path: Path) -> None:
    visitor.go("/datasets?import=1")
    for number, (path, words) in enumerate(broken_files(tmp_path)):
        if number:
            visitor.page.get_by_role("button", name=re.compile("^Remove ")).click()
            visitor.settle()
        visitor.page.locator("input[type=file]").first.set_input_files(path)
        visitor.sees(words)
        visitor.settle()
    choose(visitor, "Encoding", "cp1252")  # the last one needs no new file, only its encoding
    visitor.sees("Où ?")


def test_an_unreachable_hub_is_reported_and_the_form_stays_usable(visitor: Visitor) -> None:
    visitor.go("/datasets?import=1")
    visitor.page.get_by_text("From the Hugging Face Hub").click()
    visitor.settle()
    visitor.fills("Dataset id", "someone/tales")
    visitor.sees(re.compile("The Hub at .* can't be reached for someone/tales"))
    visitor.sees("enter config and split")
    visitor.sees("The worker detects the columns once it has fetched the files")
    visitor.settle()
    expect(visitor.page.get_by_role("alert")).to_have_count(1)  # what is wrong is said once


def test_a_file_of_the_data_folder_is_mapped_by_hand_and_its_bad_rows_come_back(
    installation: Installation, visitor: Visitor
) -> None:
    visitor.go("/datasets?import=1")
    visitor.page.get_by_text("From the data folder").click()
    visitor.settle()
    choose(visitor, "File or folder", "letters/")
    visitor.sees("1 file left out")
    choose(visitor, "File or folder", "greetings.jsonl")
    choose(visitor, "^Kind", "instruction")
    visitor.clicks("Use letter as completion")
    visitor.sees("completion: Dear 0!")
    visitor.page.get_by_text("Skip invalid rows").click()
    visitor.settle()
    visitor.clicks("Import")
    visitor.sees(re.compile("The import failed: .*41"))  # the line that is not JSON
    visitor.clicks("Keep the good rows")
    visitor.sees("were rejected")
    version = resolve_version(installation.ctx, "greetings")
    assert (version.rows, version.rejected_rows) == (60, 2)
    assert version.mapping == {"instruction": "prompt", "letter": "completion"}
    visitor.page.get_by_role("tab", name="Rejected rows").click()
    visitor.settle()
    rejected = [json.loads(line) for line in visitor.downloads("Download as JSON Lines").read_text().splitlines()]
    assert [item["row"] for item in rejected] == [41, 62]
    assert "column `instruction` is missing" in rejected[1]["reason"]


def test_several_files_are_one_dataset_and_the_form_keeps_what_is_typed(
    installation: Installation, visitor: Visitor, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("first.jsonl", "second.jsonl")]
    for number, file in enumerate(files):
        file.write_text(lines([{"instruction": f"Say {number}-{i}.", "output": f"{i}!"} for i in range(20)]))
    visitor.go("/datasets?import=1")
    visitor.page.locator("input[type=file]").first.set_input_files(files)
    visitor.sees("2 files as one dataset")
    visitor.fills("Name", "both")
    visitor.page.keyboard.press("Enter")
    visitor.settle()
    expect(visitor.page.get_by_label("Name", exact=True)).to_have_value("both")
    visitor.clicks("Import")
    expect(visitor.page.get_by_role("heading", name="both", exact=True)).to_be_visible()
    wait_until(
        lambda: [one.versions[0].rows for one in list_datasets(installation.ctx) if one.name == "both"] == [40],
        timeout_s=120,
        what="the import of both files",
    )
