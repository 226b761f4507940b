"""Form of an inspection: a text or a conversation, perhaps a second checkpoint, and earlier inspections."""

from __future__ import annotations

from functools import partial

import streamlit as st

from backend.domain.checkpoints.inspection import MAX_CHARACTERS, MAX_TOKENS, InspectedMessage, InspectionConfig
from backend.errors import InvalidInput
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.checkpoints.inspections import (
    InspectionView,
    delete_inspection,
    launch_inspection,
    list_inspections,
)
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.choices import choose_from, choose_one
from pages.components.confirm import draw_confirmed
from pages.components.frame import errors_shown, plain
from pages.components.job_progress import status_badge
from pages.components.links import row_link
from pages.components.words import when

PAGE = routes.INSPECT
EXAMPLE = "Once upon a time a miller lived by the river. Every morning the miller"
WAYS = {"text": "Text", "chat": "Conversation"}
HELP = f"Analyzes the first {MAX_TOKENS} tokens, or as many as the model's context holds."


def draw_inspection_form(
    ctx: Context, person: Person, checkpoint: CheckpointView, inspection: InspectionView | None
) -> None:
    """Draw the form, filled in from `inspection`. Analyzing leads to the result, which may be stored already."""
    config_before = (
        inspection.config if inspection is not None and inspection.config.of_text else InspectionConfig(text=EXAMPLE)
    )
    tag = inspection.id if inspection is not None else checkpoint.id
    with st.container(border=True):
        way = choose_one(
            "Input", WAYS, default="chat" if config_before.messages else "text", key=f"inspect_way_{tag}", is_bare=True
        )
        if way == "chat":
            messages = _draw_conversation(config_before, tag)
        else:
            text = st.text_area(
                "Text",
                value=config_before.text or EXAMPLE,
                key=f"inspect_text_{tag}",
                height=110,
                max_chars=MAX_CHARACTERS,
                help=HELP,
            )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            beside = _draw_other(ctx, checkpoint, inspection, tag)
            if st.button("Analyze", type="primary", icon=":material/troubleshoot:", key="inspect_analyze"):
                with errors_shown():
                    config = InspectionConfig(messages=messages) if way == "chat" else InspectionConfig(text=text or "")
                    if not config.of_text:
                        raise InvalidInput("The text is empty.", remedy="Type a text to analyze.", field="text")
                    made = launch_inspection(
                        ctx, checkpoint=checkpoint.id, config=config, against=beside, person=person
                    )
                    st.switch_page(PAGE, query_params=query_of(checkpoint, made))
            _draw_earlier(ctx, person, checkpoint)
        st.caption(HELP)


def query_of(checkpoint: CheckpointView, inspection: InspectionView) -> dict[str, str]:
    """Return the address of an inspection, which is that of its first checkpoint."""
    return {"checkpoint": inspection.checkpoint_id or checkpoint.id, "inspection": inspection.id}


def _draw_conversation(config: InspectionConfig, tag: str) -> tuple[InspectedMessage, ...]:
    """Draw the three turns of a conversation; return those that are not empty."""
    messages = {message.role: message.content for message in config.messages}
    system = st.text_input(
        "System (optional)", value=messages.get("system", ""), key=f"inspect_system_{tag}", max_chars=MAX_CHARACTERS
    )
    left, right = st.columns(2)
    user = left.text_area(
        "User",
        value=messages.get("user", "" if config.messages else "What is the capital of France?"),
        key=f"inspect_user_{tag}",
        height=110,
        max_chars=MAX_CHARACTERS,
        help="Rendered with the checkpoint's chat template.",
    )
    assistant = right.text_area(
        "Assistant (optional)",
        value=messages.get("assistant", "" if config.messages else "Paris."),
        key=f"inspect_assistant_{tag}",
        height=110,
        max_chars=MAX_CHARACTERS,
        help="The loss of the answer is reported separately.",
    )
    turns = (("system", system), ("user", user), ("assistant", assistant))
    return tuple(
        InspectedMessage.model_validate({"role": role, "content": content})
        for role, content in turns
        if (content or "").strip()
    )


def _draw_other(ctx: Context, checkpoint: CheckpointView, inspection: InspectionView | None, tag: str) -> str | None:
    """Draw the choice of a second checkpoint and return its id."""
    names = {one.id: one.name for one in list_checkpoints(ctx, ready=True) if one.id != checkpoint.id}
    other_id = inspection.other_id if inspection is not None else st.query_params.get("against")
    if other_id and other_id not in names and inspection is not None and inspection.other:
        names[other_id] = inspection.other  # archived, or the checkpoint itself
    options = ["", *names]
    chosen = choose_from(
        "Compare with",
        options,
        words=lambda k: names.get(k, "None"),
        key=f"inspect_beside_{tag}",
        value=other_id or "",
        width=380,
        help="A second checkpoint on the same text, to see where their predictions diverge.",
    )
    return chosen or None


def _draw_earlier(ctx: Context, person: Person, checkpoint: CheckpointView) -> None:
    """Draw the earlier inspections of a text, each leading to its result."""
    earlier = [inspection for inspection in list_inspections(ctx, checkpoint.id) if inspection.config.of_text]
    if not earlier:
        return
    with st.popover(
        "Earlier inspections", icon=":material/history:", key=f"inspect_earlier_{checkpoint.id}", width="content"
    ):
        for inspection in earlier:
            with st.container(horizontal=True, vertical_alignment="center"):
                row_link(
                    inspection.label,
                    page=PAGE,
                    query=query_of(checkpoint, inspection),
                    icon="notes",
                    key=f"open_{inspection.id}",
                )
                if not inspection.is_ready:
                    status_badge(inspection.status)
                beside = f"{plain(inspection.checkpoint)} and {plain(inspection.other)}, " if inspection.other else ""
                st.caption(f"{beside}{when(inspection.created_at, now=ctx.now())}", width="content")
                draw_confirmed(
                    "",
                    "The inspection is deleted; the checkpoint stays.",
                    partial(_delete, ctx, person, inspection.id, checkpoint.id),
                    key=f"forget_{inspection.id}",
                )


def _delete(ctx: Context, person: Person, inspection_id: str, checkpoint_id: str) -> None:
    delete_inspection(ctx, inspection_id, person=person)
    st.switch_page(PAGE, query_params={"checkpoint": checkpoint_id})
