"""Parts of the page Runs: filter, columns, folds, views, the table, and what is done with ticked runs.

What is shown is in the address. `find`, `status`, `archived`, `filter`, `show` and `page` belong to widgets; the
others, fields by their names and ticked runs, are set here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from backend.domain.filters import (
    EXAMPLES,
    ORDERED,
    TEXTUAL,
    ValueKind,
    fields_read_by,
    parse_filter,
    quote,
)
from backend.domain.jobs.states import STATUS_LABELS, Status
from backend.domain.training.objectives import Objective
from backend.domain.training.run_table import (
    ALIASES,
    SWEEPS,
    Entry,
    RunField,
    RunFold,
    RunRow,
    RunTable,
    fold_cell,
    main_metrics,
)
from backend.domain.wording import format_bytes, list_first, plural
from backend.services.context import Context, Person
from backend.services.people.saved_views import delete_view, list_saved_views, save_view
from backend.services.training.deletion import delete_runs, plan_deletion
from backend.services.training.diagnosis import useless_runs
from backend.services.training.live import run_states
from backend.services.training.run_table import NEWEST_FIRST, RunQuery, stream_runs_csv
from backend.services.training.runs import archive_runs, tag_runs
from pages.components import routes
from pages.components.browser.run_table.component import TableAction, run_table
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.downloads import draw_download
from pages.components.frame import handled, plain, rerun_after
from pages.components.labels import IMPORTED
from pages.components.links import page_link, set_parameters
from pages.components.words import when

PAGE = "runs"
PAGE_SIZE = 50
UNFOLDED = "runs_unfolded"
"""Key of the session state: the controls are shown on narrow screens, too."""
MAX_PICKED = 500
MAX_OPENED = 200
MAX_NAMED = 8
STATUSES: dict[str, tuple[Status, ...]] = {
    "Active": (Status.QUEUED, Status.RUNNING, Status.CANCELLING, Status.PAUSED),
    STATUS_LABELS[Status.FINISHED]: (Status.FINISHED,),
    STATUS_LABELS[Status.FAILED]: (Status.FAILED,),
    STATUS_LABELS[Status.CANCELLED]: (Status.CANCELLED,),
    IMPORTED: (),
}
SHOWN = ("Table", "Curves", "Parallel coordinates", "Scatter")
CURVE = RunField("curve", "Curve", ValueKind.TEXT, "text", "Results", "Sparkline of the training loss.")
NOT_GROUPED = "none"
VIEW_FIELDS = ("find", "status", "archived", "filter", "columns", "sort", "group", "show", "axes", "x", "y", "color")
"""Parts of the address that a saved view keeps."""


def read_address() -> list[str]:
    """Return the ticked runs of the address. `?compare=` comes from other pages and asks for curves; `?objective=` and
    `?tags=`, which older versions wrote, become a filter.
    """
    if (compared := st.query_params.get("compare")) is not None:
        st.query_params.pop("compare")
        set_parameters(ticked=compared)
        st.session_state["show"] = "Curves"
    values = {objective.facts.label: objective for objective in Objective}  # a select box wrote its label
    parts = [f"objective = {quote(values.get(one, one))}" for one in st.query_params.get_all("objective") if one]
    parts += [f"tags = {quote(one)}" for one in st.query_params.get_all("tags") if one]
    if parts:
        for name in ("objective", "tags"):
            st.query_params.pop(name, None)
        before = st.query_params.get("filter", "")
        st.session_state["filter"] = " and ".join([f"({before})"] * bool(before) + parts)
    return [part for part in st.query_params.get("ticked", "").split(",") if part]


def choose_field(
    label: str,
    options: Sequence[str],
    *,
    name: str,
    default: str | None,
    format_func: Callable[[str], str],
    width: int,
    visible: bool = True,
) -> str | None:
    """Draw a choice that is kept in the address by the field's name; a widget bound to it would write its label."""
    key = f"runs_{name}"
    given = st.query_params.get(name)
    st.session_state[key] = given if given in options else default  # the address decides

    def store() -> None:
        chosen = st.session_state[key]
        set_parameters(**{name: "" if chosen in (None, default) else chosen})

    return st.selectbox(
        label,
        options,
        key=key,
        on_change=handled(store),
        format_func=by_identity(key, options, format_func),
        index=None if default is None else 0,
        placeholder="None",
        width=width,
        label_visibility="visible" if visible else "collapsed",
    )


