"""Tokenizers: the list, one tokenizer (`?tokenizer=`), the form (`?train=1`), a comparison (`?compare=`)."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import ACTIVE
from backend.domain.tokenizers.config import KIND_LABELS
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.tokenizers.reports import MAX_TOKENIZERS
from backend.services.tokenizers.sources import list_sources, resolve_source
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer, list_tokenizers
from pages.components.choices import by_identity
from pages.components.frame import empty_state, live_part, object_heading, page_frame, plain, warn_unknown
from pages.components.job_progress import status_badge
from pages.components.links import back_link, row_link
from pages.components.tables import WidgetTable
from pages.components.tokenizers.form import draw_tokenizer_form
from pages.components.tokenizers.report import draw_reports
from pages.components.tokenizers.text import draw_text
from pages.components.tokenizers.tokenizer import PAGE, draw_tokenizer
from pages.components.words import when

TABLE = WidgetTable("tokenizers", {"Name": 2.3, "Facts": 3.6, "Status": 1.3})


def draw_tokenizer_row(tokenizer: TokenizerView) -> None:
    """Draw one row of the list."""
    columns = TABLE.row(tokenizer.id)
    with columns[0]:
        row_link(tokenizer.name, page=PAGE, query={"tokenizer": tokenizer.id}, key=f"open_{tokenizer.id}")
    rate = tokenizer.facts.bytes_per_token
    facts = [
        KIND_LABELS.get(tokenizer.kind, tokenizer.kind),
        f"{tokenizer.vocab_size:,} tokens" if tokenizer.vocab_size else "",
        f"{rate:.2f} bytes per token" if rate else "",
        f"from {plain(tokenizer.dataset)}" if tokenizer.dataset else "",
        when(tokenizer.created_at),
    ]
    columns[1].caption(" · ".join(fact for fact in facts if fact))
    with columns[2]:
        status_badge(tokenizer.status)


def draw_tokenizer_list(ctx: Context) -> None:
    """Draw the tokenizers with a search, refreshed every second while one is being trained."""
    with st.container(horizontal=True, vertical_alignment="center"):
        text = st.text_input(
            "Search", key="tokenizers_search", placeholder="Search", label_visibility="collapsed", width=280
        )
        st.space("stretch")
        if st.button("Compare", icon=":material/compare:", key="tokenizers_compare"):
            st.switch_page(PAGE, query_params={"compare": ",".join(source.ref for source in list_sources(ctx)[:2])})
        if st.button("Train a tokenizer", type="primary", icon=":material/add:", key="tokenizers_train"):
            st.switch_page(PAGE, query_params={"train": "1"})
    active = any(tokenizer.status in ACTIVE for tokenizer in list_tokenizers(ctx))

    @live_part(1 if active else None)
    def rows() -> None:
        tokenizers = [
            one for one in list_tokenizers(ctx) if text.lower() in f"{one.name} {one.kind} {one.dataset}".lower()
        ]
        if active and not any(tokenizer.status in ACTIVE for tokenizer in tokenizers):
            st.rerun()
        if not tokenizers:
            empty_state(
                f"Nothing here matches “{plain(text)}”."
                if text
                else "No tokenizers yet. Training from scratch needs one."
            )
            return
        with TABLE.frame():
            for tokenizer in tokenizers:
                draw_tokenizer_row(tokenizer)

    rows()


def draw_tokenizer_comparison(ctx: Context, person: Person) -> None:
    """Draw several tokenizers on one text, then reports on datasets."""
    object_heading("Compare tokenizers")
    sources = {source.ref: source for source in list_sources(ctx)}
    refs = []
    for ref in filter(None, st.query_params["compare"].split(",")):
        try:
            source = resolve_source(ctx, ref)
        except RoundhouseError:
            warn_unknown("tokenizer", ref, instead="it may have been deleted")
            continue
        sources.setdefault(source.ref, source)
        refs.append(source.ref)
    if not sources:
        empty_state("No tokenizers yet, neither trained here nor of a base.", page=PAGE, label="Train one")
        return
    chosen = st.multiselect(
        "Tokenizers",
        list(sources),
        default=list(dict.fromkeys(refs))[:MAX_TOKENIZERS],
        max_selections=MAX_TOKENIZERS,
        key="compare_tokenizers",
        format_func=by_identity(
            "compare_tokenizers",
            sources,
            lambda ref: sources[ref].name + ("" if sources[ref].kind == "tokenizer" else " (base)"),
        ),
        placeholder="Tokenizers",
        help="Your own and those of bases. Checkpoints of runs have the tokenizer they were trained with.",
    )
    if not chosen:
        st.caption("Choose at least one tokenizer.")
        return
    among = [sources[ref] for ref in chosen]
    draw_text(ctx, among, key="compare")
    st.subheader("On datasets", anchor=False)
    draw_reports(ctx, person, among)


with page_frame(
    "Tokenizers",
    "Train, inspect and compare tokenizers. Those trained here can encode any text.",
    objects=["tokenizer", "train", "dataset", "compare"],
) as (ctx, person):
    if "train" in st.query_params or "dataset" in st.query_params:
        back_link("All tokenizers", page=PAGE, key="tokenizers_back")
        made = draw_tokenizer_form(ctx, person)
        if made is not None:
            st.switch_page(PAGE, query_params={"tokenizer": made.id})
    elif "tokenizer" in st.query_params:
        back_link("All tokenizers", page=PAGE, key="tokenizers_back")
        draw_tokenizer(ctx, person, get_tokenizer(ctx, st.query_params["tokenizer"]))
    elif "compare" in st.query_params:
        back_link("All tokenizers", page=PAGE, key="tokenizers_back")
        draw_tokenizer_comparison(ctx, person)
    else:
        draw_tokenizer_list(ctx)
