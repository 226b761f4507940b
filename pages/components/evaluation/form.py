"""Form that launches evaluations: checkpoints, one benchmark, settings."""

from __future__ import annotations

import shlex
import uuid

import streamlit as st

from backend.domain.evaluation.config import KIND_LABEL, EvaluationConfig, EvaluationKind
from backend.domain.wording import plural
from backend.services.checkpoints.checkpoints import CheckpointView, list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.data.views import DatasetView
from backend.services.evaluation.evaluations import EVALUATED_KINDS, EvaluationView, Plan, launch_evaluation, plan_evaluation
from pages.components import routes
from pages.components.evaluation.power import format_power
from pages.components.frame import empty_state, errors_shown, plain

MAX_AT_ONCE = 20
SPLIT_WORDS = {"auto": "Automatic", "all": "All rows", "train": "Training split", "val": "Validation split"}
CHAT_WORDS = {"auto": "Automatic", "on": "On", "off": "Off"}
WINDOW_WORDS = {"each_window": "Non-overlapping", "first_window": "As in lm-evaluation-harness"}


def draw_form(ctx: Context, person: Person, *, checkpoint_id: str | None, dataset_id: str | None) -> list[EvaluationView]:
    """Draw the form; return the evaluations it launched."""
    checkpoints = {c.id: c for c in list_checkpoints(ctx, ready=True)}
    datasets = {d.id: d for d in list_datasets(ctx, kinds=EVALUATED_KINDS, ready=True)}
    if not checkpoints:
        empty_state(
            "No checkpoints yet. Train a network, or add a base.",
            page=routes.LAUNCH,
            label="Launch a run",
            icon=":material/rocket_launch:",
        )
        return []
    if not datasets:
        empty_state(
            "No datasets to evaluate on yet. Import a benchmark (questions with choices or answers), or any text.",
            page=routes.DATASETS,
            label="Import a dataset",
            icon=":material/upload:",
        )
        return []
    with st.container(border=True):
        chosen = st.multiselect(
            "Checkpoints",
            list(checkpoints),
            default=[checkpoint_id] if checkpoint_id in checkpoints else list(checkpoints)[:1],
            format_func=lambda key: checkpoints[key].name,
            max_selections=MAX_AT_ONCE,
            key=f"eval_checkpoints_{checkpoint_id}",
            help="One evaluation per checkpoint. With the same settings they can be compared item by item.",
        )
        keys = sorted(datasets, key=lambda key: (datasets[key].kind != "benchmark", datasets[key].name))
        dataset = st.selectbox(
            "Benchmark",
            keys,
            index=keys.index(dataset_id) if dataset_id in keys else 0,
            format_func=lambda key: _dataset_label(datasets[key]),
            key=f"eval_dataset_{dataset_id}",
            help="A benchmark, or any dataset with text, whose validation split is then scored by its loss.",
        )
        version = datasets[dataset].newest
        label = version.label if version else datasets[dataset].name
        config = _draw_settings(ctx, datasets[dataset], label)
        if config is None:
            return []
        return _draw_launch(ctx, person, [checkpoints[key] for key in chosen], label, config)


def _dataset_label(dataset: DatasetView) -> str:
    return f"{dataset.name} ({dataset.kind}, {dataset.newest.amount})" if dataset.newest else dataset.name


def _draw_scoring(kind: EvaluationKind) -> dict[str, object]:
    """Draw the settings that depend on the scoring."""
    values: dict[str, object] = {}
    if kind is not EvaluationKind.PERPLEXITY:
        values["shots"] = st.number_input(
            "Few-shot examples",
            min_value=0,
            max_value=64,
            value=0,
            key="eval_shots",
            help="Examples are not scored.",
        )
    values["chat"] = st.selectbox(
        "Chat template",
        list(CHAT_WORDS),
        format_func=lambda k: CHAT_WORDS[k],
        key="eval_chat",
        help="Automatic: for generated answers and conversations, by checkpoints that have one.",
    )
    if kind is EvaluationKind.GENERATION:
        values["max_tokens"] = st.number_input("Max new tokens", min_value=1, max_value=8192, value=64, key="eval_max_tokens")
        values["numeric"] = st.checkbox("Compare the last number", key="eval_numeric", help="For arithmetic benchmarks such as GSM8K.")
    elif kind is EvaluationKind.PERPLEXITY:
        values["windows"] = st.selectbox(
            "Windows of long texts",
            list(WINDOW_WORDS),
            format_func=lambda k: WINDOW_WORDS[k],
            key="eval_windows",
            help="How a text longer than the context is split. Both predict every token once.",
        )
    return values


