"""Alerts: conditions that are checked every few seconds, opened once, delivered once by each channel, tried
again with growing pauses for a day, and resolved.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from sqlalchemy import ColumnElement, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.base import utc_now
from backend.db.tables import Alert, AlertDelivery, Deployment, Endpoint, Job, Run
from backend.domain.attributes import attributes_of, view_of
from backend.domain.jobs.gauges import AlertMessage
from backend.domain.jobs.states import Status
from backend.domain.wording import format_bytes, percent, plural
from backend.infra.notifier import Notifier
from backend.services.context import LOCAL, Context
from backend.services.people.keys import list_keys, spending_of_keys
from backend.services.serving.monitoring.gauges import LiveGauges, read_live
from backend.services.serving.monitoring.traffic import WINDOWS, read_traffic

HOLDS_S = 60.0
"""Seconds that a lost replica must stay lost before it is an alert, and a channel must fail: a restart is shorter."""
MIN_REQUESTS = 20
ENDED_WITHIN = timedelta(minutes=10)
DIVERGED = re.compile(r"\b(nan|inf|infinite|not finite|diverged)\b", re.IGNORECASE)
STORED = ("fingerprint", "kind", "severity", "message")
ENDED_RUN, DIVERGED_RUN, DIVERGING_RUN = "run_ended", "run_diverged", "run_diverging"
FAILED_DELIVERY = "delivery_failed"
RUN_EVENTS = (ENDED_RUN, DIVERGED_RUN)
"""Kinds of the events of runs that ended."""
DIAGNOSE_EVERY = timedelta(minutes=1)
"""How often a run in training is diagnosed: it reads all of its losses."""
GIVEN_UP_WITHIN = timedelta(days=2)
"""Age of a message that no channel took, after which it no longer says that the channel fails."""


@dataclass(frozen=True)
class AlertCondition:
    """A condition that is met. An event (a run that ended) is sent and not kept open."""

    fingerprint: str
    kind: str
    severity: str
    message: str
    is_event: bool = False


@dataclass(frozen=True)
class AlertView:
    """An alert as pages show it."""

    id: str
    fingerprint: str
    kind: str
    severity: str
    message: str
    opened_at: datetime
    resolved_at: datetime | None
    sent_at: datetime | None
    problem: str


@dataclass
class AlertWatch:
    """Checks the conditions, and remembers since when those hold that must last, and when runs were diagnosed."""

    since: dict[str, datetime] = field(default_factory=dict)
    diagnosed: dict[str, tuple[datetime, AlertCondition | None]] = field(default_factory=dict)

    def check(self, ctx: Context) -> list[str]:
        """Open, send and resolve alerts; return the messages that were sent."""
        conditions = [
            *self._lasting(ctx, [*_replicas_down(ctx, read_live(ctx)), *_silent_channels(ctx)]),
            *_slow(ctx),
            *_budgets(ctx),
            *_disk(ctx),
            *_ended_runs(ctx),
            *self._diverging_runs(ctx),
        ]
        return settle_alerts(ctx, conditions)

    def _lasting(self, ctx: Context, conditions: Sequence[AlertCondition]) -> list[AlertCondition]:
        now = ctx.now()
        self.since = {c.fingerprint: self.since.get(c.fingerprint, now) for c in conditions}
        return [c for c in conditions if (now - self.since[c.fingerprint]).total_seconds() >= HOLDS_S]

    def _diverging_runs(self, ctx: Context) -> list[AlertCondition]:
        """Return a condition for each run in training whose curves say, or said, that its weights are of no use.

        It holds until the run ends: a loss near the threshold would open and resolve it again and again.
        """
        now = ctx.now()
        with ctx.db.read() as session:
            query = select(Run.id, Run.name).join(Job, Job.id == Run.job_id).where(Job.status == Status.RUNNING)
            names = dict(session.execute(query).all())
            opened = select(Alert).where(Alert.kind == DIVERGING_RUN, Alert.resolved_at.is_(None))
            alerts = [AlertCondition(**attributes_of(alert, *STORED)) for alert in session.scalars(opened)]
        self.diagnosed = {run_id: known for run_id, known in self.diagnosed.items() if run_id in names}
        for run_id, name in names.items():
            before = self.diagnosed.get(run_id)
            if before is None or now - before[0] >= DIAGNOSE_EVERY:
                self.diagnosed[run_id] = now, _divergence(ctx, run_id, name)
        training = {divergence_of(run_id) for run_id in names}
        holding = {alert.fingerprint: alert for alert in alerts if alert.fingerprint in training}
        diverging = {one.fingerprint: one for _, one in self.diagnosed.values() if one is not None}
        return list((holding | diverging).values())


def divergence_of(run_id: str) -> str:
    """Return the fingerprint of the alert that a run diverges."""
    return f"diverging:{run_id}"


def _divergence(ctx: Context, run_id: str, name: str) -> AlertCondition | None:
    # NumPy is imported for the first run that is diagnosed: a worker without one does not hold it.
    from backend.domain.training.diagnosis import breaking_finding
    from backend.services.training.diagnosis import diagnose_run

    finding = breaking_finding(diagnose_run(ctx, run_id))
    if finding is None:
        return None
    message = f"Run {name} is diverging: {finding.sentence}"
    return AlertCondition(divergence_of(run_id), DIVERGING_RUN, "critical", message)


def settle_alerts(ctx: Context, conditions: Sequence[AlertCondition]) -> list[str]:
    """Open an alert for each new condition, resolve those that no longer hold, and send each change once, whichever
    process notices it.
    """
    messages: list[str] = []
    try:
        with ctx.db.read() as session:
            still = {condition.fingerprint for condition in conditions}
            query = select(Alert.fingerprint).where(Alert.resolved_at.is_(None), Alert.fingerprint.not_in(still))
            ended = session.scalars(query).all()
        reasons = {fingerprint: why_resolved(ctx, fingerprint, still) for fingerprint in ended}
        with ctx.db.write() as session:
            for alert, state in _changes(session, conditions, reasons, now=ctx.now()):
                queue_deliveries(session, ctx, alert, state)
                messages.append(f"{state}: {alert.message}")
    except IntegrityError:  # another worker noticed the same at this moment, and sends it
        messages = []
    send_due(ctx)
    return messages


def why_resolved(ctx: Context, fingerprint: str, still: Collection[str]) -> str:
    """Return why an alert ended, from what holds now; `still` are the fingerprints of alerts that hold."""
    kind, _, subject = fingerprint.partition(":")
    about, _, severity = fingerprint.rpartition(":")
    for other in ("warning", "critical"):
        if severity in ("warning", "critical") and f"{about}:{other}" in still:
            return f"it is {'a warning' if other == 'warning' else 'critical'} now"
    match kind:
        case "ttft":
            return _why_fast_enough(ctx, subject)
        case "replicas":
            return "all replicas are ready" if _is_deployed(ctx, Endpoint.id == subject) else "the endpoint was stopped"
        case "budget":
            return "a new period began, or the key or its budget changed"
        case "disk":
            return f"{format_bytes(shutil.disk_usage(ctx.artifacts.root).free)} are free"
        case "diverging":
            return "the run ended"
        case "delivery":
            return "messages are taken again, or the channel is no longer set"
        case _:
            return "the condition no longer holds"


def _why_fast_enough(ctx: Context, endpoint: str) -> str:
    limit_ms = ctx.policy.alert_ttft_p95_ms
    recent = read_traffic(ctx, WINDOWS[0], endpoint=endpoint).total
    p95 = recent.ttft_ms[1]
    if limit_ms is None:
        return "no limit is set any longer"
    if not _is_deployed(ctx, Endpoint.name == endpoint):
        return "the endpoint was stopped"
    if not recent.requests:
        return "no requests in the last 15 min"
    if p95 is None or recent.requests < MIN_REQUESTS:
        return f"{plural(recent.requests, 'request')} in the last 15 min, too few to judge"
    return f"back below its limit, {p95:,.0f} ms over 15 min"


def _is_deployed(ctx: Context, is_endpoint: ColumnElement[bool]) -> bool:
    with ctx.db.read() as session:
        deployed = select(Deployment.id).join(Endpoint, Endpoint.id == Deployment.endpoint_id)
        return session.scalar(deployed.where(is_endpoint, Deployment.stopped_at.is_(None)).limit(1)) is not None


def _changes(
    session: Session, conditions: Sequence[AlertCondition], reasons: Mapping[str, str], *, now: datetime
) -> list[tuple[Alert, str]]:
    current = {alert.fingerprint: alert for alert in session.scalars(select(Alert).where(Alert.resolved_at.is_(None)))}
    events = [c.fingerprint for c in conditions if c.is_event]
    past = set(session.scalars(select(Alert.fingerprint).where(Alert.fingerprint.in_(events))))
    changes: list[tuple[Alert, str]] = []
    for condition in conditions:
        alert = current.pop(condition.fingerprint, None)
        if alert is not None:
            alert.seen_at, alert.message = now, condition.message
        elif not (condition.is_event and condition.fingerprint in past):
            alert = Alert(
                **attributes_of(condition, *STORED),
                opened_at=now,
                seen_at=now,
                resolved_at=now if condition.is_event else None,
            )
            if condition.is_event:  # one id for one event, so that two workers can't store it twice
                alert.id = hashlib.sha256(condition.fingerprint.encode()).hexdigest()[:12]
            session.add(alert)
            session.flush()
            changes.append((alert, "event" if condition.is_event else "firing"))
    for alert in current.values():
        alert.resolved_at = now
        if reason := reasons.get(alert.fingerprint):
            alert.message = f"{alert.message.rstrip('.')}. Ended: {reason}"
        changes.append((alert, "resolved"))
    return changes


def list_alerts(ctx: Context) -> list[AlertView]:
    """Return open alerts, then the newest resolved ones. A run that finished is sent as an event, and is no alert."""
    with ctx.db.read() as session:
        query = (
            select(Alert)
            .where(Alert.severity != "info")
            .order_by(Alert.resolved_at.is_not(None), Alert.opened_at.desc())
            .limit(30)
        )
        return [view_of(AlertView, alert) for alert in session.scalars(query)]


def _replicas_down(ctx: Context, live: LiveGauges) -> Iterator[AlertCondition]:
    with ctx.db.read() as session:
        rows = session.execute(
            select(Endpoint.id, Endpoint.name, Deployment.role, Deployment.num_replicas)
            .join(Deployment, Deployment.endpoint_id == Endpoint.id)
            .where(Deployment.stopped_at.is_(None))
            .order_by(Deployment.created_at)
        ).all()
    # the newest deployment of each role, so that a canary counts beside the stable one
    newest = {(endpoint_id, name, role): replicas for endpoint_id, name, role, replicas in rows}
    requested: dict[tuple[str, str], int] = defaultdict(int)
    for (endpoint_id, name, _), replicas in newest.items():
        requested[endpoint_id, name] += replicas
    for (endpoint_id, name), replicas in requested.items():
        ready = sum(replica.is_ready for replica in live.replicas if replica.endpoint_id == endpoint_id)
        if ready < replicas:
            severity = "critical" if ready == 0 else "warning"
            yield AlertCondition(
                f"replicas:{endpoint_id}", "replica_down", severity, f"{name}: {ready} of {replicas} replicas ready"
            )


def _slow(ctx: Context) -> Iterator[AlertCondition]:
    limit_ms = ctx.policy.alert_ttft_p95_ms
    if limit_ms is None:
        return
    with ctx.db.read() as session:
        names = session.scalars(
            select(Endpoint.name)
            .join(Deployment, Deployment.endpoint_id == Endpoint.id)
            .where(Deployment.stopped_at.is_(None))
            .distinct()
        ).all()
    for name in names:
        recent = read_traffic(ctx, WINDOWS[0], endpoint=name).total
        p95 = recent.ttft_ms[1]
        if p95 is not None and recent.requests >= MIN_REQUESTS and p95 > limit_ms:
            message = f"{name}: first token p95 is {p95:,.0f} ms over 15 min, limit {limit_ms:,.0f} ms"
            yield AlertCondition(f"ttft:{name}", "slow_first_token", "warning", message)


def _budgets(ctx: Context) -> Iterator[AlertCondition]:
    keys = [key for key in list_keys(ctx, person=LOCAL) if key.state(ctx.now()) == "active" and key.limits.budgets]
    if not keys:
        return
    ids = [key.id for key in keys]
    spent = {"day": spending_of_keys(ctx, ids, "day"), "month": spending_of_keys(ctx, ids, "month")}
    for key in keys:
        for unit, period, budget in key.limits.budgets:
            spending = spent[period].get(key.id)
            used = 0.0 if spending is None else float(spending.tokens if unit == "tokens" else spending.usd)
            if used >= 0.8 * budget:
                severity = "critical" if used >= budget else "warning"
                word = "token" if unit == "tokens" else "dollar"
                message = f"Key “{key.name}”: {percent(used / budget)} of its {word} budget for this {period} used"
                yield AlertCondition(f"budget:{key.id}:{unit}:{period}:{severity}", "budget", severity, message)


def _disk(ctx: Context) -> Iterator[AlertCondition]:
    usage = shutil.disk_usage(ctx.artifacts.root)
    if usage.free < max(2 * ctx.policy.keep_free_bytes, usage.total // 20):
        severity = "critical" if usage.free < ctx.policy.keep_free_bytes else "warning"
        message = f"{format_bytes(usage.free)} of disk left for artifacts"
        yield AlertCondition(f"disk:{severity}", "disk", severity, message)


def _ended_runs(ctx: Context) -> Iterator[AlertCondition]:
    with ctx.db.read() as session:
        rows = session.execute(
            select(Run.id, Run.name, Job)
            .join(Job, Job.id == Run.job_id)
            .where(Job.finished_at > ctx.now() - ENDED_WITHIN)
            .order_by(Job.finished_at)
        ).all()
    for run_id, name, job in rows:
        fingerprint = f"run:{run_id}:{job.id}:{job.attempt}"
        if job.status == Status.FINISHED:
            yield AlertCondition(fingerprint, ENDED_RUN, "info", f"Run {name} finished", is_event=True)
        elif job.status == Status.FAILED:
            cause = job.error.cause
            kind, verb = (DIVERGED_RUN, "diverged") if DIVERGED.search(cause) else (ENDED_RUN, "failed")
            yield AlertCondition(fingerprint, kind, "critical", f"Run {name} {verb}: {cause}", is_event=True)


def _silent_channels(ctx: Context) -> Iterator[AlertCondition]:
    for channel in failing_channels(ctx):
        yield AlertCondition(f"delivery:{channel.name}", FAILED_DELIVERY, "critical", channel.sentence)


@dataclass(frozen=True)
class FailingChannel:
    """A channel that does not take alerts at present: its last answer, and how many messages it has not taken."""

    name: str
    problem: str
    num_messages: int

    @property
    def sentence(self) -> str:
        """Return how many messages it has not taken and its last answer."""
        return f"{plural(self.num_messages, 'alert message')} not delivered by {self.problem}"


def failing_channels(ctx: Context) -> list[FailingChannel]:
    """Return the channels that are set and have not taken messages which are still tried, or were given up of late with
    none taken since.
    """
    failing = []
    with ctx.db.read() as session:
        for channel in ctx.notifier.channels:
            newest = select(func.max(AlertDelivery.sent_at)).where(AlertDelivery.channel == channel)
            since = max(session.scalar(newest) or datetime.min.replace(tzinfo=UTC), ctx.now() - GIVEN_UP_WITHIN)
            query = (
                select(AlertDelivery.problem)
                .where(AlertDelivery.channel == channel, AlertDelivery.problem != "", AlertDelivery.sent_at.is_(None))
                .where(or_(AlertDelivery.next_at.is_not(None), AlertDelivery.created_at > since))
                .order_by(AlertDelivery.created_at.desc())
            )
            if problems := session.scalars(query).all():
                failing.append(FailingChannel(channel, problems[0], len(problems)))
    return failing


def send_test(notifier: Notifier, *, pages_url: str) -> dict[str, str]:
    """Send a message to every channel that is set; return the problem of each, empty where it was taken."""
    text, url = "Test of Roundhouse's alerts", f"{pages_url.rstrip('/')}/monitor"
    message = AlertMessage(
        state="event", kind="test", severity="info", message=text, fingerprint="test", url=url, at=utc_now()
    )
    return {channel: _send(notifier, channel, message) for channel in notifier.channels}


FIRST_PAUSE_S, MAX_PAUSE_S = 30.0, 3600.0
MAX_ATTEMPTS = 30
"""Tries over about a day: pauses of 30 s, 1, 2, 4, ... minutes, at most an hour."""
CLAIM_S = 120.0
"""Seconds for which a delivery belongs to the process that tries it; longer than a channel's timeouts."""
AT_ONCE = 20
"""Deliveries of one tick at most, so that a slow channel does not hold the monitor for long."""


