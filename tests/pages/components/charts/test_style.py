"""One palette for every figure."""

from __future__ import annotations

import re
from pathlib import Path

from pages.components.charts import style

PAGES = Path(style.__file__).parents[2]


def test_colours_of_figures_are_written_in_the_style_alone() -> None:
    color = re.compile(r"#[0-9a-fA-F]{6}\b|rgba?\(\d")
    spelled = [
        str(file) for file in PAGES.rglob("*.py") if file != Path(style.__file__) and color.search(file.read_text())
    ]
    assert not spelled


def test_a_faded_colour_keeps_its_hue() -> None:
    assert style.fade("#C4592B", 0.2) == "rgba(196,89,43,0.2)"


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    short = style.short_name("smol-village-chat-long-name-of-a-run · step 12,000")
    assert (len(short), short[:12], short[-11:]) == (style.MAX_NAME, "smol-village", "step 12,000")
