"""One dataset: versions, rows, report, rejected rows, origin, settings."""

from __future__ import annotations

from functools import partial
from typing import Literal

import streamlit as st

from backend.domain.data.export_formats import DATASET_FORMATS
from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.conversations import describe_dropped, describe_filtered
from backend.domain.data.rows.problem import FEW_REJECTED, describe_rejected, most_frequent
from backend.domain.data.versions.card import LICENCES
from backend.domain.data.versions.provenance import DerivedProvenance
from backend.domain.jobs.states import Status, status_word
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.data.datasets import archive_dataset, rename_dataset, set_dataset_notes
from backend.services.data.exports import download_link, export_version, list_version_exports, render_card, set_card
from backend.services.data.imports import import_again
from backend.services.data.preview import read_rejected
from backend.services.data.sizes import measure_text
from backend.services.data.views import DatasetView, VersionView
from pages.components import routes
from pages.components.choices import choose_from, choose_one
from pages.components.data.compare import draw_compare, other_versions
from pages.components.data.derive import draw_derive
from pages.components.data.lineage import draw_delete_dataset, draw_delete_version, draw_version_lineage
from pages.components.data.report import draw_data_report
from pages.components.data.rows import draw_rows
from pages.components.downloads import draw_download
from pages.components.exports import draw_export, draw_push
from pages.components.frame import (
    draw_metric,
    errors_shown,
    object_heading,
    plain,
    rerun_after,
    show_problem,
    warn_unknown,
    with_code,
    without_images,
)
from pages.components.job_progress import draw_job
from pages.components.links import page_link, row_link
from pages.components.settings_form import draw_settings_form
from pages.components.tables import draw_table
from pages.components.words import date_time, size, when

HIDDEN = ("from", "version_id", "with_id")  # internal ids and marks
NEXT = {
    "text": ("Launch a run", routes.LAUNCH, "rocket_launch"),
    "instruction": ("Launch a run", routes.LAUNCH, "rocket_launch"),
    "chat": ("Launch a run", routes.LAUNCH, "rocket_launch"),
    "preference": ("Launch a run", routes.LAUNCH, "rocket_launch"),
    "kto": ("Battle on its prompts", routes.BATTLES, "swords"),
    "benchmark": ("Evaluate a checkpoint", routes.EVALUATIONS, "grading"),
    "prompts": ("Battle on it", routes.BATTLES, "swords"),
    "records": ("Evaluate a checkpoint", routes.EVALUATIONS, "grading"),
}


def draw_dataset(ctx: Context, person: Person, dataset: DatasetView) -> None:
    """Draw a dataset: head, version, settings."""
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(dataset.name, width="content")
        st.badge(dataset.kind, color="gray")
        if dataset.archived_at:
            st.badge("archived", icon=":material/archive:", color="gray")
    if dataset.notes:
        st.text(dataset.notes)
    version = _choose_version(dataset)
    if version is not None:
        _draw_version(ctx, person, version)
    with st.expander("Rename, notes, archive, delete", icon=":material/settings:"):
        _draw_settings(ctx, person, dataset)


def _choose_version(dataset: DatasetView) -> VersionView | None:
    """Draw the choice of a version, which is kept in the address."""
    number, versions = st.query_params.get("version"), list(dataset.versions)
    if number and versions and number not in {str(version.number) for version in versions}:
        warn_unknown("version", number, instead="the newest is shown")
    if len(versions) < 2:
        return dataset.newest
    by_number = {version.number: version for version in versions}
    shown = next((n for n in by_number if str(n) == number), versions[0].number)
    key = f"version_{dataset.id}_{shown}"

    def label(n: int) -> str:
        version = by_number[n]
        return (
            f"{n} · {version.amount} · {when(version.created_at)}"
            if version.is_ready
            else f"{n} · {status_word(version.status)}"
        )

    chosen = choose_from("Version", by_number, words=label, key=key, value=shown, width=420)
    if chosen != shown:
        for part in ("row", "report", "against", "job"):  # they belong to the previous version
            st.query_params.pop(part, None)
        st.query_params["version"] = str(chosen)
        st.rerun()
    return by_number[chosen]


