"""The draft of the launch form: what was typed outlives a reload, a visit elsewhere and a restart of the server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st
from pydantic import ValidationError

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.json_values import FieldValues
from backend.domain.training.objectives import Objective
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context, Person
from backend.services.people.drafts import FormDraft, drop_draft, read_draft, save_draft
from pages.components.frame import handled, plain
from pages.components.training.config_fields import ON_FORM, PREFIX, get_choice, get_field, typed_fields
from pages.components.training.run_form import PARTS, fill_draft, form_origin
from pages.components.words import when

FORM = "launch"
_SAVED, _RESTORED, _WAITING = "launch_draft_saved", "launch_draft_restored", "launch_draft_waiting"


def restore_draft(ctx: Context, person: Person, source: Mapping[str, str]) -> bool:
    """Fill the form with the person's draft if the address asks for nothing else; return whether it did. A draft of
    another address, or with other parts than the address names, waits to be restored by hand.
    """
    st.session_state.pop(_SAVED, None)
    st.session_state.pop(_RESTORED, None)
    st.session_state.pop(_WAITING, None)
    draft = read_draft(ctx, FORM, person=person)
    if draft is None:
        return False
    if source and (draft.values.get("source") != dict(source) or not _has_parts(ctx, draft, source)):
        st.session_state[_WAITING] = draft
        return False
    return _fill(draft)


def _has_parts(ctx: Context, draft: FormDraft, source: Mapping[str, str]) -> bool:
    """Return whether a draft has the base, dataset and architecture that the address names."""
    parts = draft.values.get("parts") or {}
    named = dict(source)
    if "base" in named:
        named["base"] = resolve_checkpoint(ctx, named["base"]).name
    if "dataset" in named and "@" not in named["dataset"]:
        parts = {**parts, "dataset": str(parts.get("dataset")).partition("@")[0]}
    return all(parts.get(part) == named[part] for part in PARTS if part in named)


def keep_draft(ctx: Context, person: Person, values: Mapping[str, Any], source: Mapping[str, str]) -> None:
    """Save what the form holds once it differs from what it was opened with."""
    if _WAITING in st.session_state and _SAVED not in st.session_state:
        st.session_state[_SAVED] = json.dumps(_snapshot(values, source), sort_keys=True)
        return
    now = _snapshot(values, source)
    text = json.dumps(now, sort_keys=True)
    before = st.session_state.get(_SAVED)
    st.session_state[_SAVED] = text
    if before is not None and before != text:
        st.session_state.pop(_WAITING, None)
        save_draft(ctx, FORM, now, person=person)


def forget_draft(ctx: Context, person: Person) -> None:
    """Delete the draft of a form that was launched or discarded. A draft that waits is of another form, and stays."""
    if _WAITING in st.session_state:
        return
    drop_draft(ctx, FORM, person=person)
    for key in (_SAVED, _RESTORED):
        st.session_state.pop(key, None)


def draw_draft(ctx: Context, person: Person) -> None:
    """Say that a draft was restored, or that one waits."""
    restored: FormDraft | None = st.session_state.get(_RESTORED)
    waiting: FormDraft | None = st.session_state.get(_WAITING)
    if restored is None and waiting is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="launch_draft"):
        if restored is not None:
            st.caption(
                f":material/edit_note: Draft of {when(restored.saved_at, now=ctx.now())} restored", width="content"
            )
            st.button("Discard", key="launch_discard", type="tertiary", on_click=handled(_discard), args=(ctx, person))
        elif waiting is not None:
            st.caption(
                f":material/edit_note: You have a draft of {when(waiting.saved_at, now=ctx.now())}"
                f"{_describe_base(waiting)}. A change here replaces it.",
                width="content",
            )
            st.button("Restore it", key="launch_restore", type="tertiary", on_click=handled(_restore), args=(waiting,))


def _describe_base(draft: FormDraft) -> str:
    base = (draft.values.get("parts") or {}).get("base")
    return f" with base checkpoint “{plain(str(base))}”" if base else ""


def _discard(ctx: Context, person: Person) -> None:
    forget_draft(ctx, person)
    st.session_state.pop("launch_source", None)  # the page fills its form again


def _restore(draft: FormDraft) -> None:
    st.session_state.pop(_SAVED, None)
    st.session_state.pop(_WAITING, None)
    _fill(draft)


def _fill(draft: FormDraft) -> bool:
    values = draft.values
    try:
        objective = Objective(values["objective"])
        inline = ArchitectureConfig.model_validate(values["inline"]) if values.get("inline") else None
        fill_draft(objective, values, inline)
    except (KeyError, TypeError, ValueError, ValidationError):  # a draft of another version
        return False
    st.session_state[_RESTORED] = draft
    return True


def _snapshot(values: Mapping[str, Any], source: Mapping[str, str]) -> FieldValues:
    inline = st.session_state.get("launch_inline")
    return {
        "source": dict(source),
        "objective": str(st.session_state[PREFIX + "objective"]),
        "origin": form_origin(),
        "recipe": st.session_state.get("launch_recipe"),
        "typed": sorted(typed_fields()),
        "fields": {path: get_field(path) for path in ON_FORM},
        "parts": {part: st.session_state.get(PREFIX + part) for part in PARTS} | {"dataset": values.get("dataset")},
        "method": get_choice("method"),
        "start": get_choice("start"),
        "name": st.session_state.get(PREFIX + "name") or "",
        "prompts": st.session_state.get(PREFIX + "prompts") or "",
        "rewards": values.get("grpo", {}).get("rewards"),
        "inline": None if inline is None else inline.model_dump(mode="json"),
    }
