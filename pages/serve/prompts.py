"""Prompts of the team: the list, and with `?prompt=` one of them: its versions, what changed, and trying it."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.domain.evaluation.prompts import MAX_SYSTEM, MAX_TEXT, prompt_diff
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.serving.prompts import (
    MAX_NOTE,
    PromptVersionView,
    PromptView,
    VersionLine,
    delete_prompt,
    get_prompt,
    get_version,
    list_team_prompts,
    save_prompt,
)
from pages.components import routes
from pages.components.choices import choose_from
from pages.components.confirm import draw_confirmed
from pages.components.frame import empty_state, object_heading, page_frame, plain, rerun_after
from pages.components.links import back_link, page_link, row_link, set_parameters
from pages.components.numbers import form_button
from pages.components.serving.prompt_matrix import draw_trying
from pages.components.tables import WidgetTable
from pages.components.words import when

TABLE = WidgetTable("prompts", {"Name": 2.4, "Version": 0.8, "Variables": 2.4, "Saved": 1.6})
EXAMPLE = "Summarize the text in one sentence.\n\n{{text}}"


def draw_list(ctx: Context, person: Person) -> None:
    """Draw every prompt whose name holds the words of the search, and the form for a new one."""
    everything = list_team_prompts(ctx)
    with st.expander(
        "New prompt",
        icon=":material/add:",
        expanded=not everything or "new" in st.query_params,
        key="new_prompt",
    ):
        draw_new_prompt(ctx, person)
    if not everything:
        empty_state(
            "No prompt yet. Save one under a name, and everyone can choose it in the playground, try it over "
            "endpoints and rows, and see what changed from version to version."
        )
        return
    query = st.text_input(
        "Search", key="find", bind="query-params", placeholder="Name", icon=":material/search:", width=260
    )
    prompts = list_team_prompts(ctx, query) if query else everything
    if not prompts:
        st.caption("No prompt has these words in its name.")
        return
    with TABLE.frame():
        for prompt in prompts:
            name, version, variables, saved = TABLE.row(prompt.name)
            with name:
                row_link(prompt.name, page=routes.PROMPTS, query={"prompt": prompt.name}, key=f"open_{prompt.name}")
            version.write(str(prompt.number))
            variables.write(plain(", ".join(prompt.variables)) or "–")
            saved.write(plain(saved_words(prompt.author, when(prompt.saved_at, now=ctx.now()))))


def draw_new_prompt(ctx: Context, person: Person) -> None:
    """Draw the form of a new prompt."""
    name = st.text_input("Name", key="new_prompt_name", max_chars=80)
    values = draw_prompt_fields(key="new_prompt", system="", text="")
    missing = {"enter a name": not name.strip(), "enter a message": not values["text"].strip()}
    if form_button("Save", missing, key="save_new_prompt"):
        with rerun_after():
            saved = save_prompt(ctx, name, values, after=0, person=person)
            st.query_params.from_dict({"prompt": saved.name})


def draw_prompt_fields(*, key: str, system: str, text: str) -> dict[str, str]:
    """Draw system prompt and message; return them."""
    return {
        "system": st.text_area(
            "System prompt", system, key=f"{key}_system", max_chars=MAX_SYSTEM, height=90, placeholder="You are …"
        ),
        "text": st.text_area(
            "Message",
            text,
            key=f"{key}_text",
            max_chars=MAX_TEXT,
            height=180,
            placeholder=EXAMPLE,
            help="`{{name}}` is a variable: a row of data, or what you enter in the playground, fills it in.",
        ),
    }


def draw_prompt(ctx: Context, person: Person, name: str) -> None:
    """Draw one prompt: its version, then text, trying and changes as tabs."""
    back_link("All prompts", page=routes.PROMPTS, key="prompts_back")
    prompt = get_prompt(ctx, name)
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(prompt.name, width="content")
        st.space("stretch")
        page_link(routes.PLAYGROUND, "Chat", {"prompt": prompt.name})
        draw_confirmed(
            "Delete",
            f"**{plain(prompt.name)}**, {plural(len(prompt.versions), 'version')} and their matrices are deleted. Tasks"
            " that were made of it stay.",
            partial(delete_and_leave, ctx, prompt.name, person),
            key="delete_prompt",
            type="secondary",
        )
    version = choose_version(ctx, prompt)
    text, trying, changes = st.tabs(["Text", "Try", "Changes"], key="tab", bind="query-params")
    with text:
        draw_prompt_text(ctx, person, prompt, version)
    with trying:
        draw_trying(ctx, person, prompt, version)
    with changes:
        draw_changes(ctx, prompt, version)


def delete_and_leave(ctx: Context, name: str, person: Person) -> None:
    """Delete a prompt and go back to the list."""
    delete_prompt(ctx, name, person=person)
    st.query_params.from_dict({})


def choose_version(ctx: Context, prompt: PromptView) -> PromptVersionView:
    """Draw the choice of a version, which the address keeps, and return it."""
    numbers = [version.number for version in prompt.versions]
    requested = st.query_params.get("version", "")
    known = next((number for number in numbers if str(number) == requested), None)
    if requested and known is None:
        prompt.version(int(requested) if requested.isdecimal() and len(requested) < 10 else 0)  # raises NotFound
    labels = {version.number: version_words(ctx, version) for version in prompt.versions}
    shown = known or prompt.newest.number
    key = f"version_{prompt.name}_{prompt.newest.number}_{shown}"
    chosen = choose_from("Version", numbers, words=labels.__getitem__, key=key, value=shown, width=520)
    if chosen != shown:
        set_parameters(version="" if chosen == prompt.newest.number else str(chosen))
        st.rerun()
    return get_version(ctx, prompt, chosen)


def draw_prompt_text(ctx: Context, person: Person, prompt: PromptView, version: PromptVersionView) -> None:
    """Draw what a version says, to be changed and saved as the next one."""
    key = f"prompt_{version.id}"
    values = draw_prompt_fields(key=key, system=version.body.system, text=version.body.text)
    if version.body.variables:
        st.caption(plain(f"Variables: {', '.join(version.body.variables)}"))
    is_same = values == {"system": version.body.system, "text": version.body.text}
    is_newest = version.number == prompt.newest.number
    note = st.text_input("Change note", key=f"{key}_note", max_chars=MAX_NOTE, placeholder="Optional")
    missing = {"change something to save it": is_same and is_newest, "enter a message": not values["text"].strip()}
    if form_button(f"Save as version {prompt.newest.number + 1}", missing, key="save_version"):
        with rerun_after():
            saved = save_prompt(ctx, prompt.name, values, note=note, after=prompt.newest.number, person=person)
            st.query_params.pop("version", None)
            st.toast(f"Saved version {saved.newest.number}", icon=":material/check:")


def draw_changes(ctx: Context, prompt: PromptView, version: PromptVersionView) -> None:
    """Draw what differs between the chosen version and another, and every version with its author."""
    others = [other for other in prompt.versions if other.number != version.number]
    if not others:
        st.caption("There is one version. The next one is compared with it here.")
    else:
        before = next((other.number for other in others if other.number < version.number), others[0].number)
        labels = {other.number: version_words(ctx, other) for other in others}
        key = f"compare_{version.id}_{len(others)}"
        other = get_version(
            ctx,
            prompt,
            choose_from("Compare with", labels, key=key, value=before, width=520),
        )
        first, second = sorted((version, other), key=lambda each: each.number)
        st.caption(f"Lines of version {first.number} begin with −, those of version {second.number} with +.")
        difference = prompt_diff(first.body, second.body)
        if difference:
            st.code(difference, language="diff", wrap_lines=True)
        else:
            st.caption("No differences.")
    for each in prompt.versions:
        st.caption(plain(version_words(ctx, each)))


def version_words(ctx: Context, version: VersionLine) -> str:
    """Return number, author, time and note of a version in a line."""
    saved = saved_words(version.author, when(version.saved_at, now=ctx.now()))
    return f"Version {version.number} · {saved}" + (f" · {version.note}" if version.note else "")


def saved_words(author: str, time: str) -> str:
    """Return who saved when."""
    return f"{author}, {time}" if author else time


with page_frame("Prompts", "Prompts of the team, with versions and variables.", objects=["prompt"], way_back=True) as (
    context_,
    person_,
):
    if prompt_ := st.query_params.get("prompt"):
        draw_prompt(context_, person_, prompt_)
    else:
        draw_list(context_, person_)
