"""One endpoint: its state, load and changes; its adapters and shadow; traffic, API, requests, logs, revisions and
settings as tabs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.serving.call_code import curl_code, first_body, javascript_code, python_code
from backend.domain.serving.request_log import RequestLogConfig
from backend.domain.validation import read_values
from backend.domain.wording import percent, plural
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.health import GATEWAY, HEALTH
from backend.services.jobs.jobs import read_log
from backend.services.serving.adapters import (
    add_adapter,
    list_adapter_checkpoints,
    list_adapters,
    remove_adapter,
)
from backend.services.serving.aliases import explain_alias, get_alias
from backend.services.serving.deployments import delete_endpoint, start_endpoint, stop_endpoint
from backend.services.serving.endpoints import (
    EndpointView,
    get_endpoint,
    list_endpoints,
    list_revisions,
    why_not_delete,
    why_not_own,
)
from backend.services.serving.load_tests import list_load_tests
from backend.services.serving.monitoring.traffic import (
    RevisionTraffic,
    compare_revisions,
    find_window,
    read_traffic,
)
from backend.services.serving.request_log.browse import RequestFilter, browse_requests
from backend.services.serving.request_log.policies import get_log_policy, set_log_policy
from backend.services.serving.shadows import read_shadow, start_shadow, stop_shadow
from pages.components import routes
from pages.components.charts.html import bars, figure
from pages.components.charts.style import BLUE
from pages.components.choices import choose_from, choose_one
from pages.components.confirm import draw_confirmed
from pages.components.frame import (
    draw_figure,
    draw_metric,
    errors_shown,
    live_part,
    object_heading,
    plain,
    rerun_after,
    show_problem,
    with_code,
)
from pages.components.links import draw_who_reaches, page_link, row_link
from pages.components.numbers import draw_number, number_form, refuse_wrong_numbers, wrong_numbers
from pages.components.people.keys import draw_key_of, key_to_show
from pages.components.serving.requests import TRAFFIC_OF, draw_request_rows, draw_whose_requests
from pages.components.serving.rollout import (
    choose_successor,
    draw_canary,
    draw_canary_form,
    draw_rollback,
    draw_rollout,
    draw_scale,
    draw_swap,
    label_beside,
)
from pages.components.serving.upstream_form import draw_upstream
from pages.components.tables import draw_table
from pages.components.words import ago, two_times, when

BADGES: dict[str, tuple[Literal["green", "blue", "red", "gray"], str]] = {
    "ready": ("green", "check_circle"),
    "updating": ("blue", "published_with_changes"),
    "starting": ("blue", "hourglass_top"),
    "failing": ("red", "error"),
    "unreachable": ("red", "cloud_off"),
    "asleep": ("gray", "bedtime"),
    "stopped": ("gray", "stop_circle"),
}
OF_A_STOPPED_ONE = ("Requests", "Revisions", "Settings")
"""Tabs of an endpoint that does not run."""
POLLING = ("Traffic", "Logs")
"""Tabs that are drawn while they are open alone."""
CLIENTS = {
    "Python": ("python", python_code),
    "curl": ("bash", curl_code),
    "JavaScript": ("javascript", javascript_code),
}
REDACTED = "Replace API keys, e-mail addresses, IBANs, card numbers, IPv4 addresses and phone numbers"
ABOUT_REDACTION = """By their form, before a request is stored. Order numbers, prices, dates and names stay. A number of
four parts, such as 1.2.3.4, is taken for an address unless the text calls it a version."""
MODES = {"off": "Off", "metadata": "Metadata", "bodies": "Prompts and answers"}
COMPARED = ("1 h", "24 h", "7 days")
LOG_LINES = 200


def draw_endpoint_page(ctx: Context, person: Person, name: str, *, alias: str | None) -> None:
    """Draw one endpoint: its state and changes, then traffic, API, requests, logs, revisions and settings as tabs.
    `alias` is the name in the address, where it is another.
    """
    draw_endpoint_head(ctx, person, name, alias)
    is_stopped = get_endpoint(ctx, name).stopped_at is not None
    parts = {
        "Traffic": draw_endpoint_traffic,
        "API": draw_api,
        "Requests": draw_requests,
        "Logs": draw_logs,
        "Revisions": draw_history,
        "Settings": draw_endpoint_settings,
    }
    names = [part for part in parts if not is_stopped or part in OF_A_STOPPED_ONE]
    for part, tab in zip(names, st.tabs(names, key="tab", bind="query-params"), strict=True):
        if tab.open or part not in POLLING:
            with tab, errors_shown():
                parts[part](ctx, person, name)


def draw_endpoint_state(endpoint: EndpointView) -> None:
    """Draw the state of an endpoint as a badge."""
    state = "unreachable" if endpoint.num_ready and HEALTH.fails(GATEWAY) else endpoint.state
    colour, icon = BADGES[state]
    st.badge(state, color=colour, icon=f":material/{icon}:")


@live_part(3)
def draw_endpoint_head(ctx: Context, person: Person, name: str, alias: str | None) -> None:
    """Draw state, what is served, changes and load, refreshed every three seconds."""
    endpoint = get_endpoint(ctx, name)
    is_stopped = endpoint.stopped_at is not None
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            object_heading(endpoint.name, width="content")
            draw_endpoint_state(endpoint)
            if alias is not None:
                st.badge(f"answers for {plain(alias)}", icon=":material/label:", color="violet")
            st.space("stretch")
            if is_stopped:
                with st.container(horizontal=True, width="content"):
                    draw_stopped_actions(ctx, person, endpoint)
            else:
                draw_endpoint_actions(ctx, person, endpoint)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption("Served" if is_stopped else "Serves", width="content")
            if endpoint.config.upstream is not None:
                st.badge(plain(endpoint.checkpoint_name), icon=":material/cloud:", color="gray")
            else:
                row_link(
                    endpoint.checkpoint_name,
                    page=routes.CHECKPOINTS,
                    query={"checkpoint": endpoint.checkpoint_id},
                    key=f"served_{endpoint.name}",
                )
            if endpoint.config.alias is not None:
                st.badge(f"follows {plain(endpoint.config.alias)}", icon=":material/label:", color="violet")
                _draw_apart(ctx, person, endpoint, alias=endpoint.config.alias)
            if endpoint.stopped_at is not None:
                st.caption(f"stopped {ago(endpoint.stopped_at, now=ctx.now())}", width="content")
        draw_upstream(endpoint, now=ctx.now())
        if endpoint.config.precision_check is not None:
            st.caption(plain(endpoint.config.precision_check.describe()))
        elif endpoint.config.precision != "float32":
            st.caption(f"{plain(endpoint.config.precision)}: not measured yet")
        for arithmetic in endpoint.arithmetics:
            st.caption(f"On the CPU: {plain(arithmetic)}")
        if endpoint.draft_name is not None:
            st.caption(plain(describe_draft(endpoint)))
        if not is_stopped and (words := endpoint.config.scaling.describe()):
            st.caption(words)
        if not is_stopped:
            draw_canary(ctx, person, endpoint)
            draw_shadow(ctx, person, endpoint)
            draw_rollout(endpoint)
            draw_endpoint_gauges(endpoint)


def _draw_apart(ctx: Context, person: Person, endpoint: EndpointView, *, alias: str) -> None:
    """Draw that the endpoint serves another checkpoint than its alias names, with the way to promote it."""
    if endpoint.name not in get_alias(ctx, alias).apart:
        return
    st.caption(plain(explain_alias(ctx, alias, served=endpoint.checkpoint_name)), width="content")
    if person.may_build and endpoint.config.upstream is None:
        row_link(
            f"Promote to {alias}",
            page=routes.CHECKPOINTS,
            query={"promote": endpoint.checkpoint_id, "alias": alias},
            key=f"promote_served_{endpoint.name}",
        )


def describe_draft(endpoint: EndpointView) -> str:
    """Return the draft of an endpoint and how much of it was accepted."""
    if endpoint.acceptance is None:
        return f"Draft: {endpoint.draft_name} · nothing drafted yet"
    return (
        f"Draft: {endpoint.draft_name} · {percent(endpoint.acceptance)} of {endpoint.drafted_tokens:,} drafted tokens"
        " accepted"
    )


def draw_endpoint_actions(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the ways to its other pages, and its changes."""
    page_link(routes.LINEAGE, "Lineage", {"endpoint": endpoint.name})
    if endpoint.writes:
        usage: Literal["primary", "secondary"] = "primary" if endpoint.num_ready else "secondary"
        if st.button("Chat", icon=":material/chat:", type=usage, key=f"chat_{endpoint.name}"):
            st.switch_page(routes.PLAYGROUND, query_params={"endpoint": endpoint.name})
    with st.container(horizontal=True, width="content"):  # wraps as one
        draw_endpoint_changes(ctx, person, endpoint)


