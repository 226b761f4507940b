"""The import form: source, kind and columns, preview, name and split."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

import streamlit as st

from backend.domain.battles.vote_files.previews import looks_like_votes
from backend.domain.data.import_options import CORPUS, HERE, LANGUAGES, ImportOptions
from backend.domain.data.kinds import KINDS, UNSPLIT_KINDS, DatasetKind
from backend.domain.data.languages import language_name
from backend.domain.data.parsing.encodings import ENCODINGS
from backend.domain.data.parsing.text_formats import SEEKING, suffix_of
from backend.domain.data.placeholders import find_placeholders
from backend.domain.data.recognition import LOOKED_FOR
from backend.domain.data.rows.columns import SourceHead, describe_foreign, describe_left_out
from backend.domain.data.rows.conversations import describe_dropped
from backend.domain.wording import list_first, percent, plural
from backend.errors import InvalidInput, RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.imports import PastImport, get_past_import, import_dataset
from backend.services.data.preview import Hint, SourcePreview, mappable_fields, preview_head
from backend.services.data.sources import read_source_head
from backend.services.data.views import VersionView
from backend.services.jobs.placements import list_providers
from pages.components import routes
from pages.components.battles.vote_import import HANDED_OVER
from pages.components.data.source_choice import Chosen, choose_source, propose_upload_name
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, handled, object_heading, plain, show_error, spoken, with_code
from pages.components.numbers import number_form, wrong_numbers
from pages.components.words import size

UNUSED = "not used"
UTF8 = "utf-8"
PREVIEW = 4
MANY_COLUMNS = 40
"""A source with more columns shows those in use, and others on request."""
SURE = 0.8
LANGUAGE_CHOICES = {code: language_name(code) for code in sorted(LANGUAGES, key=language_name)}


@dataclass(frozen=True)
class ImportChoices:
    """Chosen kind, mapping and encoding. `blocked`: why they can't be imported; `val_split`: a kept split; `rejected`:
    the share of the first rows that can't be used; `name`: what several files that are read propose.
    """

    kind: str
    mapping: dict[str, str]
    encoding: str | None
    blocked: str = ""
    val_split: str = ""
    rejected: float = 0.0
    name: str = ""


@number_form
def draw_import(ctx: Context, person: Person) -> VersionView | None:
    """Draw the form. Return the version once its import is queued."""
    object_heading("Import a dataset")
    past = _past(ctx, person)
    with st.container(border=True):
        st.subheader("1 · Source", anchor=False)
        chosen = choose_source(ctx, person, past)
    if chosen is None:
        return None
    with st.container(border=True):
        st.subheader("2 · Kind and columns", anchor=False)
        settled = _draw_recognition(ctx, person, chosen, past)
    return _draw_finish(ctx, person, chosen, settled, past) if settled is not None else None


def _past(ctx: Context, person: Person) -> PastImport | None:
    """Return the earlier import named in the address, to repeat it with changes."""
    version_id = st.query_params.get("again")
    if not version_id:
        return None
    try:
        return get_past_import(ctx, version_id, person=person)
    except RoundhouseError as error:
        show_error(error)
        return None


def _head(ctx: Context, person: Person, chosen: Chosen, encoding: str | None) -> SourceHead | RoundhouseError:
    """Read the first rows, cached by source and encoding; a failure is not cached."""
    key = (chosen.key, encoding)
    cached = st.session_state.get("import_head")
    if cached is not None and cached[0] == key:
        return cached[1]  # type: ignore[no-any-return]
    try:
        with st.spinner("Reading the first rows"):
            head = read_source_head(ctx, chosen.source, person=person, encoding=encoding)
    except RoundhouseError as error:
        return error
    st.session_state["import_head"] = (key, head)
    return head


def _draw_recognition(ctx: Context, person: Person, chosen: Chosen, past: PastImport | None) -> ImportChoices | None:
    """Draw the detected kind and columns with the ways to change them; return the choices."""
    key = f"import_encoding_{chosen.key}"
    picked = st.session_state.get(key, (past.options.encoding if past else None) or UTF8)
    encoding = None if picked == UTF8 else picked
    head = _head(ctx, person, chosen, encoding)
    if isinstance(head, RoundhouseError):
        if head.message != chosen.shown_error:
            show_error(head)
        if (
            chosen.source.is_remote
            and (not isinstance(head, InvalidInput) or head.field == "kind")
            and head.field not in ("url", "hub")
        ):
            return _draw_unread(chosen)
        if (head.field in ("encoding", "file") or encoding) and _is_text(chosen.source.label):
            _draw_encoding(key, picked)
        return None
    head = replace(
        head,
        name=chosen.own_names.get(head.name, head.name),
        left_out=tuple((chosen.own_names.get(name, name), reason) for name, reason in head.left_out),
        others=tuple((chosen.own_names.get(name, name), rows) for name, rows in head.others),
        foreign=tuple(replace(file, name=chosen.own_names.get(file.name, file.name)) for file in head.foreign),
    )
    if head.foreign:
        st.warning(plain(describe_foreign(head)), icon=":material/translate:")
    if head.foreign or encoding:
        _draw_encoding(key, picked)
    if head.files > 1 or head.left_out:
        st.caption(f"{plural(head.files, 'file')} as one dataset. The preview shows {plain(head.name)}.")
    if head.left_out:
        cure = " Import them on their own." if len(chosen.own_names) > 1 else ""
        st.caption(f":material/info: {plain(describe_left_out(head))}{cure}")
    if looks_like_votes(head.rows):
        _draw_way_to_battles(chosen)
    if encoding:  # other bytes, other columns: what was chosen for those read before is not of these
        chosen = replace(chosen, key=f"{chosen.key}_{encoding}")
    preview = _draw_kind_and_mapping(chosen, head, past)
    _draw_preview(preview)
    rejected = sum(bool(row.problem) for row in preview.preview) / max(1, len(preview.preview))
    return ImportChoices(
        preview.kind,
        preview.mapping,
        encoding,
        preview.problem,
        head.val_split,
        rejected,
        name=propose_upload_name(head.name, head.files) if len(chosen.own_names) > 1 else "",
    )


def _is_text(name: str) -> bool:
    try:
        return suffix_of(name)[0] not in SEEKING
    except InvalidInput:
        return True  # a folder


def _draw_encoding(key: str, picked: str) -> None:
    options = list(dict.fromkeys([UTF8, *(name for name in ENCODINGS if name != UTF8), picked]))
    st.selectbox(
        "Encoding", options, index=options.index(picked), key=key, width=240, help="Character encoding of the file."
    )


def _draw_unread(chosen: Chosen) -> ImportChoices:
    """Draw the choice of a kind for a source that this server can't read."""
    kind = st.selectbox("Kind", list(KINDS), key=f"import_blind_{chosen.key}", format_func=_kind_words)
    st.caption(
        "The worker detects the columns once it has fetched the files; rows that don't fit are listed with the reason."
    )
    return ImportChoices(kind, {}, None)