def choose_fields(
    label: str,
    options: Sequence[str],
    *,
    name: str,
    default: Sequence[str],
    format_func: Callable[[str], str],
    width: int | Literal["stretch"] = "stretch",
    most: int | None = None,
) -> list[str]:
    """Draw a choice of several in their order, kept in the address by the fields' names."""
    key = f"runs_{name}"
    given = st.query_params.get(name)
    parts = list(default) if given is None else [part for part in given.split(",") if part in options]
    st.session_state[key] = parts[:most]

    def store() -> None:
        st.query_params[name] = ",".join(st.session_state[key])

    return st.multiselect(
        label,
        options,
        key=key,
        on_change=handled(store),
        format_func=by_identity(key, options, format_func),
        max_selections=most,
        select_all=False,
        width=width,
    )


def draw_run_filters(table: RunTable) -> RunQuery:
    """Draw search, status and filter; return what they ask for."""
    is_open = st.session_state.get(UNFOLDED, False)
    with st.container(key="runs_unfold_on_phones"):
        st.button(
            "Hide filters and views" if is_open else "Filters and views",
            key="runs_unfold",
            icon=":material/tune:",
            on_click=handled(st.session_state.update),
            kwargs={UNFOLDED: not is_open},
        )
    with _folded_on_phones("filters"), st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input("Search", key="find", bind="query-params", placeholder="Name or notes", width=190)
        status = st.segmented_control("Status", list(STATUSES), key="status", bind="query-params")
        archived = st.toggle("Archived", key="archived", bind="query-params")
        st.space("stretch")
        if st.button("Launch a run", key="runs_launch", type="primary", icon=":material/rocket_launch:"):
            st.switch_page(routes.LAUNCH, query_params={})  # parameters bound to widgets are an error without it
    with _folded_on_phones("filter"), st.container(horizontal=True, vertical_alignment="bottom"):
        expression = st.text_input(
            "Filter",
            key="filter",
            bind="query-params",
            placeholder="learning_rate < 0.01 and tag = baseline",
            icon=":material/filter_alt:",
            width="stretch",
        )
        _draw_fields(table)
    return RunQuery(
        text=text,
        statuses=STATUSES[status] if status else (),
        imported=True if status == IMPORTED else None,
        archived=archived,
        filter=expression,
        order=st.query_params.get("sort", NEWEST_FIRST),
    )


def _folded_on_phones(name: str) -> DeltaGenerator:
    """Return a container that page.css hides on narrow screens until the controls are unfolded."""
    return st.container(key=f"runs_{name}_{'open' if st.session_state.get(UNFOLDED) else 'folded'}")


def _draw_fields(table: RunTable) -> None:
    """Draw the popover that explains the fields of filters and writes a condition."""
    with st.popover("Fields", icon=":material/data_object:", key="runs_fields", on_change="rerun") as popover:
        if not popover.open:
            return
        st.markdown("**Add a condition**")
        names = list(table.fields)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            name = choose_from(
                "Field",
                names,
                words=lambda one: f"{table.fields[one].title} ({one})",
                key="filter_field",
                value="status",
                width=280,
            )
            known = table.fields[name]
            operators = _operators(known.kind)
            operator = st.selectbox("Comparison", operators, key=f"filter_operator_{known.kind}", width=130)
            value = _draw_value(known, operator)
            condition = f"{name} {operator}" + (f" {value}" if value else "")
            ready = bool(value) or operator.startswith("is ")
            before = st.session_state.get("filter") or ""
            joined = (
                f"({before}) and {condition}" if " or " in before else " and ".join(filter(None, [before, condition]))
            )
            st.button(
                "Add",
                key="filter_add",
                type="primary",
                disabled=not ready,
                on_click=handled(st.session_state.update),
                kwargs={"filter": joined},
            )
        st.caption(
            "Join conditions with `and`, `or`, `not` and parentheses. Numbers may end in k, M, B or %, durations are"
            " written 90s, 20min, 3h, dates 2026-11-01 or -7d (seven days ago). A loss is a field per objective, since"
            " it is another quantity under each."
        )
        short = {name: alias for alias, name in ALIASES.items()}
        st.dataframe(
            [
                {
                    "Field": one.name,
                    "Title": one.title,
                    "Values": ", ".join(one.choices) or EXAMPLES[one.kind],
                    "Meaning": " ".join(
                        filter(None, [one.about, f"Short: {short[one.name]}." if one.name in short else ""])
                    ),
                }
                for one in table.fields.values()
            ],
            hide_index=True,
            height=320,
            width=680,
            alt="Fields of runs",
            column_config={"Field": st.column_config.Column(pinned=True)},
        )


