"""Versions of a dataset: their lineage, what uses them, and deletion."""

from __future__ import annotations

import streamlit as st

from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.datasets import delete_dataset, resolve_version
from backend.services.data.versions import Ancestor, delete_version, list_dataset_users, version_lineage
from backend.services.data.views import VersionView
from backend.services.dependents import Use
from pages.components import routes
from pages.components.confirm import draw_confirmed
from pages.components.frame import errors_shown, plain
from pages.components.links import row_link
from pages.components.tables import WidgetTable

PAGE = routes.DATASETS
TABLE = WidgetTable("lineage", {"Version": 2, "Made": 5.2, " ": 1.2})
PLACES = {
    "run": (routes.RUN, "run", "show_chart"),
    "tokenizer": (routes.TOKENIZERS, "tokenizer", "match_word"),
    "campaign": (routes.BATTLES, "campaign", "swords"),
    "evaluation": (routes.EVALUATIONS, "evaluation", "grading"),
    "run group": (routes.PLANNER, "study", "stacked_line_chart"),
}


def draw_version_lineage(ctx: Context, version: VersionView) -> None:
    """Draw the lineage of a dataset's versions, parents first."""
    steps = version_lineage(ctx, version.dataset_id)
    known = {step.id: step for step in steps}
    with TABLE.frame():
        for step in steps:
            _draw_step(step, known, shown=step.id == version.id)


def _draw_step(step: Ancestor, known: dict[str, Ancestor], *, shown: bool) -> None:
    columns = TABLE.row(step.id)
    number = step.label.rpartition("@")[2]
    with columns[0]:
        title = f"Version {number}" if step.is_own else step.label
        row_link(
            title,
            page=PAGE,
            query={"dataset": step.dataset_id, "version": number},
            icon="database" if step.is_own else "link",
            key=f"step_{step.id}",
        )
    parents = [known[parent].label for parent in step.parents if parent in known]
    made = f"from {' and '.join(parents)}: {step.said}" if parents else step.said
    columns[1].caption(plain(f"{plural(step.rows, 'row')} · {made}" if step.is_ready else made))
    with columns[2]:
        if shown:
            st.badge("shown", icon=":material/visibility:", color="gray")
        elif not step.is_own:
            st.badge("another dataset", color="gray")
        elif not step.is_ready:
            st.badge("not ready", color="orange")


def draw_users(ctx: Context, users: list[Use], *, key: str) -> None:
    """Draw the users of a version or dataset as links."""
    with st.container(border=bool(users), gap="xxsmall"):
        for use in users[:50]:
            page, query, icon = _place(ctx, use)
            use_label = f"{use.what.capitalize()} of" if use.what in ("evaluation", "report") else use.what.capitalize()
            row_link(
                f"{use_label} {use.name}", page=page, query=query, icon=icon, key=f"user_{key}_{use.what}_{use.id}"
            )
    if len(users) > 50:
        st.caption(f"and {len(users) - 50:,} more")


def _place(ctx: Context, use: Use) -> tuple[str, dict[str, str], str]:
    if use.what in PLACES:
        page, name, icon = PLACES[use.what]
        return page, {name: use.id} if name else {}, icon
    try:
        version = resolve_version(ctx, use.id if use.what == "version" else use.name, ready=False)
    except RoundhouseError:
        return PAGE, {}, "database"
    query = {"dataset": version.dataset_id, "version": str(version.number)}
    return (
        PAGE,
        {**query, "report": use.id} if use.what == "report" else query,
        "frame_inspect" if use.what == "report" else "call_split",
    )


def draw_delete_version(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the users of a version, or its deletion if it has none."""
    users = list_dataset_users(ctx, version.dataset_id, version_id=version.id)
    if _draw_blocking_users(ctx, users, what="version", key=version.id):
        return
    reports = [use for use in users if use.what == "report"]

    def delete() -> None:
        delete_version(ctx, version.id, person=person, with_reports=bool(reports))
        st.toast(f"Deleted {plain(version.label)}.", icon=":material/delete:")
        st.switch_page(PAGE, query_params={"dataset": version.dataset_id})

    also = f" {plural(len(reports), 'report')} about them go too." if reports else ""
    consequence = f"Its rows are deleted permanently.{also}"
    draw_confirmed("Delete this version", consequence, delete, key=f"delete_version_yes_{version.id}", type="secondary")


def draw_delete_dataset(ctx: Context, person: Person, dataset_id: str, name: str) -> None:
    """Draw the deletion of a dataset, or the users that block it."""
    users = list_dataset_users(ctx, dataset_id)
    if _draw_blocking_users(ctx, users, what="dataset", key=dataset_id):
        return
    reports = [use for use in users if use.what == "report"]
    st.markdown(
        "All versions and their files are deleted permanently."
        + (f" {plural(len(reports), 'report')} go too." if reports else "")
    )
    if st.button("Delete", key=f"delete_yes_{dataset_id}", type="primary"):
        with errors_shown():
            delete_dataset(ctx, dataset_id, person=person, with_reports=bool(reports))
            st.toast(f"Deleted {plain(name)}.", icon=":material/delete:")
            st.switch_page(PAGE, query_params={})


def _draw_blocking_users(ctx: Context, users: list[Use], *, what: str, key: str) -> bool:
    """Draw the users that block a deletion; reports do not block it."""
    needed = [use for use in users if use.what != "report"]
    if not users:
        st.caption(f"Nothing uses this {what}.")
    elif needed:
        st.markdown(
            f"{plural(len(users), 'thing')} need{'s' if len(users) == 1 else ''} this {what}, so it can't be deleted:"
        )
    else:
        st.markdown(f"Only {plural(len(users), 'report')} about it:")
    draw_users(ctx, users, key=key)
    return bool(needed)