def _kind_words(kind: str) -> str:
    return f"{kind} · {KINDS[kind].rstrip('.').lower()}"


def _draw_kind_and_mapping(chosen: Chosen, head: SourceHead, past: PastImport | None) -> SourcePreview:
    guess = preview_head(head)
    if past is not None and past.options.mapping:
        guess = preview_head(head, kind=past.options.kind, mapping=past.options.mapping)
    elif past is not None and past.options.kind != guess.kind:
        guess = preview_head(head, kind=past.options.kind)
    kinds = list(KINDS)
    kind = st.selectbox(
        "Kind", kinds, index=kinds.index(guess.kind), key=f"import_kind_{chosen.key}", format_func=_kind_words
    )
    if kind != guess.kind:
        guess = preview_head(head, kind=kind)
    elif past is not None and past.options.mapping:
        _draw_repeated(guess, past.options.mapping)
    elif guess.reason:
        _draw_detection(guess)
    if len(guess.columns) < 2 and not guess.problem:
        return guess
    _draw_media(guess)
    place = st.container()
    mapping = _draw_mapping(chosen, guess, kind)
    tried = preview_head(head, kind=kind, mapping=mapping)
    if tried.problem:
        problem = tried.problem.replace("`", "")
        st.warning(f"{plain(problem[:1].upper() + problem[1:])}.", icon=":material/rule:")
    with place:
        _draw_hints(
            chosen,
            kind,
            tried.hints or tuple(hint for hint in guess.hints if hint.missing and hint.column not in mapping),
        )
    return tried


def _draw_repeated(guess: SourcePreview, mapping: Mapping[str, str]) -> None:
    """Say that the kind and the columns are an earlier import's, and which of its columns the source has no more."""
    st.caption("Kind and columns are those of the earlier import.")
    if gone := [column for column in mapping if column not in guess.columns]:
        names = ", ".join(f"`{column}`" for column in gone)
        st.warning(
            f"{with_code(f'The first rows lack {names}, which the earlier import used.')} Check the columns.",
            icon=":material/rule:",
        )


