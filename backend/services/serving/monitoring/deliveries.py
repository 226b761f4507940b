"""Deliveries of alerts: one per change and channel, stored with the alert, tried again with growing pauses, and given
up after a day.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.db.tables import Alert, AlertDelivery
from backend.domain.attributes import view_of
from backend.domain.jobs.gauges import AlertMessage
from backend.services.context import Context

FIRST_PAUSE_S, MAX_PAUSE_S = 30.0, 3600.0
MAX_ATTEMPTS = 30
"""Tries over about a day: pauses of 30 s, 1, 2, 4, ... minutes, at most an hour."""
CLAIM_S = 120.0
"""Seconds for which a delivery belongs to the process that tries it; longer than a channel's timeouts."""
AT_ONCE = 20
"""Deliveries of one tick at most, so that a slow channel does not hold the monitor for long."""


def queue_deliveries(session: Session, ctx: Context, alert: Alert, state: str) -> None:
    """Store a message of a change for every channel, in the transaction that stores the change."""
    message = view_of(AlertMessage, alert, state=state, url=f"{ctx.pages_url}/monitor", at=ctx.now())
    for channel in ctx.notifier.channels:
        session.add(
            AlertDelivery(alert_id=alert.id, channel=channel, message=message, created_at=ctx.now(), next_at=ctx.now())
        )


def send_due(ctx: Context) -> int:
    """Try the deliveries whose time has come; return how many were sent. Each is tried by one process at a time."""
    with ctx.db.read() as session:
        query = select(AlertDelivery.id).where(AlertDelivery.next_at <= ctx.now())
        due = session.scalars(query.order_by(AlertDelivery.created_at, AlertDelivery.id).limit(AT_ONCE)).all()
    sent, silent = 0, set[str]()
    for delivery_id in due:
        delivery = _claim(ctx, delivery_id, silent=silent)
        if delivery is None:
            continue
        message = delivery.message
        subject = f"Roundhouse: {'resolved: ' if message.state == 'resolved' else ''}{message.message}"
        text = f"{message.message}\n\n{message.url}\n"
        data = message.model_dump(mode="json")
        problem = ctx.notifier.send(delivery.channel, subject=subject[:160], text=text, data=data)
        _record(ctx, delivery_id, problem)
        if problem:
            silent.add(delivery.channel)  # its other messages keep their time
        sent += not problem
    return sent


def pause_s(attempts: int) -> float:
    """Return the pause after a number of failed tries: 30 s, doubled each time, at most an hour."""
    return min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(attempts - 1, 12))


def _claim(ctx: Context, delivery_id: str, *, silent: set[str]) -> AlertDelivery | None:
    """Take a delivery that is still due, so that no other process tries it; None where another one was faster, or its
    channel is off.
    """
    now = ctx.now()
    with ctx.db.write() as session:
        delivery = session.get(AlertDelivery, delivery_id)
        if delivery is None or delivery.channel in silent:
            return None
        if delivery.channel not in ctx.notifier.channels:
            delivery.next_at, delivery.problem = None, f"{delivery.channel}: no longer set"
            return None
        still_due = update(AlertDelivery).where(AlertDelivery.id == delivery_id, AlertDelivery.next_at <= now)
        taken = session.execute(still_due.values(next_at=now + timedelta(seconds=CLAIM_S)))
        if taken.rowcount != 1:  # type: ignore[attr-defined]
            return None
        session.refresh(delivery)
        session.expunge(delivery)
        return delivery


def _record(ctx: Context, delivery_id: str, problem: str) -> None:
    """Store the outcome of a try with the delivery and with its alert."""
    now = ctx.now()
    with ctx.db.write() as session:
        row = session.get(AlertDelivery, delivery_id)
        if row is None:
            return
        row.attempts += 1
        row.problem = problem
        if not problem:
            row.sent_at, row.next_at = now, None
        else:
            row.next_at = None if row.attempts >= MAX_ATTEMPTS else now + timedelta(seconds=pause_s(row.attempts))
        session.flush()
        alert = session.get_one(Alert, row.alert_id)
        alert.sent_at = alert.sent_at if problem else now
        deliveries = session.scalars(
            select(AlertDelivery).where(AlertDelivery.alert_id == alert.id, AlertDelivery.problem != "")
        )
        alert.problem = "; ".join(sorted(_note(delivery) for delivery in deliveries))


def _note(delivery: AlertDelivery) -> str:
    tries = "1 try" if delivery.attempts == 1 else f"{delivery.attempts} tries"
    return f"{delivery.problem}, {tries}" + (", given up" if delivery.next_at is None else "")
