"""Form that imports votes cast elsewhere as a closed campaign: file, columns, preview, name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import TypeVar

import streamlit as st

from backend.domain.battles.vote_files.previews import (
    VotePreview,
    is_mapping_complete,
    preview_votes,
    propose_mapping,
    read_storable_votes,
)
from backend.domain.battles.vote_files.rows import FileVote
from backend.domain.battles.votes import Label
from backend.domain.wording import shorten
from backend.errors import InvalidInput
from backend.services.battles.vote_imports import import_votes
from backend.services.context import Context, Person
from backend.services.data.sources import ImportSource, read_whole
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.frame import errors_shown, plain
from pages.components.numbers import form_button
from pages.components.tables import draw_table

FIELDS = {
    "prompt": "Prompt",
    "rater": "Rater",
    "a": "First contestant",
    "b": "Second contestant",
    "winner": "Winner",
    "turn": "Turn",
    "category": "Category",
    "prompt_text": "Text of the prompt",
    "answer_a": "First answer",
    "answer_b": "Second answer",
}
NONE = {"prompt": "none: each vote has its own", "rater": "none: one unknown rater"}
LABELS = {"A": "first is better", "B": "second is better", "TIE": "tie", "BOTH_BAD": "both bad"}
LONG_TEXT = 80
T = TypeVar("T")
HANDED_OVER = "votes_handed_over"
"""Key of the session state: the source of a file of votes that was chosen on Datasets."""


def draw_vote_import(ctx: Context, person: Person) -> None:
    """Draw the form; the campaign of the imported votes opens its own page."""
    st.caption(
        "CSV, JSON lines or a JSON list with a vote in each row: who was compared, by whom, on which prompt, and who"
        " won. MT-bench, Chatbot Arena, LLMFAO and PandaLM are read as published. With the answers, votes are read"
        " beside the texts and can be trained on."
    )
    with errors_shown():
        chosen = _choose_file(ctx, person)
        if chosen is None:
            return
        file, data, scope = chosen

        def text() -> str:
            try:
                return data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InvalidInput(f"“{file}” is not UTF-8 text.", remedy="Save it as UTF-8.", field="votes") from error

        columns, proposed = _read_once("votes_columns", scope, lambda: propose_mapping(text()))
        if not columns:
            raise InvalidInput(f"“{file}” has no rows.", remedy="Choose a file with a vote in each row.", field="votes")
        mapping = _draw_columns(columns, proposed, scope=str(hash(tuple(columns))))  # kept for a corrected file
        if not is_mapping_complete(mapping):
            st.info("Choose the columns of both contestants and of the winner.", icon=":material/rule:")
            return

        def preview(labels: Mapping[str, Label], name: str) -> VotePreview:
            return _read_once(
                name,
                (scope, *mapping.items(), *labels.items()),
                lambda: preview_votes(read_storable_votes(text(), mapping=mapping, labels=labels, asks=not labels)),
            )

        shown = preview({}, "votes_preview")
        labels = _draw_words(shown.words)
        if len(labels) < len(shown.words):
            st.info("Choose what each word for the winner means.", icon=":material/rule:")
            return
        if labels:
            shown = preview(labels, "votes_named")
        _draw_preview(shown)
        name = st.text_input("Name", key="votes_name", max_chars=120, value=PurePath(file).stem[:120])
        if form_button("Import", {"enter a name": not name.strip()}, key="votes_import", icon="upload"):
            votes = read_storable_votes(text(), mapping=mapping, labels=labels)
            campaign = import_votes(ctx, name=name, read=votes, person=person)
            for held in ("votes_columns", "votes_preview", "votes_named"):
                st.session_state.pop(held, None)
            st.session_state.pop(HANDED_OVER, None)
            st.switch_page(routes.BATTLES, query_params={"campaign": campaign.id})


def _choose_file(ctx: Context, person: Person) -> tuple[str, bytes, str] | None:
    """Draw the choice of a file; return its name, its bytes and what tells it from others. One that was dropped on
    Datasets is taken from there.
    """
    source: ImportSource | None = st.session_state.get(HANDED_OVER)
    if source is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f":material/draft: {plain(source.label)}", width="content")
            if st.button("Another file", key="votes_other", icon=":material/swap_horiz:", type="tertiary"):
                del st.session_state[HANDED_OVER]
                st.rerun()
        data = read_whole(ctx, source, person=person)
        return source.label, data, str(hash(data))  # another file may have the name
    upload = st.file_uploader("File of votes", type=["csv", "tsv", "jsonl", "json"], key="votes_file")
    return None if upload is None else (upload.name, upload.getvalue(), upload.file_id)


def _draw_columns(columns: Mapping[str, str], proposed: Mapping[str, str], *, scope: str) -> dict[str, str]:
    """Draw the column of each field; return field -> column, "" for none."""
    grid = st.grid(5, min_column_width=150)
    mapping = {}
    for field, words in FIELDS.items():
        proposal = proposed[field]
        labels = {**({} if field in ("a", "b", "winner") else {"": NONE.get(field, "none")}), **columns}
        mapping[field] = (
            choose_from(
                words,
                labels,
                value=proposal if proposal in labels else None,
                placeholder="Choose a column",
                key=f"votes_{field}_{scope}",
                place=grid,
            )
            or ""
        )
    return mapping


def _draw_words(words: Sequence[str]) -> dict[str, Label]:
    """Draw what each unknown word for the winner means; return those that are chosen."""
    grid = st.grid(5, min_column_width=150)
    chosen = {
        word: choose_from(
            plain(f"“{shorten(word, 40)}” means"),
            LABELS,
            value=None,
            placeholder="Choose a vote",
            key=f"votes_word_{word}",
            place=grid,
        )
        for word in words
    }
    return {word: Label(label) for word, label in chosen.items() if label}


def _read_once(name: str, key: object, read: Callable[[], T]) -> T:
    """Return what was read from the whole file by these choices, kept in the session by its name."""
    held = st.session_state.get(name)
    if held is None or held[0] != key:
        with st.spinner("Reading the votes"):
            held = st.session_state[name] = (key, read())
    value: T = held[1]
    return value


def _draw_preview(preview: VotePreview) -> None:
    labels = ", ".join(f"{LABELS[label]} {number:,}" for label, number in preview.labels.items())
    st.markdown(f"**{plain(preview.summary)}:** {labels}.")
    for note in preview.notes:
        st.caption(f":material/info: {plain(note)}")
    rows = [_line(row, preview) for row in preview.shown]
    draw_table(rows, key="votes_shown", alt="The first votes as they are read")


def _line(row: FileVote, preview: VotePreview) -> dict[str, object]:
    line: dict[str, object] = {"Prompt": _one_line(row.texts.get("prompt_text") or row.vote.prompt)}
    if preview.num_turns > preview.num_prompts:
        line["Turn"] = row.vote.turn
    line |= {"Rater": row.vote.rater, "First": row.vote.a, "Second": row.vote.b, "Vote": LABELS[row.vote.winner]}
    if preview.num_with_texts:
        line |= {
            "First answer": _one_line(row.texts.get("answer_a", "")),
            "Second answer": _one_line(row.texts.get("answer_b", "")),
        }
    return line


def _one_line(text: str) -> str:
    return shorten(" ".join(text.split()), LONG_TEXT)
