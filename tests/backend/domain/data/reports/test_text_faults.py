"""Faults are found where they are, and clean text in any script has none."""

from __future__ import annotations

import pytest

from backend.domain.data.reports.text_faults import FAULTS, find_faults


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Il a dÃ©jÃ\xa0 mangÃ©.", "mojibake"),
        ("She said â€œhiâ€\x9d.", "mojibake"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "mojibake"),
        ("lost: \ufffd", "replacement_character"),
        ("a\x00b", "control_character"),
        ("\x1b[31mred", "control_character"),
        ("half \ud83d emoji", "lone_surrogate"),
        ("first<br/>second", "html"),
        ("<div class='note'>text</div>", "html"),
        ("Tom &amp; Jerry &#39;s", "html"),
        ("I am {{name}}, made by {{author}}.", "placeholder"),
        ("safe\u202etxt.exe", "direction_mark"),
        ("zero\u200bwidth", "unseen_character"),
        ("\ufeffstart", "unseen_character"),
        ("10\u00a0km", "unusual_space"),
        ("old\rMac", "unusual_space"),
    ],
)
def test_a_fault_is_found_and_shown(text: str, name: str) -> None:
    faults = {fault.name: fault for fault in find_faults(text)}
    assert name in faults
    assert faults[name].count >= 1
    assert faults[name].excerpt


@pytest.mark.parametrize(
    "text",
    [
        "Plain text with\ttabs\nand lines.\r\n",
        "l’été — déjà 🙂 “ok” … À la carte, PROCÉDÉ",
        "Привет, мир! 你好，世界。 こんにちは。 مرحبا بالعالم שלום ประเทศไทย",
        "if a < b and c > d: return a & b",
        "f'{{{x}}}' and {{1, 2}} and \\frac{{a}}",
        "👨‍👩‍👧 and 👍🏽, naïve café",
        "می‌خواهم",
        "",
    ],
)
def test_clean_text_has_no_fault(text: str) -> None:
    assert find_faults(text) == []


def test_faults_come_worst_first_and_are_counted() -> None:
    faults = find_faults("<b>Ã©</b> Ã¨ \x00")
    assert [fault.name for fault in faults] == [
        name for name in FAULTS if name in {"mojibake", "control_character", "html"}
    ]
    assert {fault.name: fault.count for fault in faults} == {"mojibake": 2, "control_character": 1, "html": 2}
