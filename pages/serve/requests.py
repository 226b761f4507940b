"""Requests: browse those of endpoints by filters, which the address keeps, open one in its place, and take them as a
file or into a dataset.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import streamlit as st

from backend.services.context import Context, Person
from backend.services.serving.endpoints import list_endpoints, why_not_own
from backend.services.serving.monitoring.traffic import find_window, list_variants
from backend.services.serving.request_log.browse import (
    PAGE_SIZE,
    STATUSES,
    RequestFilter,
    RequestPage,
    browse_requests,
    list_key_names,
    requests_csv,
    requests_jsonl,
)
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.downloads import draw_download
from pages.components.frame import empty_state, handled, page_frame, warn_unknown
from pages.components.numbers import draw_number, number_form
from pages.components.serving.requests import (
    RESULTS,
    TRAFFIC_OF,
    draw_elsewhere,
    draw_request_rows,
    draw_traffic_dataset,
    draw_whose_requests,
)

SPANS = {"1 hour": 1 / 24, "24 hours": 1, "7 days": 7, "30 days": 30, "All": None}
PAGES = "requests_pages"
"""Key of the session state: the filter, and where each of its pages begins."""


@number_form
def draw_request_filters(ctx: Context, person: Person) -> RequestFilter:
    """Draw the filters and return them."""
    names = [endpoint.name for endpoint in list_endpoints(ctx)]
    requested = st.query_params.get("endpoint")
    if requested and requested not in names:
        warn_unknown("endpoint", requested, instead="requests of all are shown")
    fields = st.grid(4, min_column_width=150)
    endpoint = fields.selectbox("Endpoint", names, index=None, key="endpoint", bind="query-params", placeholder="All")
    variants = {} if endpoint is None else list_variants(ctx, find_window("30 days"), endpoint=endpoint)
    variant = choose_from(
        "Variant",
        variants,
        key="variant",
        value=None,
        bind="query-params",
        placeholder="All",
        disabled=not variants,
        place=fields,
    )
    keys = list_key_names(ctx, person=person)
    key = choose_from(
        "Key",
        keys,
        words=lambda id_: f"{keys[id_]} · {id_[:4]}",
        key="key",
        value=None,
        bind="query-params",
        placeholder="All",
        place=fields,
    )
    status = fields.selectbox(
        "Result",
        STATUSES,
        index=None,
        format_func=RESULTS.__getitem__,
        key="result",
        bind="query-params",
        placeholder="All",
    )
    span = fields.selectbox("Time", list(SPANS), index=1, key="span", bind="query-params")
    total = draw_number(
        fields, "Min duration, ms", 0, None, is_whole=False, key="total_ms", bind="query-params", placeholder="Any"
    )
    first = draw_number(
        fields,
        "Min time to first token, ms",
        0,
        None,
        is_whole=False,
        key="ttft_ms",
        bind="query-params",
        placeholder="Any",
    )
    text = fields.text_input(
        "Text",
        key="text",
        bind="query-params",
        placeholder="In prompt or answer, or an id",
        help="Searches what is logged.",
    )
    days = SPANS[span or "All"]
    return RequestFilter(
        endpoint=endpoint or "",
        variant=variant or "",
        key_id=key or "",
        status=status or "",
        min_total_ms=total or None,
        min_ttft_ms=first or None,
        since=None if days is None else (ctx.now() - timedelta(days=days)).replace(second=0, microsecond=0),
        text=text.strip(),
    )


@handled
def clear_filters() -> None:
    """Empty every filter but the time."""
    empty = dict.fromkeys(("endpoint", "variant", "key", "result", "total_ms", "ttft_ms"))
    st.session_state.update(empty, text="")


def read_page(ctx: Context, person: Person, filters: RequestFilter) -> RequestPage:
    """Return the page that the visitor turned to; another filter begins at the first."""
    same = replace(filters, since=None), st.session_state.get("span")
    if st.session_state.get(PAGES, {}).get("filter") != same:
        st.session_state[PAGES] = {"filter": same, "starts": [None]}
    return browse_requests(ctx, filters, person=person, after=st.session_state[PAGES]["starts"][-1])


def draw_pages(page: RequestPage) -> None:
    """Draw the buttons to newer and older requests."""
    starts: list[str | None] = st.session_state[PAGES]["starts"]
    if len(starts) == 1 and page.next is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Newer", icon=":material/chevron_left:", key="requests_newer", disabled=len(starts) == 1):
            starts.pop()
            st.rerun()
        if st.button("Older", icon=":material/chevron_right:", key="requests_older", disabled=page.next is None):
            starts.append(page.next)
            st.rerun()
        first = (len(starts) - 1) * PAGE_SIZE + 1
        st.caption(f"{first:,} to {first + len(page.rows) - 1:,}, newest first", width="content")


def draw_request_actions(ctx: Context, person: Person, filters: RequestFilter, page: RequestPage) -> None:
    """Draw the files and the dataset of what is listed."""
    with st.container(horizontal=True):
        for label, make, kind in (("CSV", requests_csv, "csv"), ("JSON lines", requests_jsonl, "jsonl")):
            draw_download(label, partial(make, ctx, filters, person=person), f"requests.{kind}", key=f"requests_{kind}")
        if not filters.endpoint:
            return
        reason = why_not_own(ctx, filters.endpoint, person=person)
        if not reason and not any(row.messages for row in page.rows):
            reason = "The log of these requests holds no texts."
        if st.button(
            "Dataset from these",
            icon=":material/database:",
            key="requests_dataset",
            disabled=bool(reason),
            help=reason or None,
        ):
            only = browse_requests(ctx, filters, person=person, limit=10_000).rows
            st.session_state[TRAFFIC_OF] = (filters.endpoint, tuple(row.id for row in only))
            st.rerun()


def draw_request_list(ctx: Context, person: Person) -> None:
    """Draw filters, a page of requests, and what can be done with them."""
    filters = draw_request_filters(ctx, person)
    draw_whose_requests(person)
    page = read_page(ctx, person, filters)
    if not page.rows:
        draw_elsewhere(ctx, person, (), key="page")
        if filters == RequestFilter(since=filters.since):
            period = (
                "yet" if filters.since is None else f"in the last {str(st.session_state['span']).removeprefix('1 ')}"
            )
            words = f"No request {period}. Call an endpoint, and its requests are listed here."
            empty_state(words, page=routes.ENDPOINTS, label="Endpoints")
        else:
            st.caption("No request passes these filters.")
            st.button("Clear filters", icon=":material/filter_alt_off:", key="clear_filters", on_click=clear_filters)
        draw_pages(page)
        return
    draw_request_rows(ctx, person, page.rows, key="page", with_endpoint=not filters.endpoint)
    draw_pages(page)
    draw_request_actions(ctx, person, filters, page)


with page_frame("Requests", "Requests to endpoints, with the texts that their log keeps.", way_back=True) as (
    context_,
    person_,
):
    draw_traffic_dataset(context_, person_)
    draw_request_list(context_, person_)
