"""Open a page through the shell, as a visitor does, and read what it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.Common_pb2 import StringArray
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Multiselect, Selectbox

from pages.components.routes import OVERVIEW

SHELL = Path(__file__).resolve().parents[2] / "pages" / "shell.py"
EVIL = "![x](http://evil.example/x.png) <script>alert(1)</script>"


def open_page(path: str, **query: str) -> AppTest:
    """Open a page by its path under `pages/`, with a query."""
    app = AppTest.from_file(str(SHELL), default_timeout=200)
    if path != OVERVIEW:  # the default page; before the first run, others are known by their file's name, their address
        app.switch_page(path)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception
    return app


def words(app: AppTest) -> str:
    """Return every text, metric and button label of the page."""
    texts = [*app.title, *app.subheader, *app.markdown, *app.caption, *app.text, *app.code]
    messages = [*app.error, *app.warning, *app.info, *app.success]
    metrics = [f"{metric.label}: {metric.value}" for metric in app.metric]
    return "\n".join(
        [*(str(part.value) for part in [*texts, *messages]), *metrics, *(button.label for button in app.button)]
    )


def plain_words(app: AppTest) -> str:
    """Return the same without Markdown's backslashes."""
    return words(app).replace("\\", "")


def link_tables(app: AppTest) -> dict[str, dict[str, Any]]:
    """Return what the tables whose rows lead to pages were given, by their labels."""
    parts = [part.proto for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_link_table"]
    return {values["label"]: values for part in parts for values in [json.loads(part.json)]}


def figures(app: AppTest) -> dict[str, str]:
    """Return the figures that are drawn as HTML, by the text for who can't see them."""
    bodies = [str(part.proto.body) for part in app.get("html")]
    return {
        unescape(match[1]): body
        for body in bodies
        if (match := re.match(r'<figure role="img" aria-label="([^"]*)"', body))
    }


def open_panel(app: AppTest, key: str) -> AppTest:
    """Open an expander whose content is drawn when it is open."""
    app.session_state[key] = True
    return app.run()


def assert_sound(app: AppTest) -> None:
    """Fail where the page shows an exception or an error."""
    assert not app.exception
    assert not app.error, words(app)


def send_labels(app: AppTest, monkeypatch: pytest.MonkeyPatch, labels: Mapping[str, str | list[str]]) -> None:
    """Run the page again as a browser does that still shows these labels in the select boxes of these keys."""

    def state(self: Any) -> WidgetState:
        text = labels.get(str(self.key))
        if text is None:
            return usual[type(self)](self)
        chosen = {"string_value": text} if isinstance(text, str) else {"string_array_value": StringArray(data=text)}
        return WidgetState(id=self.id, **chosen)

    usual: dict[type, Any] = {kind: kind._widget_state.fget for kind in (Selectbox, Multiselect)}  # type: ignore[attr-defined]
    with monkeypatch.context() as patch:
        for kind in usual:
            patch.setattr(kind, "_widget_state", property(state))
        app.run()


def strips(app: AppTest) -> list[list[str]]:
    """Return the tokens of every token strip on the page, in order."""
    components = [
        part.proto for part in app.get("bidi_component") if part.proto.component_name == "roundhouse_token_strip"
    ]
    return [json.loads(proto.json)["tokens"] for proto in components]


def figure(app: AppTest, key: str) -> dict[str, Any]:
    """Return the specification of the Plotly figure whose element id contains the key."""
    (chart,) = [chart for chart in app.get("plotly_chart") if key in str(chart.proto.id)]
    spec: dict[str, Any] = json.loads(chart.proto.spec)
    return spec


def cells(app: AppTest, number: int = 0) -> list[dict[str, str]]:
    """Return the rows of a table of plain values as the visitor reads them: without the escapes of Markdown."""

    def read(text: object) -> str:
        return re.sub(r"\\(.)", r"\1", str(text)).replace("\u2060", "")

    return [
        {read(title): read(text) for title, text in row.items()} for row in app.table[number].value.to_dict("records")
    ]
