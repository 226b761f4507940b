"""Form of a chat's settings: endpoints, system prompt, sampling, schema and tools; presets of them, and the team's
prompts: chosen by name, their variables filled in, and changes saved.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any

import streamlit as st
from pydantic import ValidationError
from streamlit.delta_generator import DeltaGenerator

from backend.domain.evaluation.prompts import PromptText
from backend.domain.json_values import FieldValues
from backend.domain.serving.chat import (
    FILTER_LABELS,
    MAX_COLUMNS,
    AnswerSettings,
    ChatSettings,
    SideSettings,
    escaped,
    own_words,
    setting_words,
    system_words,
)
from backend.domain.serving.protocol import MAX_SEED
from backend.domain.validation import describe_fault, validation_message
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.serving.chat.presets import PresetView, delete_preset, list_presets, save_preset
from backend.services.serving.conversations import ConversationView
from backend.services.serving.endpoints import EndpointView, describe_same_models
from backend.services.serving.prompts import get_prompt, list_prompt_names, save_prompt
from pages.components import routes
from pages.components.browser.chat.component import ChatDraft
from pages.components.choices import choose_from
from pages.components.confirm import close_menu, draw_confirmed_in_menu, menu_key
from pages.components.frame import errors_shown, handled, plain, rerun_after, spoken
from pages.components.links import page_link
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.serving.chat_menu import draw_chosen_endpoints, draw_code

SETTINGS_WIDTH = 480
"""Pixels: the menu is as wide on each of its tabs."""
CHAT_TEMPERATURE, TEXT_TEMPERATURE = 0.7, 0.8
"""Defaults for an answer and for the continuation of a text: at 0, *Regenerate* would repeat it."""

PENALTIES = {
    "frequency_penalty": "Lowers tokens by how often the answer has them. 0: off.",
    "presence_penalty": "Lowers tokens that the answer has at all. 0: off.",
    "repetition_penalty": "Divides the scores of tokens in prompt and answer. 1: off.",
}
JSON_FIELDS = {"json_schema": "JSON schema", "tools": "Tools"}
"""Fields whose value is too long to repeat beside its problem."""

CHOSEN_LAST = "chat_endpoints_last"
"""Session key of the endpoints that a new conversation begins with."""
BLIND_LAST = "chat_blind_last"
"""Session key of whether a new conversation begins blind: who compares so saw the names at the next one."""


@number_form
def draw_settings(
    ctx: Context,
    person: Person,
    endpoints: Sequence[EndpointView],
    conversation: ConversationView | None,
    *,
    requested: str | None,
) -> ChatSettings | None:
    """Draw endpoints and settings of the next turn; None where they are not valid, with the problem shown."""
    names = [endpoint.name for endpoint in endpoints]
    stored = conversation.settings if conversation else None
    begins = stored.endpoints if stored else [requested] if requested else st.session_state.get(CHOSEN_LAST, ())
    chosen = [name for name in begins if name in names] or names[:1]
    scope = conversation.id if conversation else "new"
    if f"endpoints_{scope}" not in st.session_state:  # the form begins again, as after another page
        forget_filled(scope)
    with st.container(horizontal=True, vertical_alignment="bottom", key="chat_settings"):
        sides = choose_sides(names, chosen, scope=scope)
        picked = list(sides.values())
        st.session_state[CHOSEN_LAST] = picked
        blind = st.toggle(
            "Blind",
            value=stored.blind if stored else st.session_state.get(BLIND_LAST, False),
            key=f"blind_{scope}",
            disabled=len(picked) < 2,
            help="Names, speed and length stay hidden until you vote. The answers appear together.",
        )
        st.session_state[BLIND_LAST] = blind
        st.space("stretch")
        chats = any(endpoint.chats for endpoint in endpoints if endpoint.name in picked)
        temperature = CHAT_TEMPERATURE if chats else TEXT_TEMPERATURE
        if stored is None:
            follow_usual_temperature(temperature, scope=scope)
        with st.container(horizontal=True, width="content"):  # wraps as one
            with (
                st.popover("Settings", icon=":material/tune:", key="settings_menu"),
                st.container(width=SETTINGS_WIDTH),
            ):
                everyone, *tabs = st.tabs(["All", *map(plain, sides)]) if len(sides) > 1 else [st.container()]
                with everyone:
                    draw_preset_choice(ctx, person, scope=scope)
                    values, below = draw_values(stored, scope=scope, temperature=temperature)
                    settings, field, problem = _validate(picked, blind=blind, values=values)
                    if wrong := wrong_numbers():  # named below their fields
                        settings, problem = None, wrong[0]
                    elif problem:
                        below.get(field, st).error(plain(problem), icon=":material/error:")
                    if settings is not None:
                        draw_preset_saving(ctx, person, settings, scope=scope)
                if tabs:
                    last_valid = f"shared_of_{scope}"
                    shared = settings or st.session_state.get(last_valid) or ChatSettings(endpoints=tuple(picked))
                    st.session_state[last_valid] = shared
                    own, side_problem = draw_sides(ctx, person, tabs, sides, shared, stored, scope=scope)
                    problem = problem or side_problem
                    settings = None if problem or settings is None else settings.model_copy(update={"sides": own})
            if settings is not None:
                draw_team_prompts(ctx, person, settings, scope=scope)
                with st.popover(
                    "Endpoint" if len(picked) == 1 else "Endpoints", icon=":material/info:", key="card_menu"
                ):
                    draw_chosen_endpoints(ctx, endpoints, settings)
                with st.popover("Code", icon=":material/code:", key="code_menu"):
                    draw_code(ctx, person, conversation, settings)
    if settings is not None:
        draw_active_settings(settings, sides, scope=scope, temperature=temperature)
        if words := describe_same_models(endpoint for endpoint in endpoints if endpoint.name in picked):
            st.caption(plain(f"{words} No vote between their answers, which come from one model."))
    if not picked:
        st.info("Choose an endpoint to chat with.", icon=":material/dns:")
    elif problem:  # the menu may be closed
        st.error(plain(f"Settings. {problem}"), icon=":material/error:")
    return settings


def choose_sides(names: Sequence[str], chosen: Sequence[str], *, scope: str) -> dict[str, str]:
    """Draw the choice of endpoints, one alone once or twice; return the endpoint of each side by the side's name."""
    several = len(st.session_state.get(f"endpoints_{scope}", set(chosen))) > 1
    picked = st.multiselect(
        "Endpoints",
        names,
        default=list(dict.fromkeys(chosen)),
        max_selections=MAX_COLUMNS,
        key=f"endpoints_{scope}",
        help="Up to four: each message goes to all of them, and their answers stand side by side.",
        width=345 if several else 255,  # several have no switch beside them
    )
    sides = {name: name for name in picked}
    if len(picked) == 1 and st.toggle(
        "Answer twice",
        value=len(chosen) > len(set(chosen)),
        key=f"twice_{scope}",
        help="Two answers side by side, each with settings of its own if you like.",
    ):
        sides[f"{picked[0]} (2)"] = picked[0]
    return sides


