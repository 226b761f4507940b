"""The choice of a source: an upload, a path under DATA_PATH, a Hub split, an address in an object store."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import streamlit as st

from backend.domain.data.file_names import propose_name
from backend.domain.data.parsing.text_formats import PACKINGS, SUFFIXES, guess_ending
from backend.domain.data.versions.saved_splits import choose_splits
from backend.domain.jobs.payloads import HubSource
from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.imports import PastImport
from backend.services.data.sources import (
    DataEntry,
    HubDatasetView,
    ImportSource,
    browse_data_folder,
    data_file,
    list_saved_splits,
    look_up_hub_dataset,
    save_upload,
    save_uploads,
    search_data_folder,
    stored_names,
)
from pages.components import routes
from pages.components.choices import choose_from, choose_one
from pages.components.frame import plain, show_error
from pages.components.words import size

UPLOAD, PASTE, FOLDER, HUB, CLOUD = (
    "Upload files",
    "Paste text",
    "From the data folder",
    "From the Hugging Face Hub",
    "From S3 or Google Cloud",
)
PASTED_AS = {".txt": "Text", ".jsonl": "JSON Lines", ".json": "JSON", ".csv": "CSV"}
MAX_PASTED = 1_000_000
ENDINGS = [ending.lstrip(".") for ending in (*SUFFIXES, *PACKINGS)]


@dataclass(frozen=True)
class Chosen:
    """A source with a proposed name and a unique key. `shown_error`: an error that the page already shows. `own_names`:
    names of uploaded files, by those under which they are stored.
    """

    source: ImportSource
    name: str
    key: str
    shown_error: str = ""
    own_names: Mapping[str, str] = field(default_factory=dict)


def choose_source(ctx: Context, person: Person, past: PastImport | None) -> Chosen | None:
    """Draw the choice of a source; return None until it is complete."""
    if past is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/draft: {plain(past.source.label)}", width="content")
            if st.button("Another source", key="import_other", icon=":material/swap_horiz:", type="tertiary"):
                st.switch_page(routes.DATASETS, query_params={"import": "1"})
        return Chosen(past.source, past.name, f"again {past.source}")
    ways = [UPLOAD, PASTE, *([FOLDER] if ctx.data_path is not None else []), HUB, CLOUD]
    way = choose_one("Source", ways, key="import_way", is_bare=True)
    if way == HUB:
        return _choose_hub(person)
    if way == CLOUD:
        return _choose_cloud()
    if way == PASTE:
        return _choose_pasted(ctx, person)
    return _choose_in_folder(ctx, person) if way == FOLDER else _choose_upload(ctx, person)


def _choose_upload(ctx: Context, person: Person) -> Chosen | None:
    limit = ctx.policy.max_upload_bytes // 2**20
    files = st.file_uploader(
        "Files",
        type=ENDINGS,
        accept_multiple_files=True,
        key="import_file",
        max_upload_size=limit,
        help=(
            "Text, rows as JSON Lines, JSON, CSV, Parquet or Arrow, or a zip of such files. Several become one dataset."
            " Put larger ones into the data folder."
        ),
    )
    if not files:
        return None
    stored = _keep(
        ctx,
        " ".join(file.file_id for file in files),
        lambda: save_uploads(ctx, [(file.name, file) for file in files], person=person),
    )
    if stored is None:
        return None
    split = _choose_split(ctx, person, ImportSource(upload=stored), name=files[0].name)
    name = propose_upload_name(files[0].name, len(files))
    names = [file.name for file in files]
    own_names = dict(zip(stored_names(names), names, strict=True))
    return Chosen(ImportSource(upload=stored, split=split), name, f"{stored} {split}", own_names=own_names)


def propose_upload_name(first: str, count: int) -> str:
    """Return the name of a dataset by its first of several files; "" if that does not say what it is."""
    name = propose_name(_stem(first))
    return f"{name} and {count - 1} more" if name and count > 1 else name


def _choose_pasted(ctx: Context, person: Person) -> Chosen | None:
    """Draw a field for a text, kept as a file of the form that it seems to have."""
    text = st.text_area(
        "Text, or rows as JSON Lines, JSON or CSV",
        key="import_pasted",
        height=180,
        max_chars=MAX_PASTED,
        placeholder='{"prompt": "Who bakes the bread?", "completion": "Mira."}',
    )
    if not text or not text.strip():
        return None
    guess = guess_ending(text)
    ending = choose_one("Read as", PASTED_AS, default=guess, key=f"import_pasted_as_{guess}")
    name = f"pasted{ending}"
    key = f"{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()} {ending}"
    stored = _keep(
        ctx, key, lambda: save_upload(ctx, io.BytesIO(text.encode("utf-8", "replace")), name=name, person=person)
    )
    return None if stored is None else Chosen(ImportSource(upload=stored), "pasted", stored)


def _keep(ctx: Context, key: str, save: Callable[[], str]) -> str | None:
    """Return the stored path of what was chosen, saved once; None if that failed, with its error shown."""
    saved: tuple[str, str] | None = st.session_state.get("import_saved")
    if saved is None or saved[0] != key or not ctx.artifacts.path(saved[1]).exists():
        try:
            st.session_state["import_saved"] = saved = (key, save())
        except RoundhouseError as error:
            show_error(error)
            return None
    return saved[1]


def _choose_in_folder(ctx: Context, person: Person) -> Chosen | None:
    """Draw one folder of DATA_PATH with a search below it. Folders open; a file, or the open folder, is chosen."""
    folder = st.session_state.setdefault("import_folder", "")
    view = browse_data_folder(ctx, folder)
    if view is None:
        st.warning("The data folder (DATA_PATH) does not exist.", icon=":material/folder_off:")
        return None
    _draw_way_up(folder)
    text = st.text_input(
        "Search in this folder and those below",
        key="import_search",
        placeholder="Part of a name",
        icon=":material/search:",
    )
    if text and text.strip():
        matches, complete = search_data_folder(ctx, text, folder=folder)
        entries: list[DataEntry] = matches
        if not complete:
            st.caption("More files match; type more of the name, or open a folder first.")
    else:
        entries = list(view.entries)
        if view.more:
            st.caption("Only the first 2,000 entries are listed; search for the others.")
    by_path, key = {entry.path: entry for entry in entries}, f"import_entry_{folder}_{text}"

    def words(path: str) -> str:
        entry = by_path[path]
        return f"{entry.name}/" if entry.is_folder else f"{path.removeprefix(f'{folder}/')} · {size(entry.bytes)}"

    picked = choose_from(
        "File or folder",
        by_path,
        words=words,
        key=key,
        value=None,
        placeholder="Choose" if entries else "Nothing to choose",
        disabled=not entries,
    )
    entry = by_path[picked] if picked is not None else None
    if view.left_out and not text:
        st.caption(
            f"{plural(view.left_out, 'file')} left out: other endings, or links that lead out of the data folder."
        )
    if entry is not None and entry.is_folder:
        st.session_state["import_folder"] = entry.path
        st.rerun()
    is_whole = False
    if folder and not text and entry is None and _saved_splits(ctx, person, ImportSource(path=data_file(ctx, folder))):
        is_whole = st.checkbox(
            "Import this folder, a dataset saved by `datasets`", value=True, key=f"import_saved_{folder}"
        )
    elif not text and (len(view.files) > 1 or (folder and len(view.entries) > 1)):
        part = (
            f"{plural(len(view.files), 'file')} of this folder, and those below,"
            if view.files
            else "files below this folder"
        )
        is_whole = st.checkbox(f"All {part} as one dataset", key=f"import_all_{folder}")
    if entry is None and not is_whole:
        return None
    path = data_file(ctx, entry.path if entry is not None else folder)
    status = path.stat()
    split = _choose_split(ctx, person, ImportSource(path=path), name=path.name)
    inside = PurePosixPath(entry.path if entry is not None else folder).parent.name
    name = propose_name(_stem(path.name), folder=inside)
    return Chosen(ImportSource(path=path, split=split), name, f"{path} {status.st_mtime_ns} {status.st_size} {split}")


def _saved_splits(ctx: Context, person: Person, source: ImportSource) -> tuple[str, ...]:
    try:
        return list_saved_splits(ctx, source, person=person)
    except RoundhouseError:
        return ()  # the error shows when the first rows are read


def _choose_split(ctx: Context, person: Person, source: ImportSource, *, name: str) -> str | None:
    """Draw the choice of a split of what `datasets` saved; None for any other, and where the saved splits are kept."""
    splits = _saved_splits(ctx, person, source)
    if len(splits) < 2:
        return None
    held_out = choose_splits(splits, None, name=name).val if "train" in splits else None
    as_saved = f"train, with {held_out} for validation" if held_out else ""
    options = [*([as_saved] if as_saved else []), *splits]
    split = st.selectbox(
        "Split", options, key=f"import_saved_split_{source.upload or source.path}", help="Other splits are left out."
    )
    return None if split == as_saved else split


def _draw_way_up(folder: str) -> None:
    parts = [part for part in folder.split("/") if part]
    with st.container(horizontal=True, gap="xsmall"):
        for depth, name in enumerate(["Data folder", *parts]):
            target = "/".join(parts[:depth])
            if st.button(f"{plain(name)} /", key=f"import_up_{depth}", type="tertiary", disabled=target == folder):
                st.session_state["import_folder"] = target
                st.rerun()


def _choose_hub(person: Person) -> Chosen | None:
    left, right = st.columns([3, 1])
    dataset_id = left.text_input("Dataset id", key="import_hub", placeholder="owner/name").strip()
    revision = right.text_input(
        "Revision", key="import_revision", placeholder="main", help="A branch, a tag or a commit."
    ).strip()
    if not dataset_id:
        return None
    dataset = _look_up(dataset_id, revision or None, person)
    name = dataset_id.split("/")[-1]
    if isinstance(dataset, RoundhouseError):
        show_error(dataset)
        if dataset.field is not None:
            return None
        st.caption("A worker may still reach it: enter config and split.")
        left, right = st.columns(2)
        config = left.text_input("Config", key="import_config_typed", placeholder="the only one") or None
        split = right.text_input("Split", key="import_split_typed", placeholder="train") or None
        choice = HubSource(id=dataset_id, config=config, split=split, revision=revision or None)
        return Chosen(ImportSource(hub=choice), name, str(choice), shown_error=dataset.message)
    left, right = st.columns(2)
    configs = list(dataset.configs)
    config = left.selectbox(
        "Config", configs, key=f"import_config_{dataset_id}_{dataset.commit}", disabled=len(configs) == 1
    )
    splits = list(dataset.configs[config])
    split = right.selectbox(
        "Split",
        splits,
        index=splits.index("train") if "train" in splits else 0,
        key=f"import_split_{dataset_id}_{dataset.commit}_{config}",
    )
    content = dataset.configs[config][split]
    licence = f" · licence {plain(dataset.licence)}" if dataset.licence else " · no licence stated"
    st.caption(
        f"Commit {dataset.commit[:12]} · {plural(content.files, 'file')} · {size(content.bytes)}{licence}. The version"
        " keeps the commit."
    )
    choice = HubSource(id=dataset_id, config=config, split=split, revision=dataset.commit)
    return Chosen(ImportSource(hub=choice), name if config == "default" else f"{name}-{config}", str(choice))


def _look_up(dataset_id: str, revision: str | None, person: Person) -> HubDatasetView | RoundhouseError:
    """Look up an id and revision on the Hub, cached; failures are not cached."""
    key = (dataset_id, revision)
    cached = st.session_state.get("import_hub_found")
    if cached is not None and cached[0] == key:
        return cached[1]  # type: ignore[no-any-return]
    try:
        with st.spinner("Looking up the dataset"):
            dataset = look_up_hub_dataset(dataset_id, revision=revision, person=person)
    except RoundhouseError as error:
        return error
    st.session_state["import_hub_found"] = (key, dataset)
    return dataset


def _choose_cloud() -> Chosen | None:
    url = st.text_input("Address", key="import_url", placeholder="s3://bucket/folder or gs://bucket/file.jsonl").strip()
    st.caption("Keys and other endpoints come from the environment of the server alone; nothing of them is stored.")
    if not url:
        return None
    *_, folder, name = ["", *url.partition("://")[2].rstrip("/").split("/")]
    return Chosen(ImportSource(url=url), propose_name(_stem(name), folder=folder), url)


def _stem(name: str) -> str:
    """Return a file name without its known endings."""
    lower = name.lower()
    for ending in (*PACKINGS, *SUFFIXES):
        if lower.endswith(ending):
            name, lower = name[: -len(ending)], lower[: -len(ending)]
    return name
