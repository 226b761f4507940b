"""Tokenizers: train one on a dataset, see what there is."""

from __future__ import annotations

import uuid

import streamlit as st

from backend.domain.job_states import Status
from backend.services.context import Context, Person
from backend.services.datasets import list_datasets
from backend.services.tokenizers import KINDS, TokenizerView, delete_tokenizer, list_tokenizers, rename_tokenizer, train_tokenizer
from pages.components.frame import empty_state, errors_shown, page_frame, plain
from pages.components.job_progress import status_badge
from pages.components.words import ago

SHAPE = [2.6, 1.5, 1.4, 1.6, 2.1, 1.2, 1]
LEARNS_FROM = ("text", "chat", "instruction", "preference")
NAMES = {"bpe": "Byte-level BPE", "byte": "Plain bytes"}


def draw_form(ctx: Context, person: Person) -> None:
    """Draw the form that trains a tokenizer."""
    usable = [dataset for dataset in list_datasets(ctx) if dataset.newest is not None and dataset.kind in LEARNS_FROM]
    if not usable:
        empty_state("A tokenizer learns from a dataset, and there is none yet.", page="build/datasets.py", label="Import a dataset")
        return
    names = [dataset.name for dataset in sorted(usable, key=lambda dataset: LEARNS_FROM.index(dataset.kind))]
    wanted = st.query_params.get("dataset", "")
    with st.container(border=True):
        st.subheader("Train a tokenizer", anchor=False)
        kind = st.segmented_control(
            "Kind",
            list(KINDS),
            default="bpe",
            required=True,
            key="tokenizer_kind",
            format_func=lambda k: NAMES[k],
            label_visibility="collapsed",
        )
        st.caption(KINDS[kind])
        left, middle, right = st.columns(3, vertical_alignment="bottom")
        dataset = left.selectbox(
            "Dataset",
            names,
            index=names.index(wanted) if wanted in names else 0,
            key="tokenizer_dataset",
            help="Its training part is read.",
        )
        vocabulary = middle.number_input(
            "Vocabulary, tokens", 262, 200_000, 2048, step=256, key="tokenizer_vocabulary", disabled=kind == "byte",
            help="More tokens: shorter sequences, and a larger embedding. 2,048 suits a network of a million parameters, 32,000 one of a billion.",
        )  # fmt: skip
        suggested = f"{dataset}-bpe-{vocabulary}" if kind == "bpe" else f"{dataset}-bytes"
        name = right.text_input("Name", value=suggested, key=f"tokenizer_name_{suggested}")
        st.session_state.setdefault("tokenizer_once", uuid.uuid4().hex)
        if st.button("Train", type="primary", icon=":material/play_arrow:", key="tokenizer_train"):
            with errors_shown():
                train_tokenizer(
                    ctx, name=name or "", dataset=dataset, vocab_size=int(vocabulary), kind=kind, person=person,
                    idempotency_key=st.session_state.pop("tokenizer_once"),
                )  # fmt: skip
                st.rerun()


def draw_row(ctx: Context, person: Person, tokenizer: TokenizerView) -> None:
    """Draw one tokenizer."""
    columns = st.columns(SHAPE, vertical_alignment="center")
    columns[0].markdown(f":material/match_word: **{plain(tokenizer.name)}**")
    columns[1].caption(NAMES.get(tokenizer.kind, tokenizer.kind))
    columns[2].text(f"{tokenizer.vocab_size:,} tokens" if tokenizer.vocab_size else "–")
    rate = tokenizer.facts.get("bytes_per_token")
    columns[3].text(f"{rate:.2f} bytes a token" if rate else "–")
    with columns[4]:
        if tokenizer.dataset:
            name = tokenizer.dataset.rpartition("@")[0]
            st.page_link("build/datasets.py", label=plain(tokenizer.dataset), icon=":material/database:", query_params={"dataset": name})
    with columns[5]:
        status_badge(tokenizer.status)
    with columns[6].popover("", icon=":material/more_horiz:", key=f"more_{tokenizer.id}", help="Rename or delete"):
        st.caption(f"Made {ago(tokenizer.created_at)}")
        name = st.text_input("Name", value=tokenizer.name, key=f"name_{tokenizer.id}")
        if st.button("Rename", key=f"rename_{tokenizer.id}", icon=":material/edit:"):
            with errors_shown():
                rename_tokenizer(ctx, tokenizer.id, name or "", person=person)
                st.rerun()
        if st.button("Delete", key=f"delete_{tokenizer.id}", icon=":material/delete:"):
            with errors_shown():
                delete_tokenizer(ctx, tokenizer.id, person=person)
                st.rerun()
    if tokenizer.status is Status.FAILED:
        st.caption(
            f":red[{plain(str(tokenizer.error.get('cause') or 'No cause was reported.'))}] {plain(str(tokenizer.error.get('remedy') or ''))}"
        )


def draw_list(ctx: Context, person: Person) -> None:
    """Draw the tokenizers; fresh every second while one is being trained."""
    active = any(t.status in {Status.QUEUED, Status.RUNNING} for t in list_tokenizers(ctx))

    @st.fragment(run_every=1 if active else None)
    def rows() -> None:
        tokenizers = list_tokenizers(ctx)
        if active and not any(t.status in {Status.QUEUED, Status.RUNNING} for t in tokenizers):
            st.rerun()
        if not tokenizers:
            st.caption("No tokenizers yet. A network needs one before it can be trained from scratch.")
            return
        with st.container(border=True, gap="xsmall"):
            for tokenizer in tokenizers:
                draw_row(ctx, person, tokenizer)

    rows()
    ready = list_tokenizers(ctx, ready=True)
    if ready:
        st.page_link("build/architectures.py", label="Design an architecture for it", icon=":material/schema:")


with page_frame("Tokenizers", "How text is cut into tokens. A tokenizer can write any text, whatever it was trained on.") as (ctx, person):
    draw_form(ctx, person)
    draw_list(ctx, person)
