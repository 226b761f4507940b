"""Operation of an endpoint on its card: last hour, client code, last requests, request log, and load tests."""

from __future__ import annotations

import streamlit as st

from backend.domain.wording import percent, plural
from backend.services.context import Context, Person
from backend.services.serving.endpoints import EndpointView
from backend.services.serving.load.load_tests import list_load_tests
from backend.services.serving.monitoring.traffic import find_window, read_traffic
from backend.services.serving.owners import why_not_own
from backend.services.serving.request_log.browse import RequestFilter, browse_requests
from backend.services.serving.request_log.policies import get_log_policy, read_log_config, set_log_policy
from pages.components import routes
from pages.components.frame import errors_shown, plain
from pages.components.numbers import draw_number, number_form, refuse_wrong_numbers
from pages.components.serving.client_code import client_code
from pages.components.serving.request_table import draw_request_rows
from pages.components.serving.traffic_dataset import TRAFFIC_OF
from pages.components.tables import draw_table
from pages.components.words import two_times

LANGUAGES = {"Python": "python", "curl": "bash", "JavaScript": "javascript"}
REDACTED = "Redact keys, e-mail addresses, card numbers, IP addresses and phone numbers"
MODES = {"off": "Off", "metadata": "Metadata", "bodies": "Prompts and answers"}


def draw_operation(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the last hour, and what is folded below it."""
    draw_last_hour(ctx, endpoint)
    with st.expander("API", icon=":material/code:", key=f"api_{endpoint.name}"):
        for name, tab in zip(LANGUAGES, st.tabs(list(LANGUAGES), key=f"client_{endpoint.name}"), strict=True):
            tab.code(
                client_code(name, url=ctx.gateway_url, model=endpoint.name, needs_key=ctx.sign_in),
                language=LANGUAGES[name],
            )
    with st.expander("Last requests", icon=":material/list_alt:", key=f"requests_{endpoint.name}"):
        draw_requests(ctx, person, endpoint)
    with st.expander("Request log", icon=":material/receipt_long:", key=f"log_{endpoint.name}"):
        draw_log_settings(ctx, person, endpoint)
    with st.expander("Load tests", icon=":material/speed:", key=f"load_{endpoint.name}"):
        draw_newest_load_tests(ctx, endpoint)


def draw_last_hour(ctx: Context, endpoint: EndpointView) -> None:
    """Draw requests, tokens a second, first token, failures and refusals of the last hour, each with its line."""
    traffic = read_traffic(ctx, find_window("1 h"), endpoint=endpoint.name)
    points, total = traffic.points, traffic.total
    if not total.requests:
        return
    p50, p95 = total.ttft_ms[:2]
    grid = st.grid(4, min_column_width=190)  # two latencies fit
    grid.metric(
        "Requests, 1 h", f"{total.requests:,}", chart_data=[point.requests for point in points], chart_type="bar"
    )
    grid.metric(
        "Tokens/s, 1 h",
        f"{total.tokens_per_s:,.1f}",
        chart_data=[point.tokens_per_s for point in points],
        chart_type="area",
    )
    grid.metric(
        "First token p50 / p95",
        two_times(p50, p95),
        chart_data=[high for point in points if (high := point.ttft_ms[1]) is not None],
        chart_type="line",
        help="The line is the p95 of each minute with requests.",
    )
    grid.metric(
        "Failed / refused, 1 h",
        f"{total.lost:,} / {total.refused:,}",
        chart_data=[point.lost + point.refused for point in points],
        chart_type="bar",
        help="Failed: no replica completed them. Refused: over a limit, not allowed or invalid.",
    )


def draw_requests(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the last 20 requests that the person may see, and the way to all of them."""
    draw_request_rows(
        browse_requests(ctx, RequestFilter(endpoint=endpoint.name), person=person, limit=20).rows,
        key=endpoint.name,
        now=ctx.now(),
    )
    st.page_link(
        routes.REQUESTS, label="All requests", icon=":material/receipt_long:", query_params={"endpoint": endpoint.name}
    )


@number_form
def draw_log_settings(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the settings of the log, and the way to a dataset; to others than the owner and admins, what is kept and
    why.
    """
    config = get_log_policy(ctx, endpoint.name)
    if reason := why_not_own(ctx, endpoint.name, person=person):
        time_kept = "" if config.mode == "off" else f", {plural(config.retention_days, 'day')}"
        st.markdown(f"Keep: {MODES[config.mode].lower()}{time_kept}")
        st.caption(plain(reason))
        return
    with st.form(f"log_form_{endpoint.name}", border=False):
        fields = st.grid(2, min_column_width=200)
        modes = list(MODES)
        mode = fields.selectbox(
            "Keep", modes, modes.index(config.mode), format_func=MODES.__getitem__, key=f"log_mode_{endpoint.name}"
        )
        days = int(draw_number(fields, "Days", 1, 3650, config.retention_days, key=f"log_days_{endpoint.name}"))
        redact = st.checkbox(REDACTED, config.redact, key=f"log_redact_{endpoint.name}")
        text = "\n".join(config.patterns)
        help_text = "Regular expressions, one per line."
        patterns = st.text_area("More patterns", text, key=f"log_patterns_{endpoint.name}", help=help_text, height=80)
        st.caption("Clients opt out with the header `X-Roundhouse-Log: off`. A stricter setting erases what is stored.")
        if st.form_submit_button("Save"):
            with errors_shown():
                refuse_wrong_numbers()
                lines = [line.strip() for line in patterns.splitlines() if line.strip()]
                config = read_log_config({"mode": mode, "retention_days": days, "redact": redact, "patterns": lines})
                set_log_policy(ctx, endpoint.name, config, person=person)
                st.toast("Saved.", icon=":material/check:")
    if st.button("Dataset from traffic", icon=":material/database:", key=f"traffic_{endpoint.name}"):
        st.session_state[TRAFFIC_OF] = (endpoint.name, ())
        st.rerun()  # of the page: a dialog of a part that is drawn again every two seconds would close


def draw_newest_load_tests(ctx: Context, endpoint: EndpointView) -> None:
    """Draw the newest results of load tests, and the way to the page that starts one."""
    rows = []
    for test in list_load_tests(ctx, endpoint.name, limit=3):
        for level in test.result.levels:
            summary = level.get("gateway") or level["replica"]
            rows.append(
                {
                    "When": test.created_at,
                    "Users": level["users"] or "open loop",
                    "Requests/s": summary["requests_per_s"],
                    "Tokens/s": summary["tokens_per_s"],
                    "First token p50 / p95, ms": _pair(summary["ttft"]),
                    "Between tokens p50 / p95, ms": _pair(summary["itl"]),
                    "Within objectives": percent(summary["good_share"]),
                    "Gateway adds, ms": (level.get("gateway_overhead") or {}).get("ttft_p50_ms"),
                    "Errors": summary["errors"],
                }
            )
    formats = {"Requests/s": ",.1f", "Tokens/s": ",.0f", "Gateway adds, ms": ".1f"}
    draw_table(rows, key=f"load_{endpoint.name}", alt=f"Load tests of {endpoint.name}", formats=formats)
    if not rows:
        st.caption("No load test yet.")
    st.page_link(
        routes.LOAD_TESTS, label="Load tests", icon=":material/speed:", query_params={"endpoint": endpoint.name}
    )


def _pair(spread: dict[str, float] | None) -> str | None:
    return None if spread is None else f"{spread['p50_ms']:,.0f} / {spread['p95_ms']:,.0f}"
