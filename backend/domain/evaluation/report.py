"""Reports of scores as one HTML file and as CSV. Pure.

The HTML needs nothing from elsewhere, and its policy forbids it; every text is escaped. In CSV a text that a
spreadsheet would take for a formula gets an apostrophe in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = (
    ":root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0"
    " 1rem}table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.3rem"
    " .6rem;border-bottom:1px solid color-mix(in srgb,currentColor"
    " 20%,transparent);vertical-align:top;overflow-wrap:anywhere}pre{white-space:pre-wrap;margin:0;font:13px/1.4"
    " ui-monospace,monospace}.note{opacity:.75}"
)


@dataclass(frozen=True)
class ReportSection:
    """A titled table of a report; `note` stands above it. Cells that are multi-line are shown as they are."""

    title: str
    rows: Sequence[Mapping[str, object]]
    note: str = ""


def evaluation_report_html(title: str, subtitle: str, sections: Sequence[ReportSection]) -> str:
    """Return a report as one HTML file."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f'<h1>{escape(title)}</h1><p class="note">{escape(subtitle)}</p>',
        *(_section(section) for section in sections if section.rows),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _section(section: ReportSection) -> str:
    titles = list(dict.fromkeys(title for row in section.rows for title in row))
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(title))}</td>" for title in titles) + "</tr>" for row in section.rows
    )
    note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
    return f"<h2>{escape(section.title)}</h2>{note}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "–"
    text = escape(f"{value:.6g}" if isinstance(value, float) else str(value))
    return f"<pre>{text}</pre>" if "\n" in text else text
