"""The monitor's tick: gauges into rollups, alerts, and deletion of what is old."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

from sqlalchemy import delete, select

from backend.db.engine import retry_races
from backend.db.tables import Alert, AlertDelivery
from backend.services.context import Context
from backend.services.serving.monitoring.alerts import AlertWatch
from backend.services.serving.monitoring.gauges import live_values, read_live
from backend.services.serving.monitoring.rollups import add_gauges, forget_rollups
from backend.services.serving.request_log.policies import forget_requests
from backend.services.serving.stored_responses import forget_responses

log = logging.getLogger(__name__)
TICK_S = 15.0
TICKS_PER_TIDY = 240
ALERTS_LAST = timedelta(days=90)


@retry_races
def record_gauges(ctx: Context) -> None:
    """Add the current gauges to their rollups."""
    values = live_values(read_live(ctx))
    if values:
        with ctx.db.write() as session:
            add_gauges(session, values, at=ctx.now())


def forget_old(ctx: Context) -> None:
    """Delete rollups and resolved alerts past their time."""
    with ctx.db.write() as session:
        forget_rollups(session, now=ctx.now())
        old = select(Alert.id).where(Alert.resolved_at < ctx.now() - ALERTS_LAST)
        session.execute(delete(AlertDelivery).where(AlertDelivery.alert_id.in_(old)))
        session.execute(delete(Alert).where(Alert.resolved_at < ctx.now() - ALERTS_LAST))


def run_monitor(ctx: Context, stopping: threading.Event) -> None:
    """Tick until told to stop; an error is logged and the next tick tries again."""
    watch, ticks = AlertWatch(), 0
    while not stopping.wait(TICK_S):
        try:
            record_gauges(ctx)
            for message in watch.check(ctx):
                log.warning("alert %s", message)
            if ticks % TICKS_PER_TIDY == 0:
                forget_old(ctx)
            forget_requests(ctx)
            forget_responses(ctx)
            ticks += 1
        except Exception as error:  # the monitor must survive a locked database and a webhook that is away
            log.warning("monitor: %s", error)
