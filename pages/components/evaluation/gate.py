"""Gates: the list with newest verdicts, a new one's form, one gate with its verdicts, and endpoints that require it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import streamlit as st

from backend.domain.evaluation.config import describe_way
from backend.domain.evaluation.gate_config import GateConfig, GateReport, GateVerdict, ReportedBenchmark
from backend.domain.evaluation.gates import describe_procedure
from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.domain.validation import read_values
from backend.domain.wording import about, percent, plural
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.evaluation.board import Column, read_board
from backend.services.evaluation.endpoints import list_evaluated
from backend.services.evaluation.evaluations import EvaluationView, get_evaluations
from backend.services.evaluation.gates import (
    ENDPOINT_PREFIX,
    GateView,
    config_of,
    create_gate,
    delete_gate,
    get_gate,
    judge,
    list_gates,
    plan_gates,
    release_endpoint,
    require_gate,
    why_not_release,
)
from backend.services.serving.endpoints import list_endpoints
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import choose_from
from pages.components.confirm import draw_confirmed
from pages.components.evaluation.power import format_counted, format_evaluation, format_gate_power
from pages.components.form_drafts import draw_restored, forget_form, has_restored, keep_form, restore_form
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, object_heading, plain, rerun_after, spoken
from pages.components.links import row_link
from pages.components.numbers import draw_number, form_button, number_form, wrong_numbers
from pages.components.tables import WidgetTable, draw_table
from pages.components.words import when

PAGE = routes.EVALUATIONS
FORM = "gate"
NO_FIELDS = ("gate_create", "gate_evaluate", "gate_draft_discard")
BADGES: dict[str, tuple[Literal["green", "red", "orange", "gray"], str]] = {
    GateVerdict.PASS: ("green", ":material/check_circle:"),
    GateVerdict.FAIL: ("red", ":material/cancel:"),
    GateVerdict.INCONCLUSIVE: ("orange", ":material/help:"),
}
LOW_POWER = 0.5
TABLE = WidgetTable(
    "gates", {"Gate": 2.2, "Champion": 2.0, "Benchmarks": 2.4, "Newest verdict": 2.2, "Required by": 1.4}
)


def draw_gates(ctx: Context, person: Person, name: str = "") -> None:
    """Draw one gate where a name is given, else all of them."""
    if name:
        _draw_gate(ctx, person, get_gate(ctx, name))
        return
    object_heading("Gates")
    st.caption(
        "A gate decides whether a checkpoint may take a champion's place, from paired differences on benchmarks; a"
        " judge takes part as the metric of a benchmark's task. Votes are weighed at a promotion, where a campaign's"
        " verdict stands beside the gates."
    )
    gates = list_gates(ctx)
    if gates:
        names = {one.id: one.name for one in list_checkpoints(ctx)}
        elsewhere = _served_elsewhere(ctx)
        with TABLE.frame():
            for gate in gates:
                _draw_row(gate, _champion(names, elsewhere, gate.config.champion))
    else:
        st.caption("No gates yet. Evaluate a champion on a benchmark, then create one below.")
    if person.may_build:
        _draw_form(ctx, person)


def _draw_row(gate: GateView, champion: str) -> None:
    columns = TABLE.row(gate.id)
    with columns[0]:
        row_link(gate.name, page=PAGE, query={"gate": gate.id}, icon="rule", key=f"gate_{gate.id}")
    columns[1].text(champion)
    columns[2].text(", ".join(part.label for part in gate.config.benchmarks))
    with columns[3], st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if gate.results:
            draw_verdict(gate.results[0].verdict)
            st.caption(plain(gate.results[0].checkpoint), width="content")
        else:
            st.caption("not judged yet")
    columns[4].text(", ".join(gate.endpoints) or "–")


def draw_verdict(verdict: GateVerdict) -> None:
    """Draw the verdict of a gate as a badge."""
    colour, icon = BADGES[verdict]
    st.badge(verdict.value.capitalize(), color=colour, icon=icon)


def _champion(names: Mapping[str, str], elsewhere: Sequence[str], key: str) -> str:
    """Return what a champion is called; `names` are those of checkpoints by id."""
    if not key.startswith(ENDPOINT_PREFIX):
        return names.get(key, key)
    name = key.removeprefix(ENDPOINT_PREFIX)
    return f"{name} (endpoint)" if name in elsewhere else f"served by {name}"


@number_form
def _draw_form(ctx: Context, person: Person) -> None:
    names = label_usable_first(ctx, list_checkpoints(ctx, ready=True))
    board = read_board(ctx)
    benchmarks, evaluated = _offer_benchmarks(board.columns), {row.subject_id for row in board.rows}
    if not names or not benchmarks:
        st.caption("A gate needs a champion that was evaluated on a benchmark.")
        row_link("Evaluate a checkpoint", page=PAGE, query={"new": "1"}, icon="add", key="gate_evaluate")
        return
    gates = list_gates(ctx)
    restore_form(ctx, person, FORM, first="gate_name")
    with st.expander("New gate", icon=":material/add:", expanded=not gates or has_restored(FORM)):
        draw_restored(ctx, person, FORM)
        endpoints = [f"{ENDPOINT_PREFIX}{endpoint.name}" for endpoint in list_endpoints(ctx)]
        elsewhere = _served_elsewhere(ctx)
        endpoints += [key for name in elsewhere if (key := f"{ENDPOINT_PREFIX}{name}") not in endpoints]
        left, right = st.columns(2)
        with left:
            name = st.text_input("Name", key="gate_name", placeholder="release")
            champions = [*names, *endpoints]
            champion = choose_from(
                "Champion",
                champions,
                words=lambda key: _champion(names, elsewhere, key),
                key="gate_champion",
                value=next((key for key in champions if key in evaluated), champions[0]),
            )
            chosen = st.multiselect(
                "Benchmarks",
                list(benchmarks),
                key="gate_benchmarks",
                help="On which candidate and champion are compared.",
            )
        with right:
            values = draw_fields(GateConfig, key="gate", place=st)
        margins = _draw_margins(chosen, 100 * values["margin"]) if len(chosen) > 1 else {}
        keep_form(ctx, person, FORM, prefix="gate_", skip=(*NO_FIELDS, *(f"gate_{gate.id}" for gate in gates)))
        parts = [{**benchmarks[one], "margin": margins.get(one)} for one in chosen]
        if chosen and not wrong_numbers():
            with errors_shown():
                _draw_power(ctx, read_values(GateConfig, {**values, "champion": champion, "benchmarks": parts}))
        missing = {"enter a name": not name.strip(), "choose a benchmark": not chosen}
        if form_button("Create", missing, key="gate_create", icon="add"):
            with errors_shown():
                config = read_values(GateConfig, {**values, "champion": champion, "benchmarks": parts})
                view = create_gate(ctx, name=name, config=config, person=person)
                forget_form(ctx, person, FORM)
                st.switch_page(PAGE, query_params={"gate": view.id})


def _offer_benchmarks(columns: Sequence[Column]) -> dict[str, dict[str, str]]:
    """Return the benchmarks to choose from by their words: one that is scored in several ways with each of them."""
    ways: dict[str, dict[str, str]] = {}
    for column in columns:
        name = column.config.task.name if column.config.task else column.kind.value
        ways.setdefault(column.benchmark, {})[describe_way(column.config, kind=column.kind)] = name
    return {
        f"{benchmark} by {title}" if len(tasks) > 1 else benchmark: {"benchmark": benchmark}
        | ({"task": name} if len(tasks) > 1 else {})
        for benchmark, tasks in ways.items()
        for title, name in tasks.items()
    }


def _draw_power(ctx: Context, config: GateConfig, *, candidate: str | None = None) -> None:
    """Draw how likely a gate passes and fails by which evaluations, and warn where it seldom passes what it should."""
    for plan in plan_gates(ctx, config, candidate=candidate):
        counted = format_counted(plan.evaluations, now=ctx.now())
        words = plain(f"{format_gate_power(plan, test=config.test)} {counted}".strip())
        if plan.power is not None and plan.power.passes < LOW_POWER:
            st.warning(words, icon=":material/warning:")
        else:
            st.caption(words)


def _draw_margins(benchmarks: Sequence[str], points: float) -> dict[str, float]:
    """Draw a margin for each benchmark; one left empty has the gate's."""
    fields = st.grid(3, min_column_width=200)
    margins = {
        name: draw_number(
            fields,
            f"Margin on {spoken(name)}",
            0.0,
            None,
            key=f"gate_margin_{name}",
            is_whole=False,
            step=0.5,
            placeholder=f"{points:g}",
        )
        for name in benchmarks
    }
    return {name: margin / 100 for name, margin in margins.items() if margin is not None}