def _draw_version(ctx: Context, person: Person, version: VersionView) -> None:
    if version.is_importing and version.job_id:
        doing = f"Making {version.label}" if version.parent_id else f"Importing {version.source}"
        if isinstance(made := version.provenance, DerivedProvenance):
            st.caption(plain(f"Made from {made.version}: {made.said}."))
        draw_job(ctx, person, version.job_id, doing=doing)
        return
    if not version.is_ready:
        _draw_failure(ctx, person, version)
        return
    _draw_head(ctx, version)
    if version.rejected_rows > FEW_REJECTED * (version.rows + version.rejected_rows):
        _draw_loss(version)
    elif version.rejected_rows:
        st.caption(f"{plural(version.rejected_rows, 'row')} of the source rejected: see the tab Rejected rows.")
    if dropped := describe_dropped(version.facts.dropped_media):
        st.warning(with_code(dropped), icon=":material/hide_image:")
    if filtered := describe_filtered(version.facts.filtered_rows):
        st.caption(filtered)
    first = "Text" if version.is_one_text else "Rows"
    later = {
        "Report": draw_data_report,
        "Change": draw_derive,
        "Versions": _draw_versions,
        "Card": draw_data_card,
        "Export": draw_version_exports,
    }
    names = [first, *later, "Rejected rows", "Origin"]
    _open_linked_tab(names)
    tabs = dict(zip(names, st.tabs(names, key="tab", bind="query-params"), strict=True))
    with tabs[first]:
        draw_rows(ctx, version, is_open=bool(tabs[first].open))
    for name, draw in later.items():
        if tabs[name].open:
            with tabs[name]:
                draw(ctx, person, version)
    with tabs["Rejected rows"]:
        _draw_rejected(ctx, version)
    with tabs["Origin"]:
        _draw_origin(version)


def _open_linked_tab(names: list[str]) -> None:
    """Open the tab that a link asks for by what it shows there: `?report=`, `?change=1`, `?against=`."""
    tab_of = {name.lower(): name for name in names} | {"against": "Versions"}
    given = {part: value for part, value in st.query_params.to_dict().items() if part in tab_of}
    if given and "tab" not in st.query_params and given != st.session_state.get("tab_links"):
        st.session_state["tab"] = tab_of[next(iter(given))]
    st.session_state["tab_links"] = given


def _draw_head(ctx: Context, version: VersionView) -> None:
    """Draw the size of a version and links to its uses."""
    grid = st.grid(4, min_column_width=140)
    if not version.is_one_text:
        label, help_ = ("Texts", "The last part of each is for validation.") if version.is_cut else ("Rows", None)
        draw_metric(grid, label, f"{version.rows:,}", help=help_)
        for split, number in (("Train", version.train_rows), ("Validation", version.val_rows)):
            draw_metric(grid, split, plural(number, "part") if version.is_cut else f"{number:,}")
    elif (counted := measure_text(ctx, version)) is not None:
        draw_metric(grid, counted.unit, counted.write(counted.total), help=counted.basis)
        draw_metric(grid, "Train", counted.write(counted.train))
        help_ = "The last part of the text." if counted.val else None
        draw_metric(grid, "Validation", counted.write(counted.val), help=help_)
    draw_metric(grid, "Stored size", size(version.bytes), help="Of the rows as they are stored, not of their source.")
    label, page, icon = NEXT[version.kind]
    with st.container(horizontal=True):
        reference = version.dataset_id if page.startswith("evaluate/") else version.label  # a recipe names its dataset
        page_link(page, label, {"dataset": reference}, icon=icon)
        if version.kind == "text":
            query = {"dataset": version.dataset}
            page_link(routes.TOKENIZERS, "Train a tokenizer", query)


def _draw_loss(version: VersionView) -> None:
    """Draw what was rejected and why, where that is more than a few rows."""
    lines = [f"- {with_code(line)}" for line in most_frequent(version.facts.rejected_reasons)]
    share = describe_rejected(version.rejected_rows, version.rows, version.facts.filtered_rows)
    st.warning(
        "\n".join([f"**{share} were rejected** and are not in this version.", "", *lines]), icon=":material/rule:"
    )


def _draw_versions(ctx: Context, person: Person, version: VersionView) -> None:
    draw_version_lineage(ctx, version)
    st.subheader(f"Used by (version {version.number})", anchor=False)
    draw_delete_version(ctx, person, version)
    st.subheader("Changes", anchor=False)
    draw_compare(ctx, version, other_versions(ctx, version))


