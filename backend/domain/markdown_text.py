"""Texts of others in Markdown."""

from __future__ import annotations

import re


def fenced(text: str, language: str = "") -> str:
    """Return text as a block of code whose fence no line of it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def plain_markdown(text: str) -> str:
    """Escape a text, so that Markdown shows it verbatim."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&])", r"\\\1", " ".join(text.split()))
