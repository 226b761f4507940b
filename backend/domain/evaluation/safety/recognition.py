"""Recognise the file of a safety benchmark by its columns, and join files that hold one side of pairs of sentences
each, line by line, as WinoBias is published (Zhao et al. 2018). Pure.

`pro_stereotyped_type1.txt.dev` and `anti_stereotyped_type1.txt.dev` have the same sentences in the same order, with the
other pronoun.
"""

from __future__ import annotations

import re
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


_SIDE = re.compile(
    r"(?:^|/)(?P<side>pro|anti)(?P<rest>_stereotyped_(?P<part>type\d)(?:\.txt)?(?:\.(?:dev|test))?(?:\.txt)?)$",
    re.IGNORECASE,
)
_MIN_SHARED = 0.5
"""Share of a line's words that its partner has; fewer mean that the files do not belong together."""


def is_side(name: str) -> bool:
    """Return whether a file holds one side of pairs, by its name."""
    return _SIDE.search(name) is not None


def partner_of(name: str) -> str:
    """Return the name of the file with the other side.

    Example:
        >>> partner_of("pro_stereotyped_type1.txt.dev")
        'anti_stereotyped_type1.txt.dev'
    """
    match = _SIDE.search(name)
    assert match is not None, "the name is that of a side"
    other = "anti" if match["side"].lower() == "pro" else "pro"
    return f"{name[: match.start('side')]}{other}{match['rest']}"


def join_sides(files: Mapping[str, str]) -> list[dict[str, str]]:
    """Return rows {pro, anti, type} of the texts of files by name. Raises InvalidInput naming the missing file or the
    line at fault.
    """
    rows = []
    for name in sorted(files, key=partner_of):
        match = _SIDE.search(name)
        if partner_of(name) not in files:
            raise InvalidInput(
                f"{name} is one side of pairs, and {partner_of(name)} is missing.",
                remedy="Give both files, or the folder that holds them.",
                field="file",
            )
        if match is None or match["side"].lower() != "pro":
            continue
        pro, anti = (_lines(files[one]) for one in (name, partner_of(name)))
        if len(pro) != len(anti):
            raise InvalidInput(
                f"{name} has {len(pro):,} lines and {partner_of(name)} {len(anti):,}.",
                remedy="Give the two files of one publication: line by line they are the same sentences.",
                field="file",
            )
        for number, (first, second) in enumerate(zip(pro, anti, strict=True), 1):
            if not _belong_together(first, second):
                raise InvalidInput(
                    f"Line {number} of {name} and {partner_of(name)} are other sentences.",
                    remedy="Give both as published.",
                    field="file",
                )
            rows.append({"pro": first, "anti": second, "type": match["part"].lower()})
    return rows


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.removeprefix("\ufeff").splitlines() if line.strip()]


def _belong_together(first: str, second: str) -> bool:
    words, others = (set(re.findall(r"\w+", line.lower())) for line in (first, second))
    return len(words & others) >= _MIN_SHARED * max(len(words), len(others))