def _served_elsewhere(ctx: Context) -> list[str]:
    """Return the names of endpoints whose models are on other servers: those have no checkpoint here."""
    connected = [one.name for one in list_endpoints(ctx) if one.config.upstream is not None]
    return [*connected, *(one.name for one in list_evaluated(ctx) if not one.is_own)]


def _draw_gate(ctx: Context, person: Person, gate: GateView) -> None:
    object_heading(gate.name)
    config = config_of(ctx, gate)
    champion = _champion({one.id: one.name for one in list_checkpoints(ctx)}, _served_elsewhere(ctx), config.champion)
    st.caption(plain(f"Champion: {champion}. {describe_procedure(config)}"))
    st.caption(plain(f"Benchmarks: {', '.join(part.label for part in config.benchmarks)}."))
    power = st.container()
    candidate = _draw_judge(ctx, person, gate) if person.may_build else None
    with power, errors_shown():
        _draw_power(ctx, config, candidate=candidate)
    reported = [part for result in gate.results for part in result.report.benchmarks]
    ids = {one for part in reported for one in (part.champion_evaluation, part.candidate_evaluation)}
    evaluations = {one.id: one for one in get_evaluations(ctx, list(ids))}
    for number, result in enumerate(gate.results):
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                draw_verdict(result.verdict)
                st.text(f"{result.checkpoint} against {result.champion}", width="content")
                st.caption(when(result.created_at, now=ctx.now()), width="content")
            _draw_report(result.report, key=f"gate_report_{gate.id}_{number}")
            for row, part in enumerate(result.report.benchmarks):
                _draw_counted(ctx, part, evaluations, key=f"gate_pair_{gate.id}_{number}_{row}")
    if gate.results:
        st.caption("Intervals here leave room for further looks; that of a comparison is at 95 %, for one look.")
    else:
        st.caption("No checkpoint was judged yet. Choose a candidate and press Judge.")
    _draw_endpoints(ctx, person, gate)


