"""Estimate card of the launch page: each figure with its source, and a probe that measures memory and speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import streamlit as st

from backend.domain.estimates.prediction import describe_error, describe_fit, describe_source, format_time_range
from backend.domain.jobs.results import ProbeResult
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.domain.training.sweep import SweepConfig
from backend.domain.wording import format_bytes, format_duration, format_usd, plural, short
from backend.services.context import Context, Person
from backend.services.estimates.forecasts import (
    Forecast,
    QueuePosition,
    SweepForecast,
    describe_epochs,
    describe_truncated,
)
from backend.services.estimates.probes import find_probe, launch_probe
from backend.services.health import BROKER, HEALTH
from backend.services.jobs.placements import describe_nodes
from backend.services.people.gpu_hours import gpu_hours_of
from pages.components.frame import draw_figure, plain, rerun_after, show_problem
from pages.components.job_progress import draw_job
from pages.components.words import when

FIT_ICONS = {
    "yes": ":green[:material/check_circle:]",
    "tight": ":orange[:material/warning:]",
    "no": ":red[:material/block:]",
    "unknown": ":material/help:",
}
PROBE_HELP = "Builds the model and runs a few steps: about 20 seconds. It leaves no run and no checkpoint."
TIME_HELP = "Time of the training steps. Evaluations and checkpoints come on top."


def draw_estimate(
    ctx: Context, person: Person, config: RunConfig, expected: Forecast | None, *, placement: str | None = None
) -> None:
    """Draw the estimate of one run, at a placement if it is given. A config whose parts don't fit together has no
    forecast: only its tokens are counted.
    """
    with _card():
        if expected is None:
            st.caption(describe_tokens(config, config.max_steps))
            return
        epochs = f", {describe_epochs(expected)}" if expected.epochs else ""
        st.caption(describe_tokens(config, expected.steps) + epochs)
        if truncated := describe_truncated(expected):
            st.caption(truncated)
        _draw_prediction(expected)
        _draw_disk(expected.disk_bytes, f"for {plural(expected.num_checkpoints, 'checkpoint')}", expected.free_bytes)
        _draw_cost(expected.cost_usd, expected.price_usd)
        _draw_loss(expected)
        if placement is not None:
            _line("hub", "Machines", describe_nodes(ctx, placement, config))
        else:
            if expected.gang is None or expected.gang.can_start:
                _line("schedule", "Queue", describe_queue(expected.queue))
            if expected.gang is not None:
                _line("hub", "Machines", expected.gang.sentence)
        if (hours := gpu_hours_of(ctx, person)) is not None:
            if hours.is_used_up:
                st.warning(f"**Your week:** {plain(hours.sentence)} Nothing is left.", icon=":material/timer_off:")
            else:
                _line("timer", "Your week", hours.sentence)
        _draw_fit_and_probe(ctx, person, config, expected)


def draw_sweep_estimate(ctx: Context, person: Person, sweep: SweepConfig, total: SweepForecast, one: Forecast) -> None:
    """Draw the estimate of a whole sweep; `one` is the forecast of the run that the others vary."""
    with _card():
        st.caption(
            f"{plural(total.num_runs, 'run')}, {describe_parallel(sweep, total, num_slots=one.queue.num_slots)}. "
            f"The first: {describe_tokens(sweep.run, one.steps)}."
        )
        halves = st.grid(2, min_column_width=150)
        with halves.cell():
            seconds = total.seconds
            draw_figure("Estimated time", None if seconds is None else format_duration(seconds), help=TIME_HELP)
            st.caption(describe_run_times(total) if total.run_seconds else "A probe measures the time of a run.")
        with halves.cell():
            memory = total.memory_bytes
            draw_figure("Peak memory", None if memory is None else format_bytes(memory))
            st.caption("Largest run of the sweep.")
        _draw_disk(total.disk_bytes, f"for {plural(total.num_runs, 'run')}", one.free_bytes)
        _draw_cost(total.cost_usd, one.price_usd)
        _line("schedule", "Queue", describe_queue(one.queue))
        if total.problem:
            st.markdown(f":orange[:material/warning:] Some runs can't be launched: {plain(total.problem)}")
        _draw_fit_and_probe(ctx, person, sweep.run, one)


def describe_parallel(sweep: SweepConfig, total: SweepForecast, *, num_slots: int) -> str:
    """Format how many runs go at once, and what holds that below the number that was asked for."""
    if num_slots == 0 and total.at_once > 1:
        return f"{total.at_once} at a time as far as workers allow"
    if total.at_once >= min(sweep.parallel, total.num_runs):
        return f"{total.at_once} at a time"
    return f"{total.at_once} at a time, as many as the workers train at once"


def describe_run_times(total: SweepForecast) -> str:
    """Format the time of one run of a sweep."""
    low, high = (format_duration(seconds) for seconds in total.run_seconds or (0.0, 0.0))
    sampled = ", by a sample of the runs" if total.is_sampled else ""
    return f"{low} a run{sampled}." if low == high else f"{low} to {high} a run{sampled}."


def describe_queue(position: QueuePosition) -> str:
    """Format the number of jobs ahead of a new run, and their time."""
    if HEALTH.fails(BROKER):
        return "waits for the broker, which does not answer"
    if position.num_slots == 0:
        return "no worker serves it at the moment; a run waits for one"
    if position.wait_s == 0.0:
        return "starts at once"
    wait = f", about {format_duration(position.wait_s)}" if position.wait_s is not None else ", wait unknown"
    return f"{plural(position.ahead, 'job')} ahead{wait}"


@contextmanager
def _card() -> Iterator[None]:
    with st.container(border=True, key="launch_estimate", gap="small"):
        st.subheader("Estimate", anchor=False)
        yield


def describe_tokens(config: RunConfig, steps: int) -> str:
    """Format a run's tokens; completions that are sampled may end before they fill the context."""
    bound = " at most" if config.objective.samples else ""
    tokens = f"{short(steps * config.tokens_per_step)} tokens{bound} in {plural(steps, 'step')}"
    return f"{tokens} of {short(config.tokens_per_step)}{bound}"


