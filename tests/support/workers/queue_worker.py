"""A real worker whose jobs take a moment instead of a training: each leaves a line in a file that only grows.

celery -A tests.support.workers.queue_worker worker -Q train -c 1
"""

from __future__ import annotations

import json
import math
import os
import time
from typing import Any

from sqlalchemy import select

from backend.db.tables import Run
from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import Status
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.jobs.claims import Claim, end_job
from jobs import celery_app, runner

app = celery_app.app
LINES = os.environ["QUEUE_TEST_LINES"]


def leave_a_line(ctx: Context, claim: Claim[Any], **_: Any) -> None:
    """Run a job as the runner does, but without a child: it lasts `seconds`, and a run reports a val_loss
    computed from its learning rate.
    """
    began = time.monotonic()
    time.sleep(float(claim.payload.get("seconds", 0)))
    with ctx.db.write() as session:
        run = session.scalar(select(Run).where(Run.job_id == claim.job_id))
        if run is not None:
            loss = 1.0 + (math.log10(run.config.learning_rate) + 2.5) ** 2
            ready = claim.with_payload(TrainPayload.read(claim.payload))
            event = MetricsEvent(step=run.config.max_steps, time=time.time(), values={"val_loss": loss})
            outcomes.record_events(session, ctx, ready, [event])
            outcomes.record_finish(session, ctx, ready, TrainResult(final_step=event.step))
        end_job(session, ctx, claim, Status.FINISHED)
    line = {
        "job": claim.job_id,
        "attempt": claim.attempt,
        "kind": claim.kind,
        "worker": os.getpid(),
        "began": began,
        "ended": time.monotonic(),
    }
    descriptor = os.open(LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{json.dumps(line)}\n".encode())
    os.close(descriptor)


runner.execute = leave_a_line
