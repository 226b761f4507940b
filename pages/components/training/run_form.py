"""Form of a run: the main fields first, the others in tabs, and only those that have an effect in the run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pandas as pd
import streamlit as st

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.training.config import DATASET_KINDS, Objective, RunConfig
from backend.domain.training.config_fields import form_groups, value_at
from backend.domain.training.config_sections import RewardRule
from backend.domain.training.traits import Group
from backend.domain.wording import plural, short
from backend.services.architectures import list_architectures
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from backend.services.tokenizers.tokenizers import list_tokenizers
from pages.components.frame import plain
from pages.components.labels import OBJECTIVES
from pages.components.training.config_fields import ON_FORM, PREFIX, count_changed, draw_fields, get_field, set_field

ABOVE_TABS = (Group.MAIN, Group.METHOD)
METHODS = {"full": "All weights", "lora": "Adapters (LoRA)", "qlora": "Adapters on a base of few bits (QLoRA)"}
FRESH, ONWARD = "A new network", "A base, going on"
INLINE = "(the one in the YAML)"


@dataclass(frozen=True)
class FormState:
    """What the form holds: the values given, and what is still missing, in words that follow “Choose ”."""

    values: dict[str, Any]
    missing: list[str] = field(default_factory=list)


ROWS, EDITOR = "launch_reward_rows", "launch_rewards"


def fill_form(config: RunConfig) -> None:
    """Put a config into the form, and let the next launch from it be a new run."""
    st.session_state["launch_nonce"] = uuid4().hex
    for path in ON_FORM:
        set_field(path, value_at(config, path))
    fill_rewards(config.grpo.rewards)
    st.session_state["launch_inline"] = config.architecture if isinstance(config.architecture, ArchitectureConfig) else None
    st.session_state[PREFIX + "name"] = config.name
    st.session_state[PREFIX + "objective"] = config.objective.value
    st.session_state[PREFIX + "method"] = config.method
    st.session_state[PREFIX + "start"] = ONWARD if config.base else FRESH
    st.session_state[PREFIX + "prompts"] = "\n".join(config.sample_prompts)
    wanted = {"dataset": config.dataset, "architecture": config.architecture, "tokenizer": config.tokenizer, "base": config.base}
    st.session_state["launch_wanted"] = {
        name: (INLINE if isinstance(value, ArchitectureConfig) else value) for name, value in wanted.items() if value
    }
    for name in wanted:
        st.session_state.pop(PREFIX + name, None)


def draw_run_form(ctx: Context, *, named: bool = True) -> FormState:
    """Draw the form and return what it holds; a run of a sweep is not `named` here."""
    values: dict[str, Any] = {}
    missing: list[str] = []
    objective = Objective(
        st.segmented_control(
            "Objective", list(OBJECTIVES), key=PREFIX + "objective", format_func=OBJECTIVES.__getitem__, required=True, wrap=True
        )
        or Objective.PRETRAIN
    )
    values["objective"] = objective.value
    values["dataset"] = _choose("dataset", "Dataset", _dataset_options(ctx, objective), missing, "a dataset")
    method = _draw_start(ctx, objective, values, missing)
    st.space("small")
    groups = form_groups(_value_getter(objective, method))
    draw_fields([path for group in ABOVE_TABS for path in groups[group]], values)
    if objective is Objective.GRPO:
        values.setdefault("grpo", {})["rewards"] = draw_rewards()
    _draw_advanced({group: paths for group, paths in groups.items() if group not in ABOVE_TABS}, values)
    if named:
        values["name"] = _draw_name()
    return FormState(values, missing)


def _draw_name() -> str:
    return st.text_input("Name", key=PREFIX + "name", max_chars=120, placeholder="Made up from dataset and base when empty") or ""


def _value_getter(objective: Objective, method: str) -> Callable[[str], Any]:
    """Return a function that reads the form's values by path; objective and method have widgets of their own."""
    chosen = {"objective": objective.value, "method": method}
    return lambda path: chosen[path] if path in chosen else get_field(path)


