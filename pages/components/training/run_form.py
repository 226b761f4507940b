"""Form of a run: dataset, network or base; then main fields, the others in tabs. Fields without effect are hidden."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal
from uuid import uuid4

import pandas as pd
import streamlit as st
from pydantic import ValidationError
from streamlit.delta_generator import DeltaGenerator

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_parameters
from backend.domain.architectures.published import PUBLISHED
from backend.domain.jobs.states import ACTIVE
from backend.domain.json_values import FieldValues
from backend.domain.training.config import RunConfig, count_warmup_steps
from backend.domain.training.config_fields import default_at, field_label, form_groups, value_at
from backend.domain.training.config_sections import RewardRule
from backend.domain.training.objectives import Objective, label_of
from backend.domain.training.traits import FieldGroup
from backend.domain.validation import validation_message
from backend.domain.wording import list_first, plural, short
from backend.errors import RoundhouseError
from backend.recipes import RECIPES
from backend.services.architectures import ArchitectureView, list_architectures
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.data.datasets import list_datasets, resolve_version
from backend.services.data.views import VersionView
from backend.services.tokenizers.tokenizers import TokenizerView, list_tokenizers
from backend.services.training.defaults import find_max_context, suggest_defaults, suggest_tokenizer
from backend.services.training.row_preview import try_rewards
from backend.services.training.views import list_runs
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import by_identity
from pages.components.frame import errors_shown, plain
from pages.components.training.config_fields import (
    ON_FORM,
    PREFIX,
    changed_labels,
    draw_choice,
    draw_run_fields,
    forget_typed,
    get_choice,
    get_field,
    mark_typed,
    set_choice,
    set_defaults,
    set_field,
    typed_fields,
)

NAMED, MANY_NAMED = 3, 8
ABOVE_TABS = (FieldGroup.MAIN, FieldGroup.METHOD)
ROWS, EDITOR = "launch_reward_rows", "launch_rewards"
DEFAULT_PROMPTS = ("Once upon a time",)
CHAT_PROMPTS = ("What can you help me with?",)
LAST_VALID = "launch_last_valid"
_ORIGIN, _BASIS, _SOURCES = "launch_origin", "launch_basis", "launch_sources"
_SHORTENED = "launch_context_before"
Origin = Literal["recipe", "copy", "defaults"]


@dataclass(frozen=True)
class FormState:
    """Values of the form, and the choices still missing, as phrases that follow “Choose ”."""

    values: FieldValues
    missing: list[str] = field(default_factory=list)


def fill_form(config: RunConfig, *, origin: Origin, typed: Collection[str] = ()) -> None:
    """Fill the form from a config; the next launch from it is a new run. `typed` are fields that new defaults don't
    overwrite. Of a recipe and a copied run, values follow another objective alone, learning rates and adapter the
    method too, and the context is shortened to what another architecture or base holds.
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
    set_choice("start", _CONTINUE if config.base else _FROM_SCRATCH)
    st.session_state[PREFIX + "prompts"] = "\n".join(config.sample_prompts)
    architecture = _INLINE if inline is not None else config.architecture
    _request_parts(
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
    set_choice("start", _CONTINUE if parts.get("base") else _FROM_SCRATCH)
    _request_parts(**parts)


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
    _request_parts(**{part: str(name) for part, name in parts.items() if name})


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
    _forget_requested_parts(objective)
    place = st.container()
    values["dataset"] = _draw_dataset_choice(ctx, objective, missing)
    method = _draw_start(ctx, objective, values, missing)
    _follow_choices(ctx, objective, method, values)
    st.space("small")
    groups = form_groups(_value_getter(objective, method))
    _clamp_warmup(groups)
    draw_run_fields([path for group in ABOVE_TABS for path in groups[group]], values)
    _draw_warmup(values)
    _draw_shortened(values)
    _draw_changes(place)
    if objective.samples:
        values.setdefault("grpo", {})["rewards"] = draw_rewards()
        draw_reward_trial(
            ctx,
            values["grpo"]["rewards"],
            dataset=values["dataset"],
            base=values.get("base"),
            max_new_tokens=get_field("grpo.max_new_tokens"),
        )
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
    st.session_state.pop(_SHORTENED, None)
    forget_typed()
    set_defaults({})
    st.session_state[PREFIX + "objective"] = objective.value


def _follow_choices(ctx: Context, objective: Objective, method: str, values: Mapping[str, Any]) -> None:
    """Reset untouched fields to their defaults when objective, method, parts, or a value behind others change; of a
    recipe or a copied run only those that follow.
    """
    network = [str(values.get(part) or "") for part in ("base", "architecture", "tokenizer")]
    way = _CONTINUE if objective.pretrains and get_choice("start") == _CONTINUE else method
    basis = [objective.value, way, str(values["dataset"] or ""), *network]
    before, origin = st.session_state.get(_BASIS), st.session_state.get(_ORIGIN)
    typed = typed_fields()
    sources = {path: get_field(path) for path in ON_FORM if path in typed}
    is_same = basis == before and (origin != "defaults" or sources == st.session_state.get(_SOURCES))
    st.session_state[_BASIS], st.session_state[_SOURCES] = basis, sources
    if not is_same and before is not None and origin != "defaults" and basis[0] == before[0]:
        _fit_context(ctx, values)
    if is_same or (origin != "defaults" and (before is None or basis[:2] == before[:2])):
        _fit_cadence(typed)
        return
    parts = {part: values.get(part) for part in ("dataset", "base", "architecture", "tokenizer")}
    keeps_others = origin != "defaults" and before is not None and basis[0] == before[0]
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
    st.session_state.pop(_SHORTENED, None)
    if st.session_state.get("launch_recipe"):  # the form no longer holds its values
        st.session_state["launch_recipe_left"] = True
        st.rerun()


def _follows_method(path: str) -> bool:
    return path.startswith("lora.") or path.endswith("learning_rate")


def _fit_context(ctx: Context, values: Mapping[str, Any]) -> None:
    """Shorten an untyped context to the maximum of the architecture or base; a longer one brings it back."""
    context = st.session_state.pop(_SHORTENED, None) or get_field("context")
    if "context" in typed_fields():
        return
    longest = find_max_context(ctx, architecture=values.get("architecture"), base=values.get("base"))
    if context and longest and context > longest:
        st.session_state[_SHORTENED] = context
        set_field("context", longest)
    else:
        set_field("context", context)


def _draw_shortened(values: FieldValues) -> None:
    """Draw that the context was shortened, and why."""
    if st.session_state.get(_SHORTENED) and "context" not in typed_fields():
        owner = "base" if values.get("base") else "architecture"
        st.caption(f":material/info: Context is {get_field('context'):,} now: this {owner}'s maximum.")


def _draw_changes(place: DeltaGenerator) -> None:
    """Draw which parts and fields are not the chosen recipe's."""
    recipe = RECIPES.get(st.session_state.get("launch_recipe") or "")
    if recipe is None:
        return
    changed = [*_changed_parts(recipe.config), *changed_labels(ON_FORM, recipe.config)]
    if changed:
        place.caption(f":material/edit: Changed from the recipe: {plain(list_first(changed, MANY_NAMED))}.")


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
    if objective.pretrains and draw_choice("start", "Start from", [_FROM_SCRATCH, _CONTINUE]) != _CONTINUE:
        _draw_network(ctx, values, missing)
        return "full"
    return _draw_base(ctx, values, missing)


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
    ctx: Context,
    rows: Sequence[Mapping[str, Any]],
    *,
    dataset: str | None,
    base: str | None,
    max_new_tokens: int | None,
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
        trial = try_rewards(ctx, rules, dataset=dataset, base=base, max_new_tokens=max_new_tokens, own=own or "")
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


PARTS = ("dataset", "architecture", "tokenizer", "base")
METHODS = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA (4-bit base)"}
_FROM_SCRATCH, _CONTINUE = "Train from scratch", "Continue from a checkpoint"
_INLINE = "(inline, from the YAML)"
_PRESET = "published: "
_REQUESTED, _CARRIED_FOR, _CHOSEN = "launch_requested", "launch_tokenizer_for", "launch_chosen"


def _request_parts(**names: str | None) -> None:
    """Request parts by name, which the next rerun selects; the visitor chooses the others."""
    requested = {part: name for part, name in names.items() if name}
    if "@" in requested.get("dataset", ""):
        requested["dataset"], _, requested["version"] = requested["dataset"].rpartition("@")
    st.session_state[_REQUESTED] = requested
    st.session_state[_CHOSEN] = {}
    st.session_state.pop(_CARRIED_FOR, None)
    st.session_state.pop("launch_requested_for", None)
    for part in ("dataset", "architecture", "tokenizer", "base", f"version_{requested.get('dataset')}"):
        st.session_state.pop(PREFIX + part, None)


def _forget_requested_parts(objective: Objective) -> None:
    """Forget the parts that a recipe or address requested once the visitor chooses another objective."""
    if st.session_state.setdefault("launch_requested_for", objective) != objective:
        st.session_state["launch_requested_for"] = objective
        st.session_state[_REQUESTED] = {}


def _changed_parts(config: RunConfig) -> list[str]:
    """Return the labels of the chosen parts that are not a config's, which may call a base by its run."""
    return [
        field_label(part)
        for part in PARTS
        if (chosen := st.session_state.get(PREFIX + part))
        and chosen != (own := getattr(config, part))
        and not (part == "base" and own and chosen.startswith(f"{own} · "))
        and not (part == "architecture" and chosen in (_INLINE, f"{_PRESET}{own}"))
    ]


def _draw_dataset_choice(ctx: Context, objective: Objective, missing: list[str]) -> str | None:
    """Draw the choice of a dataset of a kind that the objective takes, and of its version; return both as `name@3`, for
    the YAML.

    Explain why the last one that the visitor chose is not offered.
    """
    datasets: dict[str, tuple[VersionView, ...]] = {}
    options: dict[str, str] = {}
    for dataset in list_datasets(ctx, kinds=objective.facts.datasets):
        if usable := tuple(version for version in dataset.versions if version.is_ready or version.is_importing):
            datasets[dataset.name] = usable
            options[dataset.name] = f"{dataset.name} · {dataset.kind}"
    requested = _requested("dataset") or ""
    left, right = st.columns([3, 2])
    with left:
        chosen = _choose("dataset", "Dataset", options, missing, "a dataset")
    with right:
        label = _choose_version(chosen, datasets[chosen]) if chosen is not None else None
    last = st.session_state.get("launch_last_dataset") or requested
    if chosen is None and last and last not in options:
        st.caption(f":material/info: {_why_not_offered(ctx, last, objective)}")
    if chosen is not None and (chosen == requested or "dataset" in typed_fields()):
        st.session_state["launch_last_dataset"] = chosen
    return label


def _choose_version(name: str, versions: tuple[VersionView, ...]) -> str:
    """Draw the choice among the versions of a dataset, by default the requested one, else the newest with rows; return
    its label.
    """
    by_number = {version.number: version for version in versions}
    requested = _requested("version") if name == _requested("dataset") else None
    newest = next((version.number for version in versions if version.is_ready), versions[0].number)
    key = f"{PREFIX}version_{name}"
    if st.session_state.get(key) not in by_number:
        st.session_state[key] = (
            int(requested) if requested and requested.isdecimal() and int(requested) in by_number else newest
        )

    def words(number: int) -> str:
        version = by_number[number]
        rows = plural(version.train_rows, "training row") if version.is_ready else "being imported"
        return f"{number} · {rows}{', newest' if number == newest and len(by_number) > 1 else ''}"

    if requested and not (requested.isdecimal() and int(requested) in by_number):
        st.caption(f":material/info: {plain(name)} has no version {plain(requested)} with rows.")
    number = st.selectbox("Version", list(by_number), key=key, format_func=by_identity(key, by_number, words))
    return by_number[number].label


def _draw_network(ctx: Context, values: FieldValues, missing: list[str]) -> None:
    """Draw the choice of an architecture and its tokenizer, which follows it until the visitor chooses one."""
    left, right = st.columns(2)
    architectures = {view.name: view for view in list_architectures(ctx)}
    tokenizers = {view.name: view for view in list_tokenizers(ctx) if not view.error}
    options = {name: f"{name} · {short(view.parameters)} parameters" for name, view in architectures.items()}
    options |= {
        _PRESET + name: f"{name} · {short(size)} parameters, published" for name, size in _preset_sizes().items()
    }
    if st.session_state.get("launch_inline") is not None:
        options[_INLINE] = _INLINE
    with left:
        chosen = _choose("architecture", "Architecture", options, missing, "an architecture")
    preset = PUBLISHED.get((chosen or "").removeprefix(_PRESET)) if (chosen or "").startswith(_PRESET) else None
    values["architecture"] = st.session_state["launch_inline"] if chosen == _INLINE else preset or chosen
    _carry_tokenizer(ctx, architectures.get(chosen or ""), tokenizers)
    labels = {
        name: f"{name} · {plural(view.vocab_size, 'token') if view.vocab_size else 'training'}"
        for name, view in tokenizers.items()
    }
    with right:
        values["tokenizer"] = _choose("tokenizer", "Tokenizer", labels, missing, "a tokenizer")
    shape = (
        st.session_state["launch_inline"]
        if chosen == _INLINE
        else architectures[chosen].config
        if chosen in architectures
        else preset
    )
    _draw_unused_rows(shape.vocab_size if shape else None, tokenizers.get(values["tokenizer"] or ""))


@cache
def _preset_sizes() -> dict[str, int]:
    return {name: sum(count_parameters(config).values()) for name, config in PUBLISHED.items()}


def _draw_base(ctx: Context, values: FieldValues, missing: list[str]) -> str:
    """Draw the choice of a base and of a method; return the method. A recipe may call a base by its run or its id."""
    ready = list_checkpoints(ctx, ready=True)
    by_id = {c.id: c for c in ready}
    options = {
        by_id[id_].name: label + (f" · {short(parameters)} parameters" if (parameters := by_id[id_].parameters) else "")
        for id_, label in label_usable_first(ctx, ready).items()
    }
    requested = _requested("base")
    if requested and requested not in options:
        checkpoint = next((c for c in ready if requested in (c.run, c.run_id, c.id)), None)
        if checkpoint is not None:
            st.session_state[_REQUESTED] = {**st.session_state[_REQUESTED], "base": checkpoint.name}
    values["base"] = _choose("base", "Base checkpoint", options, missing, "a base")
    if not options:
        st.caption("There is no checkpoint yet: pretrain one here, or add a base on the Checkpoints page.")
    _draw_untrained(ctx, {c.run_id for c in ready})
    values["method"] = method = draw_choice("method", "Method", list(METHODS), names=METHODS)
    return method


def _draw_untrained(ctx: Context, with_checkpoint: Collection[str | None]) -> None:
    """Draw which runs under way are not offered as a base, since they have no checkpoint yet."""
    names = [run.name for run in list_runs(ctx, statuses=tuple(ACTIVE)) if run.id not in with_checkpoint]
    if names:
        st.caption(
            f":material/info: {plain(f'Not offered, since no checkpoint is saved yet: {list_first(names, 3)}.')}"
        )


def _choose(part: str, label: str, options: dict[str, str], missing: list[str], what: str) -> str | None:
    """Draw a choice among rows, by default the requested or the only one; add to `missing` if none is chosen."""
    key, requested = PREFIX + part, _requested(part)
    chosen_before = st.session_state.setdefault(_CHOSEN, {})
    here = (st.session_state.get(PREFIX + "objective"), part)
    if st.session_state.get(key) not in options:
        requested = requested if requested in options else chosen_before.get(here, requested)
        only = next(iter(options)) if requested is None and len(options) == 1 else None
        st.session_state[key] = requested if requested in options else only
    chosen = st.selectbox(
        label,
        list(options),
        key=key,
        format_func=by_identity(key, options, options.__getitem__),
        placeholder=f"Choose {what}" if options else "None yet",
        on_change=mark_typed,
        args=(part,),
    )
    if chosen is not None:
        chosen_before[here] = chosen
    else:
        missing.append(what)
        if requested and requested not in options and part != "dataset":
            st.caption(f":material/info: There is no {part} “{plain(requested)}”.")
    return chosen


def _why_not_offered(ctx: Context, name: str, objective: Objective) -> str:
    *kinds, last = objective.facts.datasets
    takes = f"{', '.join(kinds)} or {last}" if kinds else last
    try:
        version = resolve_version(ctx, name, ready=False)
    except RoundhouseError as error:
        return plain(str(error))
    return plain(f"“{version.dataset}” is of kind {version.kind}; {objective.facts.label} takes {takes}.")


def _carry_tokenizer(ctx: Context, architecture: ArchitectureView | None, tokenizers: dict[str, TokenizerView]) -> None:
    """Choose an architecture's tokenizer when the architecture changes, unless the visitor chose one that fits."""
    if architecture is None or st.session_state.get(_CARRIED_FOR) == architecture.name:
        return
    is_first = _CARRIED_FOR not in st.session_state
    st.session_state[_CARRIED_FOR] = architecture.name
    if is_first and _requested("tokenizer"):
        return
    current = tokenizers.get(st.session_state.get(PREFIX + "tokenizer") or "")
    if (
        "tokenizer" in typed_fields()
        and current is not None
        and (current.vocab_size or 0) <= architecture.config.vocab_size
    ):
        return
    suggested = suggest_tokenizer(ctx, architecture.name)
    if suggested in tokenizers:
        st.session_state[PREFIX + "tokenizer"] = suggested


def _draw_unused_rows(vocabulary: int | None, tokenizer: TokenizerView | None) -> None:
    """Draw how many rows of the embedding no token uses."""
    size = tokenizer.vocab_size if tokenizer else None
    if tokenizer is not None and vocabulary and size and size < vocabulary:
        st.caption(
            f":material/info: “{plain(tokenizer.name)}” has {size:,} tokens and the vocabulary {vocabulary:,} entries: "
            f"{plural(vocabulary - size, 'embedding row')} will stay unused."
        )


def _requested(part: str) -> str | None:
    name: str | None = st.session_state.get(_REQUESTED, {}).get(part)
    return name
