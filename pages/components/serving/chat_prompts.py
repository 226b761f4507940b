"""Prompts of the team in the playground: choose one by name, fill in its variables, and save a change."""

from __future__ import annotations

from secrets import token_hex

import streamlit as st

from backend.domain.evaluation.prompts import PromptText
from backend.domain.serving.chat import AnswerSettings
from backend.services.context import Context, Person
from backend.services.serving.prompts.prompts import get_prompt, list_prompt_names, save_prompt
from pages.components import routes
from pages.components.browser.chat.component import ChatDraft
from pages.components.confirm import close_menu, menu_key
from pages.components.frame import errors_shown, rerun_after, spoken
from pages.components.links import page_link
from pages.components.serving.chat_presets import fill_settings

DRAFT = "playground_draft"
"""Key of the session state: the message that the conversation's field takes over."""


def newest_draft() -> ChatDraft | None:
    """Return the newest message that a prompt wrote."""
    draft: ChatDraft | None = st.session_state.get(DRAFT)
    return draft


def draw_team_prompts(ctx: Context, person: Person, settings: AnswerSettings, *, scope: str) -> None:
    """Draw the menu of prompts: name, text, variables, and the buttons that use and save them. `settings` are those
    whose system prompt a prompt replaces.
    """
    names = list_prompt_names(ctx)
    requested = st.query_params.get("prompt")
    key = menu_key("prompts_menu")
    is_requested = requested in names
    if is_requested:
        st.session_state.setdefault(key, True)  # open, so that a prompt chosen on its page is seen
    with st.popover("Prompts", icon=":material/article:", key=key, on_change="rerun" if is_requested else "ignore"):
        if not names:
            st.caption("No prompt yet.")
            page_link(routes.PROMPTS, "Write one", {"new": "1"})
            return
        name = st.selectbox(
            "Prompt",
            names,
            index=names.index(requested) if requested in names else None,
            key=f"prompt_{scope}",
            placeholder="Choose a prompt",
        )
        if name is None:
            return
        prompt = get_prompt(ctx, name)
        newest = prompt.newest
        key = f"prompt_{scope}_{newest.id}"
        values = {
            "system": st.text_area("System prompt", newest.body.system, key=f"{key}_system", height=80),
            "text": st.text_area("Message", newest.body.text, key=f"{key}_text", height=130),
        }
        row = {
            variable: st.text_area(spoken(variable) or variable, key=f"{key}_{variable}", height=68)
            for variable in newest.body.variables
        }
        with st.container(horizontal=True):
            if st.button("Use", key=f"{key}_use", type="primary", icon=":material/edit_note:"):
                with errors_shown():
                    use_prompt(values, row, settings, scope=scope)
            is_changed = values != {"system": newest.body.system, "text": newest.body.text}
            if st.button(
                f"Save as version {newest.number + 1}",
                key=f"{key}_save",
                disabled=not is_changed,
                icon=":material/save:",
            ):
                with rerun_after():
                    saved = save_prompt(ctx, name, values, after=newest.number, person=person)
                    st.toast(f"Saved version {saved.newest.number}", icon=":material/check:")
        page_link(routes.PROMPTS, "Versions", {"prompt": name}, icon="history")


def use_prompt(values: dict[str, str], row: dict[str, str], settings: AnswerSettings, *, scope: str) -> None:
    """Put a prompt's system prompt into the settings, and its message into the field. Raises TemplateFault for a
    variable that is missing.
    """
    system, text = PromptText.model_validate(values).fill(row)
    fill_settings(settings.model_copy(update={"system": system}), scope=scope)
    st.session_state[DRAFT] = ChatDraft(token_hex(6), text)
    close_menu("prompts_menu")
    st.query_params.pop("prompt", None)
    st.rerun()