def _draw_settings(ctx: Context, dataset: DatasetView, label: str) -> EvaluationConfig | None:
    """Draw the settings of this benchmark; return None, with the reason drawn, while they are invalid."""
    plan: Plan | None = None
    with errors_shown():
        plan = plan_evaluation(ctx, benchmark=label, config=EvaluationConfig())
    if plan is None:
        return None
    values: dict[str, object] = {}
    with st.expander("Settings", icon=":material/tune:"):
        if plan.kind is EvaluationKind.MULTIPLE_CHOICE:
            ways = {EvaluationKind.MULTIPLE_CHOICE: "Multiple choice (log-likelihood)", EvaluationKind.GENERATION: "Generated answer"}
            values["kind"] = st.segmented_control(
                "Scoring",
                list(ways),
                default=EvaluationKind.MULTIPLE_CHOICE,
                required=True,
                format_func=lambda k: ways[k],
                key="eval_kind",
                help="Log-likelihood of the choices works for any network; generated answers need an instruction-tuned one.",
            )
        kind = EvaluationKind(str(values.get("kind", plan.kind)))
        left, right = st.columns(2)
        with left:
            values["limit"] = st.number_input(
                "Item limit",
                min_value=1,
                value=None,
                placeholder="All items",
                key="eval_limit",
                help="A random sample of this size, by the seed.",
            )
            values["seed"] = st.number_input("Seed", min_value=0, value=1, key="eval_seed", help="Samples items and few-shot examples.")
            values["split"] = st.selectbox(
                "Rows",
                list(SPLIT_WORDS),
                format_func=lambda k: SPLIT_WORDS[k],
                key=f"eval_split_{dataset.id}",
                help="Automatic: all rows of a benchmark, the validation split of a text.",
            )
        with right:
            values |= _draw_scoring(kind)
    return EvaluationConfig.model_validate(values)


def _draw_launch(
    ctx: Context, person: Person, checkpoints: list[CheckpointView], label: str, config: EvaluationConfig
) -> list[EvaluationView]:
    plan: Plan | None = None
    with errors_shown():
        plan = plan_evaluation(ctx, benchmark=label, config=config)
    if plan is None:
        return []
    st.caption(_plan_words(plan))
    launched: list[EvaluationView] = []
    nonce = st.session_state.setdefault("eval_nonce", uuid.uuid4().hex)
    with st.container(horizontal=True, vertical_alignment="center"):
        word = "Evaluate" if len(checkpoints) < 2 else f"Evaluate {len(checkpoints)} checkpoints"
        if st.button(word, type="primary", icon=":material/play_arrow:", key="eval_launch", disabled=not checkpoints or not plan.items):
            with errors_shown():
                for checkpoint in checkpoints:
                    key = f"{nonce}-{checkpoint.id}"
                    launched.append(
                        launch_evaluation(ctx, checkpoint=checkpoint.id, benchmark=label, config=config, person=person, idempotency_key=key)
                    )
                st.session_state["eval_nonce"] = uuid.uuid4().hex
    with st.expander("Command line", icon=":material/terminal:"):
        lines = [_command(checkpoint.name, label, config) for checkpoint in checkpoints]
        st.code("\n".join(lines) or "Choose a checkpoint.", language="bash", wrap_lines=True)
    return launched


def _plan_words(plan: Plan) -> str:
    rows = {"all": "", "train": " of the training split", "val": " of the validation split"}[plan.split]
    noun = "text" if plan.kind is EvaluationKind.PERPLEXITY else "item"
    words = f"{KIND_LABEL[plan.kind]} on {plural(plan.items, noun)}{rows}."
    if plan.power is not None:
        words += f" {format_power(plan.power)}"
    return plain(words)


def _command(checkpoint: str, benchmark: str, config: EvaluationConfig) -> str:
    parts = ["roundhouse", "eval", "run", "--checkpoint", checkpoint, "--benchmark", benchmark]
    for name, value in config.model_dump(exclude_defaults=True).items():
        flag = "--" + name.replace("_", "-")
        parts += [flag] if value is True else [flag, str(getattr(value, "value", value))]
    return shlex.join([*parts, "--wait"])