def queue_deliveries(session: Session, ctx: Context, alert: Alert, state: str) -> None:
    """Store a message of a change for every channel, in the transaction that stores the change. That a channel fails is
    for the others.
    """
    url = f"{ctx.pages_url.rstrip('/')}{_page_of(session, alert)}"
    message = view_of(AlertMessage, alert, state=state, url=url, at=ctx.now())
    for channel in ctx.notifier.channels:
        if alert.fingerprint != f"delivery:{channel}":
            session.add(
                AlertDelivery(
                    alert_id=alert.id, channel=channel, message=message, created_at=ctx.now(), next_at=ctx.now()
                )
            )


def _page_of(session: Session, alert: Alert) -> str:
    """Return the address of the page of what an alert is about."""
    subject = alert.fingerprint.split(":")[1]
    if alert.kind in (*RUN_EVENTS, DIVERGING_RUN):
        return f"/run?run={subject}"
    if alert.kind == "replica_down":
        endpoint = session.get(Endpoint, subject)
        return f"/endpoints?name={quote(endpoint.name)}" if endpoint is not None else "/endpoints"
    if alert.kind == "slow_first_token":
        return f"/monitor?endpoint={quote(subject)}"
    return {"budget": "/people?tab=Keys", "disk": "/workers"}.get(alert.kind, "/monitor")


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
        problem = _send(ctx.notifier, delivery.channel, delivery.message)
        _record(ctx, delivery_id, problem)
        if problem:
            silent.add(delivery.channel)  # its other messages wait for the next round
        sent += not problem
    return sent


def _send(notifier: Notifier, channel: str, message: AlertMessage) -> str:
    subject = f"Roundhouse: {'resolved: ' if message.state == 'resolved' else ''}{message.message}"
    text = f"{message.message}\n\n{message.url}\n"
    return notifier.send(channel, subject=subject[:160], text=text, data=message.model_dump(mode="json"))


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
