"""Suites: their list, one suite with its results, the form that makes one, and the choice at the launch of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import streamlit as st

from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.score_text import interval_text, score_label, score_text
from backend.domain.evaluation.suites import Moment, SuiteMember, parse_suite, read_suite
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.json_values import FieldValues
from backend.domain.statistics.estimates import Estimate
from backend.domain.training.holds import MAX_HELD
from backend.domain.wording import format_duration, list_first, plural, shorten
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.data.views import DatasetView
from backend.services.evaluation.board import void_reason_of
from backend.services.evaluation.endpoints import list_evaluated
from backend.services.evaluation.open_suites import SuiteChoice
from backend.services.evaluation.scoring_choice import EVALUATED_KINDS
from backend.services.evaluation.suites import (
    MemberResult,
    SuiteResultView,
    SuiteView,
    archive_suite,
    create_suite,
    get_suite,
    list_suite_results,
    list_suites,
    run_suite,
)
from backend.services.evaluation.tasks import suggest_tasks, with_task
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.evaluation.endpoints import choose_endpoints
from pages.components.evaluation.matrix import draw_pending
from pages.components.evaluation.task_form import choose_task
from pages.components.form_drafts import draw_restored, forget_form, has_restored, keep_form, restore_form
from pages.components.forms import draw_fields
from pages.components.frame import empty_state, errors_shown, live_part, object_heading, plain, rerun_after
from pages.components.links import row_link
from pages.components.numbers import form_button, number_form, wrong_numbers
from pages.components.tables import WidgetTable
from pages.components.words import when

PAGE = routes.EVALUATIONS
FORM = "suite"
NO_FIELDS = ("suite_create", "suite_draft_discard")
LIST = WidgetTable("suites", {"Suite": 2.4, "Benchmarks": 4.0, "Results": 1.0, "Created": 1.2})
MAX_ENDPOINTS = 20
MAX_LABELS = 12
MAX_REFUSAL = 60
MOMENT_LABEL = {Moment.END: "When the run ends", Moment.CHECKPOINT: "At each checkpoint"}


def draw_suites(ctx: Context, person: Person) -> None:
    """Draw the list of suites and the form that makes another one."""
    suites = list_suites(ctx)
    object_heading("Suites")
    if not suites:
        st.caption(
            "No suites yet. A suite is a named list of benchmarks that run together on a checkpoint, by hand or during"
            " a training run."
        )
    else:
        with LIST.frame():
            for suite in suites:
                columns = LIST.row(suite.id)
                with columns[0]:
                    row_link(
                        suite.name, page=PAGE, query={"suite": suite.id}, icon="checklist", key=f"suite_{suite.id}"
                    )
                columns[1].caption(plain(list_first([member.benchmark for member in suite.config.members], 6)))
                columns[2].text(f"{suite.num_results}")
                columns[3].caption(when(suite.created_at, now=ctx.now()))
    restore_form(ctx, person, FORM, first="suite_name")
    with st.expander("New suite", icon=":material/add:", expanded=not suites or has_restored(FORM)):
        _draw_form(ctx, person, skip=(*NO_FIELDS, *(f"suite_{suite.id}" for suite in suites)))


@number_form
def _draw_form(ctx: Context, person: Person, *, skip: Collection[str]) -> None:
    draw_restored(ctx, person, FORM)
    datasets = {d.name: d for d in list_datasets(ctx, kinds=EVALUATED_KINDS, ready=True)}
    is_written = bool((st.session_state.get("suite_yaml") or "").strip())
    if is_written:
        st.info("The YAML below is used; the fields are not. Empty it to use them.", icon=":material/data_object:")
    name = st.text_input("Name", key="suite_name", max_chars=120, disabled=is_written)
    keys = sorted(datasets, key=lambda key: (datasets[key].kind != "benchmark", key))
    members = st.multiselect(
        "Benchmarks",
        keys,
        key="suite_members",
        disabled=is_written,
    )
    tasks = {} if is_written else _draw_tasks(ctx, {one: datasets[one] for one in members})
    reason = "The YAML below is used." if is_written else ""
    settings = draw_fields(
        EvaluationConfig,
        key="suite",
        only=("limit", "shots"),
        disabled={"limit": reason, "shots": reason},
        columns=2,
    )
    text = st.text_area(
        "Or as YAML", key="suite_yaml", height=120, placeholder="name: core\nmembers:\n  - {benchmark: facts, shots: 5}"
    )
    keep_form(ctx, person, FORM, prefix="suite_", skip=skip)
    if members and not is_written and not wrong_numbers():
        with errors_shown():
            _draw_members(_members(settings, tasks))
    missing = {
        "enter a name": not (is_written or name.strip()),
        "choose a benchmark": not (is_written or members),
    }
    if form_button("Create suite", missing, key="suite_create", icon="add"):
        with errors_shown():
            values = {"name": name, "members": [] if is_written else _members(settings, tasks)}
            suite = create_suite(ctx, read_suite(text) if is_written else parse_suite(values), person=person)
            forget_form(ctx, person, FORM)
            st.switch_page(PAGE, query_params={"suite": suite.id})


def _draw_tasks(ctx: Context, datasets: Mapping[str, DatasetView]) -> dict[str, TaskDefinition | None]:
    """Draw the choice of each benchmark's task, suggested ones first; None is the scoring by its rows' kind, where no
    task is suggested.
    """
    tasks: dict[str, TaskDefinition | None] = {}
    grid = st.grid(3, min_column_width=240)
    for name, dataset in datasets.items():
        suggested = [view.name for view in suggest_tasks(ctx, dataset.newest)] if dataset.newest else []
        with grid.container():
            tasks[name] = choose_task(ctx, name, suggested, is_required=bool(suggested), form=FORM)
    return tasks


def _members(settings: FieldValues, tasks: Mapping[str, TaskDefinition | None]) -> tuple[SuiteMember, ...]:
    """Return each benchmark with the form's settings and its task. Raises InvalidInput for a number of examples that a
    task can't show.
    """
    config = EvaluationConfig(**settings)
    return tuple(
        SuiteMember(benchmark=name, config=config if task is None else with_task(config, task, benchmark=name))
        for name, task in tasks.items()
    )


def draw_suite(ctx: Context, person: Person, suite_id: str) -> None:
    """Draw a suite: its members, a launch on checkpoints, its results."""
    suite = get_suite(ctx, suite_id)
    object_heading(suite.name)
    if suite.config.description:
        st.caption(plain(suite.config.description))
    _draw_members(suite.config.members)
    _draw_run(ctx, person, suite)
    active = any(result.is_active for result in list_suite_results(ctx, suite_id=suite.id))

    @live_part(2 if active else None)
    def table() -> None:
        results = list_suite_results(ctx, suite_id=suite.id)
        if active and not any(result.is_active for result in results):
            st.rerun()
        if not results:
            empty_state(
                "This suite has not run yet. Choose checkpoints above, or choose it when you launch a training run."
            )
            return
        _draw_results(suite, results)

    table()
    with st.expander("As YAML", icon=":material/data_object:"):
        st.code(suite.config.to_yaml(), language="yaml", wrap_lines=True)
    if st.button(
        "Archive suite",
        icon=":material/archive:",
        key="suite_archive",
        help="Takes it out of the list; its results stay.",
    ):
        with errors_shown():
            archive_suite(ctx, suite.id, person=person)
            st.switch_page(PAGE, query_params={"suites": "1"})


def _draw_run(ctx: Context, person: Person, suite: SuiteView) -> None:
    checkpoints = label_usable_first(ctx, list_checkpoints(ctx, ready=True))
    endpoints = {endpoint.key: endpoint for endpoint in list_evaluated(ctx)}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = by_identity("suite_checkpoints", checkpoints, checkpoints.__getitem__)
        chosen = st.multiselect(
            "Checkpoints", list(checkpoints), format_func=words, key="suite_checkpoints", width="stretch"
        )
        remote = choose_endpoints(endpoints, endpoint_key=None, max_selections=MAX_ENDPOINTS)
        missing = {"choose a checkpoint or an endpoint" if endpoints else "choose a checkpoint": not chosen + remote}
        if form_button("Run suite", missing, key="suite_run", icon="play_arrow"):
            with rerun_after():
                for checkpoint_id in chosen:
                    run_suite(ctx, suite.id, checkpoint=checkpoint_id, person=person)
                for endpoint_key in remote:
                    run_suite(ctx, suite.id, endpoint=endpoint_key, person=person)


def _draw_members(members: Sequence[SuiteMember]) -> None:
    """Draw what scores each benchmark, and how much of it."""
    labels = [member.label for member in members]
    more = f"; and {len(labels) - MAX_LABELS} more" if len(labels) > MAX_LABELS else ""
    st.caption(plain(f"{plural(len(labels), 'benchmark')}: {'; '.join(labels[:MAX_LABELS])}{more}."))


def _draw_results(suite: SuiteView, results: Sequence[SuiteResultView]) -> None:
    names = list(dict.fromkeys(one.member.label for result in results for one in result.members))[:8]
    averages = [*(["Centred average"] if suite.config.centred else []), "Macro average", "Micro average"]
    table = WidgetTable("suiteresults", {"Checkpoint": 2.2, **dict.fromkeys([*averages, *names], 1.5), "Progress": 1.2})
    with table.frame():
        for result in results:
            columns = table.row(result.id)
            with columns[0]:
                is_endpoint = result.endpoint is not None
                row_link(
                    f"{result.checkpoint} (endpoint)" if is_endpoint else result.checkpoint,
                    page=PAGE if is_endpoint else routes.CHECKPOINTS,
                    query={"endpoints": "1"} if is_endpoint else {"checkpoint": result.checkpoint_id or ""},
                    icon="dns" if is_endpoint else "deployed_code",
                    key=f"result_{result.id}",
                )
            shown = [*([result.centred] if suite.config.centred else []), result.macro, result.micro]
            for place, average in zip(columns[1 : 1 + len(averages)], shown, strict=True):
                with place.container(gap=None):
                    _draw_average(average, result)
            for place, name in zip(columns[1 + len(averages) : -1], names, strict=True):
                member = next((one for one in result.members if one.member.label == name), None)
                with place.container(gap=None):
                    _draw_member(member, key=f"{result.id}_{name}")
            with columns[-1].container(gap=None):
                st.caption(plain(f"{result.num_finished} of {len(result.members)} done"))
                if result.seconds:
                    st.caption(format_duration(result.seconds))
                if result.tokens:
                    st.caption(f"{result.tokens:,} tokens")
    left_out = list(dict.fromkeys(name for result in results for name in result.left_out))
    if left_out:
        st.caption(plain(f"Left out of the averages, since they do not lie between 0 and 1: {', '.join(left_out)}."))
    if suite.config.centred:
        st.caption(
            "Centred: what a score exceeds chance by, of what it can: (score - chance) / (1 - chance), averaged as"
            " Macro."
        )
    st.caption(
        "Macro: every benchmark counts the same. Micro: every item does. Below each score: 95 % confidence interval."
    )


def _draw_average(average: Estimate | None, result: SuiteResultView) -> None:
    if average is None:
        st.caption("–" if result.is_active else "not every member has a score")
        return
    st.text(score_text("acc", average.value))
    st.caption(plain(interval_text("acc", average.low, average.high) or "no interval"))


def _draw_member(member: MemberResult | None, *, key: str) -> None:
    if member is None:
        st.caption("–")
    elif member.evaluation is None:
        st.caption(plain(shorten(member.error, MAX_REFUSAL) or "Waiting"), help=plain(member.error) or None)
    elif (score := member.evaluation.main_score) is not None:
        label = plain(score_text(score.metric, score.value))
        if st.button(label, type="tertiary", key=f"member_{key}", help=plain(score_label(score.metric))):
            st.switch_page(PAGE, query_params={"evaluation": member.evaluation.id})
        st.caption(plain(interval_text(score.metric, score.low, score.high) or "no interval"))
        if reason := void_reason_of(member.evaluation):
            st.caption(f":red[:material/error: {plain(reason)}]")
    else:
        draw_pending(member.evaluation, key=f"suite_{key}")


def draw_suite_choice(ctx: Context) -> tuple[SuiteChoice, ...]:
    """Draw the choice of a suite at the launch of a run; return it. Draws nothing where there is no suite."""
    names = {suite.id: suite.name for suite in list_suites(ctx)}
    if not names:
        return ()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        suite_id = choose_from(
            "Evaluate with suite", names, key="launch_suite", value=None, placeholder="None", width=260
        )
        if suite_id is None:
            return ()
        moment = choose_one("When", MOMENT_LABEL, default=Moment.END, key="launch_suite_moment")
    if moment == Moment.CHECKPOINT:
        st.caption(f"The run removes no checkpoint before the suite has scored it; at most {MAX_HELD} wait at once.")
    return (SuiteChoice(suite_id, Moment(moment)),)
