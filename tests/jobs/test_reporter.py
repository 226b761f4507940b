"""The reporter of a child: one line an event, whatever is said."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.reporter import FileReporter


def test_a_name_that_is_not_text_does_not_end_a_job(tmp_path: Path) -> None:
    reporter = FileReporter(tmp_path / "events.jsonl", tmp_path / "control")
    reporter.log("Reading caf\udce9.txt")
    reporter.progress(1, 2, message="caf\udce9")
    reporter.close()
    first, second = map(json.loads, (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines())
    assert (first["text"], second["message"], second["done"]) == ("Reading caf?.txt", "caf?", 1)