def _operators(kind: ValueKind) -> list[str]:
    signs = ["=", "!="]
    signs += ["<", "<=", ">", ">="] if kind in ORDERED else ["contains"] if kind in TEXTUAL else []
    return [*signs, "is missing", "is not missing"]


def _draw_value(known: RunField, operator: str) -> str:
    if operator.startswith("is "):
        return ""
    if known.choices and operator in ("=", "!="):
        return str(st.selectbox("Value", list(map(str, known.choices)), key=f"filter_choice_{known.name}", width=150))
    if known.kind is ValueKind.FLAG:
        return str(st.selectbox("Value", ["yes", "no"], key="filter_flag", width=150))
    text = st.text_input("Value", key=f"filter_value_{known.kind}", placeholder=EXAMPLES[known.kind], width=230)
    return quote(text.strip()) if text.strip() else ""


def chosen_columns(table: RunTable, rows: Sequence[RunRow], query: RunQuery) -> list[RunField]:
    """Return the columns of the address, or those that suit the rows, with the fields of the filter; unknown names are
    left out.
    """
    if (text := st.query_params.get("columns")) is not None:
        names = [ALIASES.get(name, name) for name in text.split(",")]
    else:
        objectives = {row.objective for row in rows}
        names = ["status", "curve", "objective", *main_metrics(table.fields, objectives)]
        expression = parse_filter(query.filter, table.filter_fields, aliases=ALIASES, ambiguous=table.ambiguous)
        names += [name for name in table.fields if name in fields_read_by(expression) and name != "name"]
        names += ["dataset", "tokens", "duration", "created", "tags"]
    return [
        CURVE if name == "curve" else table.fields[name]
        for name in dict.fromkeys(names)
        if name in (*table.fields, "curve")
    ]


def draw_bar(
    ctx: Context, person: Person, table: RunTable, rows: Sequence[RunRow], columns: Sequence[RunField]
) -> tuple[str, str | None]:
    """Draw how the runs are shown; return that, and the field by which they are folded."""
    with _folded_on_phones("bar"), st.container(horizontal=True, vertical_alignment="center"):
        shown = choose_one("Show", SHOWN, key="show", bind="query-params", is_bare=True)
        st.caption(plural(len(rows), "run"), width="content")
        st.space("stretch")
        _draw_columns(table, columns)
        group = _draw_grouping(table)
        _draw_views(ctx, person)
        draw_download(
            "CSV",
            lambda: "".join(stream_runs_csv(table, rows, [one.name for one in columns if one is not CURVE])),
            "runs.csv",
            key="runs_csv",
            icon=None,
            help="These runs with these columns.",
        )
    return shown, group


def _draw_columns(table: RunTable, columns: Sequence[RunField]) -> None:
    options = [name for name in ("curve", *table.fields) if name != "name"]
    titles = {one.name: one for one in (CURVE, *table.fields.values())}
    with st.popover("Columns", key="runs_columns_open"):
        choose_fields(
            "Columns, in their order",
            options,
            name="columns",
            default=[one.name for one in columns],
            format_func=lambda name: f"{titles[name].title} ({name})",
            width=460,
        )
        st.caption("Drag a title in the table to move its column, or press Alt and an arrow key on it.")
        st.button("Default columns", key="runs_columns_reset", on_click=handled(set_parameters), kwargs={"columns": ""})