def draw_endpoint_changes(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw what changes a serving endpoint."""
    if endpoint.config.upstream is None:
        draw_scale(ctx, person, endpoint)
        draw_swap(ctx, person, endpoint)
    if endpoint.writes:  # a reward model's scores are neither thumbed nor compared
        draw_canary_form(ctx, person, endpoint)
        draw_shadow_form(ctx, person, endpoint)
    draw_rollback(ctx, person, endpoint)
    with st.popover("Stop", icon=":material/stop_circle:", key=f"stop_menu_{endpoint.name}"):
        st.markdown(f"Stop {plain(endpoint.name)}? Clients get an error until it is started again.")
        if st.button("Stop it", type="primary", key=f"stop_{endpoint.name}"):
            with rerun_after():
                stop_endpoint(ctx, endpoint.name, person=person)


def draw_stopped_actions(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw Start, and Delete with its confirmation."""
    if st.button("Start", icon=":material/play_arrow:", key=f"start_{endpoint.name}"):
        with rerun_after():
            start_endpoint(ctx, endpoint.name, person=person)
    if reason := why_not_delete(ctx, endpoint.name, person=person):
        st.button(
            "Delete", icon=":material/delete:", disabled=True, help=plain(reason), key=f"delete_menu_{endpoint.name}"
        )
        return
    with st.popover("Delete", icon=":material/delete:", key=f"delete_menu_{endpoint.name}"):
        st.markdown(f"Delete {plain(endpoint.name)} and its history? The checkpoint and conversations stay.")
        if st.button("Delete it", type="primary", key=f"delete_{endpoint.name}"):
            with rerun_after():
                delete_endpoint(ctx, endpoint.name, person=person)
                st.toast(f"Deleted {plain(endpoint.name)}.", icon=":material/delete:")
                st.query_params.pop("name", None)


def draw_endpoint_gauges(endpoint: EndpointView) -> None:
    """Draw load and rate, and the cause where a replica does not start."""
    if endpoint.config.upstream is not None and endpoint.canary is None:
        for replica in endpoint.replicas:
            if replica.problem:
                cure = "Start that server; it is checked again by itself. At another address, connect it again."
                st.warning(f"Health check: {plain(replica.problem)}  \n{cure}", icon=":material/error:")
        return
    grid = st.grid(4, min_column_width=140)  # like the four figures of the last hour below
    draw_metric(
        grid, "Replicas ready", "asleep" if endpoint.state == "asleep" else f"{endpoint.num_ready} of {endpoint.target}"
    )
    for replica in endpoint.replicas:
        if replica.restarts and replica.status == "ready" and replica.ready_at:
            which = f"Replica {replica.number} of revision {replica.revision}"
            st.caption(plain(f"{which}: {replica.restarts}, last ready at {when(replica.ready_at)}"))
    draw_metric(grid, "Running requests", f"{sum(r.gauges.running for r in endpoint.replicas)}")
    draw_metric(grid, "Tokens per second", f"{sum(r.gauges.tokens_per_second for r in endpoint.replicas):.0f}")
    for replica in endpoint.replicas:
        if replica.problem and replica.status != "ready":
            which = f"Replica {replica.number} of revision {replica.revision}, attempt {replica.attempt}"
            cause = f"{which}: {plain(replica.problem)}"
            cure = (
                replica.remedy
                or f"Read its log below (`roundhouse endpoint logs {endpoint.name}`), or swap to another checkpoint."
            )
            st.warning(f"{cause}  \n{with_code(cure)}", icon=":material/error:")


def draw_history(ctx: Context, person: Person, name: str) -> None:
    """Draw the deployments of a name, newest first."""
    revisions = list_revisions(ctx, name)
    rows = [
        {
            "Revision": row.revision,
            "Checkpoint": row.checkpoint_name,
            "Options": row.options or "defaults",
            "Replicas": row.num_replicas,
            "Deployed": row.created_at,
            "Until": row.stopped_at or "now",
            "Note": row.note or row.role,
        }
        for row in revisions
    ]
    draw_table(rows, key=f"deployments_{name}", alt=f"Deployments of {name}")
    events = [{"When": event.at, "Change": event.text} for row in revisions for event in reversed(row.events)]
    if events:
        draw_table(events, key=f"scalings_{name}", alt=f"Changes and restarts of replicas of {name}")


@live_part(15)
def draw_endpoint_traffic(ctx: Context, person: Person, name: str) -> None:
    """Draw the last hour, and the figures of the stable revision and the canary beside each other."""
    endpoint = get_endpoint(ctx, name)
    draw_last_hour(ctx, name)
    window = find_window(
        choose_one("Compared over", COMPARED, key=f"compared_{name}") if endpoint.canary is not None else COMPARED[0]
    )
    compared = compare_revisions(ctx, window, endpoint=name)
    if len(compared) > 1:
        draw_revisions(compared)
    page_link(routes.MONITOR, "Monitor", {"endpoint": name})


def draw_revisions(compared: list[RevisionTraffic]) -> None:
    """Draw a row of figures for each revision that answers now."""
    newest = max(one.revision for one in compared if one.role == "stable")
    rows = [
        {
            "Revision": f"{one.revision}, {one.role if one.role != 'stable' or one.revision == newest else 'leaving'}",
            "Checkpoint": one.checkpoint_name,
            "Requests": total.requests,
            "Failed": None if total.error_share is None else percent(total.error_share, digits=1),
            "First token p50 / p95": two_times(*total.ttft_ms[:2]),
            "Between tokens p50 / p95": two_times(*total.itl_ms[:2]),
            "Whole request p95, ms": total.total_ms[1],
            "Generated tokens": total.completion_tokens,
            "Cost, US$": one.cost_usd or None,
        }
        for one in compared
        for total in (one.total,)
    ]
    if not any(row["Cost, US$"] for row in rows):
        for row in rows:
            row.pop("Cost, US$")
    formats = {"Whole request p95, ms": ",.0f", "Cost, US$": ",.6f"}
    draw_table(rows, key="variants", alt="Figures by revision", formats=formats)
    st.caption("Requests that reached each revision in its present role within this time; some it may have refused.")


def draw_last_hour(ctx: Context, name: str) -> None:
    """Draw requests, tokens a second, first token, failures and refusals of the last hour, with a bar a minute."""
    traffic = read_traffic(ctx, find_window("1 h"), endpoint=name)
    points, total = traffic.points, traffic.total
    if traffic.load_tests:
        st.caption(f"Not counted: {plural(traffic.load_tests, 'request')} of load tests.")
    if not total.requests:
        st.caption("No request in the last hour.")
        return
    p50, p95 = total.ttft_ms[:2]
    grid = st.grid(4, min_column_width=190)  # two latencies fit
    _draw_by_minute(grid, "Requests, 1 h", f"{total.requests:,}", [point.requests for point in points])
    _draw_by_minute(grid, "Tokens/s, 1 h", f"{total.tokens_per_s:,.1f}", [point.tokens_per_s for point in points])
    _draw_by_minute(
        grid,
        "First token p50 / p95",
        two_times(p50, p95),
        [point.ttft_ms[1] for point in points],
        help="The bars are the p95 of each minute with requests.",
    )
    _draw_by_minute(
        grid,
        "Failed / refused, 1 h",
        f"{total.lost:,} / {total.refused:,}",
        [point.lost + point.refused for point in points],
        help="Failed: no replica completed them. Refused: over a limit, not allowed or invalid.",
    )


def _draw_by_minute(
    grid: DeltaGenerator, label: str, value: str, minutes: Sequence[float | None], *, help: str | None = None
) -> None:
    with grid.container(border=True, height="stretch"):
        draw_figure(label, value, help=help)
        st.html(figure(bars(minutes, write=lambda one: f"{one:,.4g}", color=BLUE), alt=f"{label}, by minute"))


def draw_api(ctx: Context, person: Person, name: str) -> None:
    """Draw address, the name that clients send, and their code."""
    st.caption("Address")
    st.code(f"{ctx.gateway_url}/v1", language=None)
    draw_who_reaches(ctx, ctx.gateway_url)
    st.caption("Model")
    st.code(name, language=None)
    if person.may_build:
        draw_key_of(ctx, person, name)
    for tab, (language, write) in zip(st.tabs(list(CLIENTS), key=f"client_{name}"), CLIENTS.values(), strict=True):
        tab.code(write(ctx.gateway_url, first_body(name), key=key_to_show(ctx)), language=language)
        if language == "javascript":
            tab.caption("For a server, as with Node: the gateway answers no page of another origin.")


def draw_requests(ctx: Context, person: Person, name: str) -> None:
    """Draw the last 20 requests that the person may see, and the way to all of them."""
    rows = browse_requests(ctx, RequestFilter(endpoint=name), person=person, limit=20).rows
    draw_whose_requests(person)
    draw_request_rows(ctx, person, rows, key=name)
    page_link(routes.REQUESTS, "All requests", {"endpoint": name})


@live_part(10)
def draw_logs(ctx: Context, person: Person, name: str) -> None:
    """Draw the end of the log of each replica that runs or starts here."""
    replicas = [replica for replica in get_endpoint(ctx, name).replicas if replica.job_id]
    if not replicas:
        st.caption("No replica runs on this installation's machines.")
    for replica in replicas:
        role = "" if replica.role == "stable" else f", {replica.role}"
        st.markdown(plain(f"Replica {replica.number} of revision {replica.revision}{role}: {replica.status}"))
        lines = read_log(ctx, replica.job_id, last=LOG_LINES)
        if lines:
            with st.container(height=320 if len(lines) > 12 else "content", border=False, autoscroll=True):
                st.code("\n".join(lines), language=None, wrap_lines=True)
        elif not replica.problem:
            st.caption("It has written nothing yet.")
        if replica.problem:
            show_problem(replica.problem, replica.remedy)


def draw_endpoint_settings(ctx: Context, person: Person, name: str) -> None:
    """Draw adapters, the request log and load tests."""
    endpoint = get_endpoint(ctx, name)
    if endpoint.stopped_at is None:
        draw_adapters(ctx, person, endpoint)
    st.markdown("**Request log**")
    draw_log_settings(ctx, person, name)
    st.markdown("**Load tests**")
    draw_newest_load_tests(ctx, name)


@number_form
def draw_log_settings(ctx: Context, person: Person, name: str) -> None:
    """Draw the settings of the log, and the way to a dataset; to all but owner and admins what is kept and why."""
    config = get_log_policy(ctx, name)
    if reason := why_not_own(ctx, name, person=person):
        time_kept = "" if config.mode == "off" else f", {plural(config.retention_days, 'day')}"
        st.markdown(f"Keep: {MODES[config.mode].lower()}{time_kept}")
        st.caption(plain(reason))
        return
    with st.form(f"log_form_{name}", border=False):
        fields = st.grid(2, min_column_width=200)
        modes = list(MODES)
        mode = fields.selectbox(
            "Keep", modes, modes.index(config.mode), format_func=MODES.__getitem__, key=f"log_mode_{name}"
        )
        days = int(draw_number(fields, "Days", 1, 3650, config.retention_days, key=f"log_days_{name}"))
        redact = st.checkbox(REDACTED, config.redact, key=f"log_redact_{name}", help=ABOUT_REDACTION)
        text = "\n".join(config.patterns)
        help_text = "Regular expressions, one per line."
        patterns = st.text_area("More patterns", text, key=f"log_patterns_{name}", help=help_text, height=80)
        st.caption(
            "What is replaced can't be brought back. Clients opt out with the header `X-Roundhouse-Log: off`. "
            "A stricter setting erases what is stored."
        )
        if st.form_submit_button("Save"):
            with errors_shown():
                refuse_wrong_numbers()
                lines = [line.strip() for line in patterns.splitlines() if line.strip()]
                config = read_values(
                    RequestLogConfig, {"mode": mode, "retention_days": days, "redact": redact, "patterns": lines}
                )
                set_log_policy(ctx, name, config, person=person)
                st.toast("Saved.", icon=":material/check:")
    if st.button("Dataset from traffic", icon=":material/database:", key=f"traffic_{name}"):
        st.session_state[TRAFFIC_OF] = (name, ())
        st.rerun()  # the whole page: a dialog in a part that is drawn every two seconds would close


def draw_newest_load_tests(ctx: Context, name: str) -> None:
    """Draw the newest results of load tests, and the way to the page that starts one."""
    rows = []
    for test in list_load_tests(ctx, name, limit=3):
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
    draw_table(rows, key=f"load_{name}", alt=f"Load tests of {name}", formats=formats)
    if not rows:
        st.caption("No load test yet.")
    page_link(routes.LOAD_TESTS, "Load tests", {"endpoint": name})


def _pair(spread: dict[str, float] | None) -> str | None:
    return None if spread is None else f"{spread['p50_ms']:,.0f} / {spread['p95_ms']:,.0f}"


def draw_adapters(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the adapters beside an endpoint's base; nothing for another server's model, or where no adapter was trained
    on the base.
    """
    if endpoint.config.upstream is not None:
        return
    adapters = list_adapters(ctx, endpoint.name)
    checkpoints = {view.id: view.name for view in list_adapter_checkpoints(ctx, endpoint)}
    if not adapters and not checkpoints:
        return
    title = f"Adapters ({len(adapters)})" if adapters else "Adapters"
    with st.expander(title, icon=":material/layers:", key=f"adapters_{endpoint.name}"):
        for adapter in adapters:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(f"`{adapter.model}`", width="content")
                query, key = {"checkpoint": adapter.checkpoint_id}, f"adapter_of_{adapter.model}"
                row_link(adapter.checkpoint_name, page=routes.CHECKPOINTS, query=query, key=key)
                st.space("stretch")
                draw_confirmed(
                    "Unload",
                    f"Requests for `{adapter.model}` are refused from now on. The adapter's checkpoint stays.",
                    partial(remove_adapter, ctx, endpoint.name, adapter.name, person=person),
                    key=f"adapter_unload_{adapter.model}",
                    icon="eject",
                )
        if checkpoints:
            _draw_adapter_form(ctx, person, endpoint, checkpoints)


def _draw_adapter_form(ctx: Context, person: Person, endpoint: EndpointView, checkpoints: dict[str, str]) -> None:
    grid = st.grid(2, min_column_width=200)
    chosen = choose_from(
        "Adapter",
        checkpoints,
        key=f"adapter_checkpoint_{endpoint.name}",
        help="Trained by LoRA on the checkpoint that this endpoint serves.",
        place=grid,
    )
    name = grid.text_input(
        "Name", key=f"adapter_name_{endpoint.name}", help=f"Clients send `{endpoint.name}:NAME` as `model=`."
    ).strip()
    if st.button("Load", icon=":material/add:", key=f"adapter_load_{endpoint.name}", disabled=not name):
        with rerun_after():
            add_adapter(ctx, endpoint.name, name, checkpoint_id=chosen, person=person)
            st.toast(f"{plain(endpoint.name)}:{plain(name)} is served", icon=":material/layers:")


OWN, OTHER = "Checkpoint", "Endpoint"
NOT_COPIED = (
    "Not copied: requests for several answers or with probabilities, those that the endpoint did not answer, those that"
    " arrive before the shadow is ready, and copies beyond 64 that wait. Copies that wait are counted once they are"
    " answered."
)


@number_form
def draw_shadow_form(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the form that starts a shadow; nothing while one runs."""
    if endpoint.shadow is not None:
        return
    name = endpoint.name
    with st.popover("Shadow", icon=":material/content_copy:", key=f"shadow_menu_{name}"):
        st.caption("Copies of requests are answered a second time and compared. Clients never see these answers.")
        others = [view.name for view in list_endpoints(ctx, include_stopped=False) if view.name != name]
        kind = choose_one("Answered by", [OWN, OTHER] if others else [OWN], default=OWN, key=f"shadow_kind_{name}")
        chosen: str | None
        if kind == OTHER:
            chosen = st.selectbox("Endpoint", others, key=f"shadow_endpoint_{name}")
        else:
            checkpoints = label_beside(ctx, list_checkpoints(ctx, ready=True), served=endpoint.checkpoint_id)
            chosen = choose_successor(ctx, checkpoints, key=f"shadow_checkpoint_{name}", endpoint=endpoint)
        percent = draw_number(st, "Percent of requests", 0.1, 100.0, 10.0, key=f"shadow_percent_{name}", is_whole=False)
        if (
            st.button(
                "Start shadow", type="primary", key=f"shadow_{name}", disabled=chosen is None or bool(wrong_numbers())
            )
            and chosen
        ):
            with rerun_after():
                own, other = (None, chosen) if kind == OTHER else (chosen, None)
                start_shadow(ctx, name, checkpoint_id=own, endpoint=other, percent=percent, person=person)


def draw_shadow(ctx: Context, person: Person, endpoint: EndpointView) -> None:
    """Draw the shadow that runs, how its answers compare, and its end."""
    shadow = endpoint.shadow
    if shadow is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", key=f"shadow_row_{endpoint.name}"):
        st.badge(f"shadow {shadow.percent:g} %", icon=":material/content_copy:", color="violet")
        key = f"shadow_of_{endpoint.name}"
        if shadow.endpoint:
            row_link(shadow.endpoint, page=routes.ENDPOINTS, query={"name": shadow.endpoint}, key=key)
        else:
            row_link(
                shadow.checkpoint_name, page=routes.CHECKPOINTS, query={"checkpoint": shadow.checkpoint_id}, key=key
            )
        report = read_shadow(ctx, endpoint.name)
        is_starting = not shadow.endpoint and not shadow.num_ready
        st.caption(
            "starting" if is_starting and not report.requests else plain(report.describe()),
            width="content",
            help=NOT_COPIED,
        )
        st.space("stretch")
        if st.button("Stop shadow", icon=":material/close:", key=f"stop_shadow_{endpoint.name}"):
            with rerun_after():
                stop_shadow(ctx, endpoint.name, person=person)
