"""Recognise benchmarks whose columns fit no other kind: their rows are kept as they are, for a task to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.recognition.sample import Recognition, SampleRows

SIGNATURES: dict[str, tuple[str, ...]] = {
    "IFEval": ("prompt", "instruction_id_list", "kwargs"),
    "XSTest": ("prompt", "type", "label", "focus"),
    "Winogender": ("sentid", "sentence"),
    "CrowS-Pairs": ("sent_more", "sent_less"),
    "StrongREJECT": ("forbidden_prompt", "category"),
    "HarmBench": ("behavior", "semanticcategory"),
    "AdvBench": ("goal", "target"),
}
"""Benchmarks by the columns that only they have, plainly spelled."""


def detect_records(sample: SampleRows) -> Recognition | None:
    """Recognise a benchmark by its columns."""
    for name, columns in SIGNATURES.items():
        if all(sample.find((column,)) for column in columns) and (name != "AdvBench" or len(sample.columns) <= 3):
            return Recognition(DatasetKind.RECORDS, {}, 0.95, f"the columns are those of {name}; every column is kept")
    return None


def has_passage_lines(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a text file is one of LAMBADA's, by its name: each line is a passage."""
    return "lambada" in name.lower() and bool(rows) and all(list(row) == ["text"] for row in rows)


def split_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
    """Return a row for each line of the texts, as an import by line reads them."""
    return [{"prompt": line} for row in rows for line in str(row["text"]).splitlines() if line.strip()]
