"""Requests as a table, one of them in full, and the dialog that makes a dataset of an endpoint's: filter, sample,
review, create. Prompts and answers are drawn as text: nothing is rendered, loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from backend.domain.serving.request_log import TrafficRules, describe_end
from backend.domain.wording import format_usd, plural, shorten
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.serving.endpoints import get_endpoint, why_not_own
from backend.services.serving.request_log.browse import RequestDetail, RequestRow, get_request
from backend.services.serving.request_log.datasets import (
    NEEDS,
    Exchange,
    TrafficObjective,
    TrafficPreview,
    make_traffic_dataset,
    preview_traffic,
)
from backend.services.tokenizers.sources import TokenizerSource, resolve_source
from backend.services.tokenizers.tokenization import tokenize
from pages.components import routes
from pages.components.browser.token_strip.component import Mark, token_strip
from pages.components.forms import draw_fields
from pages.components.frame import draw_metric, errors_shown, plain
from pages.components.links import page_link, row_link, set_parameters
from pages.components.numbers import number_form, wrong_numbers
from pages.components.tables import WidgetTable, draw_table, format_cell
from pages.components.words import date_time, when

RESULTS = {"finished": "finished", "aborted": "cut off by the client", "lost": "failed", "refused": "refused"}
THUMBS = {1: "up", -1: "down"}
SHOWN_CHARACTERS = 48
SHARES = {
    "Endpoint": 1.2,
    "Variant": 1.1,
    "Key": 1.0,
    "Result": 1.7,
    "Tokens": 1.0,
    "First token, ms": 1.0,
    "Total, ms": 0.9,
    "Cost, US$": 1.1,
    "Thumb": 0.6,
    "Prompt": 2.3,
}
"""Columns of the table beside the time, with their share of its width. Tokens are those of the prompt + generated."""
MARKS: dict[str, Mark] = {"special": "special", "unknown": "unknown", "byte": "bytes"}
FORMATS = {"First token, ms": ",.0f", "Total, ms": ",.0f", "Cost, US$": ",.6f"}


def draw_whose_requests(person: Person) -> None:
    """Say which requests a person sees who doesn't see those of everyone."""
    if not person.is_admin:
        st.caption("Those with your keys, and those of endpoints that you deployed.")


def draw_request_rows(
    ctx: Context, person: Person, rows: Sequence[RequestRow], *, key: str, with_endpoint: bool = False
) -> None:
    """Draw requests, newest first, and below its row the one that the address names. A click on a time opens or closes
    its request; columns that no row fills are left out.
    """
    opened = draw_elsewhere(ctx, person, rows, key=key)
    if not rows:
        st.caption("No requests.")
        return
    optional = {
        "Endpoint": with_endpoint,
        "Variant": any(row.variant not in ("", "stable") for row in rows),
        "Key": any(row.key for row in rows),
        "Thumb": any(row.rating for row in rows),
        "Cost, US$": any(row.cost_usd is not None for row in rows),
        "Prompt": any(row.messages for row in rows),
    }
    shares = {title: share for title, share in SHARES.items() if optional.get(title, True)}
    table = WidgetTable(f"requests-{key}", {"When": 1.3, **shares})
    with table.frame():
        for row in rows:
            first, *cells = table.row(row.id)
            values = _cells(row)
            with first:
                time = when(row.created_at, now=ctx.now(), with_seconds=True)
                is_open = row.id == opened
                icon = ":material/keyboard_arrow_down:" if is_open else ":material/chevron_right:"
                if st.button(time, key=f"request_{key}_{row.id}", type="tertiary", icon=icon):
                    _open(None if is_open else row.id)
            for title, cell in zip(shares, cells, strict=True):
                cell.write(plain(format_cell(values[title], FORMATS.get(title))))
            if is_open:
                with st.container(border=True), errors_shown():
                    draw_request(ctx, person, row.id)


def draw_elsewhere(ctx: Context, person: Person, rows: Sequence[RequestRow], *, key: str) -> str | None:
    """Draw the request that the address names where it is not among the rows; return which one it names."""
    opened: str | None = st.query_params.get("request")
    if opened and all(row.id != opened for row in rows):
        with st.container(border=True):
            if st.button("Close", icon=":material/close:", key=f"close_request_{key}", type="tertiary"):
                _open(None)
            with errors_shown():
                draw_request(ctx, person, opened)
    return opened


def _open(request_id: str | None) -> None:
    """Put a request into the address, or take it out, and draw the page again."""
    set_parameters(request=request_id or "")
    st.rerun()


def _cells(row: RequestRow) -> dict[str, object]:
    return {
        "Endpoint": row.endpoint,
        "Variant": row.variant,
        "Key": row.key,
        "Result": result_of(row),
        "Tokens": f"{row.prompt_tokens:,} + {row.completion_tokens:,}",
        "First token, ms": row.ttft_ms,
        "Total, ms": row.total_ms,
        "Cost, US$": row.cost_usd,
        "Thumb": THUMBS.get(row.rating or 0),
        "Prompt": beginning_of(logged_text(row.messages[-1])) or None if row.messages else None,
    }


