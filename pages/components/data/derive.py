"""Making a new version from one: the change, its settings, what it will do, and the button. The version itself stays as it is."""

from __future__ import annotations

import uuid

import streamlit as st

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.versions.changes import (
    Change,
    Condition,
    DropDuplicates,
    DropRows,
    Filter,
    Merge,
    Resplit,
    Sample,
    parse_change,
    parse_row_numbers,
)
from backend.domain.data.versions.conditions import FIELDS_OF_KIND, TEST_WORDS, TURNS, describe_change
from backend.domain.wording import plural
from backend.errors import InvalidInput
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.data.versions import derive_version, try_filter
from backend.services.data.views import VersionView
from pages.components import routes
from pages.components.frame import errors_shown, plain

CHANGES = {
    "drop_duplicates": "Leave out equal rows",
    "filter": "Keep or leave out rows by a condition",
    "sample": "Draw some rows",
    "merge": "Add the rows of another version",
    "resplit": "Divide anew into training and validation",
    "drop_rows": "Leave out rows by their numbers",
}
MAX_CONDITIONS = 6


def draw_derive(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form; a new version leads to its own place on the page."""
    key = version.id
    with st.container(border=True):
        st.markdown(f"A new version made from **{plain(version.label)}**, which stays as it is.")
        names = [name for name in CHANGES if name != "resplit" or version.kind not in ("benchmark", "prompts")]
        name = st.selectbox("Change", names, key=f"change_{key}", format_func=CHANGES.__getitem__, width=420)
        change = _settings(ctx, version, name)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            other = st.toggle("As a new dataset", key=f"change_other_{key}", help="Otherwise it becomes the next version of this one.")
            title = st.text_input("Its name", value=f"{version.dataset}-2", key=f"change_name_{key}", width=320) if other else None
        if change is not None:
            st.caption(f"The lineage will say: {plain(describe_change(change))}.")
        if not st.button("Make it", type="primary", icon=":material/call_split:", key=f"change_go_{key}", disabled=change is None):
            return
    _make(ctx, person, version, change, name=title)


def _make(ctx: Context, person: Person, version: VersionView, change: Change | None, *, name: str | None) -> None:
    once = f"change_once_{version.id}"
    st.session_state.setdefault(once, uuid.uuid4().hex)
    with errors_shown():
        if change is None:
            return
        made = derive_version(ctx, version.id, change=change, person=person, name=name, idempotency_key=f"derive:{st.session_state[once]}")
        del st.session_state[once]
        query = {"dataset": made.dataset_id, "version": str(made.number), "job": made.job_id or ""}
        st.switch_page(routes.DATASETS, query_params=query)


def _settings(ctx: Context, version: VersionView, name: str) -> Change | None:
    """Draw the settings of a change; None while they make none, with the reason."""
    key = f"{name}_{version.id}"
    try:
        if name == "drop_duplicates":
            return _duplicates(key)
        if name == "filter":
            return _filter(ctx, version, key)
        if name == "sample":
            return _sample(version, key)
        if name == "merge":
            return _merge(ctx, version, key)
        return _resplit(key) if name == "resplit" else _listed(version, key)
    except InvalidInput as error:
        st.caption(f":material/rule: {plain(str(error))}")
        return None


def _duplicates(key: str) -> Change:
    loose = st.toggle("Also those that differ only in case and spaces", key=f"loose_{key}")
    st.caption("The first of equal rows stays; one that is held out goes before those that are trained on.")
    return DropDuplicates(loose=bool(loose))


def _sample(version: VersionView, key: str) -> Change:
    with st.container(horizontal=True):
        rows = st.number_input("Rows", 1, max(1, version.rows), max(1, version.rows // 10), key=f"rows_{key}", width=200)
        seed = st.number_input("Seed", 0, 2**31, 1, key=f"seed_{key}", width=140, help="The same seed draws the same rows.")
    return Sample(num_rows=int(rows), seed=int(seed))


def _resplit(key: str) -> Change:
    with st.container(horizontal=True):
        percent = st.slider("Held out for validation", 0, 50, 5, format="%d %%", key=f"share_{key}", width=320)
        seed = st.number_input("Seed", 0, 2**31, 1, key=f"seed_{key}", width=140, help="The same seed divides the same rows alike.")
    return Resplit(val_fraction=percent / 100, seed=int(seed))


def _merge(ctx: Context, version: VersionView, key: str) -> Change | None:
    others = [v for d in list_datasets(ctx, kinds=(version.kind,)) for v in d.versions if v.is_ready and v.id != version.id]
    if not others:
        st.caption(f"There is no other version of kind {version.kind}. Import one first.")
        return None
    other = st.selectbox(
        "Version to add", others, key=f"other_{key}", format_func=lambda v: f"{v.label} · {plural(v.rows, 'row')}", width=420
    )
    st.caption("What either of the two holds out is trained on in neither.")
    return Merge(other=other.id).model_copy(update={"other": other.label})


def _listed(version: VersionView, key: str) -> Change | None:
    st.caption("Numbers as the rows carry them on the Rows tab, such as 3, 10-20.")
    with st.container(horizontal=True):
        train = st.text_input("Rows to train on", key=f"train_{key}", width=320, placeholder="none")
        val = st.text_input("Rows for validation", key=f"val_{key}", width=320, placeholder="none", disabled=not version.val_rows)
    reason = st.text_input("Why", key=f"reason_{key}", width=500, max_chars=400, placeholder="for the lineage; may stay empty")
    listed = (parse_row_numbers(train or "", rows=version.train_rows), parse_row_numbers(val or "", rows=version.val_rows))
    return DropRows(train=listed[0], val=listed[1], reason=(reason or "").strip()) if any(listed) else None


def _filter(ctx: Context, version: VersionView, key: str) -> Change | None:
    keep = st.segmented_control(
        "Rows that meet every condition are", ["kept", "left out"], default="kept", required=True, key=f"keep_{key}", width="content"
    )
    count = int(st.session_state.setdefault(f"count_{key}", 1))
    drafts = [_condition(version, f"{place}_{key}") for place in range(count)]
    with st.container(horizontal=True):
        if st.button("And another", icon=":material/add:", key=f"more_{key}", type="tertiary", disabled=count >= MAX_CONDITIONS):
            st.session_state[f"count_{key}"] = count + 1
            st.rerun()
        if count > 1 and st.button("One less", icon=":material/remove:", key=f"less_{key}", type="tertiary"):
            st.session_state[f"count_{key}"] = count - 1
            st.rerun()
    if any(draft is None for draft in drafts):
        return None
    change = parse_change({"change": "filter", "conditions": drafts, "keep": keep == "kept"})
    assert isinstance(change, Filter)
    stay, seen = try_filter(ctx, version, change)
    st.caption(f":material/filter_alt: Of the first {plural(seen, 'row')} to train on, {stay:,} would stay.")
    return change


def _condition(version: VersionView, key: str) -> dict[str, object] | None:
    """Draw one condition; None until it has a value."""
    fields = ["", *FIELDS_OF_KIND[DatasetKind(version.kind)]]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        field = st.selectbox("Part", fields, key=f"field_{key}", format_func=lambda f: f or "all of its text", width=190)
        tests = list(TEST_WORDS) if field != TURNS else ["at_least", "at_most", "equals", "differs"]
        test = st.selectbox("Test", tests, key=f"test_{key}_{field == TURNS}", format_func=TEST_WORDS.__getitem__, width=190)
        if test in ("at_least", "at_most"):
            unit = "Turns" if field == TURNS else "Characters"
            value: object = int(st.number_input(unit, 0, 10**9, 2 if field == TURNS else 20, key=f"number_{key}", width=170))
        else:
            value = st.text_input("Text", key=f"text_{key}", width=300)
        case = test in ("contains", "lacks", "equals", "differs") and st.checkbox("Match case", key=f"case_{key}", width="content")
    if value == "":
        return None
    return Condition.model_validate({"field": field, "test": test, "value": value, "match_case": bool(case)}).model_dump()