def _draw_media(guess: SourcePreview) -> None:
    """Warn of columns of images, video and audio, which no dataset keeps."""
    if guess.dropped_media:
        st.warning(
            f"{with_code(describe_dropped(guess.dropped_media))} Counted in the first rows.",
            icon=":material/hide_image:",
        )


def _draw_way_to_battles(chosen: Chosen) -> None:
    """Lead a file of votes to the page that makes a board of it, and hand the file over."""
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(
            ":material/how_to_vote: **These rows are votes on pairs of contestants.** Battles makes a board of them,"
            " with ratings and a verdict; with the answers in the file, votes become training data there, too.",
            width="stretch",
        )
        if st.button("Import votes", icon=":material/arrow_forward:", key="import_as_votes"):
            st.session_state[HANDED_OVER] = chosen.source
            st.switch_page(routes.BATTLES, query_params={"import": "votes"})


def _draw_detection(guess: SourcePreview) -> None:
    """Draw the detected kind with its confidence and reason; of a fallback to text also the columns searched for."""
    detected = f"Detected: {guess.kind} ({percent(guess.confidence)} sure)"
    reason = plain(guess.reason.replace("`", ""))
    if not guess.is_fallback:
        check = "" if guess.confidence >= SURE else " Please check."
        st.caption(f"{detected}: {reason}.{check}")
        return
    st.warning(
        f"**{detected}: no other kind fits;** {reason}. Each value of that column would become a text to train on."
        " Choose another kind or column if that is not what the file holds.",
        icon=":material/help:",
    )
    st.caption(f"Searched for {'; '.join(LOOKED_FOR)}.")


def _draw_mapping(chosen: Chosen, guess: SourcePreview, kind: str) -> dict[str, str]:
    """Draw a line for each column; return column -> field of the mapped ones."""
    mapping: dict[str, str] = {}
    fields = [UNUSED, *mappable_fields(kind)]
    if len(fields) == 1:
        st.caption("Every column is kept as it is.")
        for column in guess.columns[:MANY_COLUMNS]:
            _draw_column(guess, column)
        return mapping
    for column in _shown_columns(chosen, guess, kind):
        left, right = st.columns([3, 1], vertical_alignment="center")
        with left:
            _draw_column(guess, column)
        key = _map_key(chosen, kind, column)
        proposed = guess.mapping.get(column, UNUSED)
        st.session_state.setdefault(key, proposed if proposed in fields else UNUSED)
        field = right.selectbox(f"Use {spoken(column)} as", fields, key=key, label_visibility="collapsed")
        if field != UNUSED:
            mapping[column] = field
    return mapping


def _draw_column(guess: SourcePreview, column: str) -> None:
    with st.container(gap=None):
        st.text(column)
        st.caption(plain(guess.examples.get(column, "")) or "empty")


def _shown_columns(chosen: Chosen, guess: SourcePreview, kind: str) -> list[str]:
    """Return the columns to draw: all, or, of very many, the mapped and the selected ones."""
    columns = list(guess.columns)
    if len(columns) <= MANY_COLUMNS:
        return columns
    key = _columns_key(chosen, kind)
    st.session_state.setdefault(key, [column for column in columns if column in guess.mapping][:MANY_COLUMNS])
    return st.multiselect(
        f"Columns, of {len(columns):,}", columns, key=key, help="Columns that are not selected are not used."
    )


def _columns_key(chosen: Chosen, kind: str) -> str:
    return f"import_columns_{chosen.key}_{kind}"


def _map_key(chosen: Chosen, kind: str, column: str) -> str:
    return f"import_map_{chosen.key}_{kind}_{column}"


def _draw_hints(chosen: Chosen, kind: str, hints: tuple[Hint, ...]) -> None:
    """Draw a button for each field without a column whose column can be guessed."""
    for hint in hints:
        with st.container(horizontal=True, vertical_alignment="center"):
            problem = f"Column {hint.missing} is missing" if hint.missing else f"Nothing is used as {hint.field}"
            st.markdown(f":material/rule: {plain(problem)} (found: {plain(hint.column)}; use it?)", width="content")
            st.button(
                f"Use {plain(hint.column)} as {plain(hint.field)}",
                key=f"import_use_{chosen.key}_{kind}_{hint.column}_{hint.field}",
                on_click=_use,
                args=(chosen, kind, hint),
                type="secondary",
            )


@handled
def _use(chosen: Chosen, kind: str, hint: Hint) -> None:
    st.session_state[_map_key(chosen, kind, hint.column)] = hint.field
    if (listed := st.session_state.get(_columns_key(chosen, kind))) is not None:
        st.session_state[_columns_key(chosen, kind)] = [*listed, hint.column]


