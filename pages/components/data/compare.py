"""Compare two versions: rows added, removed and changed, with examples."""

from __future__ import annotations

import shlex
from typing import Any

import streamlit as st

from backend.domain.attributes import attributes_of
from backend.domain.data.rows.display import render_preview
from backend.domain.wording import format_duration, plural, shorten
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.diff import ROWS_PER_S, DiffExample, FieldSizes, VersionDiff, compare_versions, rows_to_read
from backend.services.data.versions import version_lineage
from backend.services.data.views import VersionView
from pages.components.choices import by_identity
from pages.components.frame import draw_metric, errors_shown, plain, spoken
from pages.components.tables import draw_table

AT_ONCE = 50_000  # rows hashed without confirmation: two seconds
MAX_HERE = 500_000  # rows hashed in the page server: 20 s, during which every page is slower
SHOWN = 6
LONG = 1200  # characters
TITLES = {"changed": "Same prompt, different answer", "removed": "Only in {before}", "added": "Only in {after}"}
SPLITS = {"train": "train", "val": "validation"}


def draw_compare(ctx: Context, version: VersionView, others: list[VersionView]) -> None:
    """Draw the choice of the other version and the differences. `others` are ready versions of the same kind."""
    if not others:
        st.caption("This is the only version, so there is nothing to compare with.")
        return
    against = st.query_params.get("against") or version.parent_id
    names = [
        (other.id, other.label, str(other.number) if other.dataset_id == version.dataset_id else "") for other in others
    ]
    index = next((place for place, known in enumerate(names) if against in known), 0)
    by_id, key = {other.id: other for other in others}, f"against_{version.id}"
    before = by_id[
        st.selectbox(
            f"Compare {spoken(version.label)} with",
            list(by_id),
            index=index,
            key=key,
            width=420,
            format_func=by_identity(key, by_id, lambda id_: f"{by_id[id_].label} · {by_id[id_].amount}"),
        )
    ]
    unread = rows_to_read(ctx, (before, version))
    if unread > MAX_HERE:
        st.info(
            f"{plural(unread, 'row')} must be read first, about {format_duration(unread / ROWS_PER_S)}: too many for"
            " the page server. Run this once on a worker's machine; the comparison then opens at once.",
            icon=":material/terminal:",
        )
        st.code(f"roundhouse data diff {shlex.quote(before.label)} {shlex.quote(version.label)}", language="bash")
        return
    confirmed = f"compare_asked_{before.id}_{version.id}"
    if unread > AT_ONCE and not st.session_state.get(confirmed):
        st.caption(
            f"{plural(unread, 'row')} are read first, in about {format_duration(unread / ROWS_PER_S)}; later"
            " comparisons open at once."
        )
        if not st.button("Compare", icon=":material/difference:", key=f"compare_{version.id}"):
            return
        st.session_state[confirmed] = True
    with errors_shown():
        bar = st.progress(0.0, text="Reading rows") if unread > AT_ONCE else None
        diff = compare_versions(ctx, before.id, version.id, progress=lambda share: _show(bar, share))
        if bar:
            bar.empty()
        _draw_diff(diff)


def _show(bar: Any, share: float) -> None:
    if bar is not None:
        bar.progress(share)


def other_versions(ctx: Context, version: VersionView) -> list[VersionView]:
    """Return the ready versions of a version's lineage, newest first."""
    steps = [step for step in version_lineage(ctx, version.dataset_id) if step.is_ready and step.id != version.id]
    versions = [resolve_version(ctx, step.id) for step in reversed(steps[-200:])]
    return [other for other in versions if other.kind == version.kind]


def _draw_diff(diff: VersionDiff) -> None:
    if diff.is_empty:
        st.markdown(":material/check_circle: Both have the same rows in the same splits.")
        return
    grid = st.grid(4, min_column_width=170)
    old, new = plain(diff.before.label), plain(diff.after.label)
    changed = f"{diff.changed:,} of them have the prompt of an added row" if diff.changed else ""
    draw_metric(grid, "Unchanged", f"{diff.unchanged:,}")
    draw_metric(grid, "Added", f"{diff.added:,}", help=f"Rows of {new} that {old} has not.")
    draw_metric(grid, "Removed", f"{diff.removed:,}", help=f"Rows of {old} that {new} has not. {changed}".strip())
    draw_metric(grid, "Moved", f"{diff.moved:,}", help="Rows that moved between train and validation.")
    _draw_tables(diff)
    for change in ("changed", "removed", "added"):
        _draw_examples(diff, change, [example for example in diff.examples if example.what == change])


def _draw_tables(diff: VersionDiff) -> None:
    with st.expander("Statistics", icon=":material/table:"):
        draw_table(
            [
                {"Rows": SPLITS[count.split], **attributes_of(count, "before", "after", "removed", "added")}
                for count in diff.splits
            ],
            key=f"diff_splits_{diff.after.id}",
            alt="Rows by split",
        )
        draw_table([_sizes(field) for field in diff.fields], key=f"diff_fields_{diff.after.id}", alt="Sizes by field")
        st.caption("Sizes in characters; of conversations, messages.")


def _sizes(change: FieldSizes) -> dict[str, object]:
    names = {"mean": "mean", "median": "median", "95th percentile": "p95", "longest": "largest"}
    values = {
        word: f"{getattr(change.before, name):,.0f} → {getattr(change.after, name):,.0f}"
        for word, name in names.items()
    }
    return {"Part": change.field, "Rows": SPLITS[change.split], **values}


def _draw_examples(diff: VersionDiff, what: str, examples: list[DiffExample]) -> None:
    total = {"changed": diff.changed, "removed": diff.removed - diff.changed, "added": diff.added - diff.changed}[what]
    if not examples:
        return
    title = TITLES[what].format(before=plain(diff.before.label), after=plain(diff.after.label))
    st.markdown(
        f"**{title}** · {total:,}"
        + (f", of which {min(len(examples), SHOWN)} are shown" if total > min(len(examples), SHOWN) else "")
    )
    if what == "changed":
        for column, label in zip(st.columns(2), (diff.before.label, diff.after.label), strict=True):
            column.caption(plain(label))
    for example in examples[:SHOWN]:
        sides = [row for row in (example.before, example.after) if row is not None]
        for column, row in zip(st.columns(len(sides)), sides, strict=True):
            text = render_preview(row)
            column.code(
                shorten(text, LONG),
                language=None,
                wrap_lines=True,
                height=260 if len(text) > 600 else "content",
            )
