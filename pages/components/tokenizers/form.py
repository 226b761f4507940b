"""Form that trains a tokenizer."""

from __future__ import annotations

import uuid

import streamlit as st

from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.tokenizers.tokenizers import (
    KINDS,
    MAX_VOCABULARY,
    MIN_VOCABULARY,
    TokenizerView,
    train_tokenizer,
)
from pages.components import routes
from pages.components.frame import empty_state, errors_shown, object_heading
from pages.components.numbers import draw_number, number_form, wrong_numbers

LEARNS_FROM = ("text", "chat", "instruction", "preference")
NAMES = {"bpe": "Byte-level BPE", "unigram": "Unigram", "byte": "Bytes"}
USUAL_VOCABULARY = 2048


@number_form
def draw_tokenizer_form(ctx: Context, person: Person) -> TokenizerView | None:
    """Draw the form; return the tokenizer that was launched."""
    object_heading("Train a tokenizer")
    labels = _versions(ctx)
    if not labels:
        empty_state("Training a tokenizer needs a dataset.", page=routes.DATASETS, label="Import a dataset")
        return None
    dataset = st.query_params.get("dataset", "")
    first = next((place for place, label in enumerate(labels) if dataset in (label, label.rpartition("@")[0])), 0)
    with st.container(border=True):
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
            "Dataset", labels, index=first, key="tokenizer_dataset", help="Trained on its train split."
        )
        vocabulary = draw_number(
            middle,
            "Vocabulary, tokens",
            1,
            MAX_VOCABULARY,
            USUAL_VOCABULARY,
            key="tokenizer_vocabulary",
            step=256,
            disabled=kind == "byte",
            help=_vocabulary_help(kind),
        )
        name = right.text_input(
            "Name", value=(suggested := _suggest(dataset, kind, int(vocabulary))), key=f"tokenizer_name_{suggested}"
        )
        st.session_state.setdefault("tokenizer_once", uuid.uuid4().hex)
        if st.button(
            "Train", type="primary", icon=":material/play_arrow:", key="tokenizer_train", disabled=bool(wrong_numbers())
        ):
            with errors_shown():
                return train_tokenizer(
                    ctx,
                    name=name or "",
                    dataset=dataset,
                    vocab_size=int(vocabulary),
                    kind=kind,
                    person=person,
                    idempotency_key=st.session_state.pop("tokenizer_once"),
                )
    return None


def _versions(ctx: Context) -> list[str]:
    """Return the versions to train on: texts first, the newest first within a dataset."""
    usable = [dataset for dataset in list_datasets(ctx) if dataset.kind in LEARNS_FROM]
    usable.sort(key=lambda dataset: LEARNS_FROM.index(dataset.kind))
    return [
        version.label for dataset in usable for version in dataset.versions if version.is_ready and version.train_rows
    ]


def _suggest(dataset: str, kind: str, vocabulary: int) -> str:
    name, _, version = dataset.rpartition("@")
    name = name if version == "1" else f"{name}-v{version}"
    return f"{name}-bytes" if kind == "byte" else f"{name}-{kind}-{vocabulary}"


def _vocabulary_help(kind: str) -> str:
    if kind == "byte":
        return "256 bytes and the special tokens."
    return (
        f"From {MIN_VOCABULARY[kind]} on. More tokens: shorter sequences, and a larger embedding. 2,048 suits a"
        " model of a million parameters, 32,000 one of a billion."
    )
