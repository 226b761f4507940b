"""Dialog that makes a dataset of an endpoint's traffic: filter, sample, review, create."""

from __future__ import annotations

import streamlit as st

from backend.domain.serving.request_log import TrafficRules
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.request_log.datasets import (
    NEEDS,
    Exchange,
    TrafficObjective,
    TrafficPreview,
    make_traffic_dataset,
    preview_traffic,
)
from pages.components import routes
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, plain
from pages.components.links import page_link
from pages.components.numbers import number_form, wrong_numbers

OBJECTIVES: dict[TrafficObjective, str] = {
    "sft": "SFT: chats",
    "kto": "KTO: good and bad answers",
    "preference": "Preference: pairs",
}
REVIEWED = 100
TRAFFIC_OF = "traffic_of"
"""Key of the session state: the endpoint whose dialog is to open, and the ids of requests that it is limited to."""


def draw_traffic_dataset(ctx: Context, person: Person) -> None:
    """Open the dialog that was of_user for."""
    if TRAFFIC_OF in st.session_state:
        open_traffic_dataset(ctx, person, *st.session_state.pop(TRAFFIC_OF))


@st.dialog("Dataset from traffic", width="large")
def open_traffic_dataset(ctx: Context, person: Person, endpoint: str, only: tuple[str, ...]) -> None:
    """Draw the form; its errors too, since none leaves a dialog."""
    with errors_shown():
        draw_traffic_form(ctx, person, endpoint, only)


@number_form
def draw_traffic_form(ctx: Context, person: Person, endpoint: str, only: tuple[str, ...]) -> None:
    """Draw filter, counts, the review and the button."""
    if only:
        st.caption(f"Limited to {plural(len(only), 'request')} of the list.")
    fields = st.grid(2, min_column_width=200)
    objective = fields.selectbox("Rows", list(OBJECTIVES), format_func=OBJECTIVES.__getitem__, key="traffic_objective")
    values = draw_fields(TrafficRules, key="traffic", place=fields)
    rules = TrafficRules(**values, only=only)
    first = preview_traffic(ctx, endpoint, objective=objective, rules=rules, person=person)
    excluded = draw_review(first)
    rules = rules.model_copy(update={"exclude": tuple(excluded)})
    preview = preview_traffic(ctx, endpoint, objective=objective, rules=rules, person=person) if excluded else first
    facts = [plural(len(preview.rows), "row"), f"{preview.scrubbed} texts scrubbed" if preview.scrubbed else ""]
    facts += [f"{count} left out: {reason}" for reason, count in preview.left_out.items()]
    st.caption(plain(" · ".join(filter(None, facts))))
    if not preview.rows:
        st.info(f"A row of this kind needs {NEEDS[objective]}.", icon=":material/info:")
    name = st.text_input("Dataset name", f"{endpoint}-traffic", key="traffic_name")
    if st.button(
        "Create dataset",
        type="primary",
        disabled=not preview.rows or bool(wrong_numbers()),
        key="traffic_make",
        icon=":material/database:",
    ):
        with errors_shown():
            version, count = make_traffic_dataset(
                ctx, endpoint, name=name, objective=objective, rules=rules, person=person
            )
            st.success(f"{plural(count, 'row')} go into {plain(name)}.", icon=":material/check:")
            served = get_endpoint(ctx, endpoint)
            base = {} if served.config.upstream is not None else {"base": served.checkpoint_id}
            with st.container(horizontal=True):
                page_link(routes.DATASETS, "See the dataset", {"dataset": version.dataset_id})
                page_link(routes.LAUNCH, "Train on it", {"dataset": version.label, **base})


def draw_review(preview: TrafficPreview) -> list[str]:
    """Draw the first exchanges that give rows, each with a box to leave it out; return the ids that are left out."""
    excluded = []
    in_rows = {id_ for source in preview.provenance for id_ in source["requests"]}
    exchanges = [exchange for exchange in preview.exchanges if exchange.id in in_rows]
    with st.container(height=360 if len(exchanges) > 3 else "content", border=False):
        for exchange in exchanges[:REVIEWED]:
            with st.container(border=True):
                st.text(_question(exchange)[:400])
                st.text((exchange.correction or exchange.answer)[:400] or "(no text)")
                thumb = {1: "thumb up", -1: "thumb down"}.get(exchange.rating or 0, "not rated")
                said = f"{thumb}{', corrected' if exchange.correction else ', cut off' if exchange.is_cut else ''}"
                if st.checkbox(f"Leave out ({said})", key=f"traffic_out_{exchange.id}"):
                    excluded.append(exchange.id)
    if len(exchanges) > REVIEWED:
        st.caption(f"The first {REVIEWED} of {len(exchanges):,} are shown.")
    return excluded


def _question(exchange: Exchange) -> str:
    """The last message of the user, or the last one at all: a tool's result says little without its question."""
    of_user = [message for message in exchange.messages if message.get("role") == "user"] or exchange.messages
    return str(of_user[-1].get("content") or "") if of_user else ""
