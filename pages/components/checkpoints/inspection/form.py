"""The question to a checkpoint: a text or a conversation, and perhaps a second checkpoint; and what was asked before."""

from __future__ import annotations

import streamlit as st

from backend.domain.checkpoints.inspection_config import MAX_CHARACTERS, MAX_TOKENS, ChatMessage, ReadingConfig
from backend.errors import InvalidInput
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.checkpoints.inspections import ReadingView, delete_reading, launch_reading, list_readings
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.frame import errors_shown, plain
from pages.components.job_progress import status_badge
from pages.components.links import row_link
from pages.components.words import ago

PAGE = routes.INSPECT
EXAMPLE = "Once upon a time a miller lived by the river. Every morning the miller"
WAYS = {"text": "Text", "chat": "Conversation"}
HELP = f"At most {MAX_TOKENS} tokens are read, fewer where the network's context is shorter; what follows is left out."


def draw_form(ctx: Context, person: Person, checkpoint: CheckpointView, reading: ReadingView | None) -> None:
    """Draw the form, filled with what `reading` asked. Asking leads to the answer, which may be stored already."""
    asked = reading.config if reading is not None and reading.config.of_text else ReadingConfig(text=EXAMPLE)
    tag = reading.id if reading is not None else checkpoint.id
    with st.container(border=True):
        way = st.segmented_control(
            "What is read",
            list(WAYS),
            default="chat" if asked.messages else "text",
            required=True,
            format_func=lambda k: WAYS[k],
            key=f"inspect_way_{tag}",
            label_visibility="collapsed",
        )
        if way == "chat":
            parts = _draw_conversation(asked, tag)
        else:
            text = st.text_area(
                "Text", value=asked.text or EXAMPLE, key=f"inspect_text_{tag}", height=110, max_chars=MAX_CHARACTERS, help=HELP
            )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            beside = _draw_other(ctx, checkpoint, reading, tag)
            if st.button("Read", type="primary", icon=":material/troubleshoot:", key="inspect_read"):
                with errors_shown():
                    config = ReadingConfig(messages=_messages(*parts)) if way == "chat" else ReadingConfig(text=text or "")
                    if not config.of_text:
                        raise InvalidInput("There is nothing to read.", remedy="Type a text.", field="text")
                    made = launch_reading(ctx, checkpoint=checkpoint.id, config=config, against=beside, person=person)
                    st.switch_page(PAGE, query_params=query_of(checkpoint, made))
            _draw_earlier(ctx, person, checkpoint)
        st.caption(HELP)


def query_of(checkpoint: CheckpointView, reading: ReadingView) -> dict[str, str]:
    """Return the address of a reading. One in which the checkpoint is the second is shown from the first one's side."""
    return {"checkpoint": reading.checkpoint_id or checkpoint.id, "reading": reading.id}


def _draw_conversation(asked: ReadingConfig, tag: str) -> tuple[str, str, str]:
    found = {message.role: message.content for message in asked.messages}
    system = st.text_input("System (may be empty)", value=found.get("system", ""), key=f"inspect_system_{tag}", max_chars=MAX_CHARACTERS)
    left, right = st.columns(2)
    user = left.text_area(
        "User",
        value=found.get("user", "" if asked.messages else "What is the capital of France?"),
        key=f"inspect_user_{tag}",
        height=110,
        max_chars=MAX_CHARACTERS,
        help="Rendered with the checkpoint's own chat template.",
    )
    assistant = right.text_area(
        "Assistant (may be empty)",
        value=found.get("assistant", "" if asked.messages else "Paris."),
        key=f"inspect_assistant_{tag}",
        height=110,
        max_chars=MAX_CHARACTERS,
        help="An answer whose loss is counted on its own.",
    )
    return system or "", user or "", assistant or ""


def _messages(system: str, user: str, assistant: str) -> tuple[ChatMessage, ...]:
    turns = (("system", system), ("user", user), ("assistant", assistant))
    return tuple(ChatMessage.model_validate({"role": role, "content": content}) for role, content in turns if content.strip())


def _draw_other(ctx: Context, checkpoint: CheckpointView, reading: ReadingView | None, tag: str) -> str | None:
    """Draw the choice of a second checkpoint and return its id."""
    names = {one.id: one.name for one in list_checkpoints(ctx, ready=True) if one.id != checkpoint.id}
    wanted = reading.other_id if reading is not None else st.query_params.get("against")
    if wanted and wanted not in names and reading is not None and reading.other:
        names[wanted] = reading.other  # archived, or the checkpoint itself
    options = ["", *names]
    chosen = st.selectbox(
        "Beside",
        options,
        index=options.index(wanted) if wanted in options else 0,
        format_func=lambda k: names.get(k, "no other checkpoint"),
        key=f"inspect_beside_{tag}",
        width=380,
        help="A second checkpoint that reads the same, to see where the two part.",
    )
    return chosen or None


def _draw_earlier(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw what was asked before, each leading to its answer."""
    earlier = [reading for reading in list_readings(ctx, checkpoint.id) if reading.config.of_text]
    if not earlier:
        return
    with st.popover("Earlier readings", icon=":material/history:", key=f"inspect_earlier_{checkpoint.id}", width="content"):
        for reading in earlier:
            with st.container(horizontal=True, vertical_alignment="center"):
                row_link(reading.label, page=PAGE, query=query_of(checkpoint, reading), icon="notes", key=f"open_{reading.id}")
                if not reading.is_ready:
                    status_badge(reading.status)
                beside = f"{plain(reading.checkpoint)} beside {plain(reading.other)}, " if reading.other else ""
                st.caption(f"{beside}{ago(reading.created_at, now=ctx.now())}", width="content")
                if st.button("", icon=":material/delete:", key=f"forget_{reading.id}", type="tertiary", help="Delete this reading"):
                    with errors_shown():
                        delete_reading(ctx, reading.id, person=person)
                        st.switch_page(PAGE, query_params={"checkpoint": checkpoint.id})
