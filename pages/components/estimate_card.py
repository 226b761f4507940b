"""What a run will need, before it is launched: tokens, peak memory and time, each with its source, and a probe that measures them."""

from __future__ import annotations

import streamlit as st

from backend.domain.job_states import Status
from backend.domain.predictions import Prediction, say_bytes, say_error, say_fit, say_source, say_spread
from backend.domain.run_config import RunConfig
from backend.domain.run_progress import say_duration
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from backend.services.jobs import JobView
from backend.services.measurements import predict
from backend.services.probes import find_probe, launch_probe
from pages.components.frame import errors_shown, plain, show_problem
from pages.components.job_progress import draw_job
from pages.components.words import ago, plural, short

FIT_ICONS = {
    "yes": ":green[:material/check_circle:]",
    "tight": ":orange[:material/warning:]",
    "no": ":red[:material/block:]",
    "unknown": ":material/help:",
}
WHAT_A_PROBE_IS = "Builds the run for real and does a few steps: about 20 seconds. It leaves no run and no checkpoint."


def draw_estimate(ctx: Context, person: Person, config: RunConfig, *, sound: bool) -> None:
    """Draw the card. A config whose parts don't fit together (`sound` is false) has its tokens counted and nothing more."""
    with st.container(border=True, key="launch_estimate"):
        st.subheader("Estimate", anchor=False)
        tokens = config.tokens_per_step * config.max_steps
        st.caption(f"{short(tokens)} tokens in {plural(config.max_steps, 'step')} of {short(config.tokens_per_step)}")
        if not sound:
            return
        try:
            prediction, job = predict(ctx, config), find_probe(ctx, config)
        except RoundhouseError as error:  # something went away since the form was checked
            st.caption(plain(str(error)))
            return
        _draw_prediction(prediction)
        _draw_probe(ctx, person, config, job, measured=prediction.memory.source == "probe")


def _draw_prediction(prediction: Prediction) -> None:
    memory, time = prediction.memory, prediction.time
    st.metric("Peak memory", say_bytes(memory.num_bytes) if memory.num_bytes is not None else "not known", help=say_error(memory) or None)
    st.caption(_sentence(say_source(memory)))
    st.metric("Time of the steps", say_duration(time.seconds) if time else "not known", help="Measuring and saving come on top.")
    st.caption(
        f"{_sentence(say_spread(time))} {short(time.tokens_per_s)} tokens/s, {plain(time.source)}." if time else "A probe measures it."
    )
    st.markdown(f"{FIT_ICONS[prediction.fits]} {plain(say_fit(prediction))}")


def _draw_probe(ctx: Context, person: Person, config: RunConfig, job: JobView | None, *, measured: bool) -> None:
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
    if st.button(label, key="launch_probe", icon=":material/speed:", help=WHAT_A_PROBE_IS, type="tertiary" if measured else "secondary"):
        with errors_shown():
            launch_probe(ctx, config, person=person)
            st.rerun()


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
