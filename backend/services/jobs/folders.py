"""Deletion of ended jobs' working folders (event files, output) after some days.

Results lie in the folder of a run, dataset or checkpoint; logs and metrics are rows. Folders of jobs whose result is a
file in them (completions, log-likelihoods) stay.
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta

from sqlalchemy import select

from backend.db.tables import Job
from backend.domain.jobs.states import TERMINAL
from backend.errors import Unavailable
from backend.services.context import Context

FOLDERS = "jobs"
ASKED_AT_ONCE = 500

log = logging.getLogger(__name__)


def remove_job_folders(ctx: Context, *, limit: int = 20) -> int:
    """Delete up to `limit` folders of jobs that ended longer ago than the policy keeps them, here and in the store, the
    folders of other machines too. Returns the number deleted. Folders of unknown jobs, and files beside them, are kept.
    """
    days = ctx.policy.keep_job_folders_days
    if days <= 0:
        return 0
    before = ctx.now() - timedelta(days=days)
    here = {folder.name for folder in ctx.artifacts.folder(FOLDERS).iterdir() if folder.is_dir()}
    folders = sorted(here) + sorted(_stored(ctx) - here)
    gone = 0
    for first in range(0, len(folders), ASKED_AT_ONCE):
        with ctx.db.read() as session:
            query = select(Job.id, Job.result).where(
                Job.id.in_(folders[first : first + ASKED_AT_ONCE]), Job.status.in_(TERMINAL), Job.finished_at < before
            )
            ended = [
                job_id
                for job_id, result in session.execute(query)
                if f"{FOLDERS}/{job_id}" not in json.dumps(result or {})
            ]
        for job_id in ended:
            if gone == limit:
                return gone
            try:
                ctx.artifacts.remove(f"{FOLDERS}/{job_id}")
                gone += 1
            except OSError as error:  # another machine deletes it at the same moment, or permission is missing
                log.warning("the folder of job %s can't be deleted: %s", job_id, error)
    return gone


def _stored(ctx: Context) -> set[str]:
    """Return the jobs whose folders the store has, without those that it is to delete."""
    if ctx.artifacts.store is None or ctx.artifacts.outbox is None:
        return set()
    try:
        stored = ctx.artifacts.store.list_folders(FOLDERS)
    except Unavailable as error:
        log.warning("folders of ended jobs stay in the store for now: %s", error)
        return set()
    waiting = set(ctx.artifacts.outbox.entries())
    return {folder.removeprefix(f"{FOLDERS}/") for folder in stored if folder not in waiting}
