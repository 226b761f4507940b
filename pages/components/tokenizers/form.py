"""Form that trains a tokenizer."""

from __future__ import annotations

import uuid

import streamlit as st

from backend.domain.tokenizers.config import KIND_TEXTS, TokenizerConfig
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.tokenizers.tokenizers import TokenizerView, train_tokenizer
from pages.components import routes
from pages.components.forms import draw_fields
from pages.components.frame import empty_state, errors_shown, object_heading
from pages.components.numbers import number_form, wrong_numbers

LEARNS_FROM = ("text", "chat", "instruction", "preference")


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
        grid = st.grid(4, min_column_width=180)
        values = draw_fields(TokenizerConfig, key="tokenizer", place=grid)
        config = TokenizerConfig(**values)
        dataset = grid.selectbox(
            "Dataset", labels, index=first, key="tokenizer_dataset", help="Trained on its train split."
        )
        name = grid.text_input(
            "Name", value=(suggested := _suggest(dataset, config)), key=f"tokenizer_name_{suggested}"
        )
        st.caption(KIND_TEXTS[config.kind])
        st.session_state.setdefault("tokenizer_once", uuid.uuid4().hex)
        if st.button(
            "Train", type="primary", icon=":material/play_arrow:", key="tokenizer_train", disabled=bool(wrong_numbers())
        ):
            with errors_shown():
                return train_tokenizer(
                    ctx,
                    name=name or "",
                    dataset=dataset,
                    config=config,
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


def _suggest(dataset: str, config: TokenizerConfig) -> str:
    name, _, version = dataset.rpartition("@")
    name = name if version == "1" else f"{name}-v{version}"
    return f"{name}-bytes" if config.kind == "byte" else f"{name}-{config.kind}-{config.vocab_size}"