def draw_sides(
    ctx: Context,
    person: Person,
    tabs: Sequence[DeltaGenerator],
    sides: Mapping[str, str],
    shared: ChatSettings,
    stored: ChatSettings | None,
    *,
    scope: str,
) -> tuple[tuple[SideSettings, ...], str]:
    """Draw what each side has of its own, a tab for each; return it, and a problem."""
    begins = stored if stored and stored.endpoints == tuple(sides.values()) else None
    own, problem = list[SideSettings](), ""
    for column, (tab, side) in enumerate(zip(tabs, sides, strict=True)):
        inner, before = side_scope(scope, side), len(wrong_numbers())
        changes = begins.own(column).changes if begins else {}
        with tab:
            if not st.toggle(
                "Settings of its own",
                value=bool(changes),
                key=f"own_{inner}",
                on_change=handled(forget_filled),
                args=(inner,),
            ):
                st.caption("Answers with the settings of all.")
                own.append(SideSettings())
                continue
            base, changes = st.session_state.get(f"base_of_{inner}", (None, changes))
            now = shared.model_dump(include=set(AnswerSettings.model_fields))
            if base != now:  # the settings of all sides changed
                fill_settings(shared.model_copy(update=changes), scope=inner)
            draw_preset_choice(ctx, person, scope=inner)
            values, below = draw_values(None, scope=inner, temperature=shared.temperature)
            settings, field, fault = _validate([side], blind=False, values=values)
            if wrong := wrong_numbers()[before:]:
                fault = wrong[0]
            elif fault:
                below.get(field, st).error(plain(fault), icon=":material/error:")
        problem = problem or (f"{side}: {fault}" if fault else "")
        valid = settings or shared
        values = {name: getattr(valid, name) for name in AnswerSettings.model_fields}
        own.append(SideSettings(**{name: value for name, value in values.items() if value != getattr(shared, name)}))
        st.session_state[f"base_of_{inner}"] = now, own[-1].changes if settings else changes
    return tuple(own), problem


def side_scope(scope: str, side: str) -> str:
    """Return the scope of the widgets of a side. No endpoint's name has the separator."""
    return f"{scope}@{side}"