def _draw_judge(ctx: Context, person: Person, gate: GateView) -> str | None:
    """Draw the choice of a candidate, and return it."""
    candidates = label_usable_first(ctx, list_checkpoints(ctx, ready=True))
    candidates |= {f"{ENDPOINT_PREFIX}{one.key}": f"{one.name} (endpoint)" for one in list_evaluated(ctx)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = choose_from("Candidate", candidates, key=f"gate_candidate_{gate.id}", value=None, width=360)
        if form_button("Judge", {"choose a candidate": chosen is None}, key=f"gate_judge_{gate.id}", icon="gavel"):
            with rerun_after():
                judge(ctx, candidate=str(chosen), gate=gate.id, person=person)
    return None if chosen is None else str(chosen)


def _draw_counted(
    ctx: Context, part: ReportedBenchmark, evaluations: Mapping[str, EvaluationView], *, key: str
) -> None:
    """Draw which evaluations a verdict rests on, as a link to their comparison; nothing of those that were deleted."""
    pair = {"first": part.champion_evaluation, "second": part.candidate_evaluation}
    if all(one in evaluations for one in pair.values()):
        words = " and ".join(format_evaluation(evaluations[one], now=ctx.now()) for one in pair.values())
        counted = f"{part.benchmark}: {words}, {plural(part.n, 'common item')}"
        row_link(counted, page=PAGE, query=pair, icon="compare_arrows", key=key)


def _draw_report(report: GateReport, *, key: str) -> None:
    if report.benchmarks:
        draw_table(
            [_report_row(part) for part in report.benchmarks], key=key, alt="Paired difference on each benchmark"
        )
    words = [f"Not evaluated: {', '.join(report.missing)}."] if report.missing else []
    if not report.benchmarks and not report.missing:
        words.append("The candidate is the champion.")
    if report.power is not None:
        words.append(f"Power: equal checkpoints pass in {percent(report.power)} of cases.")
    if words:
        st.caption(plain(" ".join(words)))


def _report_row(part: ReportedBenchmark) -> dict[str, object]:
    metric, needed = part.metric, part.items_to_settle
    settle = (
        "–"
        if needed is None
        else f"about {about(needed)}" + (f" (the benchmark has {part.items:,})" if needed > part.items else "")
    )
    level = f" at {percent(part.level, digits=1)}" if part.level else ""
    interval = interval_text(metric, part.low, part.high, signed=True)
    return {
        "Benchmark": f"{part.benchmark} by {part.task}" if part.task else part.benchmark,
        "Difference in": score_label(metric).lower(),
        "Difference (+ is better)": score_text(metric, part.difference, signed=True),
        "Interval": f"{interval}{level}" if interval else "no interval",
        "Threshold": score_text(metric, part.threshold, signed=True),
        "Items": f"{part.n:,}" + (f" in {plural(part.clusters, 'cluster')}" if part.clusters else ""),
        "Look": "–" if part.error is None else f"{part.look}: may err in {percent(part.error, digits=2)}",
        "Verdict": part.verdict.capitalize(),
        "Items needed at this difference": settle,
    }


def _draw_endpoints(ctx: Context, person: Person, gate: GateView) -> None:
    st.subheader("Required by", anchor=False)
    if not gate.endpoints:
        st.caption("No endpoint requires this gate. One that does refuses to deploy a checkpoint that has not passed.")
    for endpoint in gate.endpoints:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.text(endpoint, width="content")
            reason = why_not_release(ctx, gate.id, endpoint=endpoint, person=person)
            if person.may_build and st.button(
                "Remove",
                type="tertiary",
                disabled=bool(reason),
                help=plain(reason) or None,
                key=f"gate_release_{gate.id}_{endpoint}",
                icon=":material/lock_open:",
            ):
                with rerun_after():
                    release_endpoint(ctx, gate.id, endpoint=endpoint, person=person)
    if not person.may_build:
        return

    def delete() -> None:
        delete_gate(ctx, gate.id, person=person)
        st.switch_page(PAGE, query_params={"gates": "1"})

    free = [endpoint.name for endpoint in list_endpoints(ctx) if endpoint.name not in gate.endpoints]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(
            "Endpoint",
            free,
            index=None,
            accept_new_options=True,
            key=f"gate_endpoint_{gate.id}",
            placeholder="Choose or type a name",
            width=360,
        )
        if st.button("Require", key=f"gate_require_{gate.id}", icon=":material/lock:", disabled=not name):
            with rerun_after():
                require_gate(ctx, gate.id, endpoint=str(name), person=person)
        if not gate.endpoints:
            draw_confirmed(
                "Delete gate",
                "The gate and its verdicts are deleted; evaluations stay.",
                delete,
                key=f"gate_delete_{gate.id}",
            )
