"""Cost of a launch of evaluations, the launch button, and the equivalent commands."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Mapping, Sequence

import streamlit as st

from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind, describe_scoring
from backend.domain.evaluation.cost import MemoryRange, TimeEstimate
from backend.domain.wording import format_bytes, format_duration, format_usd, plural
from backend.services.context import Context, Person
from backend.services.evaluation.endpoints.registry import EvaluatedEndpointView
from backend.services.evaluation.evaluations import EvaluationView, Plan, launch_evaluation
from backend.services.evaluation.forecasts import EvaluationForecast, Subject, TotalForecast, forecast_evaluations
from backend.services.evaluation.tasks import find_single_task
from pages.components.evaluation.power import format_detectable, format_power
from pages.components.frame import draw_figure, errors_shown, plain
from pages.components.numbers import wrong_numbers
from pages.components.tables import draw_table

FEW_SECONDS = 10
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
    ready = count > 0 and all(one.plan.items for one in forecast.evaluations)
    label = "Evaluate" if count < 2 else f"Launch {count} evaluations"
    if st.button(
        label,
        type="primary",
        icon=":material/play_arrow:",
        key="eval_launch",
        disabled=not ready or bool(wrong_numbers()),
    ):
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
        if forecast.memory is not None:
            with st.container(border=True, width=METRIC_WIDTH, height="stretch"):
                st.metric("Peak memory", f"about {format_bytes(forecast.memory.bytes)}")
                only = all(one.is_endpoint for one in forecast.evaluations)
                words = (
                    "the process that asks; no weights are loaded"
                    if only
                    else f"{format_memory_range(forecast.memory)} on the CPU"
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
        st.metric("Requests to endpoints", f"{count:,}{' or more' if choices else ''}")
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


def format_memory_range(memory: MemoryRange) -> str:
    """Return the range of an estimated memory."""
    return f"{format_bytes(memory.low)} to {format_bytes(memory.high)}"


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
