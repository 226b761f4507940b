"""Form of a run: the main fields first, the others in tabs. Fields without effect are hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import pandas as pd
import streamlit as st
from pydantic import ValidationError

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig, count_warmup_steps
from backend.domain.training.config_fields import default_at, form_groups, value_at
from backend.domain.training.config_sections import RewardRule
from backend.domain.training.objectives import Objective, label_of
from backend.domain.training.traits import FieldGroup
from backend.domain.validation import validation_message
from backend.domain.wording import list_first, plural
from backend.services.context import Context
from backend.services.training.defaults import suggest_defaults
from backend.services.training.row_preview import try_rewards
from pages.components.frame import errors_shown, plain
from pages.components.training.config_fields import (
    ON_FORM,
    PREFIX,
    changed_labels,
    draw_choice,
    draw_run_fields,
    forget_typed,
    get_field,
    mark_typed,
    set_choice,
    set_defaults,
    set_field,
    typed_fields,
)
from pages.components.training.part_choices import (
    CONTINUE,
    FROM_SCRATCH,
    INLINE,
    draw_base,
    draw_dataset_choice,
    draw_network,
    forget_requested_parts,
    request_parts,
)

NAMED = 3
ABOVE_TABS = (FieldGroup.MAIN, FieldGroup.METHOD)
ROWS, EDITOR = "launch_reward_rows", "launch_rewards"
DEFAULT_PROMPTS = ("Once upon a time",)
CHAT_PROMPTS = ("What can you help me with?",)
LAST_VALID = "launch_last_valid"
_ORIGIN, _BASIS, _SOURCES = "launch_origin", "launch_basis", "launch_sources"
Origin = Literal["recipe", "copy", "defaults"]


@dataclass(frozen=True)
class FormState:
    """Values of the form, and the choices still missing, as phrases that follow “Choose ”."""

    values: FieldValues
    missing: list[str] = field(default_factory=list)


def fill_form(config: RunConfig, *, origin: Origin, typed: Collection[str] = ()) -> None:
    """Fill the form from a config; the next launch from it is a new run. `typed` are fields that new defaults don't
    overwrite. After a recipe, defaults follow any other choice of parts; in a copy they follow the objective alone,
    and learning rates and adapter the method.
    """
    _start(config.objective, origin)
    typed_fields().update(typed)
    for path in ON_FORM:
        set_field(path, value_at(config, path))
    fill_rewards(config.grpo.rewards)
    inline = config.architecture if isinstance(config.architecture, ArchitectureConfig) else None
    st.session_state["launch_inline"] = inline
    st.session_state[PREFIX + "name"] = config.name
    set_choice("method", config.method)
    set_choice("start", CONTINUE if config.base else FROM_SCRATCH)
    st.session_state[PREFIX + "prompts"] = "\n".join(config.sample_prompts)
    architecture = INLINE if inline is not None else config.architecture
    request_parts(
        dataset=config.dataset, architecture=str(architecture or ""), tokenizer=config.tokenizer, base=config.base
    )


def start_form(objective: Objective, **parts: str | None) -> None:
    """Start a form for given parts, with their default values."""
    _start(objective, "defaults")
    for path in ON_FORM:
        set_field(path, default_at(path))
    fill_rewards(())
    st.session_state["launch_inline"] = None
    st.session_state[PREFIX + "name"] = ""
    set_choice("method", "full")
    set_choice("start", CONTINUE if parts.get("base") else FROM_SCRATCH)
    request_parts(**parts)


def fill_draft(objective: Objective, held: Mapping[str, Any], inline: ArchitectureConfig | None) -> None:
    """Fill the form with what it held, valid or not. Raises KeyError, TypeError or ValueError for an older draft."""
    fields, parts = dict(held["fields"]), dict(held["parts"])
    origin: Origin = held["origin"] if held["origin"] in ("recipe", "copy") else "defaults"
    _start(objective, origin)
    st.session_state["launch_recipe"] = held.get("recipe") if origin == "recipe" else None
    typed_fields().update(map(str, held["typed"]))
    for path in ON_FORM:
        set_field(path, fields.get(path, default_at(path)))
    st.session_state[ROWS] = list(held["rewards"] or [RewardRule(kind="exact").model_dump()])
    st.session_state.pop(EDITOR, None)
    st.session_state["launch_inline"] = inline
    for name in ("name", "prompts"):
        if held[name] is not None:
            st.session_state[PREFIX + name] = str(held[name])
    for name in ("method", "start"):
        if held[name] is not None:
            set_choice(name, str(held[name]))
    request_parts(**{part: str(name) for part, name in parts.items() if name})


def form_origin() -> str:
    """Return what the form was filled from: a recipe, a copied run, or the defaults of its parts."""
    return str(st.session_state.get(_ORIGIN, "defaults"))


def draw_run_form(ctx: Context, *, named: bool = True, copied: RunConfig | None = None) -> FormState:
    """Draw the form and return its values; a run of a sweep is not `named` here. `copied` is the config of the run that
    it was copied from.
    """
    values: FieldValues = {}
    missing: list[str] = []
    objective = Objective(
        st.selectbox("Objective", [*map(str, Objective)], key=PREFIX + "objective", format_func=label_of, width=320)
    )
    values["objective"] = objective.value
    forget_requested_parts(objective)
    values["dataset"] = draw_dataset_choice(ctx, objective, missing)
    method = _draw_start(ctx, objective, values, missing)
    _follow_choices(ctx, objective, method, values)
    st.space("small")
    groups = form_groups(_value_getter(objective, method))
    _clamp_warmup(groups)
    draw_run_fields([path for group in ABOVE_TABS for path in groups[group]], values)
    _draw_warmup(values)
    if objective.samples:
        values.setdefault("grpo", {})["rewards"] = draw_rewards()
        draw_reward_trial(ctx, values["grpo"]["rewards"], dataset=values["dataset"], base=values.get("base"))
    _draw_advanced({group: paths for group, paths in groups.items() if group not in ABOVE_TABS}, values, copied)
    if named:
        values["name"] = _draw_name()
    return FormState(values, missing)


def _start(objective: Objective, origin: Origin) -> None:
    st.session_state["launch_nonce"] = uuid4().hex
    st.session_state[_ORIGIN] = origin
    st.session_state.pop(_BASIS, None)
    st.session_state.pop(_SOURCES, None)
    st.session_state.pop("launch_last_dataset", None)
    st.session_state.pop(LAST_VALID, None)
    forget_typed()
    set_defaults({})
    st.session_state[PREFIX + "objective"] = objective.value


def _follow_choices(ctx: Context, objective: Objective, method: str, values: Mapping[str, Any]) -> None:
    """Reset untouched fields to their defaults when objective, method, parts, or a value behind others change."""
    network = [str(values.get(part) or "") for part in ("base", "architecture", "tokenizer")]
    basis = [objective.value, method, str(values["dataset"] or ""), *network]
    before, origin = st.session_state.get(_BASIS), st.session_state.get(_ORIGIN)
    typed = typed_fields()
    sources = {path: get_field(path) for path in ON_FORM if path in typed}
    is_same = basis == before and (origin != "defaults" or sources == st.session_state.get(_SOURCES))
    st.session_state[_BASIS], st.session_state[_SOURCES] = basis, sources
    if is_same or (before is None and origin != "defaults") or (origin == "copy" and basis[:2] == (before or [])[:2]):
        _fit_cadence(typed)
        return
    parts = {part: values.get(part) for part in ("dataset", "base", "architecture", "tokenizer")}
    keeps_others = origin == "copy" and basis[0] == (before or [None])[0]
    fixed = typed.union(path for path in ON_FORM if not _follows_method(path)) if keeps_others else typed
    chosen = {path: get_field(path) for path in ON_FORM if path in fixed and get_field(path) is not None}
    suggested = suggest_defaults(ctx, objective=objective, method=method, chosen=chosen, **parts)
    if keeps_others:
        for path in set(suggested).intersection(ON_FORM).difference(fixed):
            set_field(path, suggested[path])
        return
    set_defaults({path: value for path, value in suggested.items() if path not in typed})
    for path in ON_FORM:
        if path not in typed:
            set_field(path, suggested.get(path, default_at(path)))
    if "name" not in typed:
        st.session_state[PREFIX + "name"] = ""
    if "sample_prompts" not in typed:
        usual = DEFAULT_PROMPTS if objective.pretrains else CHAT_PROMPTS
        st.session_state[PREFIX + "prompts"] = "\n".join(suggested.get("sample_prompts", usual))
    st.session_state[_ORIGIN] = "defaults"
    if st.session_state.get("launch_recipe"):  # the form no longer holds its values
        st.session_state["launch_recipe_left"] = True
        st.rerun()


def _follows_method(path: str) -> bool:
    return path.startswith("lora.") or path.endswith("learning_rate")


def _fit_cadence(typed: Collection[str]) -> None:
    """Bring untyped steps between evaluations and checkpoints within a run that became shorter."""
    steps = get_field("max_steps")
    for path, parts in (("eval_every", 10), ("checkpoint_every", 4)):
        if path not in typed and steps and steps >= 1 and (get_field(path) or 0) > steps:
            set_field(path, max(1, int(steps) // parts))


def _clamp_warmup(groups: dict[FieldGroup, list[str]]) -> None:
    """Return an untyped warm-up in steps to the ratio if it is longer than the run."""
    steps, warmup = get_field("max_steps"), get_field("warmup_steps")
    if warmup is None:
        return
    if steps is not None and warmup > steps and "warmup_steps" not in typed_fields():
        set_field("warmup_steps", None)
        groups[FieldGroup.MAIN].append("warmup_ratio")
        return
    groups[FieldGroup.SCHEDULE].remove("warmup_steps")
    groups[FieldGroup.MAIN].append("warmup_steps")


def _draw_warmup(values: Mapping[str, Any]) -> None:
    """Draw the warm-up in steps where the form has it as a ratio."""
    steps, ratio = values.get("max_steps"), values.get("warmup_ratio")
    if steps and steps > 0 and ratio is not None and 0 <= ratio <= 1:
        st.caption(f"Warm-up: {count_warmup_steps(ratio, steps):,} of {plural(steps, 'step')}.")


def _draw_name() -> str:
    return st.text_input(
        "Name",
        key=PREFIX + "name",
        max_chars=120,
        placeholder="Generated if left empty",
        on_change=mark_typed,
        args=("name",),
    )


def _value_getter(objective: Objective, method: str) -> Callable[[str], Any]:
    """Return a function that reads the form's values by path; objective and method have widgets of their own."""
    chosen = {"objective": objective.value, "method": method}
    return lambda path: chosen[path] if path in chosen else get_field(path)


