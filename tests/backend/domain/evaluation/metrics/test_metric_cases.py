"""The comparison with another harness's cases says what it did not compare, and fails where a value or a metric is
unexplained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.check_metric_cases import main

CASE = {
    "name": "One",
    "metric_class": "exact_match",
    "metric_params": {},
    "doc": {"query": "Capital?", "choices": ["Paris", "London"], "gold_index": 0},
    "model_response": {"text": ["Paris"]},
    "expected_output": {"em": 1.0},
    "tolerance": 0.01,
}


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({}, 0, "cases: 1 cases, 1 values, 0 differ"),
        ({"expected_output": {"em": 0.0}}, 1, "One: exact_match: 1, expected 0 +- 0.01"),
        ({"metric_class": "a_new_one"}, 1, "nothing compared: no counterpart known"),
    ],
    ids=["equal", "another value", "a metric without a counterpart"],
)
def test_a_file_counts_as_compared_only_if_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], status: int, told: str
) -> None:
    """Of another evaluator's 15 files 14 compared nothing, and the check ended as if all was well."""
    (tmp_path / "cases.json").write_text(json.dumps({"test_cases": [CASE | changes]}))
    assert main(tmp_path) == status
    assert told in capsys.readouterr().out


def test_a_metric_that_needs_another_network_is_named_and_does_not_count_as_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "equal.json").write_text(json.dumps({"test_cases": [CASE]}))
    (tmp_path / "bleurt.json").write_text(json.dumps({"test_cases": [CASE | {"metric_class": "bleurt"}]}))
    assert main(tmp_path) == 0
    assert "bleurt: 1 cases, nothing compared: needs another network's weights" in capsys.readouterr().out
