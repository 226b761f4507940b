"""The Celery application of a worker: one task, and a heart that beats and sweeps. Imports no torch.

celery -A jobs.celery_app worker -Q train -c 1
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

from celery import signals

from backend.bootstrap import get_context
from backend.infra.devices import read_gauges, visible_devices
from backend.infra.queue import TASK, make_celery
from backend.services.jobs.folders import remove_job_folders
from backend.services.jobs.jobs import claim_next
from backend.services.jobs.recovery import sweep
from backend.services.jobs.workers import beat
from backend.services.training.sweeps import lead_sweeps
from backend.settings import Settings
from jobs.runner import execute

log = logging.getLogger(__name__)
settings = Settings()
app = make_celery(settings.broker_url)
TIDY_S = 3600.0
HOST = os.environ.get("ROUNDHOUSE_WORKER_HOST") or socket.gethostname()


def worker_name(queues: list[str]) -> str:
    """Return the name under which a worker of these queues is shown, such as `lab-1/train`."""
    return f"{HOST}/{'+'.join(queues)}"


@app.task(name=TASK)
def work(queue: str) -> None:
    """Take the best job of a queue, if there is one, and see it through."""
    ctx = get_context()
    owner = f"{os.environ.get('ROUNDHOUSE_WORKER_NAME', worker_name([queue]))}#{os.getpid()}"
    claim = claim_next(ctx, queue, owner=owner, host=HOST, devices=visible_devices(settings.devices))
    if claim is not None:
        execute(ctx, claim, nice=settings.train_nice)
        ctx.queue.publish(queue)  # one more look: a job may have become eligible while this one ran


@signals.worker_process_init.connect
def _fresh_connections(**_: Any) -> None:
    """A forked pool process must not share the parent's sockets."""
    if get_context.cache_info().currsize:
        get_context().db.dispose()
    get_context.cache_clear()


@signals.worker_init.connect
def _name_worker(sender: Any, **_: Any) -> None:
    os.environ["ROUNDHOUSE_WORKER_NAME"] = worker_name(sorted(sender.app.amqp.queues.consume_from))


@signals.worker_ready.connect
def _start_heart(sender: Any, **_: Any) -> None:
    queues = sorted(sender.app.amqp.queues.consume_from)
    threading.Thread(target=_heart, args=(queues, int(sender.controller.concurrency)), daemon=True, name="heart").start()


def _heart(queues: list[str], concurrency: int) -> None:
    ctx = get_context()
    devices = list(visible_devices(settings.devices))
    pause = threading.Event()
    tidied = -TIDY_S
    while True:
        try:
            beat(
                ctx,
                name=worker_name(queues),
                host=HOST,
                pid=os.getpid(),
                queues=queues,
                concurrency=concurrency,
                devices=devices,
                gauges=read_gauges(),
            )
            report = sweep(ctx)
            if report.requeued or report.failed or report.cancelled or report.woken:
                log.warning("sweep: %s", report)
            if "train" in queues:
                lead_sweeps(ctx)
            if "cpu" in queues and time.monotonic() - tidied >= TIDY_S and not remove_job_folders(ctx):  # a few a beat until none is left
                tidied = time.monotonic()
        except Exception as error:  # the heart must outlive a locked database and a missing broker
            log.warning("heartbeat missed: %s", error)
        pause.wait(settings.sweep_s)