def _draw_advanced(groups: Mapping[FieldGroup, list[str]], values: FieldValues, copied: RunConfig | None) -> None:
    changed = changed_labels((path for paths in groups.values() for path in paths), copied)
    usual, source = ("all at their defaults", "the defaults") if copied is None else ("all as copied", "the copied run")
    names = list_first(changed, NAMED)
    summary = f"{names} differ{'s' if len(changed) == 1 else ''} from {source}" if changed else usual
    with st.expander(f"Advanced · {summary}", key="launch_advanced", icon=":material/tune:"):
        for tab, (group, paths) in zip(
            st.tabs(list(groups), key="fields", bind="query-params"), groups.items(), strict=True
        ):
            with tab:
                draw_run_fields(paths, values)
                if group is FieldGroup.EVALUATION and Objective(values["objective"]).facts.writes:
                    prompts = st.text_area(
                        "Sample prompts, one per line",
                        key=PREFIX + "prompts",
                        height=100,
                        on_change=mark_typed,
                        args=("sample_prompts",),
                    )
                    values["sample_prompts"] = tuple(line for line in (prompts or "").splitlines() if line.strip())


def _draw_start(ctx: Context, objective: Objective, values: FieldValues, missing: list[str]) -> str:
    """Draw what the run starts from; return its method."""
    if objective.pretrains and draw_choice("start", "Start from", [FROM_SCRATCH, CONTINUE]) != CONTINUE:
        draw_network(ctx, values, missing)
        return "full"
    return draw_base(ctx, values, missing)


