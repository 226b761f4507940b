"""Derive a new version: the change, its settings, a preview, and the button. Versions are immutable."""

from __future__ import annotations

import uuid

import streamlit as st

from backend.domain.data.kinds import UNSPLIT_KINDS, DatasetKind
from backend.domain.data.versions.changes import (
    Change,
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    Resplit,
    RowCondition,
    parse_change,
    parse_row_numbers,
)
from backend.domain.data.versions.conditions import FIELDS_OF_KIND, TEST_WORDS, TURNS, describe_change
from backend.errors import InvalidInput, RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.change_preview import ChangePreview, RowCount, preview_change
from backend.services.data.datasets import list_datasets
from backend.services.data.versions import derive_version
from backend.services.data.views import VersionView
from backend.services.evaluation.safety.probes import probe_of
from pages.components import routes
from pages.components.browser.data_rows.component import data_rows
from pages.components.choices import choose_from, choose_one
from pages.components.data.rows import shown_row
from pages.components.evaluation.folding import folded
from pages.components.frame import draw_metric, errors_shown, plain, show_error
from pages.components.numbers import draw_number, number_form, wrong_numbers

CHANGES = {
    "drop_duplicates": "Remove duplicates",
    "filter": "Filter rows",
    "sample": "Sample rows",
    "merge": "Merge with another version",
    "resplit": "Split again into train and validation",
    "drop_rows": "Remove rows by number",
}
MAX_CONDITIONS = 6