def _draw_failure(ctx: Context, person: Person, version: VersionView) -> None:
    derived = version.provenance if isinstance(version.provenance, DerivedProvenance) else None
    action = "The change" if derived else "The import"
    if version.status is Status.CANCELLED:
        st.info(f"{action} was stopped.", icon=":material/stop_circle:")
    elif version.error.field == "rejected":
        st.warning(
            f"**Not imported yet.** {with_code(version.error.cause or '')}  \n{with_code(version.error.remedy)}",
            icon=":material/rule:",
        )
    else:
        show_problem(f"{action} failed: {version.error.cause or 'no cause was reported'}", version.error.remedy)
    if derived:
        name, _, number = derived.version.rpartition("@")
        query = {"dataset": name, "version": number, "change": "1"}
        row_link(
            "Change it differently",
            page=routes.DATASETS,
            query=query,
            icon="call_split",
            key=f"change_again_{version.id}",
        )
    else:
        draw_import_again(ctx, person, version)
    draw_delete_version(ctx, person, version)


def _draw_rejected(ctx: Context, version: VersionView) -> None:
    if not version.rejected_rows:
        st.markdown(":material/check_circle: No rows were rejected.")
        return
    shown = "" if len(version.rejected) == version.rejected_rows else f" The first {len(version.rejected):,}:"
    st.caption(f"{plural(version.rejected_rows, 'row')} rejected.{shown}")
    rows = [
        {name.capitalize(): value for name, value in {**row, "reason": row["reason"].replace("`", "")}.items()}
        for row in version.rejected
    ]
    with st.container(height=420 if len(rows) > 8 else "content", border=False):
        draw_table(rows, key=f"rejected_{version.id}", alt="Rejected rows")
    draw_download(
        "Download as JSON Lines",
        partial(read_rejected, ctx, version),
        f"rejected-{version.dataset}-{version.number}.jsonl",
        key=f"rejected_file_{version.id}",
    )


def _draw_origin(version: VersionView) -> None:
    """Draw the stored column mapping and the provenance."""
    tops = {column.partition(".")[0] for column in version.mapping}
    unused = [column for column in version.facts.columns if column not in tops]
    other = "kept as it is" if version.kind == DatasetKind.RECORDS else "not used"
    columns = {**dict.fromkeys(unused, other), **version.mapping}
    if columns and version.parent_id is None:
        draw_table(
            [{"Source column": column, "Used as": str(field)} for column, field in columns.items()],
            key=f"mapping_{version.id}",
            alt="Source columns and the fields they fill",
        )
    known = version.provenance.dump() | version.facts.dump()
    rows: dict[str, object] = {
        "Source": version.source or "made here",
        "Made" if version.parent_id else "Imported": date_time(version.created_at),
        "Content hash": version.content_hash or "",
        **{
            key.replace("_", " ").capitalize(): value
            for key, value in known.items()
            if isinstance(value, str | int | float) and key not in HIDDEN and value != ""
        },
    }
    draw_table([{"Fact": key, "Value": value} for key, value in rows.items()], key=f"origin_{version.id}", alt="Origin")


def _draw_settings(ctx: Context, person: Person, dataset: DatasetView) -> None:
    draw_settings_form(
        dataset,
        rename=lambda name: rename_dataset(ctx, dataset.id, name, person=person),
        save_notes=lambda notes, before: set_dataset_notes(ctx, dataset.id, notes, person=person, before=before),
        archive=lambda archived: archive_dataset(ctx, dataset.id, person=person, archived=archived),
        draw_delete=lambda: draw_delete_dataset(ctx, person, dataset.id, dataset.name),
    )


CHANGES = {
    "encoding": "Choose the encoding",
    "mapping": "Correct the columns",
    "rejected": "Correct the columns",
    "kind": "Choose the kind",
    "config": "Choose the config",
    "split": "Choose the split",
}
"""Label of the first remedy, by the field at fault in a failed import."""