def _draw_grouping(table: RunTable) -> str | None:
    fields = [
        one.name
        for one in table.fields.values()
        if one.name not in ("name", "notes", SWEEPS)
        and one.metric is None
        and one.kind not in (ValueKind.TIME, ValueKind.DURATION)
    ]
    options = [SWEEPS, NOT_GROUPED, *fields]
    labels = {SWEEPS: "Sweeps folded", NOT_GROUPED: "Not grouped"}
    chosen = choose_field(
        "Group by",
        options,
        name="group",
        default=SWEEPS,
        format_func=lambda name: labels.get(name) or f"Group: {table.fields[name].title.lower()}",
        width=180,
        visible=False,
    )
    return None if chosen == NOT_GROUPED else chosen or SWEEPS


def _draw_views(ctx: Context, person: Person) -> None:
    """Draw the person's saved views, and the field that saves this one."""
    here = urlencode([(name, value) for name in VIEW_FIELDS for value in st.query_params.get_all(name)])
    with st.popover("Views", key="runs_views", on_change="rerun") as popover:
        if not popover.open:
            return
        views = list_saved_views(ctx, PAGE, person=person)
        if not views:
            st.caption("No saved views yet. A view keeps filter, columns, order, grouping and charts.")
        for view in views:
            with st.container(horizontal=True, vertical_alignment="center"):
                st.button(
                    plain(view.name),
                    key=f"view_{view.id}",
                    type="tertiary",
                    icon=":material/check:" if view.query == here else ":material/bookmark:",
                    on_click=handled(open_view),
                    args=(view.query,),
                )
                st.space("stretch")
                if st.button("Delete", key=f"view_delete_{view.id}", type="tertiary", icon=":material/delete:"):
                    with rerun_after():
                        delete_view(ctx, view.id, person=person)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            name = st.text_input("Save this view as", key="view_name", max_chars=80, placeholder="Name", width=220)
            if st.button("Save", key="view_save", disabled=not name.strip()):
                with rerun_after():
                    save_view(ctx, PAGE, name, here, person=person)


def open_view(query: str) -> None:
    """Show the page as a saved view says: what belongs to widgets is set with them, the rest in the address."""
    parts = dict(parse_qsl(query))
    empty: dict[str, object] = {"find": "", "status": None, "archived": False, "filter": "", "show": SHOWN[0]}
    for name, value in empty.items():
        given = parts.get(name)
        st.session_state[name] = value if given is None else given == "true" if name == "archived" else given
    mine = [name for name in VIEW_FIELDS if name not in empty]
    for name in mine:
        if name in st.query_params and not parts.get(name):
            st.query_params.pop(name)
    st.query_params.update({name: parts[name] for name in mine if parts.get(name)})  # one step of going back for all


def draw_run_table(
    ctx: Context,
    person: Person,
    table: RunTable,
    entries: Sequence[Entry],
    columns: Sequence[RunField],
    *,
    order: str,
    picked: Sequence[str],
    key: str,
) -> None:
    """Draw a page of rows; what is done in them changes the address."""
    opened = [part for part in st.query_params.get("open", "").split(",") if part]
    shown: list[tuple[RunFold | RunRow, bool]] = []
    for entry in entries:
        shown.append((entry, False))
        if isinstance(entry, RunFold) and _key(entry) in opened:
            shown += [(row, True) for row in entry.rows[:MAX_OPENED]]
    states = run_states(ctx, [entry.id for entry, _ in shown if isinstance(entry, RunRow)], with_spark=True)
    useless = useless_runs(ctx, states)
    writers = [_writer(table, one) for one in columns]
    read_seconds, read_usd = table.reader("duration"), table.reader("cost")
    rows: list[dict[str, Any]] = []
    for entry, inside in shown:
        if isinstance(entry, RunFold):
            rows.append(_fold_row(table, entry, columns, is_open=_key(entry) in opened))
        elif (state := states.get(entry.id)) is not None:
            rows.append(
                {
                    "id": entry.id,
                    "name": entry.name,
                    "objective": entry.objective or "imported",
                    "imported": entry.is_imported,
                    "status": state.status.value,
                    "useless": useless.get(entry.id, ""),
                    "line": state.line,
                    "share": state.share,
                    "spark": [round(value, 5) for value in state.spark or ()],
                    "cells": [write(entry) for write in writers],
                    "inside": inside,
                    "growing": {
                        "tokens_per_step": entry.tokens_per_step,
                        "seconds": read_seconds(entry),
                        "usd": read_usd(entry),
                    },
                }
            )
    titled = [table.fields["name"], *columns]
    action = run_table(
        ctx,
        person=person,
        key=key,
        columns=[
            {
                "name": one.name,
                "title": one.title,
                "about": one.about,
                "number": one.is_number and one.kind is not ValueKind.TIME,
                "sortable": one is not CURVE,
                "form": one.form,
                "metric": one.metric,
            }
            for one in titled
        ],
        rows=rows,
        order=order,
        picked=picked,
        label="Runs",
    )
    _take(table, action, order=order, opened=opened)
    if any(isinstance(entry, RunFold) and _key(entry) in opened and len(entry.rows) > MAX_OPENED for entry in entries):
        st.caption(f"Of an open group the first {MAX_OPENED} runs are shown. Narrow the filter to see others.")


