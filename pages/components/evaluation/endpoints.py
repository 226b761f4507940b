"""Endpoints as subjects: their choice in the form, the list with the form that registers another API, and the link of
an evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from backend.domain.evaluation.endpoints import EndpointConfig
from backend.services.context import Context, Person
from backend.services.evaluation.endpoints import (
    EvaluatedEndpointView,
    add_endpoint,
    list_evaluated,
    read_endpoint_config,
    remove_endpoint,
)
from backend.services.evaluation.evaluations import EvaluationView
from pages.components import routes
from pages.components.choices import by_identity
from pages.components.confirm import draw_confirmed
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, object_heading, plain
from pages.components.links import chat_endpoints, draw_chat_link, row_link
from pages.components.numbers import form_button, number_form
from pages.components.tables import WidgetTable

PAGE = routes.EVALUATIONS
TABLE = WidgetTable("endpoints", {"Endpoint": 2.2, "Model": 1.8, "Address": 2.2, "API": 1.8, "Safety": 1.2, "": 1.0})


def choose_endpoints(
    endpoints: Mapping[str, EvaluatedEndpointView], *, endpoint_key: str | None, max_selections: int
) -> list[str]:
    """Draw the choice of endpoints, if there are any; return the keys of those chosen."""
    if not endpoints:
        return []
    return st.multiselect(
        "Endpoints",
        list(endpoints),
        default=[endpoint_key] if endpoint_key in endpoints else [],
        format_func=by_identity(
            f"eval_subject_endpoints_{endpoint_key}", endpoints, lambda key: subject_name(endpoints[key])
        ),
        max_selections=max_selections,
        key=f"eval_subject_endpoints_{endpoint_key}",
        placeholder="None",
        help=(
            "Endpoints of this installation, and models of other APIs, answer over HTTP. Tasks of generated answers"
            " need nothing else; those of log-likelihoods need an API that echoes a prompt with its log-probabilities."
        ),
    )


def subject_name(endpoint: EvaluatedEndpointView) -> str:
    """Return an endpoint's name with where it runs."""
    return f"{endpoint.name} (this installation)" if endpoint.is_own else f"{endpoint.name} ({endpoint.config.model})"


def subject_label(evaluation: EvaluationView) -> str:
    """Return the name of what was evaluated, marked where it is an endpoint: a checkpoint may have the same."""
    return f"{evaluation.checkpoint} (endpoint)" if evaluation.endpoint else evaluation.checkpoint


def draw_subject(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw the links from an evaluation to what it measured, and to the form for it."""
    endpoint = evaluation.endpoint
    if endpoint is None:
        checkpoint = evaluation.checkpoint_id or ""
        row_link(evaluation.checkpoint, page=routes.CHECKPOINTS, query={"checkpoint": checkpoint}, key="eval_subject")
        row_link("New evaluation", page=PAGE, query={"checkpoint": checkpoint}, icon="add", key="eval_more")
        draw_chat_link(checkpoint, chat_endpoints(ctx))
        return
    if endpoint.is_own:
        row_link(endpoint.name, page=routes.ENDPOINTS, query={"name": endpoint.name}, key="eval_subject")
    else:
        st.caption(plain(f"Endpoint, {endpoint.config.model} at {endpoint.config.url}"), width="content")
    row_link("New evaluation", page=PAGE, query={"endpoint": endpoint.key}, icon="add", key="eval_more")


def draw_evaluated_endpoints(ctx: Context, person: Person) -> None:
    """Draw the endpoints that can be evaluated, and the form that registers another API."""
    object_heading("Evaluated endpoints")
    st.caption(
        "Endpoints of this installation can be evaluated while they run. A model of another OpenAI-compatible API is"
        " added once."
    )
    endpoints = list_evaluated(ctx)
    if endpoints:
        with TABLE.frame():
            for endpoint in endpoints:
                _draw_row(ctx, person, endpoint)
    with st.expander("Add an API", icon=":material/add_link:", expanded=not endpoints, key="endpoint_new"):
        if person.id is None:
            _draw_form(ctx, person)
        else:
            st.caption(
                "The server calls the address and sends it a key, so the operator adds it: `roundhouse eval endpoint"
                " add`."
            )


def _draw_row(ctx: Context, person: Person, endpoint: EvaluatedEndpointView) -> None:
    columns = TABLE.row(endpoint.key)
    with columns[0]:
        row_link(
            endpoint.name,
            page=PAGE,
            query={"endpoint": endpoint.key},
            icon="dns",
            key=f"endpoint_{endpoint.key}",
            help="Evaluate it",
        )
    columns[1].text(endpoint.config.model)
    columns[2].text("this installation" if endpoint.is_own else endpoint.config.url)
    offers = endpoint.capabilities
    named = {"chat": offers.chat, "completions": offers.completions, "log-likelihoods": offers.echo}
    columns[3].caption(", ".join(name for name, is_offered in named.items() if is_offered))
    with columns[4]:
        query = {"safety_of": endpoint.key}
        row_link("Card", page=PAGE, query=query, icon="shield", key=f"endpoint_safety_{endpoint.key}")
    if endpoint.is_own or not person.may_build:
        return
    with columns[5]:
        draw_confirmed(
            "Remove",
            f"**{plain(endpoint.name)}** leaves this list; to add it again takes its key. Its evaluations stay.",
            lambda: remove_endpoint(ctx, endpoint.id, person=person),
            key=f"endpoint_remove_{endpoint.id}",
            icon="link_off",
        )


@number_form
def _draw_form(ctx: Context, person: Person) -> None:
    name = st.text_input("Name", key="endpoint_name", max_chars=80, help="Shown on boards and in results.")
    values = draw_fields(EndpointConfig, key="endpoint", columns=2)
    missing = {
        "enter a name": not name.strip(),
        "enter the address": not values["url"],
        "enter the model": not values["model"],
    }
    if form_button("Add", missing, key="endpoint_add", icon="add_link"):
        with errors_shown(), st.spinner("Asking the API what it offers"):
            add_endpoint(ctx, name=name, config=read_endpoint_config(**values), person=person)
            st.rerun()
    st.caption("Adding sends up to three requests of one token.")