def draw_active_settings(settings: ChatSettings, sides: Mapping[str, str], *, scope: str, temperature: float) -> None:
    """Draw what applies to the next answer: the usual sampling as a line, each other setting as a chip that is removed
    by a click, and the system prompt; below, what each side has of its own.
    """
    chips = active_settings(settings, temperature=temperature)
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key=f"chips_{scope}"):
        st.caption(plain(usual_sampling(settings, chips)), width="content")
        for field, words in chips.items():
            usual = {field: temperature if field == "temperature" else ChatSettings.model_fields[field].default}
            draw_chip(field, words, settings.model_copy(update=usual), scope=scope)
    if settings.system.strip():
        with st.expander(plain(system_words(settings)), icon=":material/assignment:", key=f"system_shown_{scope}"):
            st.text(settings.system, width="stretch")
            draw_chip("system", "Remove", settings.model_copy(update={"system": ""}), scope=scope)
    for column, side in enumerate(sides):
        own, inner = settings.own(column), side_scope(scope, side)
        if not own.changes:
            continue
        of_side = settings.of_side(column)
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key=f"chips_{scope}_{column}"):
            st.caption(plain(side), width="content")
            for field, words in zip(own.changes, own_words(own), strict=True):
                draw_chip(field, words, of_side.model_copy(update={field: getattr(settings, field)}), scope=inner)
    if settings.differ:
        st.caption("No vote between sides of different settings: it would count for the model.")


def draw_chip(field: str, words: str, without: ChatSettings, *, scope: str) -> None:
    """Draw a setting as a chip; a click leaves the settings `without` it."""
    st.button(
        plain(words),
        key=f"chip_{field}_{scope}",
        icon=":material/close:",
        icon_position="right",
        help="Remove",
        on_click=handled(fill_settings),
        args=(without,),
        kwargs={"scope": scope},
    )


def usual_sampling(settings: ChatSettings, chips: Mapping[str, str]) -> str:
    """Return the sampling that is as usual, in a line."""
    parts = {
        "temperature": f"temperature {settings.temperature:g}",
        "top_p": f"top p {settings.top_p:g}",
        "max_tokens": f"at most {plural(settings.max_tokens, 'token')}",
    }
    line = " · ".join(words for field, words in parts.items() if field not in chips)
    return line[:1].upper() + line[1:]


def active_settings(settings: ChatSettings, *, temperature: float) -> dict[str, str]:
    """Return what each setting that is not as usual says, by field; `temperature` is the usual one."""
    words = setting_words(settings)
    usual = {name: ChatSettings.model_fields[name].default for name in words} | {"temperature": temperature}
    return {name: text for name, text in words.items() if getattr(settings, name) != usual[name]}


def draw_filters(values: FieldValues, first: Mapping[str, Any], keys: Mapping[str, str], *, scope: str) -> None:
    """Draw what narrows sampling beyond temperature and top p, and the strings that end an answer."""
    with st.expander("Filters, penalties and stop strings", icon=":material/filter_alt:", key=f"filters_{scope}"):
        left, right = st.columns(2)
        values["top_k"] = draw_number(
            left, FILTER_LABELS["top_k"], 0, 1000, first["top_k"], key=keys["top_k"], help="0: no limit."
        )
        values["min_p"] = right.slider(
            FILTER_LABELS["min_p"],
            0.0,
            1.0,
            first["min_p"],
            step=0.01,
            key=keys["min_p"],
            help="Leaves out tokens below this share of the most likely token's probability.",
        )
        for column, name, low, high in (
            (left, "frequency_penalty", -2.0, 2.0),
            (right, "presence_penalty", -2.0, 2.0),
            (left, "repetition_penalty", 0.5, 2.0),
        ):
            start = min(high, max(low, first[name]))
            values[name] = column.slider(
                FILTER_LABELS[name], low, high, start, step=0.05, key=keys[name], help=PENALTIES[name]
            )
        chosen = right.multiselect(
            "Stop strings",
            [escaped(text) for text in first["stop"]],
            [escaped(text) for text in first["stop"]],
            key=keys["stop"],
            accept_new_options=True,
            max_selections=4,
            placeholder="Type one",
            help=r"The answer ends before the first of them. \n is a line break.",
        )
        values["stop"] = tuple(text.replace("\\n", "\n") for text in chosen)


def _validate(
    picked: Sequence[str], *, blind: bool, values: Mapping[str, object]
) -> tuple[ChatSettings | None, str, str]:
    """Return the settings, or the field at fault and its problem; neither without an endpoint."""
    if not picked:
        return None, "", ""
    try:
        return ChatSettings(endpoints=tuple(picked), blind=blind and len(picked) > 1, **values), "", ""
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        if field not in JSON_FIELDS:
            return None, field, validation_message(error)
        return None, field, f"{JSON_FIELDS[field]}: {describe_fault(first)}"


