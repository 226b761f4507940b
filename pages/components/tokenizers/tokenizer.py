"""One tokenizer: facts, tokens of a text, users, settings."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.states import ACTIVE
from backend.domain.tokenizers.config import KIND_LABELS
from backend.domain.wording import plural
from backend.services.context import Context, Person
from backend.services.tokenizers.sources import TokenizerSource, resolve_source
from backend.services.tokenizers.tokenizers import (
    TokenizerView,
    delete_tokenizer,
    list_running_reports,
    list_tokenizer_users,
    read_tokenizer_file,
    rename_tokenizer,
)
from pages.components import routes
from pages.components.downloads import draw_download
from pages.components.frame import draw_metric, errors_shown, object_heading, plain, rerun_after, show_problem
from pages.components.job_progress import draw_job
from pages.components.links import page_link, row_link
from pages.components.tokenizers.report import draw_reports
from pages.components.tokenizers.text import draw_text
from pages.components.words import size, when

PAGE = routes.TOKENIZERS
MAX_USERS = 50


def draw_tokenizer(ctx: Context, person: Person, tokenizer: TokenizerView) -> None:
    """Draw a tokenizer: facts, text, users, settings."""
    with st.container(horizontal=True, vertical_alignment="center"):
        object_heading(tokenizer.name, width="content")
        st.badge(KIND_LABELS.get(tokenizer.kind, tokenizer.kind), color="gray")
    if not tokenizer.is_ready:
        _draw_unready(ctx, person, tokenizer)
        return
    _draw_facts(tokenizer)
    source = resolve_source(ctx, f"tokenizer:{tokenizer.id}")
    _draw_next(ctx, tokenizer, source)
    text, report, users, settings = st.tabs(
        ["Tokenize a text", "Reports", "Used by", "Rename or delete"], key="tab", bind="query-params"
    )
    if text.open:
        with text:
            draw_text(ctx, [source], key=tokenizer.id)
    if report.open:
        with report:
            draw_reports(ctx, person, [source])
    if users.open:
        with users:
            _draw_users(ctx, tokenizer)
    if settings.open:
        with settings:
            _draw_settings(ctx, person, tokenizer)


def _draw_unready(ctx: Context, person: Person, tokenizer: TokenizerView) -> None:
    if tokenizer.status in ACTIVE and tokenizer.job_id is not None:
        draw_job(ctx, person, tokenizer.job_id, doing=f"Training on {tokenizer.dataset}")
        return
    show_problem(f"Training failed: {tokenizer.error.cause or 'it was stopped.'}", tokenizer.error.remedy)
    with st.container(horizontal=True, vertical_alignment="center"):
        query = {"train": "1", **({"dataset": tokenizer.dataset} if tokenizer.dataset else {})}
        row_link("Train again", page=PAGE, query=query, key=f"again_{tokenizer.id}")
        if st.button("Remove this entry", key=f"forget_{tokenizer.id}", icon=":material/delete:"):
            with errors_shown():
                delete_tokenizer(ctx, tokenizer.id, person=person)
                st.switch_page(PAGE, query_params={})


def _draw_facts(tokenizer: TokenizerView) -> None:
    facts = tokenizer.facts
    grid = st.grid(4, min_column_width=150)
    requested, made = facts.asked_vocab_size, tokenizer.vocab_size or 0
    draw_metric(grid, "Vocabulary, tokens", f"{made:,}")
    rate = facts.bytes_per_token
    part = "validation split" if facts.measured_on == "val" else "train split"
    draw_metric(
        grid,
        "Bytes per token",
        f"{rate:.2f}" if rate else "–",
        help=f"On the {part} of its dataset. Reports measure several tokenizers on the same text.",
    )
    if facts.sample_bytes and tokenizer.kind != "byte":
        rows, total = facts.sample_rows, facts.total_rows
        part = "All rows." if rows == total else f"{rows:,} of {plural(total, 'row')}, sampled evenly."
        draw_metric(grid, "Trained on", size(facts.sample_bytes), help=part)
    draw_metric(grid, "Made", when(tokenizer.created_at))
    if requested and requested > made:
        st.caption(f":material/info: {requested:,} tokens were requested; the text yields no more than {made:,}.")


def _draw_next(ctx: Context, tokenizer: TokenizerView, source: TokenizerSource) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        if tokenizer.dataset:
            name, _, version = tokenizer.dataset.rpartition("@")
            page_link(routes.DATASETS, plain(tokenizer.dataset), {"dataset": name, "version": version})
        row_link(
            "Compare with others", page=PAGE, query={"compare": source.ref}, icon="compare", key="tokenizer_compare"
        )
        page_link(routes.ARCHITECTURES, "Design an architecture", {"tokenizer": tokenizer.name})
        draw_download(
            "tokenizer.json",
            lambda: read_tokenizer_file(ctx, tokenizer.id),
            "tokenizer.json",
            key=f"download_{tokenizer.id}",
            type="tertiary",
            help="Loads with tokenizers and transformers.",
        )


def _draw_users(ctx: Context, tokenizer: TokenizerView) -> None:
    users = list_tokenizer_users(ctx, tokenizer.id)
    if not users:
        st.caption("No run uses it yet.")
        page_link(routes.LAUNCH, "Launch a run")
        return
    st.caption(f"It belongs to {plural(len(users), 'run')}. Their checkpoints contain it, so it can't be deleted.")
    for use in users[:MAX_USERS]:
        row_link(use.name, page=routes.RUN, query={"run": use.id}, icon="show_chart", key=f"user_{use.id}")
    if len(users) > MAX_USERS:
        st.caption(f"and {len(users) - MAX_USERS:,} more")


def _draw_settings(ctx: Context, person: Person, tokenizer: TokenizerView) -> None:
    name = st.text_input("Name", value=tokenizer.name, key=f"name_{tokenizer.id}", width=420)
    with st.container(horizontal=True):
        if st.button("Rename", key=f"rename_{tokenizer.id}", icon=":material/edit:", type="primary"):
            with rerun_after():
                rename_tokenizer(ctx, tokenizer.id, name or "", person=person)
        with st.popover("Delete", icon=":material/delete:", key=f"delete_{tokenizer.id}"):
            _draw_delete(ctx, person, tokenizer)


def _draw_delete(ctx: Context, person: Person, tokenizer: TokenizerView) -> None:
    if users := list_tokenizer_users(ctx, tokenizer.id):
        st.markdown("In use, so it can't be deleted. Delete these runs first:")
        st.markdown("\n".join(f"- {plain(user.name)}" for user in users[:MAX_USERS]))
        if len(users) > MAX_USERS:
            st.caption(f"and {len(users) - MAX_USERS:,} more")
        return
    if reports := list_running_reports(ctx, tokenizer.id):
        st.markdown("It is being measured, so it can't be deleted. Wait for these jobs, or stop them:")
        st.markdown("\n".join(f"- {plain(title)}" for title in reports))
        return
    st.markdown("Its files and the reports on it are deleted permanently.")
    if st.button("Delete", key=f"delete_yes_{tokenizer.id}", type="primary"):
        with errors_shown():
            delete_tokenizer(ctx, tokenizer.id, person=person)
            st.toast(f"Deleted {plain(tokenizer.name)}.", icon=":material/delete:")
            st.switch_page(PAGE, query_params={})
