"""The form of a run: the schema's fields as widgets, and what is still missing in words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import streamlit as st

from backend.domain.architecture import ArchitectureConfig
from backend.domain.run_config import DATASET_KINDS, Objective, RunConfig
from backend.services.architectures import list_architectures
from backend.services.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.datasets import list_datasets
from backend.services.tokenizers import list_tokenizers
from pages.components.config_fields import LABELS, PREFIX, draw_field, set_field
from pages.components.frame import plain
from pages.components.run_widgets import OBJECTIVES
from pages.components.words import plural, short

SIMPLE = ("max_steps", "learning_rate", "micro_batch", "context")
GROUPS: dict[str, tuple[str, ...]] = {
    "Schedule and optimizer": (
        "schedule", "warmup_steps", "min_learning_rate", "grad_accum_steps", "weight_decay", "grad_clip", "beta1", "beta2", "seed",
    ),
    "Measurements, checkpoints and samples": ("eval_every", "eval_batches", "checkpoint_every", "keep_last", "sample_tokens"),
}  # fmt: skip
HARDWARE = ("device", "precision", "compile", "priority", "recompute")
INLINE = "(the one in the YAML)"


@dataclass(frozen=True)
class FormState:
    """What the form holds: the values given, and what is still missing, in words that follow “Choose ”."""

    values: dict[str, Any]
    missing: list[str] = field(default_factory=list)


def fill_form(config: RunConfig) -> None:
    """Put a config into the form, and let the next launch from it be a new run."""
    st.session_state["launch_nonce"] = uuid4().hex
    for name in LABELS:
        set_field(name, getattr(config, name))
    st.session_state["launch_inline"] = config.architecture if isinstance(config.architecture, ArchitectureConfig) else None
    st.session_state[PREFIX + "name"] = config.name
    st.session_state[PREFIX + "objective"] = config.objective.value
    st.session_state[PREFIX + "method"] = config.method
    st.session_state[PREFIX + "rank"] = config.lora.rank
    st.session_state[PREFIX + "alpha"] = config.lora.alpha
    st.session_state[PREFIX + "lora_dropout"] = config.lora.dropout
    st.session_state[PREFIX + "beta"] = config.preference.beta
    st.session_state[PREFIX + "prompts"] = "\n".join(config.sample_prompts)
    wanted = {"dataset": config.dataset, "architecture": config.architecture, "tokenizer": config.tokenizer, "base": config.base}
    st.session_state["launch_wanted"] = {
        name: (INLINE if isinstance(value, ArchitectureConfig) else value) for name, value in wanted.items() if value
    }
    for name in wanted:
        st.session_state.pop(PREFIX + name, None)


def draw_run_form(ctx: Context) -> FormState:
    """Draw the form and return what it holds."""
    values: dict[str, Any] = {}
    missing: list[str] = []
    objective = st.segmented_control(
        "Objective", list(OBJECTIVES), key=PREFIX + "objective", format_func=OBJECTIVES.__getitem__, required=True
    )
    values["objective"] = objective
    values["dataset"] = _choose("dataset", "Dataset", _dataset_options(ctx, str(objective)), missing, "a dataset")
    if objective == Objective.PRETRAIN.value:
        _draw_network(ctx, values, missing)
    else:
        _draw_base(ctx, values, missing)
    st.space("small")
    _draw_fields(SIMPLE, values, columns=4)
    with st.expander("Advanced", icon=":material/tune:"):
        for title, names in GROUPS.items():
            st.caption(title)
            _draw_fields(names, values, columns=4)
        if objective == Objective.DPO.value:
            beta = st.number_input("Beta", min_value=0.001, key=PREFIX + "beta", format="%g", help="Strength of the pull to the reference.")
            values["preference"] = {"beta": float(beta)}
        prompts = st.text_area("Sample prompts, one a line", key=PREFIX + "prompts", height=100) or ""
        values["sample_prompts"] = tuple(line for line in prompts.splitlines() if line.strip())
    with st.expander("Where it runs", icon=":material/memory:"):
        _draw_fields(HARDWARE, values, columns=4)
    values["name"] = st.text_input("Name", key=PREFIX + "name", max_chars=120, placeholder="Made up from dataset and base when empty") or ""
    return FormState(values, missing)


def _draw_network(ctx: Context, values: dict[str, Any], missing: list[str]) -> None:
    left, right = st.columns(2)
    options = {a.name: f"{a.name} · {short(a.parameters)} parameters" for a in list_architectures(ctx)}
    if st.session_state.get("launch_inline") is not None:
        options[INLINE] = INLINE
    with left:
        chosen = _choose("architecture", "Architecture", options, missing, "an architecture")
    values["architecture"] = st.session_state["launch_inline"] if chosen == INLINE else chosen
    tokenizers = {
        t.name: f"{t.name} · {plural(t.vocab_size, 'token') if t.vocab_size else 'being trained'}"
        for t in list_tokenizers(ctx)
        if not t.error
    }
    with right:
        values["tokenizer"] = _choose("tokenizer", "Tokenizer", tokenizers, missing, "a tokenizer")


def _draw_base(ctx: Context, values: dict[str, Any], missing: list[str]) -> None:
    options = {
        c.name: f"{c.name}" + (f" · {short(c.parameters)} parameters" if c.parameters else "") for c in list_checkpoints(ctx, ready=True)
    }
    wanted = st.session_state.get("launch_wanted", {}).get("base")
    if wanted and wanted not in options:
        of_run = next((c for c in list_checkpoints(ctx, ready=True) if wanted in (c.run, c.run_id, c.id)), None)
        if of_run is not None:
            st.session_state["launch_wanted"] = {**st.session_state["launch_wanted"], "base": of_run.name}
    values["base"] = _choose("base", "Base: the checkpoint to start from", options, missing, "a base")
    values["method"] = st.segmented_control(
        "Method", ["full", "lora"], key=PREFIX + "method", required=True,
        format_func={"full": "All weights", "lora": "Low-rank adapters (LoRA)"}.__getitem__,
    )  # fmt: skip
    if values["method"] == "lora":
        left, middle, right = st.columns(3)
        rank = left.number_input("Rank", 1, 1024, step=1, key=PREFIX + "rank", help="Larger adapters can learn more and cost more.")
        alpha = middle.number_input(
            "Alpha", min_value=0.001, key=PREFIX + "alpha", format="%g", help="Scale of the adapters: alpha / rank."
        )
        dropout = right.number_input("Dropout", 0.0, 0.99, key=PREFIX + "lora_dropout", format="%g")
        values["lora"] = {"rank": int(rank), "alpha": float(alpha), "dropout": float(dropout)}


def _dataset_options(ctx: Context, objective: str) -> dict[str, str]:
    """Return the datasets that fit an objective: name to label."""
    options: dict[str, str] = {}
    for dataset in list_datasets(ctx, kinds=DATASET_KINDS[Objective(objective)]):
        newest = dataset.newest
        if newest is not None and (newest.is_ready or newest.is_importing):
            rows = plural(newest.train_rows, "row") if newest.is_ready else "being imported"
            options[dataset.name] = f"{dataset.name} · {dataset.kind}, {rows}"
    wanted = st.session_state.get("launch_wanted", {}).get("dataset", "")
    if "@" in wanted and wanted.split("@")[0] in options:
        options[wanted] = wanted
    return options


def _choose(name: str, label: str, options: dict[str, str], missing: list[str], what: str) -> str | None:
    """Draw a choice among rows. What the recipe names is chosen; if it is not there, that is said and something is missing."""
    key = PREFIX + name
    wanted = st.session_state.get("launch_wanted", {}).get(name)
    if st.session_state.get(key) not in options:
        st.session_state[key] = wanted if wanted in options else next(iter(options)) if wanted is None and len(options) == 1 else None
    chosen = st.selectbox(
        label, list(options), key=key, format_func=options.__getitem__, placeholder=f"Choose {what}" if options else "There is none yet"
    )
    if chosen is None:
        missing.append(what)
        if wanted and wanted not in options:
            st.caption(f":material/info: The recipe wants {name} “{plain(wanted)}”, which is not there.")
    return chosen


def _draw_fields(names: tuple[str, ...], values: dict[str, Any], *, columns: int) -> None:
    with st.grid(columns, min_column_width=140):
        for name in names:
            values[name] = draw_field(name)
