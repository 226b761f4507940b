"""Settings: what is in force, where it comes from, and the variable that changes it. Read only."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context, Person
from pages.components import routes
from pages.components.frame import page_frame, plain
from pages.components.links import page_link
from pages.components.tables import draw_table


def draw_environment(ctx: Context, person: Person) -> None:
    """Draw the settings of this process, those that were set first."""
    if not person.is_admin:
        st.info("Admins see the settings of the installation.", icon=":material/lock:")
        return
    st.caption(
        f"Read at the start. To change one, set its variable in {plain(ctx.settings_file)} or in the environment, then"
        " `roundhouse down` and `roundhouse up`. Workers on other machines have an environment of their own."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input("Find", key="find", bind="query-params", placeholder="Variable or meaning", width=320)
        only_set = st.toggle("Only what was set", key="settings_set")
        st.space("stretch")
        page_link(routes.COSTS, "Prices")
        page_link(routes.PEOPLE, "Keys and accounts")
    words = text.casefold().split()
    rows = [
        {"Variable": one.variable, "Value": one.value, "From": one.source, "Meaning": one.meaning.replace("`", "")}
        for one in sorted(ctx.settings, key=lambda one: one.source == "default")
        if all(word in f"{one.variable} {one.meaning}".casefold() for word in words)
        and not (only_set and one.source == "default")
    ]
    draw_table(rows, key="settings", alt="Settings of the installation")
    if not rows:
        st.caption("No setting matches.")


with page_frame("Settings", "What is in force, where it comes from, and what changes it.") as (context_, person_):
    draw_environment(context_, person_)
