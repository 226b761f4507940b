"""Requests as a table, and one of them in full. Prompts and answers are drawn as text: nothing in them is rendered or
loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import streamlit as st

from backend.services.serving.request_log.browse import RequestDetail, RequestRow
from pages.components import routes
from pages.components.frame import plain
from pages.components.links import row_link
from pages.components.tables import draw_table
from pages.components.words import date_time, when

RESULTS = {"finished": "finished", "aborted": "cut off by the client", "lost": "failed", "refused": "refused"}
THUMBS = {1: "up", -1: "down"}
SHOWN_CHARACTERS = 48
NO_BREAK = "\N{NO-BREAK SPACE}"
FORMATS = {"First token, ms": ",.0f", "Total, ms": ",.0f", "Cost, US$": ",.6f"}


def draw_request_rows(rows: Sequence[RequestRow], *, key: str, now: datetime, with_endpoint: bool = False) -> None:
    """Draw requests, newest first; columns that no row fills are left out."""
    if not rows:
        st.caption("No requests.")
        return
    optional = {
        "Endpoint": with_endpoint,
        "Variant": any(row.variant != "stable" for row in rows),
        "Key": any(row.key for row in rows),
        "Thumb": any(row.rating for row in rows),
        "Cost, US$": any(row.cost_usd is not None for row in rows),
        "Prompt": any(row.messages for row in rows),
    }
    table = [_cells(row, now) for row in rows]
    shown = [{title: value for title, value in cells.items() if optional.get(title, True)} for cells in table]
    draw_table(shown, key=f"requests_{key}", alt="Requests, newest first", formats=FORMATS)


def _cells(row: RequestRow, now: datetime) -> dict[str, object]:
    return {
        "When": when(row.created_at, now=now).replace(" ", NO_BREAK),
        "Endpoint": row.endpoint,
        "Variant": row.variant.replace(" ", NO_BREAK),
        "Key": row.key,
        "Result": result_of(row),
        "Prompt tokens": row.prompt_tokens,
        "Generated": row.completion_tokens,
        "First token, ms": row.ttft_ms,
        "Total, ms": row.total_ms,
        "Cost, US$": row.cost_usd,
        "Thumb": THUMBS.get(row.rating or 0),
        "Prompt": first_line(last_prompt(row)) or None,
    }


def request_label(row: RequestRow) -> str:
    """Return a request in one line, as a choice."""
    prompt = " ".join(last_prompt(row).split())[:40]
    return " · ".join(filter(None, [date_time(row.created_at), result_of(row), row.id[-8:], prompt]))


def result_of(row: RequestRow) -> str:
    """Return how a request ended; of one that was refused or failed, with the code of its error."""
    result = RESULTS.get(row.status, row.status)
    if row.requests > 1:
        result = f"{row.requests:,} {result}"
    return f"{result}: {row.finish_reason}" if row.status in ("refused", "lost") and row.finish_reason else result


def last_prompt(row: RequestRow) -> str:
    """Return the text of the last message, empty where it is not logged."""
    return message_text(row.messages[-1]) if row.messages else ""


def first_line(text: str) -> str:
    """Return the beginning of a text in one line."""
    line = " ".join(text[: 4 * SHOWN_CHARACTERS].split())
    return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1].rstrip() + "…"


def message_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message; calls and typed parts as JSON."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    rest = {name: value for name, value in message.items() if name != "role" and value}
    return json.dumps(rest, ensure_ascii=False, indent=1) if rest else ""


def draw_request(detail: RequestDetail) -> None:
    """Draw timings, facts, feedback, parameters, and the texts where the policy keeps them."""
    row = detail.row
    grid = st.grid(5, min_column_width=130)
    grid.metric("Queue", _ms(row.queue_ms), help="Wait before the replica's first step.")
    grid.metric("First token", _ms(row.ttft_ms))
    grid.metric("Between tokens, mean", _ms(row.itl_ms, 1))
    grid.metric("Whole request", _ms(row.total_ms))
    speed = detail.decode_tokens_per_s
    grid.metric("Tokens/s after the first", "–" if speed is None else f"{speed:,.1f}")
    facts: list[tuple[str, object]] = [
        ("Request", row.id),
        ("When", date_time(row.created_at)),
        ("Endpoint", f"{row.endpoint} · {row.variant}"),
        ("Key", row.key),
        ("Result", RESULTS.get(row.status, row.status)),
        ("Finish reason", row.finish_reason),
        ("Stands for", f"{row.requests:,} requests of this client, refused alike" if row.requests > 1 else None),
        (
            "Tokens",
            (
                f"{row.prompt_tokens:,} in the prompt ({row.cached_tokens:,} from the cache), {row.completion_tokens:,}"
                " generated"
            ),
        ),
        ("Replica", " · ".join(filter(None, [detail.replica, detail.address]))),
        ("Device time", f"{detail.device_s:,.3f} s" if detail.device_s else None),
        ("Cost", None if row.cost_usd is None else f"${row.cost_usd:,.6f}"),
        ("Thumb", THUMBS.get(row.rating or 0)),
        ("Comment", detail.comment),
        ("Parameters", ", ".join(f"{name} {value}" for name, value in detail.params.items() if value is not None)),
    ]
    draw_table(
        [{"": name, "Value": str(value)} for name, value in facts if value],
        key="request_facts",
        alt="Facts of the request",
    )
    if detail.checkpoint_id is not None:
        query = {"checkpoint": detail.checkpoint_id}
        row_link(
            detail.checkpoint or "Checkpoint",
            page=routes.CHECKPOINTS,
            query=query,
            icon="deployed_code",
            key="request_checkpoint",
        )
    if row.messages is None:
        cause = (
            "The log keeps the metadata of this endpoint alone." if detail.is_logged else "This request was not logged."
        )
        st.caption(f"{cause} The endpoint's request log decides whether prompts and answers are kept.")
        st.page_link(
            routes.ENDPOINTS,
            label="Request log of the endpoint",
            icon=":material/dns:",
            query_params={"name": row.endpoint},
        )
        return
    for number, message in enumerate(row.messages):
        st.caption(plain(str(message.get("role") or "prompt")))
        _draw_text(message_text(message), key=f"request_message_{number}")
    st.caption("answer")
    _draw_text(row.answer or "(no text)", key="request_answer")
    if detail.correction:
        st.caption("correction")
        _draw_text(detail.correction, key="request_correction")
    retention = "" if detail.expires_at is None else f"Erased after {date_time(detail.expires_at)}"
    st.caption(
        plain(" · ".join(filter(None, [retention, f"{detail.redactions:,} redacted" if detail.redactions else ""])))
    )


def _draw_text(text: str, *, key: str) -> None:
    with st.container(border=True, key=key):
        st.text(text)


def _ms(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f} ms"
