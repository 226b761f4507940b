"""Drafts of forms whose fields have keys with one prefix: what was typed outlives a visit elsewhere, a reload and a
restart of the server.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import streamlit as st

from backend.services.context import Context, Person
from backend.services.people.drafts import FormDraft, drop_draft, read_draft, save_draft
from pages.components.frame import handled
from pages.components.words import when

CHANGED, UNTOUCHED = "changed", "untouched"


def restore_form(
    ctx: Context, person: Person, form: str, *, first: str, linked: Mapping[str, str | None] | None = None
) -> None:
    """Fill the fields that a person changed, where the form is not drawn yet: its field `first` has no state.

    `linked` are the options of fields that the address names: a draft that chose others leaves those fields as they
    are.
    """
    if first in st.session_state:
        return
    for part in (UNTOUCHED, "restored", "text"):
        st.session_state.pop(f"{form}.{part}", None)
    draft = read_draft(ctx, form, person=person)
    if draft is None or not isinstance(draft.values.get(CHANGED), dict):
        return
    linked = linked or {}
    for key, value in draft.values[CHANGED].items():
        if (option := linked.get(key)) is None or option in value:
            st.session_state[key] = value
    st.session_state[f"{form}.restored"] = draft
    st.session_state[f"{form}.{UNTOUCHED}"] = dict(draft.values[UNTOUCHED])


def has_restored(form: str) -> bool:
    """Return whether the form holds a draft of an earlier visit."""
    return f"{form}.restored" in st.session_state


def draw_restored(ctx: Context, person: Person, form: str) -> None:
    """Say that a draft was restored, with the way back."""
    draft: FormDraft | None = st.session_state.get(f"{form}.restored")
    if draft is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"{form}_draft"):
        st.caption(f":material/edit_note: Draft of {when(draft.saved_at, now=ctx.now())} restored", width="content")
        st.button(
            "Discard",
            key=f"{form}_draft_discard",
            type="tertiary",
            on_click=handled(_discard),
            args=(ctx, person, form),
        )


def keep_form(ctx: Context, person: Person, form: str, *, prefix: str, skip: Collection[str] = ()) -> None:
    """Save what differs from the untouched form. Call it when all fields are drawn; `skip` are keys below the prefix
    that hold no field.
    """
    values = {
        str(key): value
        for key, value in st.session_state.items()
        if str(key).startswith(prefix) and key not in skip and _is_plain(value)
    }
    untouched = st.session_state.setdefault(f"{form}.{UNTOUCHED}", {})
    for key, value in values.items():
        untouched.setdefault(key, value)
    changed = {key: value for key, value in values.items() if value != untouched[key]}
    text = json.dumps(changed, sort_keys=True)
    before = st.session_state.get(f"{form}.text")
    st.session_state[f"{form}.text"] = text
    if before is not None and before != text:
        if changed:
            save_draft(ctx, form, {CHANGED: changed, UNTOUCHED: untouched}, person=person)
        else:
            drop_draft(ctx, form, person=person)


def forget_form(ctx: Context, person: Person, form: str) -> None:
    """Delete the draft of a form that was sent or discarded."""
    drop_draft(ctx, form, person=person)
    for part in ("restored", "text"):
        st.session_state.pop(f"{form}.{part}", None)


def _discard(ctx: Context, person: Person, form: str) -> None:
    for key, value in st.session_state[f"{form}.{UNTOUCHED}"].items():
        if key in st.session_state:
            st.session_state[key] = value
    forget_form(ctx, person, form)


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, str | int | float)