def _take(table: RunTable, action: TableAction, *, order: str, opened: list[str]) -> None:
    if action.opened:
        st.switch_page(routes.RUN, query_params={"run": action.opened})
    if action.picked is not None:
        pick(action.picked)
    elif action.sorted_by in table.fields:
        st.query_params["sort"] = _next_order(table.fields[action.sorted_by], order)
    elif action.moved is not None:
        st.query_params["columns"] = ",".join(action.moved)
    elif action.toggled is not None:
        left = (
            [one for one in opened if one != action.toggled] if action.toggled in opened else [*opened, action.toggled]
        )
        set_parameters(open=",".join(left))
    else:
        return
    st.rerun()


def pick(run_ids: Sequence[str]) -> None:
    """Tick these runs and no others, up to a limit."""
    if len(run_ids) > MAX_PICKED:
        st.toast(f"At most {MAX_PICKED} runs can be ticked.", icon=":material/info:")
    set_parameters(ticked=",".join(run_ids[:MAX_PICKED]))


def _next_order(known: RunField, order: str) -> str:
    """A click sorts the best or the highest first, text from A; a second one the other way round."""
    first = known.name if known.better == "lowest" or known.kind in TEXTUAL else f"-{known.name}"
    other = known.name if first.startswith("-") else f"-{known.name}"
    return other if order == first else first


def _key(fold: RunFold) -> str:
    return hashlib.blake2b(fold.key.encode(), digest_size=5).hexdigest()


def _fold_row(table: RunTable, fold: RunFold, columns: Sequence[RunField], *, is_open: bool) -> dict[str, Any]:
    is_sweep = fold.key in table.names.sweeps
    return {
        "fold": True,
        "key": _key(fold),
        "title": fold.title,
        "open": is_open,
        "ids": [row.id for row in fold.rows],
        "href": f"/sweep?sweep={fold.key}" if is_sweep else "",
        "cells": [_write_fold(table, fold, one) for one in columns],
    }


def _write_fold(table: RunTable, fold: RunFold, known: RunField) -> str:
    if known is CURVE:
        return ""
    if known.kind is not ValueKind.TIME:
        return fold_cell(table, fold, known)
    read = table.reader(known.name)
    moments = [value for row in fold.rows if isinstance(value := read(row), datetime)]
    return when(max(moments), now=table.now) if moments else ""


def _writer(table: RunTable, known: RunField) -> Callable[[RunRow], str]:
    if known is CURVE:
        return lambda row: ""
    read = table.reader(known.name)
    if known.kind is ValueKind.TIME:
        return lambda row: when(value, now=table.now) if isinstance(value := read(row), datetime) else ""
    return lambda row: known.write(read(row))


def draw_picked(
    ctx: Context, person: Person, table: RunTable, picked: Sequence[str], passing: Sequence[RunRow]
) -> None:
    """Draw what can be done with the ticked runs."""
    by_id = {row.id: row for row in table.rows}
    rows = [by_id[run_id] for run_id in picked if run_id in by_id]
    if not rows:
        return
    with st.container(horizontal=True, vertical_alignment="center", border=True, key="runs_picked"):
        st.markdown(f"**{plural(len(rows), 'run')} ticked**", width="content")
        if len(rows) < len(passing) <= MAX_PICKED:
            st.button(
                f"Tick all {len(passing):,}",
                key="runs_tick_all",
                type="tertiary",
                on_click=handled(pick),
                args=([row.id for row in passing],),
            )
        st.space("stretch")
        st.button(
            "Compare curves",
            key="runs_compare",
            icon=":material/compare_arrows:",
            on_click=handled(st.session_state.update),
            kwargs={"show": "Curves"},
        )
        if person.may_build:
            _draw_tagging(ctx, person, rows)
            _draw_archiving(ctx, person, rows)
            _draw_deletion(ctx, person, rows)
        st.button(
            "Clear", key="runs_clear", icon=":material/close:", on_click=handled(set_parameters), kwargs={"ticked": ""}
        )


