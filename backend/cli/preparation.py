"""Make a home folder ready for use: `python -m backend.cli.preparation PART...`, started by `roundhouse up` in parallel
to these parts.

A separate process, so that `roundhouse up` neither waits for it nor keeps its imports in memory.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from backend.bootstrap import build_context
from backend.cli.failures import explain
from backend.cli.output import note
from backend.errors import Conflict
from backend.infra.processes import die_with_parent
from backend.services.context import LOCAL, Context
from backend.services.jobs.workers import list_workers
from backend.services.people.accounts import add_user, count_users
from backend.services.starter import ensure_starter_content
from backend.settings import Settings

NO_ONE_ASKED = "no one is asked to sign in: only this machine reaches the pages. Set ROUNDHOUSE_SIGN_IN=always to ask."
WORKER_TIMEOUT_S = 60.0
POLL_S = 0.1
SEND_S = 60.0


def prepare_installation(settings: Settings) -> Context:
    """Migrate the database, add the first account if the environment has its password, and queue starter content."""
    is_first = settings.sqlite_path is not None and not settings.has_database_file
    ctx = build_context(settings)
    if is_first:
        note(f"First start: created the database {settings.sqlite_path}.")
    if settings.admin_password is not None and count_users(ctx) == 0:
        with suppress(Conflict):  # another machine was first
            add_user(ctx, "admin", settings.admin_password.get_secret_value(), role="admin", person=LOCAL)
    if settings.admin_password is not None and not settings.needs_sign_in:
        note(f"ROUNDHOUSE_ADMIN_PASSWORD is set, but {NO_ONE_ASKED}")
    ensure_starter_content(ctx)
    return ctx


def wait_for_worker(ctx: Context) -> bool:
    """Return whether a worker has sent a heartbeat since this call."""
    started, deadline = ctx.now(), time.monotonic() + WORKER_TIMEOUT_S
    while time.monotonic() < deadline:
        if any(worker.heartbeat_at >= started for worker in list_workers(ctx)):
            return True
        time.sleep(POLL_S)
    return False


def main() -> int:
    """Prepare, wait for the worker if one starts here, and return the exit status. A failure's cause goes to stdout."""
    die_with_parent()
    try:
        ctx = prepare_installation(settings := Settings())
        if "worker" in sys.argv and not wait_for_worker(ctx):
            note(f"The worker sends no heartbeat. See {settings.home / 'logs' / 'worker.log'}.")
        ctx.artifacts.finish_sending(within_s=SEND_S)
        ctx.db.engine.dispose()
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        sys.stdout.write(explained[0])
        return explained[1]
    return 0


if __name__ == "__main__":
    sys.exit(main())