def _draw_advanced(groups: Mapping[Group, list[str]], values: dict[str, Any]) -> None:
    changed = count_changed(path for paths in groups.values() for path in paths)
    told = f"{changed} differ{'s' if changed == 1 else ''} from the defaults" if changed else "all as by default"
    with st.expander(f"Advanced · {told}", key="launch_advanced", icon=":material/tune:"):
        for tab, paths in zip(st.tabs(list(groups), key="launch_tabs"), groups.values(), strict=True):
            with tab:
                draw_fields(paths, values)
                if "sample_tokens" in paths:
                    prompts = st.text_area("Sample prompts, one a line", key=PREFIX + "prompts", height=100) or ""
                    values["sample_prompts"] = tuple(line for line in prompts.splitlines() if line.strip())


def _draw_start(ctx: Context, objective: Objective, values: dict[str, Any], missing: list[str]) -> str:
    """Draw what the run begins with; return its method."""
    if objective is Objective.PRETRAIN:
        st.session_state.setdefault(PREFIX + "start", FRESH)
        if st.segmented_control("Start from", [FRESH, ONWARD], key=PREFIX + "start", required=True) != ONWARD:
            _draw_network(ctx, values, missing)
            return "full"
    values["base"] = _choose("base", "Base: the checkpoint to start from", _base_options(ctx), missing, "a base")
    st.session_state.setdefault(PREFIX + "method", "full")
    method = st.segmented_control("Method", list(METHODS), key=PREFIX + "method", required=True, format_func=METHODS.__getitem__)
    values["method"] = method
    return str(method)


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


def _base_options(ctx: Context) -> dict[str, str]:
    """Return the checkpoints that are there: name to label. A recipe may call one by its run or its id."""
    ready = list_checkpoints(ctx, ready=True)
    options = {c.name: f"{c.name}" + (f" · {short(c.parameters)} parameters" if c.parameters else "") for c in ready}
    wanted = st.session_state.get("launch_wanted", {}).get("base")
    if wanted and wanted not in options:
        of_run = next((c for c in ready if wanted in (c.run, c.run_id, c.id)), None)
        if of_run is not None:
            st.session_state["launch_wanted"] = {**st.session_state["launch_wanted"], "base": of_run.name}
    return options


def _dataset_options(ctx: Context, objective: Objective) -> dict[str, str]:
    """Return the datasets that fit an objective: name to label."""
    options: dict[str, str] = {}
    for dataset in list_datasets(ctx, kinds=DATASET_KINDS[objective]):
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


KINDS = ("exact", "contains", "regex", "length")


def fill_rewards(rules: Sequence[RewardRule]) -> None:
    """Put rules into the table. Only before it is drawn."""
    st.session_state[ROWS] = [rule.model_dump() for rule in rules] or [RewardRule(kind="exact").model_dump()]
    st.session_state.pop(EDITOR, None)


def draw_rewards() -> list[dict[str, Any]]:
    """Draw the table and return its rows as values of `grpo.rewards`."""
    rows = st.session_state.setdefault(ROWS, [RewardRule(kind="exact").model_dump()])
    start = pd.DataFrame(rows, columns=["kind", "weight", "pattern", "target"]).astype({"weight": float, "pattern": str})
    st.caption("Rewards: what a completion is worth, added up.")
    table = st.data_editor(
        start,
        key=EDITOR,
        num_rows="dynamic",
        hide_index=True,
        alt="Rewards",
        column_config={
            "kind": st.column_config.SelectboxColumn(
                "Rule",
                options=KINDS,
                required=True,
                default="exact",
                help="exact: equals the row's answer. contains: holds it. regex: the pattern is found. length: full at the target.",
            ),
            "weight": st.column_config.NumberColumn("Weight", default=1.0, required=True, format="%g"),
            "pattern": st.column_config.TextColumn("Pattern", default="", max_chars=500, help="For regex."),
            "target": st.column_config.NumberColumn("Target, tokens", default=0, min_value=0, step=1, help="For length."),
        },
    )
    return [
        {
            "kind": row["kind"],
            "weight": float(row["weight"]) if pd.notna(row["weight"]) else 1.0,
            "pattern": row["pattern"] if isinstance(row["pattern"], str) else "",
            "target": int(row["target"]) if pd.notna(row["target"]) else 0,
        }
        for row in table.to_dict("records")
        if isinstance(row["kind"], str) and row["kind"]
    ]