@number_form
def draw_derive(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form; a new version is opened."""
    key = version.id
    with st.container(border=True):
        st.markdown(f"A new version made from **{plain(version.label)}**, which stays as it is.")
        names = [name for name in CHANGES if name != "resplit" or version.kind not in UNSPLIT_KINDS]
        name = st.selectbox("Change", names, key=f"change_{key}", format_func=CHANGES.__getitem__, width=420)
        change = _settings(ctx, version, name)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            other = st.toggle(
                "Create a new dataset",
                key=f"change_other_{key}",
                help="Otherwise it becomes the next version of this dataset.",
            )
            title = (
                st.text_input("Name", value=f"{version.dataset}-2", key=f"change_name_{key}", width=320)
                if other
                else None
            )
        preview = _previewed(ctx, version, change) if change is not None and not wrong_numbers() else None
        if change is not None:
            st.caption(f"Lineage entry: {plain(describe_change(change))}.")
        clicked = st.button(
            "Create version",
            type="primary",
            icon=":material/call_split:",
            key=f"change_go_{key}",
            disabled=preview is None or preview.is_without_effect,
        )
        if preview is not None and not clicked:
            _draw_examples(version, preview)
    if clicked and change is not None:
        once = f"change_once_{key}"
        token = st.session_state.setdefault(once, uuid.uuid4().hex)
        with errors_shown():
            made = derive_version(ctx, key, change=change, person=person, name=title, idempotency_key=f"derive:{token}")
            del st.session_state[once]
            query = {"dataset": made.dataset_id, "version": str(made.number), "job": made.job_id or ""}
            st.switch_page(routes.DATASETS, query_params=query)


def _previewed(ctx: Context, version: VersionView, change: Change) -> ChangePreview | None:
    """Draw how many rows a change would leave; return None, with the reason drawn, if it can't be made."""
    try:
        with st.spinner("Trying the change"):
            preview = preview_change(ctx, version, change)
    except RoundhouseError as error:
        show_error(error)
        return None
    if preview.is_without_effect:
        st.info("This change has no effect: every row stays where it is.", icon=":material/equal:")
    elif preview.after is not None:
        grid = st.grid(3, min_column_width=150)
        train, val = preview.after
        total = RowCount(train.value + val.value, train.low + val.low, train.high + val.high)
        counts = {"Rows": total, "Train": train, "Validation": val}
        befores = (sum(preview.before), *preview.before)
        for (label, count), before in zip(counts.items(), befores, strict=True):
            if label == "Rows" and isinstance(change, Resplit):
                count = RowCount(before, before, before)
            draw_metric(grid, label, _written(count), note=f"before: {before:,}")
        ranges = [
            f"{label.lower()} {count.low:,} to {count.high:,}"
            for label, count in counts.items()
            if not count.is_exact and label != "Rows"
        ]
        if ranges:
            st.caption(f"95 % confidence: {', '.join(ranges)}.")
    if preview.basis:
        st.caption(preview.basis)
    return preview


def _written(count: RowCount) -> str:
    """Write a number, an estimate in three figures: `≈ 271,000`."""
    if count.is_exact:
        return f"{count.value:,}"
    return f"≈ {round(count.value, 3 - len(str(count.value))):,}"


def _draw_examples(version: VersionView, preview: ChangePreview) -> None:
    """Draw some rows that would go, come or stay."""
    with folded(probe_of(version.provenance) is not None, label="Rows (may be harmful)"):
        for title, rows in (("Removed", preview.gone), ("Added", preview.come), ("Kept", preview.staying)):
            if rows:
                st.markdown(f"**{title}** (examples)")
                data_rows(
                    [shown_row(version, row, linked=title != "Added") for row in rows],
                    key=f"changed_{title}_{version.id}",
                    label=title,
                    opens_here=False,
                )


def _settings(ctx: Context, version: VersionView, name: str) -> Change | None:
    """Draw the settings of a change; return None, with the reason drawn, while they are incomplete."""
    key = f"{name}_{version.id}"
    try:
        if name == "drop_duplicates":
            return _duplicates(key)
        if name == "filter":
            return _filter(version, key)
        if name == "sample":
            return _sample(version, key)
        if name == "merge":
            return _merge(ctx, version, key)
        return _resplit(key) if name == "resplit" else _listed(version, key)
    except InvalidInput as error:
        st.caption(f":material/rule: {plain(str(error))}")
        return None


def _duplicates(key: str) -> Change:
    loose = st.toggle("Ignore case and whitespace", key=f"loose_{key}")
    st.caption("The first of equal rows is kept. Validation rows are removed before train rows.")
    return DropDuplicates(loose=bool(loose))


def _sample(version: VersionView, key: str) -> Change:
    with st.container(horizontal=True):
        rows = draw_number(
            st, "Rows", 1, max(1, version.rows), max(1, version.rows // 10), key=f"rows_{key}", width=200
        )
        seed = draw_number(
            st, "Seed", 0, 2**31, 1, key=f"seed_{key}", width=140, help="The same seed samples the same rows."
        )
    return KeepSample(num_rows=int(rows), seed=int(seed))


def _resplit(key: str) -> Change:
    with st.container(horizontal=True):
        percent = st.slider("Validation share", 0, 50, 5, format="%d %%", key=f"share_{key}", width=320)
        seed = draw_number(
            st, "Seed", 0, 2**31, 1, key=f"seed_{key}", width=140, help="The same seed gives the same split."
        )
    return Resplit(val_fraction=percent / 100, seed=int(seed))


def _merge(ctx: Context, version: VersionView, key: str) -> Change | None:
    others = [
        v for d in list_datasets(ctx, kinds=(version.kind,)) for v in d.versions if v.is_ready and v.id != version.id
    ]
    if not others:
        st.caption(f"There is no other version of kind {version.kind}. Import one first.")
        return None
    by_id = {version.id: version for version in others}
    other = by_id[
        choose_from(
            "Version to add",
            by_id,
            words=lambda id_: f"{by_id[id_].label} · {by_id[id_].amount}",
            key=f"other_{key}",
            width=420,
        )
    ]
    st.caption("Validation rows of either stay out of the train split.")
    return Merge(other=other.label)


def _listed(version: VersionView, key: str) -> Change | None:
    st.caption("Row numbers of the Rows tab, such as 3, 10-20.")
    with st.container(horizontal=True):
        train = st.text_input("Train rows", key=f"train_{key}", width=320, placeholder="none")
        val = st.text_input(
            "Validation rows", key=f"val_{key}", width=320, placeholder="none", disabled=not version.val_rows
        )
    reason = st.text_input(
        "Why", key=f"reason_{key}", width=500, max_chars=400, placeholder="for the lineage; optional"
    )
    listed = (
        parse_row_numbers(train or "", rows=version.train_rows),
        parse_row_numbers(val or "", rows=version.val_rows),
    )
    return DropRows(train=listed[0], val=listed[1], reason=(reason or "").strip()) if any(listed) else None


def _filter(version: VersionView, key: str) -> Change | None:
    keep = choose_one("Rows that match every condition are", ["kept", "removed"], key=f"keep_{key}", width="content")
    count = int(st.session_state.setdefault(f"count_{key}", 1))
    drafts = [_condition(version, f"{place}_{key}") for place in range(count)]
    with st.container(horizontal=True):
        if st.button(
            "Add a condition",
            icon=":material/add:",
            key=f"more_{key}",
            type="tertiary",
            disabled=count >= MAX_CONDITIONS,
        ):
            st.session_state[f"count_{key}"] = count + 1
            st.rerun()
        if count > 1 and st.button("Remove the last", icon=":material/remove:", key=f"less_{key}", type="tertiary"):
            st.session_state[f"count_{key}"] = count - 1
            st.rerun()
    if any(draft is None for draft in drafts):
        return None
    change = parse_change({"change": "filter", "conditions": drafts, "keep": keep == "kept"})
    assert isinstance(change, Filter)
    return change


def _condition(version: VersionView, key: str) -> dict[str, object] | None:
    """Draw one condition; return None until it has a value."""
    fields = ["", *FIELDS_OF_KIND[DatasetKind(version.kind)]]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        field = st.selectbox("Part", fields, key=f"field_{key}", format_func=lambda f: f or "any field", width=190)
        tests = list(TEST_WORDS) if field != TURNS else ["at_least", "at_most", "equals", "differs"]
        test = st.selectbox(
            "Test", tests, key=f"test_{key}_{field == TURNS}", format_func=TEST_WORDS.__getitem__, width=190
        )
        if test in ("at_least", "at_most"):
            unit = "Turns" if field == TURNS else "Characters"
            value: object = int(
                draw_number(st, unit, 0, 10**9, 2 if field == TURNS else 20, key=f"number_{key}", width=170)
            )
        else:
            value = st.text_input("Text", key=f"text_{key}", width=300)
        case = test in ("contains", "lacks", "equals", "differs") and st.checkbox(
            "Match case", key=f"case_{key}", width="content"
        )
    if value == "":
        return None
    return RowCondition.model_validate(
        {"field": field, "test": test, "value": value, "match_case": bool(case)}
    ).model_dump()
