"""Form that launches evaluations: checkpoints and endpoints, benchmarks, settings, cost, and equivalent commands."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Mapping, Sequence

import streamlit as st

from backend.domain.evaluation.config import SCORING, EvaluationConfig, EvaluationKind, describe_scoring
from backend.domain.evaluation.cost import TimeEstimate
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.fields import fields_of, is_used
from backend.domain.wording import format_bytes, format_duration, format_usd, plural
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.data.views import DatasetView, VersionView
from backend.services.evaluation.endpoints import EvaluatedEndpointView, list_evaluated
from backend.services.evaluation.evaluations import EvaluationView, Plan, launch_evaluation, plan_evaluation
from backend.services.evaluation.forecasts import EvaluationForecast, Subject, TotalForecast, forecast_evaluations
from backend.services.evaluation.scoring_choice import EVALUATED_KINDS
from backend.services.evaluation.tasks import find_single_task, suggest_tasks
from pages.components import routes
from pages.components.checkpoints.offers import label_usable_first
from pages.components.choices import by_identity, choose_one, drop_gone
from pages.components.evaluation.endpoints import choose_endpoints
from pages.components.evaluation.power import format_detectable, format_power
from pages.components.evaluation.task_form import choose_task
from pages.components.form_drafts import draw_restored, forget_form, keep_form, restore_form
from pages.components.forms import draw_fields
from pages.components.frame import draw_figure, empty_state, errors_shown, no_checkpoint_state, plain, spoken
from pages.components.numbers import draw_number, number_form, wrong_numbers
from pages.components.tables import draw_table

FORM = "evaluation"
NO_FIELDS = ("eval_launch", "eval_nonce", "eval_back")
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
        linked = {
            key: checkpoint_id,
            f"eval_subject_endpoints_{endpoint_key}": endpoint_key,
            f"eval_datasets_{dataset_id}": dataset_id,
        }
        restore_form(ctx, person, FORM, first=key, linked=linked)
        draw_restored(ctx, person, FORM)
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
        keep_form(ctx, person, FORM, prefix="eval_", skip=NO_FIELDS)
        subjects: list[Subject] = [*(checkpoints[key] for key in chosen), *(endpoints[key] for key in remote)]
        if not subjects or not versions:
            st.caption("Choose at least one checkpoint or endpoint, and one benchmark.")
        launched = draw_launch(ctx, person, subjects, configs)
        if launched:
            forget_form(ctx, person, FORM)
        return launched


def _dataset_label(dataset: DatasetView) -> str:
    return f"{dataset.name} ({dataset.kind}, {dataset.newest.amount})" if dataset.newest else dataset.name


def _draw_task(ctx: Context, version: VersionView) -> TaskDefinition | None:
    """Draw the choice of a task, the one that is suggested first, and how many examples it shows."""
    suggested = [view.name for view in suggest_tasks(ctx, version)]
    with st.container(horizontal=True, vertical_alignment="bottom"):
        task = choose_task(ctx, version.label, suggested, is_required=version.kind not in EVALUATED_KINDS, form="eval")
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
    with st.expander("Settings", icon=":material/tune:", key="evaluation_settings"):
        way = EvaluationKind.MULTIPLE_CHOICE
        if EvaluationKind.MULTIPLE_CHOICE in by_kind.values():
            way = _draw_way()
        scored = {way if kind is EvaluationKind.MULTIPLE_CHOICE else kind for kind in by_kind.values()}
        unused = [
            name
            for name in fields_of(EvaluationConfig)
            if not any(is_used(EvaluationConfig, name, {"kind": kind.value}) for kind in scored)
        ]
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


FEW_SECONDS = 10
SHOWN_CUTS = 3
METRIC_WIDTH = 290
"""Pixels: "about 1 h 33 min" fits, and two stand beside each other only where there is room."""
SPLIT_ROWS = {"all": "", "train": " of the training split", "val": " of the validation split"}


def draw_launch(
    ctx: Context, person: Person, subjects: Sequence[Subject], configs: Mapping[str, EvaluationConfig]
) -> list[EvaluationView]:
    """Draw the forecast of every checkpoint and endpoint on every benchmark and the launch button; return what was
    launched.
    """
    forecast: TotalForecast | None = None
    with errors_shown():
        forecast = forecast_evaluations(ctx, subjects, configs)
    if forecast is None:
        return []
    _draw_forecast(forecast, configs)
    launched: list[EvaluationView] = []
    nonce = st.session_state.setdefault("eval_nonce", uuid.uuid4().hex)
    count = len(forecast.evaluations)
    ready = count > 0 and all(one.plan.items for one in forecast.evaluations) and not wrong_numbers()
    label = "Evaluate" if count < 2 else f"Launch {count} evaluations"
    if st.button(label, type="primary", icon=":material/play_arrow:", key="eval_launch", disabled=not ready):
        with errors_shown():
            for one in forecast.evaluations:
                launched.append(
                    launch_evaluation(
                        ctx,
                        checkpoint=None if one.is_endpoint else _key(one),
                        endpoint=_key(one) if one.is_endpoint else None,
                        benchmark=one.benchmark,
                        config=configs[one.benchmark],
                        person=person,
                        idempotency_key=f"{nonce}-{_key(one)}-{one.benchmark}",
                    )
                )
            st.session_state["eval_nonce"] = uuid.uuid4().hex
    with st.expander("Command line", icon=":material/terminal:"):
        lines = [_command(ctx, one, configs[one.benchmark]) for one in forecast.evaluations]
        st.code(
            "\n".join(lines) or "Choose a checkpoint or an endpoint, and a benchmark.", language="bash", wrap_lines=True
        )
    return launched


def _key(one: EvaluationForecast) -> str:
    return one.subject.key if isinstance(one.subject, EvaluatedEndpointView) else one.subject.id


def _draw_forecast(forecast: TotalForecast, configs: Mapping[str, EvaluationConfig]) -> None:
    plans = {one.benchmark: one.plan for one in forecast.evaluations}
    _draw_plans(plans, configs)
    for benchmark, plan in plans.items():
        task = configs[benchmark].task
        if task is not None and task.judge is not None:
            name = task.judge.endpoint or task.judge.checkpoint
            st.caption(
                plain(
                    f"“{name}” judges each answer: {plural(plan.items, 'more question')} for each checkpoint and"
                    " endpoint."
                )
            )
    cuts = [one.cut for one in forecast.evaluations if one.cut]
    if len(cuts) <= SHOWN_CUTS:
        for words in cuts:
            st.warning(plain(words), icon=":material/content_cut:")
    else:
        words = f"In {plural(len(cuts), 'evaluation')} prompts do not fit the context. See each evaluation below."
        st.warning(words, icon=":material/content_cut:")
    caps = list(dict.fromkeys(one.cap for one in forecast.evaluations if one.cap))
    if len(caps) == 1:
        st.caption(plain(caps[0]))
    elif caps:
        num_capped = sum(bool(one.cap) for one in forecast.evaluations)
        st.caption(
            f":material/warning: In {plural(num_capped, 'evaluation')} the longest answers do not fit beside a prompt"
            " in the context: each ends where the context does, and those that were cut are counted. See each"
            " evaluation below."
        )
    if not forecast.evaluations:
        return
    with st.container(horizontal=True):
        with st.container(border=True, width=METRIC_WIDTH, height="stretch"):
            draw_figure("Estimated time", format_time(forecast.time) if forecast.time else None)
            st.caption(plain(_time_caption(forecast)))
        if (memory := forecast.memory) is not None:
            with st.container(border=True, width=METRIC_WIDTH, height="stretch"):
                draw_figure("Peak memory", f"about {format_bytes(memory.bytes)}")
                only = all(one.is_endpoint for one in forecast.evaluations)
                words = (
                    "the process that asks; no weights are loaded"
                    if only
                    else f"{format_bytes(memory.low)} to {format_bytes(memory.high)} on the CPU"
                )
                st.caption(plain(f"{words[0].upper()}{words[1:]}, one evaluation at a time."))
        _draw_requests([one for one in forecast.evaluations if one.is_endpoint], configs)
    if len(forecast.evaluations) > 1:
        with st.expander("Each evaluation", icon=":material/list:"):
            rows = [
                {
                    "Subject": f"{one.subject.name} (endpoint)" if one.is_endpoint else one.subject.name,
                    "Benchmark": one.benchmark,
                    "Items": one.plan.items,
                    "Time": format_time(one.time),
                    "Range": format_estimated_time(one.time),
                    "Taken from": one.time.basis if one.time else "",
                    "Memory": format_bytes(one.memory.bytes),
                    "Prompts": one.cut,
                    "Answers": "cut by the context" if one.cap else "",
                }
                for one in forecast.evaluations
            ]
            draw_table(rows, key="eval_forecast", alt="Forecast of each evaluation")


def _draw_requests(remote: Sequence[EvaluationForecast], configs: Mapping[str, EvaluationConfig]) -> None:
    """Draw how many requests endpoints get, with the tokens and the price that earlier evaluations tell."""
    if not remote:
        return
    tokens = [one.tokens for one in remote if one.tokens is not None]
    prices = [one.price for one in remote if one.price is not None]
    choices = any(one.plan.kind is EvaluationKind.MULTIPLE_CHOICE for one in remote)
    samples = [(config.task.samples if (config := configs[one.benchmark]).task else 1) for one in remote]
    count = sum(one.plan.items * number for one, number in zip(remote, samples, strict=True))
    with st.container(border=True):
        draw_figure("Requests to endpoints", f"{count:,}{' or more' if choices else ''}")
        words = "One for each choice of an item." if choices else "One for each answer."
        if len(tokens) == len(remote):
            words += (
                f" About {sum(t[0] for t in tokens):,.0f} prompt and {sum(t[1] for t in tokens):,.0f} answer tokens"
            )
            words += f", {format_usd(sum(prices))}." if len(prices) == len(remote) else "; no prices set."
        else:
            words += " Tokens are not known yet; the first evaluation counts them."
        st.caption(plain(words))


def _time_caption(forecast: TotalForecast) -> str:
    if forecast.time is None:
        return "Nothing of this kind has been evaluated yet; the first one gives the rate."
    words = f"{format_estimated_time(forecast.time)}, one after another"
    if len(forecast.evaluations) == 1 and forecast.evaluations[0].time:
        words = f"{format_estimated_time(forecast.time)}, from {forecast.evaluations[0].time.basis}"
    if forecast.unknown:
        words += f"; without {plural(forecast.unknown, 'evaluation')} that nothing is known about"
    return f"{words}."


def _draw_plans(plans: Mapping[str, Plan], configs: Mapping[str, EvaluationConfig]) -> None:
    """Draw the plan of one benchmark as a sentence, those of several as a table."""
    if len(plans) < 2:
        for benchmark, plan in plans.items():
            st.caption(plain(format_plan(plan, configs[benchmark])))
        return
    rows = [
        {
            "Benchmark": benchmark,
            "Scored": describe_scoring(configs[benchmark], kind=plan.kind),
            "Items": f"{plan.items:,}{SPLIT_ROWS[plan.split]}",
            "Detectable difference": format_detectable(plan.power),
        }
        for benchmark, plan in plans.items()
    ]
    draw_table(rows, key="eval_plans", alt="What each benchmark scores, and the smallest difference that it can detect")
    st.caption(
        "Detectable: the smallest difference of two checkpoints found with 80 % power. Choose one benchmark to see the"
        " assumption."
    )


def format_plan(plan: Plan, config: EvaluationConfig) -> str:
    """Return what is scored and what a comparison of two checkpoints can detect."""
    noun = "text" if plan.kind is EvaluationKind.PERPLEXITY else "item"
    words = f"{describe_scoring(config, kind=plan.kind)} on {plural(plan.items, noun)}{SPLIT_ROWS[plan.split]}."
    return f"{words} {format_power(plan.power)}" if plan.power is not None else words


def format_time(time: TimeEstimate | None) -> str:
    """Return an estimated time: `about 40 s`."""
    return _about(time.seconds) if time else "Not known"


def _about(seconds: float) -> str:
    return "a few seconds" if seconds < FEW_SECONDS else f"about {format_duration(seconds)}"


def format_estimated_time(time: TimeEstimate | None) -> str:
    """Return the range of an estimated time: `20 s to 2 min`."""
    if time is None:
        return ""
    low, high = format_duration(time.low), format_duration(time.high)
    return f"{low} to {high}" if low != high else _about(time.high)


def _command(ctx: Context, one: EvaluationForecast, config: EvaluationConfig) -> str:
    parts = [
        "roundhouse",
        "eval",
        "run",
        "--endpoint" if one.is_endpoint else "--checkpoint",
        one.subject.name,
        "--benchmark",
        one.benchmark,
    ]
    if config.task is not None:
        parts += ["--task", config.task.name]
        if config.task.fewshot.count != find_single_task(ctx, config.task.name).fewshot.count:
            parts += ["--shots", str(config.task.fewshot.count)]
    for name, value in config.model_dump(exclude_defaults=True, exclude={"task"}).items():
        flag = "--" + name.replace("_", "-")
        parts += [flag] if value is True else [flag, str(getattr(value, "value", value))]
    return shlex.join([*parts, "--wait"])
