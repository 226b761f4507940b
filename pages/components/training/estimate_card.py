"""What will happen, before a run is launched: each figure with where it comes from, and a probe that measures the two that matter most."""

from __future__ import annotations

import streamlit as st

from backend.domain.estimates.prediction import Prediction, say_error, say_fit, say_source, say_spread
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.domain.wording import plural, say_bytes, say_duration, short
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.estimates.forecasts import Forecast, QueuePosition
from backend.services.estimates.probes import find_probe, launch_probe
from backend.services.jobs.jobs import JobView
from pages.components.frame import errors_shown, plain, show_problem
from pages.components.job_progress import draw_job
from pages.components.words import ago

FIT_ICONS = {
    "yes": ":green[:material/check_circle:]",
    "tight": ":orange[:material/warning:]",
    "no": ":red[:material/block:]",
    "unknown": ":material/help:",
}
WHAT_A_PROBE_IS = "Builds the run for real and does a few steps: about 20 seconds. It leaves no run and no checkpoint."
UNKNOWN = "not known"


def draw_estimate(ctx: Context, person: Person, config: RunConfig, found: Forecast | None) -> None:
    """Draw the card. A config whose parts don't fit together has no forecast: its tokens are counted and nothing more."""
    with st.container(border=True, key="launch_estimate", gap="small"):
        st.subheader("What will happen", anchor=False)
        if found is None:
            st.caption(_say_tokens(config.tokens_per_step * config.max_steps, config.max_steps, config.tokens_per_step))
            return
        read = f", its data read {'at least ' if found.epochs_at_least else ''}{found.epochs:.3g} times" if found.epochs else ""
        st.caption(_say_tokens(found.tokens, found.steps, config.tokens_per_step) + read)
        _draw_prediction(found.prediction)
        _draw_rest(found)
        st.markdown(f"{FIT_ICONS[found.prediction.fits]} {plain(say_fit(found.prediction))}")
        try:
            job = find_probe(ctx, config, parts=found.parts)
        except RoundhouseError as error:  # something went away since the form was checked
            st.caption(plain(str(error)))
            return
        _draw_probe(ctx, person, config, job, found)


def _say_tokens(tokens: int, steps: int, per_step: int) -> str:
    return f"{short(tokens)} tokens in {plural(steps, 'step')} of {short(per_step)}"


def _draw_prediction(prediction: Prediction) -> None:
    memory, time = prediction.memory, prediction.time
    halves = st.grid(2, min_column_width=150)
    with halves.cell():
        st.metric("Time of the steps", say_duration(time.seconds) if time else UNKNOWN, help="Measuring and saving come on top.")
        st.caption(
            f"{_sentence(say_spread(time))} {short(time.tokens_per_s)} tokens/s, {plain(time.source)}." if time else "A probe measures it."
        )
    with halves.cell():
        st.metric("Peak memory", say_bytes(memory.num_bytes) if memory.num_bytes is not None else UNKNOWN, help=say_error(memory) or None)
        st.caption(_sentence(say_source(memory)))


def _draw_rest(found: Forecast) -> None:
    """Draw disk, cost, the loss to expect and the place in the queue, a line each."""
    disk = f"{say_bytes(found.disk_bytes)} for {plural(found.num_checkpoints, 'checkpoint')} of {say_bytes(found.free_bytes)} free"
    _line("save", "Disk", disk)
    if found.cost_usd is not None:
        _line("payments", "Cost", f"{found.cost_usd:,.2f} US dollars at {found.price_usd:g} for a device-hour")
    elif found.price_usd is None:
        _line("payments", "Cost", "no price of a device-hour is set", help="The operator sets ROUNDHOUSE_DEVICE_HOUR_PRICE.")
    if found.loss is not None:
        value, low, high = found.loss.estimate.value, found.loss.estimate.low, found.loss.estimate.high
        between = f", {low:.2f} to {high:.2f}" if low is not None and high is not None else ""
        own = "by the law of your own runs" if found.loss.is_own else f"by {found.loss.law}, a law of other data"
        _line("trending_down", "Final loss", f"about {value:.2f}{between}, {own}", help=found.loss.estimate.method)
    elif found.loss_missing:
        _line(
            "trending_down",
            "Final loss",
            f"not known: {found.loss_missing}",
            help="A scaling study on the Planner page fits a law to your own runs.",
        )
    _line("schedule", "Queue", say_queue(found.queue))


def say_queue(place: QueuePosition) -> str:
    """Say who is before a new run, and how long that takes."""
    if place.num_slots == 0:
        return "no worker serves it at the moment; a run waits for one"
    if place.wait_s == 0.0:
        return "starts at once"
    wait = f", about {say_duration(place.wait_s)}" if place.wait_s is not None else ", how long is not known"
    return f"{plural(place.ahead, 'job')} ahead{wait}"


def _line(icon: str, label: str, text: str, *, help: str | None = None) -> None:
    st.markdown(f":gray[:material/{icon}:] **{label}:** {plain(text)}", help=help)


def _draw_probe(ctx: Context, person: Person, config: RunConfig, job: JobView | None, found: Forecast) -> None:
    if job is not None and job.is_active:
        draw_job(ctx, person, job.id, doing="Starting the probe")
        return
    if job is not None and job.status is Status.FAILED:
        show_problem(str(job.error.get("cause") or "The probe failed."), job.error.get("remedy") or "")
    elif job is not None and job.status is Status.CANCELLED:
        st.caption("The last probe was stopped.")
    elif job is not None and job.finished_at is not None:
        steps = int(job.result.get("steps_timed") or 0)
        st.caption(f"Probed {ago(job.finished_at)}: {plural(steps, 'step')}, {float(job.result.get('step_s') or 0):.3g} s each.")
    label = "Probe again" if job is not None else "Probe"
    measured = found.prediction.memory.source == "probe"
    if st.button(label, key="launch_probe", icon=":material/speed:", help=WHAT_A_PROBE_IS, type="tertiary" if measured else "secondary"):
        with errors_shown():
            launch_probe(ctx, config, person=person, parts=found.parts)
            st.rerun()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