def result_of(row: RequestRow) -> str:
    """Return how a request ended and why: `finished: length`, `refused: no such model`."""
    result = RESULTS.get(row.status, row.status)
    if row.requests > 1:
        result = f"{row.requests:,} {result}"
    return f"{result}: {describe_end(row.finish_reason)}" if row.finish_reason else result


def beginning_of(text: str) -> str:
    """Return the beginning of a text in one line."""
    return shorten(" ".join(text[: 4 * SHOWN_CHARACTERS].split()), SHOWN_CHARACTERS)


def logged_text(message: Mapping[str, Any]) -> str:
    """Return the text of a message; calls and typed parts as JSON."""
    content = message.get("content")
    if isinstance(content, str) and content:
        return content
    rest = {name: value for name, value in message.items() if name != "role" and value}
    return json.dumps(rest, ensure_ascii=False, indent=1) if rest else ""


def draw_request(ctx: Context, person: Person, request_id: str) -> None:
    """Draw timings, facts, feedback, parameters, and kept texts as text or as tokens. Raises NotFound."""
    detail = get_request(ctx, request_id, person=person)
    row = detail.row
    grid = st.grid(5, min_column_width=130)
    draw_metric(grid, "Queue", _ms(row.queue_ms), help="Wait before the replica's first step.")
    draw_metric(grid, "First token", _ms(row.ttft_ms))
    draw_metric(grid, "Between tokens, mean", _ms(row.itl_ms, 1))
    draw_metric(grid, "Whole request", _ms(row.total_ms))
    speed = detail.decode_tokens_per_s
    draw_metric(grid, "Tokens/s after the first", "–" if speed is None else f"{speed:,.1f}")
    facts: list[tuple[str, object]] = [
        ("Request", row.id),
        ("When", date_time(row.created_at)),
        ("Endpoint", " · ".join(filter(None, (row.endpoint, row.variant)))),
        ("Key", row.key),
        ("Result", result_of(replace(row, requests=1))),
        ("Finish reason" if row.status == "finished" else "Error code", row.finish_reason),
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
        ("Cost", None if row.cost_usd is None else format_usd(row.cost_usd, is_price=True)),
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
        row_link(detail.checkpoint or "Checkpoint", page=routes.CHECKPOINTS, query=query, key="request_checkpoint")
    if not row.has_endpoint:
        return
    if row.messages is None:
        cause = (
            "The log keeps the metadata of this endpoint alone."
            if detail.is_logged
            else "The prompt and the answer of this request were not kept."
        )
        st.caption(f"{cause} The endpoint's request log decides whether they are.")
        page_link(routes.ENDPOINTS, "Request log of the endpoint", {"name": row.endpoint, "tab": "Settings"})
        return
    source = tokenizer_of(ctx, detail)
    as_tokens = source is not None and st.toggle(
        "Tokens", key=f"request_tokens_{row.id}", help=f"As the tokenizer of {plain(source.name)} splits these texts."
    )
    texts = [(str(message.get("role") or "prompt"), logged_text(message)) for message in row.messages]
    texts += [("answer", row.answer or "(no text)")]
    texts += [("correction", detail.correction)] if detail.correction else []
    for number, (role, text) in enumerate(texts):
        if as_tokens and source is not None:
            draw_request_tokens(ctx, source, role, text, key=f"request_tokens_{row.id}_{number}")
        else:
            st.caption(plain(role))
            _draw_text(text, key=f"request_text_{number}")
    draw_dataset_button(ctx, person, detail)
    retention = "" if detail.expires_at is None else f"Erased after {date_time(detail.expires_at)}"
    st.caption(
        plain(" · ".join(filter(None, [retention, f"{detail.redactions:,} redacted" if detail.redactions else ""])))
    )


def tokenizer_of(ctx: Context, detail: RequestDetail) -> TokenizerSource | None:
    """Return the tokenizer of the checkpoint that answered; None where that is gone, or is on another server."""
    if detail.checkpoint_id is None:
        return None
    try:
        return resolve_source(ctx, f"checkpoint:{detail.checkpoint_id}")
    except RoundhouseError:
        return None


def draw_request_tokens(ctx: Context, source: TokenizerSource, role: str, text: str, *, key: str) -> None:
    """Draw a text as the tokens into which a tokenizer splits it, with their number."""
    with errors_shown():
        split = tokenize(ctx, source, text)
        st.caption(plain(f"{role} · {plural(len(split.tokens), 'token')}" + (" of its beginning" if split.cut else "")))
        marks: list[Mark] = [MARKS.get(token.kind, ("one", "two")[at % 2]) for at, token in enumerate(split.tokens)]
        titles = [f"{token.piece} · {token.id}" for token in split.tokens]
        token_strip([token.text for token in split.tokens], key=key, titles=titles, marks=marks, clickable=False)


def draw_dataset_button(ctx: Context, person: Person, detail: RequestDetail) -> None:
    """Draw the way from a logged request into a dataset, or why a person may not go it."""
    reason = why_not_own(ctx, detail.row.endpoint, person=person)
    if st.button(
        "To dataset", icon=":material/database:", key="request_dataset", disabled=bool(reason), help=reason or None
    ):
        st.session_state[TRAFFIC_OF] = (detail.row.endpoint, (detail.row.id,))
        st.rerun()


def _draw_text(text: str, *, key: str) -> None:
    with st.container(border=True, key=key):
        st.text(text)


def _ms(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f} ms"


OBJECTIVES: dict[TrafficObjective, str] = {
    "sft": "SFT: chats",
    "kto": "KTO: good and bad answers",
    "preference": "Preference: pairs",
}
REVIEWED = 100
TRAFFIC_OF = "traffic_of"
"""Key of the session state: the endpoint whose dialog is to open, and the ids of requests that it is limited to."""


def draw_traffic_dataset(ctx: Context, person: Person) -> None:
    """Open the dialog that was of_user for."""
    if TRAFFIC_OF in st.session_state:
        open_traffic_dataset(ctx, person, *st.session_state.pop(TRAFFIC_OF))


@st.dialog("Dataset from traffic", width="large")
def open_traffic_dataset(ctx: Context, person: Person, endpoint: str, only: tuple[str, ...]) -> None:
    """Draw the form; its errors too, since none leaves a dialog."""
    with errors_shown():
        draw_traffic_form(ctx, person, endpoint, only)


@number_form
def draw_traffic_form(ctx: Context, person: Person, endpoint: str, only: tuple[str, ...]) -> None:
    """Draw filter, counts, the review and the button."""
    if only:
        st.caption(f"Limited to {plural(len(only), 'request')} of the list.")
    fields = st.grid(2, min_column_width=200)
    objective = fields.selectbox("Rows", list(OBJECTIVES), format_func=OBJECTIVES.__getitem__, key="traffic_objective")
    values = draw_fields(TrafficRules, key="traffic", place=fields)
    rules = TrafficRules(**values, only=only)
    first = preview_traffic(ctx, endpoint, objective=objective, rules=rules, person=person)
    excluded = draw_review(first)
    rules = rules.model_copy(update={"exclude": tuple(excluded)})
    preview = preview_traffic(ctx, endpoint, objective=objective, rules=rules, person=person) if excluded else first
    facts = [plural(len(preview.rows), "row"), f"{preview.scrubbed} texts scrubbed" if preview.scrubbed else ""]
    facts += [f"{count} left out: {reason}" for reason, count in preview.left_out.items()]
    st.caption(plain(" · ".join(filter(None, facts))))
    if not preview.rows:
        st.info(f"A row of this kind needs {NEEDS[objective]}.", icon=":material/info:")
    name = st.text_input("Dataset name", f"{endpoint}-traffic", key="traffic_name")
    if st.button(
        "Create dataset",
        type="primary",
        disabled=not preview.rows or bool(wrong_numbers()),
        key="traffic_make",
        icon=":material/database:",
    ):
        with errors_shown():
            version, count = make_traffic_dataset(
                ctx, endpoint, name=name, objective=objective, rules=rules, person=person
            )
            st.success(f"{plural(count, 'row')} go into {plain(name)}.", icon=":material/check:")
            served = get_endpoint(ctx, endpoint)
            base = {} if served.config.upstream is not None else {"base": served.checkpoint_id}
            with st.container(horizontal=True):
                page_link(routes.DATASETS, "See the dataset", {"dataset": version.dataset_id})
                page_link(routes.LAUNCH, "Train on it", {"dataset": version.label, **base})


def draw_review(preview: TrafficPreview) -> list[str]:
    """Draw the first exchanges that give rows, each with a box to leave it out; return the ids that are left out."""
    excluded = []
    in_rows = {id_ for source in preview.provenance for id_ in source["requests"]}
    exchanges = [exchange for exchange in preview.exchanges if exchange.id in in_rows]
    with st.container(height=360 if len(exchanges) > 3 else "content", border=False):
        for exchange in exchanges[:REVIEWED]:
            with st.container(border=True):
                st.text(_question(exchange)[:400])
                st.text((exchange.correction or exchange.answer)[:400] or "(no text)")
                thumb = {1: "thumb up", -1: "thumb down"}.get(exchange.rating or 0, "not rated")
                said = f"{thumb}{', corrected' if exchange.correction else ', cut off' if exchange.is_cut else ''}"
                if st.checkbox(f"Leave out ({said})", key=f"traffic_out_{exchange.id}"):
                    excluded.append(exchange.id)
    if len(exchanges) > REVIEWED:
        st.caption(f"The first {REVIEWED} of {len(exchanges):,} are shown.")
    return excluded


def _question(exchange: Exchange) -> str:
    """The last message of the user, or the last one at all: a tool's result says little without its question."""
    of_user = [message for message in exchange.messages if message.get("role") == "user"] or exchange.messages
    return str(of_user[-1].get("content") or "") if of_user else ""
