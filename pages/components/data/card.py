"""Dataset card of a version: editable facts, preview, download."""

from __future__ import annotations

import streamlit as st

from backend.domain.data.versions.card import LICENCES
from backend.services.context import Context, Person
from backend.services.data.cards import download_link, render_card, set_card
from backend.services.data.views import VersionView
from pages.components.frame import errors_shown, plain, without_images
from pages.components.words import size


def draw_data_card(ctx: Context, person: Person, version: VersionView) -> None:
    """Draw the form, the card and the download."""
    facts = version.facts.card
    with st.container(border=True):
        with st.container(horizontal=True):
            known = [*LICENCES, *([facts.licence] if facts.licence and facts.licence not in LICENCES else [])]
            licence = st.selectbox(
                "Licence",
                known,
                index=known.index(facts.licence) if facts.licence else None,
                key=f"licence_{version.id}",
                width=300,
                accept_new_options=True,
                placeholder="not stated",
                help="A licence id of the Hugging Face Hub, or free text.",
            )
            languages = st.text_input(
                "Languages",
                value=", ".join(facts.languages),
                key=f"languages_{version.id}",
                width=300,
                placeholder="en, de",
                help="ISO 639 codes.",
            )
        notes = st.text_area(
            "Notes",
            value=facts.notes,
            key=f"card_notes_{version.id}",
            height=140,
            max_chars=20_000,
            placeholder="What the rows are, who wrote them, intended use and limits. Markdown.",
        )
        with st.container(horizontal=True, vertical_alignment="center"):
            if st.button("Save card", type="primary", icon=":material/save:", key=f"card_save_{version.id}"):
                with errors_shown():
                    set_card(
                        ctx,
                        version.id,
                        licence=licence or "",
                        languages=languages or "",
                        notes=notes or "",
                        person=person,
                    )
                    st.rerun()
            st.link_button(
                f"Download with its rows, {size(version.bytes)}",
                download_link(ctx, version, person=person),
                icon=":material/download:",
                help="A zip file of README.md and Parquet, as `datasets.load_dataset` and the Hub read it.",
            )
    _, front, text = render_card(ctx, version.id, hashed=False).split("---\n", 2)
    st.caption(f"README.md of {plain(version.label)}; in the download it lists the files' hashes, too.")
    shown, facts_tab = st.tabs(["Preview", "YAML"], key="card_view", bind="query-params")
    with shown, st.container(border=True):
        st.markdown(without_images(text))
    facts_tab.code(front.strip(), language="yaml", wrap_lines=True, height=380)