def draw_values(stored: ChatSettings | None, *, scope: str, temperature: float) -> tuple[FieldValues, FieldValues]:
    """Draw system prompt, sampling, schema and tools with stored values or those of a preset; return them, and by field
    the places for problems below it.
    """
    default = stored or ChatSettings(endpoints=("any",), temperature=temperature)
    first = {field: getattr(default, field) for field in AnswerSettings.model_fields} | filled_values(scope)
    keys = {field: widget_key(field, scope=scope) for field in AnswerSettings.model_fields}
    values: FieldValues = {
        "system": st.text_area(
            "System prompt", first["system"], key=keys["system"], placeholder="You are …", height=100
        ),
    }
    left, right = st.columns(2)
    greedy = "0 always takes the most likely token."
    values["temperature"] = left.slider(
        "Temperature", 0.0, 2.0, first["temperature"], step=0.05, key=keys["temperature"], help=greedy
    )
    values["top_p"] = right.slider("Top p", 0.05, 1.0, first["top_p"], step=0.05, key=keys["top_p"])
    values["max_tokens"] = draw_number(left, "Max new tokens", 1, 100_000, first["max_tokens"], key=keys["max_tokens"])
    same = "The same seed gives the same answer."
    values["seed"] = draw_number(
        right, "Seed", 0, MAX_SEED, first["seed"], key=keys["seed"], placeholder="random", help=same
    )
    probabilities = "Stores each token's probability and alternatives."
    values["token_view"] = st.toggle(
        "Token probabilities", first["token_view"], key=keys["token_view"], help=probabilities
    )
    draw_filters(values, first, keys, scope=scope)
    with st.expander("JSON schema and tools", icon=":material/data_object:", key=f"structure_{scope}"):
        schema, tools = '{"type": "object", …}', '[{"type": "function", …}]'
        values["json_schema"] = st.text_area(
            "JSON schema of the answer", first["json_schema"], key=keys["json_schema"], placeholder=schema, height=100
        )
        below = {"json_schema": st.empty()}
        values["tools"] = st.text_area(
            "Tools, in OpenAI's format", first["tools"], key=keys["tools"], placeholder=tools, height=100
        )
        below["tools"] = st.empty()
    return values, below


def draw_preset_choice(ctx: Context, person: Person, *, scope: str) -> None:
    """Draw the presets; choosing one fills in the fields below."""
    presets = {preset.id: preset for preset in list_presets(ctx, person=person)}
    if not presets:
        return
    options = [None, *presets]
    choose_from(
        "Preset",
        options,
        words=lambda value: _preset_label(presets[value]) if value else "Choose a preset",
        key=f"preset_{scope}",
        on_change=_apply_preset,
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


def _preset_label(preset: PresetView) -> str:
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
def _apply_preset(presets: dict[str, PresetView], scope: str) -> None:
    if (chosen := presets.get(st.session_state.get(f"preset_{scope}") or "")) is not None:
        fill_settings(chosen.settings, scope=scope)


def fill_settings(settings: AnswerSettings, *, scope: str) -> None:
    """Fill these settings in, in place of what the widgets hold."""
    times = st.session_state.get(f"filled_{scope}", {}).get("times", 0)
    values = {field: getattr(settings, field) for field in AnswerSettings.model_fields}
    st.session_state[f"filled_{scope}"] = {"times": times + 1, "values": values}


def follow_usual_temperature(temperature: float, *, scope: str) -> None:
    """Fill in the usual temperature of the endpoints, unless another one than the usual was chosen. A widget whose
    default changes shows it, and sends it once its menu is opened, while the page counts with what it began with.
    """
    before = st.session_state.get(f"usual_{scope}", temperature)
    st.session_state[f"usual_{scope}"] = temperature
    held = {
        field: st.session_state[key]
        for field in AnswerSettings.model_fields
        if (key := widget_key(field, scope=scope)) in st.session_state
    }
    if before != temperature and held.get("temperature") == before:
        times = st.session_state.get(f"filled_{scope}", {}).get("times", 0)
        values = filled_values(scope) | held | {"temperature": temperature}
        st.session_state[f"filled_{scope}"] = {"times": times + 1, "values": values}


def forget_filled(scope: str) -> None:
    """Forget what was filled in, where the widgets begin again with stored values; also of each side."""
    for key in [str(key) for key in st.session_state]:
        if re.match(rf"(filled_|shared_of_|base_of_|usual_){re.escape(scope)}(@|$)", key):
            del st.session_state[key]


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
