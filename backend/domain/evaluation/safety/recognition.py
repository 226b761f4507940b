"""Recognise the file of a safety benchmark by its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.domain.evaluation.safety.bias import ANTI_COLUMNS, PRO_COLUMNS, read_bbq, read_bias_pairs, read_winogender
from backend.domain.evaluation.safety.memorisation import canary_items
from backend.domain.evaluation.safety.probes import Probe, ProbeItem
from backend.domain.evaluation.safety.prompts import PROMPT_COLUMNS, find_column, read_refusal_prompts
from backend.errors import InvalidInput

Rows = Sequence[Mapping[str, Any]]


def recognise_probe(rows: Rows) -> Probe:
    """Return the probe that a file is for. Raises InvalidInput, naming its columns, where none fits."""
    columns = list(rows[0]) if rows else []
    names = {str(column).lower() for column in columns}
    if {"context_condition", "ans0", "ans1", "ans2", "label"} <= names:
        return Probe.BBQ
    if {"sentid", "sentence"} <= names:
        return Probe.PRONOUNS
    if find_column(columns, PRO_COLUMNS) and find_column(columns, ANTI_COLUMNS):
        return Probe.STEREOTYPES
    if "canary" in names:
        return Probe.CANARIES
    if find_column(columns, PROMPT_COLUMNS):
        return Probe.REFUSAL
    raise InvalidInput(
        f"The columns {', '.join(map(str, columns[:12])) or '(none)'} are those of no safety benchmark that is known"
        " here.",
        remedy=(
            "Name the column of prompts `prompt`, those of sentence pairs `sent_more` and `sent_less`, that of canaries"
            " `canary`."
        ),
        field="file",
    )


def read_recognition_items(
    probe: Probe, rows: Rows, *, unsafe: bool = True, percent_female: Mapping[str, float] | None = None
) -> list[ProbeItem]:
    """Return a file's items. Raises InvalidInput for rows that the probe can't use, naming the column or the row."""
    if not rows:
        raise InvalidInput("The file has no rows.", field="file")
    try:
        if probe is Probe.BBQ:
            return read_bbq(rows)
        if probe is Probe.PRONOUNS:
            return read_winogender(rows, percent_female=percent_female)
        if probe is Probe.STEREOTYPES:
            return read_bias_pairs(rows)
        if probe is Probe.CANARIES:
            return canary_items([str(row.get("canary") or "") for row in rows])
        if probe is Probe.REFUSAL:
            return read_refusal_prompts(rows, unsafe=unsafe)
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"A row can't be read as {probe.value}: {error}.", remedy="Give the file as it was published.", field="file"
        ) from None
    raise InvalidInput(f"A probe {probe.value} is not read from one file of rows.", field="probe")