def _draw_preview(preview: SourcePreview) -> None:
    if preview.problem:
        return
    for name, reason in preview.misfits[:5]:
        st.warning(
            f"No row of {plain(name)} fits: {plain(reason)}. Import it as a dataset of its own, or change the columns.",
            icon=":material/rule:",
        )
    if more := preview.misfits[5:]:
        st.caption(f"Nor does any of {plural(len(more), 'further file')}.")
    bad = [row for row in preview.preview if row.problem]
    if preview.kind == DatasetKind.PROMPTS and (rest := [one for one in preview.columns if one not in preview.mapping]):
        names = plain(list_first(rest, 5))
        words = "Kind records keeps every column, such as the categories of a campaign."
        st.caption(f":material/info: Left out: {names}. {words}")
    st.caption(
        f"First rows of {plain(preview.name)} as the dataset will store them. The source has {size(preview.bytes)}."
    )
    for row in [row for row in preview.preview if not row.problem][:PREVIEW]:
        st.code(row.text, language=None, wrap_lines=True, height=130 if len(row.text) > 300 else "content")
    if placeholders := find_placeholders(row.text for row in preview.preview if not row.problem):
        st.warning(
            f"The rows hold placeholders that nothing filled in: {plain(', '.join(placeholders[:4]))}. A model trained"
            " on them writes them as they stand: replace them in the source first.",
            icon=":material/data_object:",
        )
    if bad:
        st.warning(
            f"{plural(len(bad), 'row')} of the first {len(preview.preview)} would be rejected.", icon=":material/rule:"
        )
        with st.expander("Reasons"):
            for row in bad[:5]:
                st.markdown(with_code(row.problem))


def _executors(ctx: Context) -> dict[str, str]:
    """Return where shards can run, with labels: here, or on a Slurm cluster that is set up."""
    slurm = [choice.placement for state in list_providers(ctx) if state.name == "slurm" for choice in state.choices]
    return {HERE: "The machine of the worker", **{str(placement): placement.label for placement in slurm}}


def _draw_finish(
    ctx: Context, person: Person, chosen: Chosen, settled: ImportChoices, past: PastImport | None
) -> VersionView | None:
    with st.container(border=True):
        st.subheader("3 · Name and split", anchor=False)
        name = st.text_input(
            "Name",
            value=settled.name or chosen.name,
            key=f"import_name_{chosen.key}",
            placeholder="The file's name does not say what it holds",
            help="An existing name gets a new version.",
        )
        options = past.options if past else ImportOptions()
        if settled.kind in UNSPLIT_KINDS:
            options = options.model_copy(update={"val_fraction": 0.0})
        reason = f"The saved split {plain(settled.val_split)} is kept for validation."
        values = draw_fields(
            ImportOptions,
            key=f"import_{chosen.key}_{settled.kind}",
            values=options,
            skip=["val_fraction"] if settled.kind in UNSPLIT_KINDS else [],
            disabled={"val_fraction": reason} if settled.val_split else None,
        )
        typed = options.model_copy(update=values)
        if settled.rejected > (typed.max_rejected if typed.keep_good else 0.0) and not settled.blocked:
            ending = (
                f"above {percent(typed.max_rejected, digits=None)} in all, nothing is imported until you have seen them"
                if typed.keep_good
                else "the first one ends the import"
            )
            st.warning(
                f"{percent(round(settled.rejected, 4), digits=None)} of the first rows would be rejected: {ending}.",
                icon=":material/rule:",
            )
        with st.expander("Filters and shards", icon=":material/filter_alt:"):
            values |= draw_fields(
                ImportOptions,
                key=f"import_{chosen.key}_{settled.kind}_corpus",
                group=CORPUS.group or "",
                values=options,
                choices={"languages": LANGUAGE_CHOICES, "executor": _executors(ctx)},
                empty={"languages": "All"},
            )
        once = f"import_once_{chosen.key}"
        st.session_state.setdefault(once, uuid.uuid4().hex)
        if not st.button("Import", type="primary", disabled=bool(settled.blocked or wrong_numbers()), key="import_go"):
            return None
    with errors_shown():
        version = import_dataset(
            ctx,
            name=name or "",
            source=chosen.source,
            options=options.model_copy(
                update={**values, "kind": settled.kind, "mapping": settled.mapping, "encoding": settled.encoding}
            ),
            person=person,
            idempotency_key=st.session_state.pop(once),
        )
        st.session_state.pop("import_saved", None)
        return version
    return None
