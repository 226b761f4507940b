"""Progress of a job on the page that waits for it: state, bar, stop button."""

from __future__ import annotations

import streamlit as st

from backend.domain.jobs.progress import Progress
from backend.domain.jobs.states import ACTIVE, Status, status_word
from backend.domain.wording import format_duration, plural
from backend.services.context import Context, Person
from backend.services.health import BROKER, HEALTH
from backend.services.jobs.jobs import JobView, get_job, stop_job
from backend.services.jobs.queue_position import queue_ahead
from backend.services.jobs.workers import has_worker
from pages.components.frame import errors_shown, live_part, plain
from pages.components.words import size

BADGES: dict[str, tuple[str, str]] = {
    Status.QUEUED: ("schedule", "gray"),
    Status.RUNNING: ("progress_activity", "blue"),
    Status.CANCELLING: ("stop_circle", "orange"),
    Status.PAUSED: ("pause_circle", "orange"),
    Status.CANCELLED: ("block", "gray"),
    Status.FAILED: ("error", "red"),
    Status.FINISHED: ("check_circle", "green"),
}


def status_badge(status: str, *, ready: str = "ready") -> None:
    """Draw a status as a badge; `ready` is the label of finished."""
    icon, color = BADGES[status]
    word = ready if status == Status.FINISHED else status_word(status)
    st.badge(word, icon=f":material/{icon}:", color=color)  # type: ignore[arg-type]


@live_part(1)
def draw_job(ctx: Context, person: Person, job_id: str, *, doing: str) -> None:
    """Draw an active job every second, with a button to stop it; rerun the page when it ends."""
    job = get_job(ctx, job_id)
    if job.status not in ACTIVE:
        st.rerun()
    with st.container(border=True):
        if job.status is Status.QUEUED:
            draw_waiting(ctx, job)
        else:
            progress = job.progress
            message = plain((progress.message if progress else "") or doing)
            if job.status is Status.CANCELLING:
                message = f"Stopping: {message}"
            st.progress(progress.share if progress else 0.0, text=message + plain(_amount(progress)))
        if st.button(
            "Stop", key=f"stop_{job_id}", icon=":material/stop_circle:", disabled=job.status is Status.CANCELLING
        ):
            with errors_shown():
                stop_job(ctx, job_id, person=person)
                st.rerun(scope="fragment")


def draw_waiting(ctx: Context, job: JobView) -> None:
    """Draw what a queued job waits for."""
    ahead = queue_ahead(ctx, job.id).count
    waiting = f"Waiting: {plural(ahead, 'job')} ahead in the queue." if ahead else "Waiting for a worker."
    if HEALTH.fails(BROKER):
        waiting = "Waiting for the broker, which does not answer; the job starts within seconds when it is back."
    elif not has_worker(ctx, job.queue):
        waiting = f"No worker serves the queue `{job.queue}` at the moment; the job starts as soon as one does."
    st.markdown(f":material/schedule: {waiting}")


def _amount(progress: Progress | None) -> str:
    """Return what is done, its rate and the time left as text, of bytes and of units that are counted in the plural;
    nothing for others, whose message says it.
    """
    if progress is None or not progress.total or not (progress.unit == "byte" or progress.unit.endswith("s")):
        return ""
    is_bytes = progress.unit == "byte"
    done, total, rate = (
        size(value) if is_bytes else f"{value:,.0f}" for value in (progress.done, progress.total, progress.rate or 0)
    )
    text = f": {done} of {total}" + ("" if is_bytes else f" {progress.unit}")
    if progress.rate:
        text += f", {rate if is_bytes or progress.rate >= 10 else f'{progress.rate:.2g}'} a second"
        text += f", about {format_duration(progress.left_s)} left" if progress.left_s else ""
    return text