def _draw_prediction(expected: Forecast) -> None:
    memory, time = expected.prediction.memory, expected.prediction.time
    halves = st.grid(2, min_column_width=150)
    with halves.cell():
        seconds = expected.seconds
        draw_figure("Estimated time", None if seconds is None else format_duration(seconds), help=TIME_HELP)
        st.caption(
            f"{_sentence(format_time_range(time))} {short(time.tokens_per_s)} tokens/s, {plain(time.source)}."
            if time
            else "A probe measures it."
        )
    with halves.cell():
        num_bytes = None if memory.num_bytes is None else format_bytes(memory.num_bytes)
        draw_figure("Peak memory", num_bytes, help=describe_error(memory) or None)
        st.caption(_sentence(describe_source(memory)))


def _draw_disk(num_bytes: int, purpose: str, free_bytes: int) -> None:
    _line("save", "Disk", f"{format_bytes(num_bytes)} {purpose}, {format_bytes(free_bytes)} free")


def _draw_cost(cost_usd: float | None, price_usd: float | None) -> None:
    if cost_usd is not None:
        price = "" if price_usd is None else f" at {format_usd(price_usd, is_price=True)} per device-hour"
        _line("payments", "Cost", f"{format_usd(cost_usd)}{price}")
    elif price_usd is None:
        _line("payments", "Cost", "no device-hour price set", help="An admin sets it on the Costs page.")


def _draw_loss(expected: Forecast) -> None:
    """Draw the final validation loss predicted by a scaling law, or why it is unknown."""
    if expected.loss is not None:
        estimate = expected.loss.estimate
        interval = (
            f", {estimate.low:.2f} to {estimate.high:.2f}"
            if estimate.low is not None and estimate.high is not None
            else ""
        )
        law = "by the law of your own runs" if expected.loss.is_own else f"by {expected.loss.law}, fitted to other data"
        _line(
            "trending_down",
            "Final validation loss",
            f"about {estimate.value:.2f}{interval}, {law}",
            help=estimate.method,
        )
    elif expected.loss_missing:
        _line(
            "trending_down",
            "Final validation loss",
            f"unknown: {expected.loss_missing}",
            help="A scaling study on the Planner page fits a law to your own runs.",
        )


def _line(icon: str, label: str, text: str, *, help: str | None = None) -> None:
    st.markdown(f":gray[:material/{icon}:] **{label}:** {plain(text)}", help=help)


def _draw_fit_and_probe(ctx: Context, person: Person, config: RunConfig, expected: Forecast) -> None:
    st.markdown(f"{FIT_ICONS[expected.prediction.fits]} {plain(describe_fit(expected.prediction))}")
    job = find_probe(ctx, config, parts=expected.parts)
    if job is not None and job.is_active:
        draw_job(ctx, person, job.id, doing="Starting the probe")
        return
    if job is not None and job.status is Status.FAILED:
        show_problem(job.error.cause or "The probe failed.", job.error.remedy)
    elif job is not None and job.status is Status.CANCELLED:
        st.caption("The last probe was stopped.")
    elif job is not None and job.finished_at is not None:
        probed = job.result_as(ProbeResult)
        steps = f": {plural(int(probed.steps_timed), 'step')}, {probed.step_s or 0:.3g} s each" if probed else ""
        st.caption(f"Probed {when(job.finished_at)}{steps}.")
    kind: Literal["secondary", "tertiary"] = "tertiary" if expected.prediction.memory.source == "probe" else "secondary"
    label = "Probe again" if job is not None else "Probe"
    if st.button(label, key="launch_probe", icon=":material/speed:", help=PROBE_HELP, type=kind):
        with rerun_after():
            launch_probe(ctx, config, person=person, parts=expected.parts)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
