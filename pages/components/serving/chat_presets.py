"""Presets in the form of a chat's settings: apply, save, share, delete."""

from __future__ import annotations

import re
from functools import partial

import streamlit as st

from backend.domain.serving.chat import AnswerSettings, ChatSettings
from backend.services.context import Context, Person
from backend.services.serving.chat.presets import PresetView, delete_preset, list_presets, save_preset
from pages.components.choices import choose_from
from pages.components.confirm import draw_confirmed_in_menu
from pages.components.frame import handled, plain, rerun_after


def draw_preset_choice(ctx: Context, person: Person, *, scope: str) -> None:
    """Draw the presets; choosing one fills in the fields below."""
    presets = {preset.id: preset for preset in list_presets(ctx, person=person)}
    if not presets:
        return
    options = [None, *presets]
    choose_from(
        "Preset",
        options,
        words=lambda value: _label(presets[value]) if value else "Choose a preset",
        key=f"preset_{scope}",
        on_change=_apply,
        args=(presets, scope),
        placeholder="Choose a preset",
    )


def draw_preset_saving(ctx: Context, person: Person, settings: ChatSettings, *, scope: str) -> None:
    """Draw how to save the settings as a preset, and to delete one's own."""
    with st.expander("Save as preset", icon=":material/bookmark:", key=f"save_preset_{scope}"):
        name = st.text_input("Preset name", key=f"preset_name_{scope}")
        shared = st.toggle("Share with every account", key=f"preset_shared_{scope}")
        if st.button("Save", key=f"preset_save_{scope}", type="primary", disabled=not name.strip()):
            with rerun_after():
                save_preset(ctx, name, settings, is_shared=shared, person=person)
                st.toast(f"Saved {plain(name)}", icon=":material/bookmark:")
        for preset in list_presets(ctx, person=person):
            if preset.is_own:
                draw_confirmed_in_menu(
                    f"Delete {plain(preset.name)}",
                    "Other accounts lose this preset, too." if preset.is_shared else "The preset is deleted.",
                    partial(delete_preset, ctx, preset.id, person=person),
                    key=f"preset_delete_{preset.id}",
                )


def _label(preset: PresetView) -> str:
    return preset.name if preset.is_own else f"{preset.name} (by {preset.owner})"


def filled_values(scope: str) -> dict[str, object]:
    """Return the values that an applied preset fills in, by field; none without one."""
    values: dict[str, object] = st.session_state.get(f"filled_{scope}", {}).get("values", {})
    return values


def widget_key(field: str, *, scope: str) -> str:
    """Return the key of a setting's widget. An applied preset begins new widgets, which start with its values: the
    browser shows a value set in the session's state only where the menu is open in that run.
    """
    times = st.session_state.get(f"filled_{scope}", {}).get("times", 0)
    return f"{field}_{scope}#{times}" if times else f"{field}_{scope}"


@handled
def _apply(presets: dict[str, PresetView], scope: str) -> None:
    if (chosen := presets.get(st.session_state.get(f"preset_{scope}") or "")) is not None:
        fill_settings(chosen.settings, scope=scope)


def fill_settings(settings: AnswerSettings, *, scope: str) -> None:
    """Fill these settings in, in place of what the widgets hold."""
    times = st.session_state.get(f"filled_{scope}", {}).get("times", 0)
    values = {field: getattr(settings, field) for field in AnswerSettings.model_fields}
    st.session_state[f"filled_{scope}"] = {"times": times + 1, "values": values}


def forget_filled(scope: str) -> None:
    """Forget what was filled in, where the widgets begin again with stored values; also of each side."""
    for key in [str(key) for key in st.session_state]:
        if re.match(rf"(filled_|shared_of_|base_of_){re.escape(scope)}(@|$)", key):
            del st.session_state[key]