RULES = {
    "exact": "reads the row's answers: 1 where the completion is one of them, in any case, else 0.",
    "contains": "reads the row's answers: 1 where one of them occurs in the completion, in any case, else 0.",
    "regex": "reads Pattern: 1 where it is found in the completion, else 0.",
    "length": (
        "reads Target: 1 − |tokens − target| ÷ target, and never below 0. So it is 1 at the target and 0 at twice the"
        " target or more; completions that all end at *max new tokens* get one reward, which gives no gradient."
    ),
}
"""Help for each rule of a reward."""


def fill_rewards(rules: Sequence[RewardRule]) -> None:
    """Fill the table with rules. Only before it is drawn."""
    st.session_state[ROWS] = [rule.model_dump() for rule in rules] or [RewardRule(kind="exact").model_dump()]
    st.session_state.pop(EDITOR, None)


def draw_rewards() -> list[dict[str, object]]:
    """Draw the table and return its rows as values of `grpo.rewards`."""
    rows = st.session_state.setdefault(ROWS, [RewardRule(kind="exact").model_dump()])
    start = pd.DataFrame(rows, columns=["kind", "weight", "pattern", "target"]).astype(
        {"weight": float, "pattern": str}
    )
    st.caption("Rewards: rules that score a completion; their weighted scores are added.")
    table = st.data_editor(
        start,
        key=EDITOR,
        num_rows="dynamic",
        hide_index=True,
        alt="Rewards",
        column_config={
            "kind": st.column_config.SelectboxColumn(
                "Rule",
                options=tuple(RULES),
                required=True,
                default="exact",
                help="The rules are described below the table.",
            ),
            "weight": st.column_config.NumberColumn("Weight", default=1.0, required=True, format="%g"),
            "pattern": st.column_config.TextColumn("Pattern", default="", max_chars=500, help="Read by regex alone."),
            "target": st.column_config.NumberColumn(
                "Target, tokens", default=0, min_value=0, step=1, help="Read by length alone."
            ),
        },
    )
    for kind in dict.fromkeys(kind for kind in table["kind"] if kind in RULES):
        st.caption(f"**{kind}** {RULES[kind]}")
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


