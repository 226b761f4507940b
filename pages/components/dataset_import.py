"""Bringing a dataset in: choose a source, check what was recognised, look at the rows, import."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from backend.services.context import Context, Person
from backend.services.datasets import KINDS, VersionView, import_dataset
from backend.services.inspection import Inspection, fields_of, inspect_file, inspect_upload
from backend.services.uploads import list_file_offers, save_upload
from pages.components.frame import errors_shown, plain
from pages.components.words import plural, size

ENDINGS = ["txt", "jsonl", "json", "csv", "parquet"]
UNUSED = "not used"
PREVIEW = 4


@dataclass(frozen=True)
class Source:
    """What is to be imported: one of three."""

    key: str
    name: str
    upload: str | None = None
    path: Path | None = None
    hub: str | None = None


def draw_import(ctx: Context, person: Person) -> VersionView | None:
    """Draw the import from source to button. Returns the version once the person has asked for it."""
    with st.container(border=True):
        st.subheader("1 · Where is it?", anchor=False)
        source = _choose_source(ctx, person)
    if source is None:
        return None
    if source.hub:
        return _draw_hub(ctx, person, source)
    with st.container(border=True):
        st.subheader("2 · What is it?", anchor=False)
        inspection = _draw_recognition(ctx, source)
    if inspection is None:
        return None
    with st.container(border=True):
        st.subheader("3 · Is that right?", anchor=False)
        _draw_preview(inspection)
    return _draw_finish(ctx, person, source, kind=inspection.kind, mapping=inspection.mapping, blocked=inspection.problem)


def _choose_source(ctx: Context, person: Person) -> Source | None:
    offers = list_file_offers(ctx)
    ways = ["Upload a file", *(["From the data folder"] if offers else []), "From the Hugging Face Hub"]
    way = st.segmented_control("Source", ways, default=ways[0], required=True, key="import_way", label_visibility="collapsed")
    if way == ways[-1]:
        hub = st.text_input("Dataset id", key="import_hub", placeholder="owner/name", help="Public datasets on huggingface.co.")
        return Source(key=hub, name=hub.split("/")[-1], hub=hub.strip()) if hub and hub.strip() else None
    if way == "From the data folder":
        offer = st.selectbox(
            "File", offers, index=None, key="import_offer", format_func=lambda o: f"{o.name} · {size(o.bytes)}", placeholder="Choose a file"
        )
        return Source(key=str(offer.path), name=offer.path.stem, path=offer.path) if offer else None
    limit = ctx.policy.max_upload_bytes // 2**20
    file = st.file_uploader(
        f"A file of up to {limit:,} MB", type=ENDINGS, key="import_file", max_upload_size=limit,
        help="Text, or rows as JSON Lines, a JSON list, CSV or Parquet.",
    )  # fmt: skip
    if file is None:
        return None
    saved = st.session_state.get("import_saved")
    if saved is None or saved[0] != file.file_id or not ctx.artifacts.path(saved[1]).is_file():
        st.session_state["import_saved"] = saved = (file.file_id, save_upload(ctx, file, name=file.name, person=person))
    return Source(key=saved[1], name=Path(file.name).stem, upload=saved[1])


def _inspect(ctx: Context, source: Source, *, kind: str | None = None, mapping: dict[str, str] | None = None) -> Inspection:
    if source.path is not None:
        return inspect_file(source.path, kind=kind, mapping=mapping)
    return inspect_upload(ctx, str(source.upload), kind=kind, mapping=mapping)


def _draw_recognition(ctx: Context, source: Source) -> Inspection | None:
    """Draw what was recognised, let it be changed, and return what is in force."""
    guess = _inspect(ctx, source)
    kinds = list(KINDS)
    kind = st.selectbox(
        "Kind",
        kinds,
        index=kinds.index(guess.kind),
        key=f"import_kind_{source.key}",
        format_func=lambda k: f"{k} · {KINDS[k].rstrip('.').lower()}",
    )
    if kind == guess.kind:
        sure = "Recognised" if guess.confidence >= 0.8 else "A guess, please check"
        if guess.reason:
            st.caption(f"{sure}: {plain(guess.reason.replace('`', ''))}.")
    else:
        guess = _inspect(ctx, source, kind=kind)
    if len(guess.columns) < 2 and not guess.problem:
        return guess
    mapping: dict[str, str] = {}
    fields = [UNUSED, *fields_of(kind)]
    for column in guess.columns:
        left, right = st.columns([3, 1], vertical_alignment="center")
        with left, st.container(gap=None):
            st.text(column)
            st.caption(plain(guess.examples.get(column, "")) or "empty")
        chosen = guess.mapping.get(column, UNUSED)
        field = right.selectbox(
            f"Use {plain(column)} as",
            fields,
            index=fields.index(chosen),
            key=f"import_map_{source.key}_{kind}_{column}",
            label_visibility="collapsed",
        )
        if field != UNUSED:
            mapping[column] = field
    return _inspect(ctx, source, kind=kind, mapping=mapping)


def _draw_preview(inspection: Inspection) -> None:
    if inspection.problem:
        st.warning(plain(inspection.problem), icon=":material/rule:")
        return
    bad = [row for row in inspection.preview if row.problem]
    st.caption(f"The first rows of {plain(inspection.name)} ({size(inspection.bytes)}), as the dataset will hold them.")
    for row in [row for row in inspection.preview if not row.problem][:PREVIEW]:
        st.code(row.text, language=None, wrap_lines=True, height=130 if len(row.text) > 300 else "content")
    if bad:
        st.warning(f"{plural(len(bad), 'row')} of the first {len(inspection.preview)} would be rejected.", icon=":material/rule:")
        with st.expander("Why"):
            for row in bad[:5]:
                st.text(row.problem)


def _draw_hub(ctx: Context, person: Person, source: Source) -> VersionView | None:
    with st.container(border=True):
        st.subheader("2 · What is it?", anchor=False)
        kind = st.selectbox("Kind", list(KINDS), key="import_hub_kind", format_func=lambda k: f"{k} · {KINDS[k].rstrip('.').lower()}")
        st.caption("The columns are recognised when the worker has fetched it; rows that don't fit are listed with the reason.")
    return _draw_finish(ctx, person, source, kind=kind, mapping={}, blocked="")


def _draw_finish(ctx: Context, person: Person, source: Source, *, kind: str, mapping: dict[str, str], blocked: str) -> VersionView | None:
    with st.container(border=True):
        left, right = st.columns([2, 1])
        name = left.text_input(
            "Name", value=source.name, key=f"import_name_{source.key}", help="A name that exists already gets a new version."
        )
        percent = right.slider(
            "Kept for validation", 0, 30, value=0 if kind in ("benchmark", "prompts") else 5, format="%d %%", key=f"import_val_{source.key}_{kind}",
            help="Rows that no run trains on, chosen by their content, so the same row always falls on the same side.",
        )  # fmt: skip
        st.session_state.setdefault(f"import_once_{source.key}", uuid.uuid4().hex)
        if not st.button("Import", type="primary", icon=":material/download:", disabled=bool(blocked), key="import_go"):
            return None
    with errors_shown():
        version = import_dataset(
            ctx, name=name or "", kind=kind, mapping=mapping, upload=source.upload, source_path=source.path, hub=source.hub,
            val_fraction=percent / 100, person=person, idempotency_key=st.session_state.pop(f"import_once_{source.key}"),
        )  # fmt: skip
        st.session_state.pop("import_saved", None)
        return version
    return None