def _draw_tagging(ctx: Context, person: Person, rows: Sequence[RunRow]) -> None:
    round_ = st.session_state.setdefault("tagged", 0)  # part of the keys, so that the fields empty after a change
    with st.popover("Tag", icon=":material/label:", key=f"runs_tag_{round_}"):
        added = st.text_input("Add tags, separated by commas", key=f"tags_add_{round_}")
        present = sorted({tag for row in rows for tag in row.tags})
        removed = st.multiselect("Remove tags", present, key=f"tags_remove_{round_}") if present else []
        if st.button("Change tags", key="runs_tag_go", type="primary", disabled=not (added.strip() or removed)):
            with rerun_after():
                tag_runs(ctx, [row.id for row in rows], add=added.split(","), remove=removed, person=person)
                st.session_state["tagged"] = round_ + 1


def _draw_archiving(ctx: Context, person: Person, rows: Sequence[RunRow]) -> None:
    restores = all(row.is_archived for row in rows)
    label, icon = ("Restore", "unarchive") if restores else ("Archive", "archive")
    if st.button(label, key="runs_archive", icon=f":material/{icon}:"):
        with rerun_after():
            archive_runs(ctx, [row.id for row in rows], person=person, archived=not restores)
            set_parameters(ticked="")
            names = plain(list_first([row.name for row in rows], 6))
            st.toast(f"{plural(len(rows), 'run')} {'restored' if restores else 'archived'}: {names}.")


def _draw_deletion(ctx: Context, person: Person, rows: Sequence[RunRow]) -> None:
    if st.session_state.pop("runs_deleted", False):  # a question that was answered closes
        st.session_state["runs_delete"] = False
    with st.popover("Delete", icon=":material/delete:", key="runs_delete", on_change="rerun") as popover:
        if not popover.open:
            return
        ids = [row.id for row in rows]
        planned = plan_deletion(ctx, ids)
        if planned.run_ids:
            checkpoints = (
                f" and {plural(planned.num_checkpoints, 'checkpoint')} ({format_bytes(planned.bytes)})"
                if planned.num_checkpoints
                else ""
            )
            st.markdown(
                f"**{plural(len(planned.run_ids), 'run')}** with curves, samples, logs{checkpoints} are deleted:\n"
                + "".join(f"\n- {plain(name)}" for name in planned.names[:MAX_NAMED])
            )
            if len(planned.names) > MAX_NAMED:
                st.caption(f"and {len(planned.names) - MAX_NAMED} more")
        if planned.staying:
            st.markdown("Not deleted, archive instead:")
            for one in planned.staying[:MAX_NAMED]:
                st.markdown(f"- {plain(one.name)}: {plain(one.why)}.")
                for use in one.uses:
                    if use.what != "alias":  # which is on the page of the run's checkpoint
                        _, page, parameter = routes.OBJECTS[use.what]
                        page_link(page, plain(use.name), {parameter: use.name if parameter == "name" else use.id})
            if len(planned.staying) > MAX_NAMED:
                st.caption(f"and {len(planned.staying) - MAX_NAMED} more")
        if planned.run_ids and st.button(
            f"Delete {plural(len(planned.run_ids), 'run')}",
            key="runs_delete_go",
            type="primary",
            on_click=handled(st.session_state.update),
            kwargs={"runs_to_delete": planned.run_ids},
        ):
            with rerun_after():  # the runs shown at the click: others of the ticked may have ended since
                done = delete_runs(ctx, st.session_state["runs_to_delete"], person=person)
                set_parameters(ticked=",".join(one for one in ids if one not in done.run_ids))
                st.session_state["runs_deleted"] = True
                st.toast(f"{plural(len(done.run_ids), 'run')} deleted.")