def draw_import_again(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the remedies for an import that did not finish."""
    field = version.error.field or ""
    with st.container(horizontal=True, vertical_alignment="center"):
        if person.may_build:
            label = {"keep_good": "Keep the good rows", "rejected": "Import the others"}.get(field)
            if label is not None and st.button(label, key=f"keep_{version.id}", type="primary"):
                _go(ctx, person, version, keep_good=True)
            kind: Literal["primary", "secondary"] = (
                "secondary" if field in {*CHANGES, "keep_good", "rejected"} else "primary"
            )
            if st.button("Import again", key=f"again_{version.id}", icon=":material/replay:", type=kind):
                _go(ctx, person, version)
        # a page link to the open page would not change its address
        if st.button(CHANGES.get(field, "Change settings"), key=f"change_{version.id}", icon=":material/tune:"):
            st.switch_page(routes.DATASETS, query_params={"import": "1", "again": version.id})
        if st.button("Another source", key=f"other_{version.id}", icon=":material/upload:", type="tertiary"):
            st.switch_page(routes.DATASETS, query_params={"import": "1"})
    st.caption("Importing again continues from what was fetched, if the source has not changed.")


def _go(ctx: Context, person: Person, version: VersionView, *, keep_good: bool = False) -> None:
    with errors_shown():
        again = import_again(ctx, version.id, person=person, keep_good=keep_good)
        st.switch_page(routes.DATASETS, query_params={"dataset": again.dataset_id, "job": again.job_id or ""})


TITLES = {"datasets": "Hugging Face datasets", "parquet": "Parquet", "jsonl": "JSON Lines"}


def draw_version_exports(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form that asks for an export, and the exports of the version."""
    if person.may_build:
        _draw_form(ctx, person, version)
    exports = list_version_exports(ctx, version.id)
    for export in exports:
        with st.container(border=True, gap="xsmall"):
            draw_export(ctx, person, export, title=TITLES.get(export.format, export.format))
    if not exports:
        st.caption("Nothing has been exported yet.")


def _draw_form(ctx: Context, person: Person, version: VersionView) -> None:
    format = choose_one("Format", TITLES, default="datasets", key=f"dataset_export_format_{version.id}")
    st.caption(DATASET_FORMATS[str(format)])
    push, private, is_ready = draw_push(f"dataset_export_{version.id}")
    if st.button(
        "Export", key=f"dataset_export_{version.id}", icon=":material/ios_share:", type="primary", disabled=not is_ready
    ):
        with rerun_after():
            export_version(ctx, version.id, format=str(format), push=push, private=private, person=person)


def draw_data_card(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form, the card and the download."""
    facts = version.facts.card
    with st.container(border=True):
        with st.container(horizontal=True):
            known = [*LICENCES, *([facts.licence] if facts.licence and facts.licence not in LICENCES else [])]
            licence = st.selectbox(
                "Licence",
                known,
                index=known.index(facts.licence) if facts.licence else None,
                key=f"licence_{version.id}",
                width=300,
                accept_new_options=True,
                placeholder="not stated",
                help="A licence id of the Hugging Face Hub, or free text.",
            )
            languages = st.text_input(
                "Languages",
                value=", ".join(facts.languages),
                key=f"languages_{version.id}",
                width=300,
                placeholder="en, de",
                help="ISO 639 codes.",
            )
        notes = st.text_area(
            "Notes",
            value=facts.notes,
            key=f"card_notes_{version.id}",
            height=140,
            max_chars=20_000,
            placeholder="What the rows are, who wrote them, intended use and limits. Markdown.",
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button("Save card", type="primary", icon=":material/save:", key=f"card_save_{version.id}"):
                with rerun_after():
                    set_card(
                        ctx,
                        version.id,
                        licence=licence or "",
                        languages=languages or "",
                        notes=notes or "",
                        person=person,
                    )
            st.link_button(
                f"Download with its rows, {size(version.bytes)}",
                download_link(ctx, version, person=person),
                icon=":material/download:",
                help="A zip file of README.md and Parquet, as `datasets.load_dataset` and the Hub read it.",
            )
    _, front, text = render_card(ctx, version.id, hashed=False).split("---\n", 2)
    st.caption(f"README.md of {plain(version.label)}; in the download it lists the files' hashes, too.")
    shown, facts_tab = st.tabs(["Preview", "YAML"], key="card_view", bind="query-params")
    with shown, st.container(border=True):
        st.markdown(without_images(text))
    facts_tab.code(front.strip(), language="yaml", wrap_lines=True, height=380)
