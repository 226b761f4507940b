"""The form of an architecture: a field each, what is impossible beside the field at fault, and what the network would cost."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st
from pydantic import ValidationError
from streamlit.delta_generator import DeltaGenerator

from backend.domain.architecture import FIELD_HELP, ArchitectureConfig
from backend.domain.consequences import ArchitectureReport, describe
from backend.domain.shape_rules import problems_by_field
from backend.services.context import Context
from backend.services.tokenizers import list_tokenizers
from pages.components.architecture_figures import parameters_bar
from pages.components.frame import plain
from pages.components.words import short, size

FIELDS: dict[str, str] = {
    "num_layers": "Layers",
    "width": "Width",
    "num_heads": "Heads",
    "num_kv_heads": "Key/value heads",
    "context": "Context, tokens",
    "feed_forward": "Feed-forward",
}
OWN_VOCABULARY = "another size"


def set_fields(config: ArchitectureConfig) -> None:
    """Put a config into the form's fields. Only before they are drawn."""
    for field in (*FIELDS, "vocab_size"):
        st.session_state[f"architecture_{field}"] = str(getattr(config, field))
    st.session_state["architecture_rope_theta"] = f"{config.rope_theta or 10_000:g}"
    st.session_state["architecture_tie_embeddings"] = config.tie_embeddings
    st.session_state.pop("architecture_tokenizer", None)


def draw_form(ctx: Context) -> ArchitectureConfig | None:
    """Draw the fields, with what is impossible beside the one at fault; return the config, or None while it is impossible."""
    if "architecture_width" not in st.session_state:
        set_fields(ArchitectureConfig())
    texts: dict[str, str] = {}
    slots: dict[str, DeltaGenerator] = {}
    fields = list(FIELDS.items())
    for pair in zip(fields[::2], fields[1::2], strict=True):
        for column, (field, label) in zip(st.columns(2), pair, strict=True):
            with column:
                texts[field], slots[field] = _draw_field(field, label)
    texts["vocab_size"], slots["vocab_size"] = _draw_vocabulary(ctx)
    tied = st.toggle("Tie embeddings", key="architecture_tie_embeddings", help=FIELD_HELP["tie_embeddings"])
    with st.expander("Positions"):
        texts["rope_theta"], slots["rope_theta"] = _draw_field("rope_theta", "RoPE base")
    problems, config = check_fields(texts, tie_embeddings=tied)
    for field, problem in problems.items():
        slots.get(field, slots["width"]).markdown(f":red[:material/error: {plain(problem)}]")
    return config


def _draw_field(field: str, label: str, *, disabled: bool = False) -> tuple[str, DeltaGenerator]:
    """Draw one number, read as it is typed, and the place under it for what is wrong with it."""
    text = st.text_input(label, key=f"architecture_{field}", help=FIELD_HELP[field], live="200ms", disabled=disabled)
    return text or "", st.container()


def _draw_vocabulary(ctx: Context) -> tuple[str, DeltaGenerator]:
    """Take the vocabulary from a tokenizer, or let it be typed."""
    tokenizers = {t.name: int(t.vocab_size or 0) for t in list_tokenizers(ctx, ready=True)}
    current = str(st.session_state["architecture_vocab_size"])
    matching = next((name for name, entries in tokenizers.items() if str(entries) == current), OWN_VOCABULARY)
    options = [*tokenizers, OWN_VOCABULARY]
    left, right = st.columns(2)
    with left:
        chosen = st.selectbox(
            "Vocabulary of", options, index=options.index(matching), key="architecture_tokenizer",
            help="The tokenizer decides how many tokens there are.",
        )  # fmt: skip
    if chosen in tokenizers:
        st.session_state["architecture_vocab_size"] = str(tokenizers[chosen])
    with right:
        return _draw_field("vocab_size", "Vocabulary, tokens", disabled=chosen in tokenizers)


def check_fields(texts: dict[str, str], *, tie_embeddings: bool) -> tuple[dict[str, str], ArchitectureConfig | None]:
    """Return what is impossible, by field and in words, and the config if nothing is."""
    problems: dict[str, str] = {}
    values: dict[str, Any] = {"tie_embeddings": tie_embeddings}
    for field, text in texts.items():
        cleaned = text.replace(",", "").replace("_", "").replace(" ", "")
        try:
            values[field] = float(cleaned) if field == "rope_theta" else int(cleaned)
        except ValueError:
            problems[field] = f"“{text}” is not a whole number." if cleaned else "Give a number."
    if problems:
        return problems, None
    try:
        return {}, ArchitectureConfig.model_validate(values)
    except ValidationError as error:
        return problems_by_field(error), None


def draw_cost(config: ArchitectureConfig) -> ArchitectureReport:
    """Draw parameters, FLOPs and memory of an architecture."""
    left, right = st.columns(2)
    micro_batch = left.number_input(
        "Sequences at once", 1, 4096, 16, key="architecture_micro_batch", help="Micro-batch of training: only memory depends on it."
    )
    precision: Literal["fp32", "bf16"] = right.selectbox(
        "Precision", ("fp32", "bf16"), key="architecture_precision", help="fp32 on the CPU, bf16 on a GPU."
    )
    report = describe(config, micro_batch=micro_batch, precision=precision)
    grid = st.grid(2, min_column_width=150)
    grid.metric("Parameters", short(report.parameters), border=True, help=f"{report.parameters:,}")
    grid.metric("FLOPs per token, training", short(report.flops_per_token.training), border=True, help=report.conventions[0])
    memory = report.memory_bytes
    grid.metric("Memory to train", size(memory.total), border=True, help=report.conventions[1])
    grid.metric("KV cache per token", size(report.kv_cache_bytes_per_token), border=True, help=report.conventions[2])
    st.caption("Where the parameters are")
    st.plotly_chart(
        parameters_bar(report.parameters_by_component),
        key="architecture_parts",
        config={"displayModeBar": False},
        alt="Parameters by component",
    )
    st.caption(
        f"Memory: weights {size(memory.weights)}, gradients {size(memory.gradients)}, optimizer {size(memory.optimizer)}, "
        f"activations about {size(memory.activations)}."
    )
    return report
