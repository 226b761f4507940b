"""Find faulty characters in a text: mojibake, remains of markup, invisible characters. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftfy.badness import BADNESS_RE

from backend.domain.data.placeholders import PLACEHOLDER

FAULTS: dict[str, str] = {
    "mojibake": "Bytes read in the wrong encoding, such as “Ã©” for “é”",
    "replacement_character": "U+FFFD, where a character was lost",
    "control_character": "Control characters, such as NUL or an escape",
    "lone_surrogate": "A lone surrogate",
    "html": "Remains of HTML: tags or entities",
    "placeholder": "Placeholders that nothing filled in, such as “{{name}}”",
    "direction_mark": "Bidirectional control characters, which can hide text",
    "unseen_character": "Zero-width or private-use characters and byte-order marks",
    "unusual_space": "Spaces and line breaks other than the usual ones",
}
"""Every fault with its meaning, the worst first."""

EXCERPT = 40
SIGNS = ("<", "&", "{{")
"""Printable ASCII text without these has no fault."""
_TAGS = (
    "a|abbr|article|b|blockquote|body|br|button|center|code|div|em|font|footer|form|h[1-6]|head|header|hr|html|i|"
    "iframe|img|input|li|link|main|meta|nav|ol|p|pre|script|section|small|span|strong|style|sub|sup|svg|table|"
    "tbody|td|th|thead|title|tr|u|ul|video"
)
_ASCII: dict[str, re.Pattern[str]] = {
    "control_character": re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f]"),
    "html": re.compile(
        rf"</?(?:{_TAGS})(?:\s[^<>]{{0,400}})?/?>|&(?:amp|lt|gt|quot|apos|nbsp|#\d{{1,7}}|#x[0-9a-f]{{1,6}});",
        re.IGNORECASE,
    ),
    "placeholder": PLACEHOLDER,
    "unusual_space": re.compile("\r(?!\n)"),
}
_WIDE: dict[str, re.Pattern[str]] = {
    "mojibake": BADNESS_RE,
    "replacement_character": re.compile("�"),
    "lone_surrogate": re.compile("[\ud800-\udfff]"),
    "direction_mark": re.compile("[\u202a-\u202e\u2066-\u2069]"),
    "unseen_character": re.compile("[\u200b\u2060-\u2064\ufeff\u00ad\ue000-\uf8ff\U000f0000-\U0010fffd]"),
    "unusual_space": re.compile("\r(?!\n)|[\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\u0085]"),
}


@dataclass(frozen=True)
class Fault:
    """One kind of fault in a text: how often, and the first with a few characters around it."""

    name: str
    count: int
    excerpt: str


def find_faults(text: str) -> list[Fault]:
    """Return the kinds of faults in a text, the worst first. Mojibake is recognised by ftfy's rules."""
    if text.isascii() and text.replace("\n", "").isprintable() and not any(sign in text for sign in SIGNS):
        return []
    faults = {}
    for name, pattern in (_ASCII if text.isascii() else {**_ASCII, **_WIDE}).items():
        first = pattern.search(text)
        if first is not None:
            count = sum(1 for _ in pattern.finditer(text))
            faults[name] = Fault(name, count, text[max(0, first.start() - EXCERPT) : first.end() + EXCERPT])
    return [faults[name] for name in FAULTS if name in faults]
