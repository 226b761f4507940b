"""Aliases: the checkpoint that holds each, the endpoints that follow it, its decisions, and the way back."""

from __future__ import annotations

import streamlit as st

from backend.services.context import Context, Person
from backend.services.serving.aliases import AliasView, list_aliases
from pages.components import routes
from pages.components.battles.promotion import draw_alias_rollback, draw_decision
from pages.components.frame import plain
from pages.components.links import row_link


def draw_aliases(ctx: Context, person: Person) -> None:
    """Draw every alias; nothing where there is none."""
    aliases = list_aliases(ctx)
    if not aliases:
        return
    st.subheader("Aliases", anchor=False)
    for alias in aliases:
        with st.container(border=True):
            _draw_alias(ctx, person, alias)


def _draw_alias(ctx: Context, person: Person, alias: AliasView) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{plain(alias.name)}**", width="content")
        if alias.checkpoint_id and alias.checkpoint:
            query = {"checkpoint": alias.checkpoint_id}
            row_link(alias.checkpoint, page=routes.CHECKPOINTS, query=query, key=f"holder_{alias.id}")
            st.space("stretch")
            row_link("Lineage", page=routes.LINEAGE, query=query, key=f"alias_lineage_{alias.id}")
        draw_alias_rollback(ctx, person, alias)
    followers = f"Followed by {', '.join(alias.endpoints)}." if alias.endpoints else "No endpoint follows it."
    apart = "".join(f" {name} serves {served} until the alias is moved." for name, served in alias.apart.items())
    st.caption(plain(followers + apart))
    with st.expander("History", icon=":material/history:", key=f"alias_history_{alias.id}"):
        for row in alias.history:
            draw_decision(row)
