"""Choices on the launch form: dataset, architecture with its tokenizer, or base."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import streamlit as st

from backend.domain.architectures.cost import count_parameters
from backend.domain.architectures.published import PUBLISHED
from backend.domain.jobs.states import ACTIVE
from backend.domain.json_values import FieldValues
from backend.domain.training.objectives import Objective
from backend.domain.wording import list_first, plural, short
from backend.errors import RoundhouseError
from backend.services.architectures import ArchitectureView, list_architectures
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context
from backend.services.data.datasets import list_datasets, resolve_version
from backend.services.data.views import VersionView
from backend.services.tokenizers.tokenizers import TokenizerView, list_tokenizers
from backend.services.training.defaults import suggest_tokenizer
from backend.services.training.views import list_runs
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import by_identity
from pages.components.frame import plain
from pages.components.training.config_fields import PREFIX, draw_choice, mark_typed, typed_fields

METHODS = {"full": "Full fine-tuning", "lora": "LoRA", "qlora": "QLoRA (4-bit base)"}
FROM_SCRATCH, CONTINUE = "Train from scratch", "Continue from a checkpoint"
INLINE = "(inline, from the YAML)"
PRESET = "published: "
_REQUESTED, _CARRIED_FOR, _CHOSEN = "launch_requested", "launch_tokenizer_for", "launch_chosen"


def request_parts(**names: str | None) -> None:
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


def forget_requested_parts(objective: Objective) -> None:
    """Forget the parts that a recipe or address requested once the visitor chooses another objective."""
    if st.session_state.setdefault("launch_requested_for", objective) != objective:
        st.session_state["launch_requested_for"] = objective
        st.session_state[_REQUESTED] = {}


def draw_dataset_choice(ctx: Context, objective: Objective, missing: list[str]) -> str | None:
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


def draw_network(ctx: Context, values: FieldValues, missing: list[str]) -> None:
    """Draw the choice of an architecture and its tokenizer, which follows it until the visitor chooses one."""
    left, right = st.columns(2)
    architectures = {view.name: view for view in list_architectures(ctx)}
    tokenizers = {view.name: view for view in list_tokenizers(ctx) if not view.error}
    options = {name: f"{name} · {short(view.parameters)} parameters" for name, view in architectures.items()}
    options |= {
        PRESET + name: f"{name} · {short(size)} parameters, published" for name, size in _preset_sizes().items()
    }
    if st.session_state.get("launch_inline") is not None:
        options[INLINE] = INLINE
    with left:
        chosen = _choose("architecture", "Architecture", options, missing, "an architecture")
    preset = PUBLISHED.get((chosen or "").removeprefix(PRESET)) if (chosen or "").startswith(PRESET) else None
    values["architecture"] = st.session_state["launch_inline"] if chosen == INLINE else preset or chosen
    _carry_tokenizer(ctx, architectures.get(chosen or ""), tokenizers)
    labels = {
        name: f"{name} · {plural(view.vocab_size, 'token') if view.vocab_size else 'training'}"
        for name, view in tokenizers.items()
    }
    with right:
        values["tokenizer"] = _choose("tokenizer", "Tokenizer", labels, missing, "a tokenizer")
    shape = (
        st.session_state["launch_inline"]
        if chosen == INLINE
        else architectures[chosen].config
        if chosen in architectures
        else preset
    )
    _draw_unused_rows(shape.vocab_size if shape else None, tokenizers.get(values["tokenizer"] or ""))


@cache
def _preset_sizes() -> dict[str, int]:
    return {name: sum(count_parameters(config).values()) for name, config in PUBLISHED.items()}


def draw_base(ctx: Context, values: FieldValues, missing: list[str]) -> str:
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
        st.caption(f":material/info: {plain(f'Not offered, as without a checkpoint yet: {list_first(names, 3)}.')}")


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
