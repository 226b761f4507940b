"""Cost of a launch of evaluations, the launch button, and the equivalent commands."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Mapping, Sequence

import streamlit as st

from backend.domain.evaluation.config import KIND_LABEL, EvaluationConfig, EvaluationKind
from backend.domain.evaluation.cost import MemoryEstimate, TimeEstimate
from backend.domain.wording import format_bytes, format_duration, plural
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context, Person
from backend.services.evaluation.evaluations import EvaluationView, Plan, launch_evaluation
from backend.services.evaluation.forecasts import TotalForecast, forecast_evaluations
from pages.components.evaluation.power import format_power
from pages.components.frame import errors_shown, plain
from pages.components.tables import draw_table

FEW_SECONDS = 10


def draw_launch(
    ctx: Context, person: Person, checkpoints: Sequence[CheckpointView], configs: Mapping[str, EvaluationConfig]
) -> list[EvaluationView]:
    """Draw the forecast of every checkpoint on every benchmark and the launch button; return what was launched."""
    forecast: TotalForecast | None = None
    with errors_shown():
        forecast = forecast_evaluations(ctx, checkpoints, configs)
    if forecast is None:
        return []
    _draw_forecast(forecast)
    launched: list[EvaluationView] = []
    nonce = st.session_state.setdefault("eval_nonce", uuid.uuid4().hex)
    count = len(forecast.evaluations)
    ready = count > 0 and all(one.plan.items for one in forecast.evaluations)
    label = "Evaluate" if count < 2 else f"Launch {count} evaluations"
    if st.button(label, type="primary", icon=":material/play_arrow:", key="eval_launch", disabled=not ready):
        with errors_shown():
            for one in forecast.evaluations:
                launched.append(
                    launch_evaluation(
                        ctx,
                        checkpoint=one.checkpoint.id,
                        benchmark=one.benchmark,
                        config=configs[one.benchmark],
                        person=person,
                        idempotency_key=f"{nonce}-{one.checkpoint.id}-{one.benchmark}",
                    )
                )
            st.session_state["eval_nonce"] = uuid.uuid4().hex
    with st.expander("Command line", icon=":material/terminal:"):
        lines = [_command(one.checkpoint.name, one.benchmark, configs[one.benchmark]) for one in forecast.evaluations]
        st.code("\n".join(lines) or "Choose a checkpoint and a benchmark.", language="bash", wrap_lines=True)
    return launched


def _draw_forecast(forecast: TotalForecast) -> None:
    plans = {one.benchmark: one.plan for one in forecast.evaluations}
    for benchmark, plan in plans.items():
        name = f"{benchmark}: " if len(plans) > 1 else ""
        st.caption(plain(name + format_plan(plan)))
    for cap in dict.fromkeys(one.cap for one in forecast.evaluations if one.cap):
        st.caption(plain(cap))
    if not forecast.evaluations:
        st.caption("Choose at least one checkpoint and one benchmark.")
        return
    with st.container(horizontal=True):
        with st.container(border=True):
            st.metric("Estimated time", format_time(forecast.time))
            st.caption(plain(_time_caption(forecast)))
        if forecast.memory is not None:
            with st.container(border=True):
                st.metric("Peak memory", f"about {format_bytes(forecast.memory.bytes)}")
                st.caption(plain(f"{format_memory_range(forecast.memory)} on the CPU, one evaluation at a time."))
    if len(forecast.evaluations) > 1:
        with st.expander("Each evaluation", icon=":material/list:"):
            rows = [
                {
                    "Checkpoint": one.checkpoint.name,
                    "Benchmark": one.benchmark,
                    "Items": one.plan.items,
                    "Time": format_time(one.time),
                    "Range": format_time_range(one.time),
                    "Taken from": one.time.basis if one.time else "",
                    "Memory": format_bytes(one.memory.bytes),
                }
                for one in forecast.evaluations
            ]
            draw_table(rows, key="eval_forecast", alt="Forecast of each evaluation")


def _time_caption(forecast: TotalForecast) -> str:
    if forecast.time is None:
        return "Nothing of this kind has been evaluated yet; the first one gives the rate."
    words = f"{format_time_range(forecast.time)}, one after another"
    if len(forecast.evaluations) == 1 and forecast.evaluations[0].time:
        words = f"{format_time_range(forecast.time)}, from {forecast.evaluations[0].time.basis}"
    if forecast.unknown:
        words += f"; without {plural(forecast.unknown, 'evaluation')} that nothing is known about"
    return f"{words}."


def format_plan(plan: Plan) -> str:
    """Return what is scored and what a comparison of two checkpoints can detect."""
    rows = {"all": "", "train": " of the training split", "val": " of the validation split"}[plan.split]
    noun = "text" if plan.kind is EvaluationKind.PERPLEXITY else "item"
    words = f"{KIND_LABEL[plan.kind]} on {plural(plan.items, noun)}{rows}."
    return f"{words} {format_power(plan.power)}" if plan.power is not None else words


def format_time(time: TimeEstimate | None) -> str:
    """Return an estimated time: `about 40 s`."""
    return _about(time.seconds) if time else "Not known"


def _about(seconds: float) -> str:
    return "a few seconds" if seconds < FEW_SECONDS else f"about {format_duration(seconds)}"


def format_time_range(time: TimeEstimate | None) -> str:
    """Return the range of an estimated time: `20 s to 2 min`."""
    if time is None:
        return ""
    low, high = format_duration(time.low), format_duration(time.high)
    return f"{low} to {high}" if low != high else _about(time.high)


def format_memory_range(memory: MemoryEstimate) -> str:
    """Return the range of an estimated memory."""
    return f"{format_bytes(memory.low)} to {format_bytes(memory.high)}"


def _command(checkpoint: str, benchmark: str, config: EvaluationConfig) -> str:
    parts = ["roundhouse", "eval", "run", "--checkpoint", checkpoint, "--benchmark", benchmark]
    if config.task is not None:
        parts += ["--task", config.task.name]
    for name, value in config.model_dump(exclude_defaults=True, exclude={"task"}).items():
        flag = "--" + name.replace("_", "-")
        parts += [flag] if value is True else [flag, str(getattr(value, "value", value))]
    return shlex.join([*parts, "--wait"])
