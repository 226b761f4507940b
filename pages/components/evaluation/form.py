"""Form that launches evaluations: checkpoints and endpoints, benchmarks, settings."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from backend.domain.evaluation.config import SCORING, EvaluationConfig, EvaluationKind
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.fields import fields_of, is_used
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.data.views import DatasetView, VersionView
from backend.services.evaluation.endpoints.registry import list_evaluated
from backend.services.evaluation.evaluations import EvaluationView, plan_evaluation
from backend.services.evaluation.forecasts import Subject
from backend.services.evaluation.scoring_choice import EVALUATED_KINDS
from backend.services.evaluation.tasks import suggest_tasks
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import by_identity, choose_one, drop_gone
from pages.components.evaluation.endpoints import choose_endpoints
from pages.components.evaluation.launch import draw_launch
from pages.components.evaluation.task_form import choose_task
from pages.components.forms import draw_fields
from pages.components.frame import empty_state, errors_shown, no_checkpoint_state, plain, spoken
from pages.components.numbers import draw_number, number_form

MAX_AT_ONCE = 20
MAX_SHOTS = 64
OF_A_TASK = ("limit", "seed", "split", "chat", "windows")
"""Settings that a task leaves open."""


@number_form
def draw_evaluation_form(
    ctx: Context, person: Person, *, checkpoint_id: str | None, dataset_id: str | None, endpoint_key: str | None = None
) -> list[EvaluationView]:
    """Draw the form; return the evaluations it launched."""
    ready = list_checkpoints(ctx, ready=True)
    names, checkpoints = label_usable_first(ctx, ready), {c.id: c for c in ready}
    endpoints = {endpoint.key: endpoint for endpoint in list_evaluated(ctx)}
    datasets = {d.id: d for d in list_datasets(ctx, kinds=(*EVALUATED_KINDS, "records"), ready=True)}
    if not checkpoints and not endpoints:
        no_checkpoint_state("No checkpoints yet. Train a model, or add a base.")
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
        key = f"eval_checkpoints_{checkpoint_id}_{endpoint_key}"
        if gone := drop_gone(key, checkpoints):
            st.warning(
                plain(f"No longer here, and no longer chosen: {', '.join(gone)}. A run keeps its newest checkpoints."),
                icon=":material/delete:",
            )
        chosen = st.multiselect(
            "Checkpoints",
            list(names),
            default=(
                [checkpoint_id]
                if checkpoint_id in checkpoints
                else []
                if endpoint_key in endpoints
                else list(names)[:1]
            ),
            format_func=by_identity(key, names, names.__getitem__),
            max_selections=MAX_AT_ONCE,
            key=key,
        )
        remote = choose_endpoints(endpoints, endpoint_key=endpoint_key, max_selections=MAX_AT_ONCE)
        keys = sorted(
            datasets, key=lambda key: (datasets[key].kind not in ("benchmark", "records"), datasets[key].name)
        )
        picked = st.multiselect(
            "Benchmarks",
            keys,
            default=[dataset_id] if dataset_id in keys else keys[:1],
            format_func=by_identity(f"eval_datasets_{dataset_id}", keys, lambda key: _dataset_label(datasets[key])),
            max_selections=MAX_AT_ONCE,
            key=f"eval_datasets_{dataset_id}",
            help=(
                "Benchmarks, or any dataset with text, whose validation split is then scored by its loss. "
                "Each checkpoint and endpoint is evaluated on each benchmark."
            ),
        )
        versions = [version for key in picked if (version := datasets[key].newest) is not None]
        tasks = {version.label: _draw_task(ctx, version) for version in versions}
        configs = _draw_settings(ctx, tasks)
        subjects: list[Subject] = [*(checkpoints[key] for key in chosen), *(endpoints[key] for key in remote)]
        if not subjects or not versions:
            st.caption("Choose at least one checkpoint or endpoint, and one benchmark.")
        return draw_launch(ctx, person, subjects, configs)


def _dataset_label(dataset: DatasetView) -> str:
    return f"{dataset.name} ({dataset.kind}, {dataset.newest.amount})" if dataset.newest else dataset.name


def _draw_task(ctx: Context, version: VersionView) -> TaskDefinition | None:
    """Draw the choice of a task, the one that is suggested first, and how many examples it shows."""
    suggested = [view.name for view in suggest_tasks(ctx, version)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        task = choose_task(ctx, version.label, suggested, is_required=version.kind not in EVALUATED_KINDS)
        if task is None or (task.kind == "perplexity" and not task.prompt):
            return task
        shots = draw_number(
            st,
            f"Few-shot examples on {spoken(version.label)}",
            0,
            len(task.fewshot.examples) or MAX_SHOTS,
            task.fewshot.count,
            key=f"eval_shots_{version.label}_{task.name}",
            help=f"The task shows {task.fewshot.count}. Scores with another number stand in a column of their own.",
            width=250,
        )
    return task if shots in (None, task.fewshot.count) else task.adjusted(shots=shots)


def _draw_settings(ctx: Context, tasks: Mapping[str, TaskDefinition | None]) -> dict[str, EvaluationConfig]:
    """Draw the settings that these benchmarks have; return the config of each, without those that can't be scored
    (drawn as errors).
    """
    kinds: dict[str, EvaluationKind] = {}
    for label, task in tasks.items():
        with errors_shown():
            kinds[label] = plan_evaluation(ctx, benchmark=label, config=EvaluationConfig(task=task)).kind
    by_kind = {label: kind for label, kind in kinds.items() if tasks[label] is None}
    values: dict[str, object] = {}
    with st.expander("Settings", icon=":material/tune:"):
        way = EvaluationKind.MULTIPLE_CHOICE
        if EvaluationKind.MULTIPLE_CHOICE in by_kind.values():
            way = _draw_way()
        scored = {way if kind is EvaluationKind.MULTIPLE_CHOICE else kind for kind in by_kind.values()}
        unused = [name for name in fields_of(EvaluationConfig) if not any(_applies(name, kind) for kind in scored)]
        values |= draw_fields(EvaluationConfig, key="eval", columns=2)
        values |= draw_fields(EvaluationConfig, key="eval", columns=2, group=SCORING, skip=unused)
    configs = {}
    for label, kind in kinds.items():
        task = tasks[label]
        own = {**values, "kind": way} if kind is EvaluationKind.MULTIPLE_CHOICE and task is None else values
        if task is not None:
            own = {name: value for name, value in values.items() if name in OF_A_TASK} | {"task": task}
        configs[label] = EvaluationConfig.model_validate(own)
    return configs


def _draw_way() -> EvaluationKind:
    ways = {
        EvaluationKind.MULTIPLE_CHOICE: "Log-likelihood of the choices",
        EvaluationKind.GENERATION: "Generated answer",
    }
    chosen = choose_one(
        "Scoring of multiple choice",
        ways,
        default=EvaluationKind.MULTIPLE_CHOICE,
        key="eval_kind",
        help="Log-likelihood works for any model; generated answers need an instruction-tuned one.",
    )
    return EvaluationKind(str(chosen))


def _applies(name: str, kind: EvaluationKind) -> bool:
    """Return whether a setting has an effect on this way of scoring."""
    return is_used(EvaluationConfig, name, {"kind": kind.value})
