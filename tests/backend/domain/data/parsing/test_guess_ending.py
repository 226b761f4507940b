"""The form of a pasted text."""

from __future__ import annotations

import pytest

from backend.domain.data.parsing.text_formats import guess_ending


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ('{"a": 1}\n\n{"a": 2}\n', ".jsonl"),
        ('{"a": "one\u2028two"}\r\n{"a": 2}\r\n', ".jsonl"),
        ('[\n  {"a": 1}\n]', ".json"),
        ('{\n  "rows": []\n}', ".json"),
        ("prompt,completion\nHello,there\n", ".csv"),
        ("Once, there was a mill.\n", ".txt"),
        ("Text, with a comma in a title\nand a line", ".txt"),
        ('{"a": 1}\n{"a": 2\n', ".jsonl"),
        ('{"a": 1\n{"a": 2}\n{"a": 3}\n', ".jsonl"),
        ('[\n{"a": 1},\n{"a": 2}\n]', ".json"),
        ("", ".txt"),
        ("[" * 50_000, ".json"),
        ("x\n" + "[" * 50_000, ".txt"),
    ],
)
def test_a_pasted_text_is_recognised(text: str, ending: str) -> None:
    assert guess_ending(text) == ending
