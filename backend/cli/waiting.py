"""Wait for a job from the command line. Without a worker for its queue the job runs here, in a child process."""

from __future__ import annotations

import subprocess
import sys
import time

from backend.cli.output import note
from backend.domain.jobs.progress import format_progress
from backend.domain.jobs.states import TERMINAL, Status
from backend.errors import JobFailed
from backend.services.context import Context
from backend.services.jobs.jobs import JobView, get_job
from backend.services.jobs.workers import has_worker

POLL_S = 0.3
PROGRESS_S = 2.0
"""Seconds between lines of progress at least."""


def wait_for_job(ctx: Context, job_id: str, *, quiet: bool = False) -> JobView:
    """Return the job once it has finished. Raises JobFailed with the cause if it, or one it depends on, failed."""
    job = get_job(ctx, job_id)
    if job.placement is None and not has_worker(ctx, job.queue) and job.status is Status.QUEUED:
        if job.depends_on:
            wait_for_job(ctx, job.depends_on, quiet=quiet)
        note(f"No worker serves the queue `{job.queue}`: running the job here.")
        subprocess.run([sys.executable, "-m", "jobs.run", job_id], check=False, stdout=sys.stderr)
        job = get_job(ctx, job_id)
    shown, shown_at = "", 0.0
    while job.status not in TERMINAL:
        progress = format_progress(job.progress) if job.progress else ""
        line = f"{job.status}: {progress}" if progress else str(job.status)
        is_due = time.monotonic() - shown_at >= PROGRESS_S or not shown.startswith(job.status)
        if line != shown and is_due and not quiet:
            note(line)
            shown, shown_at = line, time.monotonic()
        time.sleep(POLL_S)
        job = get_job(ctx, job_id)
    if job.status is not Status.FINISHED:
        cause = job.error.cause or f"The job is {job.status}."
        raise JobFailed(cause, remedy=job.error.remedy)
    return job
