"""Text files in a message of the playground, in Node: what is refused, and that no text or name can leave its block."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend.settings import PROJECT

MODULE = PROJECT / "pages" / "components" / "browser" / "chat" / "files.js"
pytestmark = pytest.mark.skipif(
    shutil.which("node") is None, reason="Node is not installed (Debian: apt install nodejs)"
)


def run(folder: Path, expression: str) -> Any:
    """Return the value of an expression over the module's names."""
    shutil.copy(MODULE, folder / "files.mjs")
    (folder / "run.mjs").write_text(
        f'import * as files from "./files.mjs"\nconsole.log(JSON.stringify(await ({expression})))\n'
    )
    result = subprocess.run(["node", "run.mjs"], cwd=folder, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_files_are_found_again_whatever_they_hold(tmp_path: Path) -> None:
    hostile = [
        "plain",
        "```\ncode\n```\n\nFile other.txt:\n\n```\nnot a file\n```",
        "`````",
        "a\n````\n\nFile x:\n\n```\n",
        "",
    ]
    listed = [{"name": f"{number}.txt", "text": text} for number, text in enumerate(hostile)]
    expression = f'files.splitFiles("Read these." + {json.dumps(listed)}.map(files.blockOf).join(""))'
    assert run(tmp_path, expression) == {
        "words": "Read these.",
        "files": [{**each, "text": each["text"].rstrip()} for each in listed],
    }


def test_a_message_that_only_looks_like_a_file_stays_a_message(tmp_path: Path) -> None:
    texts = ["File a.txt:\n\n```\nx\n```\n\nWhat is this?", "Hello", "See File a: there"]
    for text, split in zip(texts, run(tmp_path, f"{json.dumps(texts)}.map(files.splitFiles)"), strict=True):
        assert split == {"words": text, "files": []}


def test_a_name_is_one_line_without_turns_of_the_reading_direction(tmp_path: Path) -> None:
    names = ["in\u202etxt.exe", "a\nb\r.txt", "`x`.md", "\u200b", "../../etc/passwd", "n" * 300 + ".txt"]
    assert run(tmp_path, f"{json.dumps(names)}.map(files.plainName)") == [
        "intxt.exe",
        "ab.txt",
        "x.md",
        "unnamed",
        "../../etc/passwd",
        "n" * 76 + ".txt",
    ]


def test_files_that_are_no_short_text_are_refused_with_their_name(tmp_path: Path) -> None:
    made = """[
      new File(["fine"], "fine.txt"), new File([new Uint8Array([0xff, 0xfe, 0x68, 0])], "utf16.txt"), new File([], "empty.txt"),
      new File([new Uint8Array([0x41, 0, 0x42])], "bin.dat"), new File(["x".repeat(200001)], "big.txt"),
      new File(["y".repeat(500)], "more.txt"),
      { name: "folder", size: 10, arrayBuffer: () => Promise.reject(new Error("a folder")) },
    ]"""  # noqa: E501
    answer = run(tmp_path, f"files.readFiles({made}, {{ room: 400, count: 0 }})")
    assert answer["files"] == [{"name": "fine.txt", "text": "fine"}]
    assert [problem.split()[0] for problem in answer["problems"]] == [
        "utf16.txt",
        "empty.txt",
        "bin.dat",
        "big.txt",
        "more.txt",
        "folder",
    ]
