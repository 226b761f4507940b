"""Form that imports votes cast elsewhere as a closed campaign."""

from __future__ import annotations

import streamlit as st

from backend.errors import InvalidInput
from backend.services.battles.vote_imports import import_votes
from backend.services.context import Context, Person
from pages.components import routes
from pages.components.frame import errors_shown


def draw_vote_import(ctx: Context, person: Person) -> None:
    """Draw the form; the campaign of the imported votes opens its own page."""
    st.caption(
        "CSV, JSON lines or a JSON list with the columns prompt, rater, a, b, winner; with prompt_text, answer_a and answer_b texts can "
        "be read beside the votes and trained on."
    )
    upload = st.file_uploader("File of votes", type=["csv", "jsonl", "json"], key="votes_file")
    name = st.text_input("Name", key="votes_name", max_chars=120, placeholder="Votes of last year")
    if st.button("Import", key="votes_import", type="primary", icon=":material/upload:", disabled=upload is None or not name.strip()):
        with errors_shown():
            assert upload is not None
            try:
                text = upload.getvalue().decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise InvalidInput(f"“{upload.name}” is not UTF-8 text.", remedy="Save it as UTF-8.", field="votes") from error
            campaign = import_votes(ctx, name=name, text=text, person=person)
            st.switch_page(routes.BATTLES, query_params={"campaign": campaign.id})