def draw_reward_trial(
    ctx: Context, rows: Sequence[Mapping[str, Any]], *, dataset: str | None, base: str | None
) -> None:
    """Draw what the rules give to completions of the dataset's first rows, once opened."""
    panel = st.expander("Try the rewards", icon=":material/science:", key="launch_reward_trial", on_change="rerun")
    if not panel.open:
        return
    with panel, errors_shown():
        if dataset is None:
            st.caption("Choose a dataset: its first rows are tried.")
            return
        try:
            rules = [RewardRule.model_validate(row) for row in rows]
        except ValidationError as error:
            st.warning(plain(validation_message(error, RewardRule)), icon=":material/error:")
            return
        own = st.text_input(
            "A completion of your own", key="launch_own_completion", placeholder="Tried on the same prompts"
        )
        st.caption("Tried on the first prompts: the accepted answer, a sentence with it, nothing, and your own.")
        trial = try_rewards(ctx, rules, dataset=dataset, base=base, own=own or "")
        for problem in trial.problems:
            st.warning(plain(problem), icon=":material/warning:")
        names = [f"{number}. {rule.kind}" for number, rule in enumerate(rules, 1)]
        st.dataframe(
            [
                {
                    "Prompt": one.prompt,
                    "Completion": one.completion or "(empty)",
                    "Reward": one.total,
                    **dict(zip(names, one.scores, strict=True)),
                    "Tokens": one.tokens,
                }
                for one in trial.rows
            ],
            hide_index=True,
            height=320,
            alt="Rewards of completions",
            placeholder="The dataset has no rows yet.",
            column_config={
                "Prompt": st.column_config.TextColumn(width=180),
                "Completion": st.column_config.TextColumn(width=140),
                "Tokens": st.column_config.NumberColumn(width=60),
                "Reward": st.column_config.NumberColumn(format="%.3g", width=70),
            },
        )
        if trial.counts_words and any(rule.kind == "length" for rule in rules):
            st.caption("Lengths count words until a base is chosen whose tokenizer can be read.")
