"""Opening a page as a visitor does, through the gate, and reading what is on it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from streamlit.testing.v1 import AppTest

SHELL = Path(__file__).resolve().parents[2] / "pages" / "shell.py"


def open_page(path: str, **query: str) -> AppTest:
    """Open a page by its file."""
    app = AppTest.from_file(str(SHELL), default_timeout=60)
    app.run()
    app.switch_page(path)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Return what is written on the page."""
    parts = [*app.markdown, *app.caption, *app.text, *app.title, *app.subheader, *app.error, *app.warning, *app.info]
    return "\n".join(str(part.value) for part in parts) + "\n" + "\n".join(button.label for button in app.button)


def cells(app: AppTest, number: int = 0) -> list[dict[str, str]]:
    """Return the rows of a table of plain values as the visitor reads them: without the escapes of Markdown."""

    def read(text: object) -> str:
        return re.sub(r"\\(.)", r"\1", str(text)).replace("\u2060", "")

    return [{read(title): read(text) for title, text in row.items()} for row in app.table[number].value.to_dict("records")]


def strips(app: AppTest) -> list[list[str]]:
    """Return the tokens of every strip on the page, in order."""
    found = [json.loads(part.proto.json) for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_token_strip"]
    return [data["tokens"] for data in found]


def figure(app: AppTest, key: str) -> dict[str, Any]:
    """Return the Plotly figure whose key begins so."""
    (chart,) = [chart for chart in app.get("plotly_chart") if key in str(chart.proto.id)]
    found: dict[str, Any] = json.loads(chart.proto.spec)
    return found
