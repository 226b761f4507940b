"""A job of several machines as its first machine sees it: where they meet, whether all are there, and whose end it was
when one is gone. Imports no torch.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from backend.domain.jobs.events import LogEvent
from backend.domain.jobs.gangs import spread_over
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.records import JobFailure, Payload
from backend.domain.jobs.states import JobKind, Status, StopRequest
from backend.errors import JobFailed
from backend.services import job_events as outcomes
from backend.services.context import Context
from backend.services.jobs.claims import Claim, change_part, renew, requeue_lost
from backend.services.jobs.gangs import MemberView, list_members
from jobs.exchange import FolderExchange
from jobs.reporter import Rendezvous

log = logging.getLogger(__name__)

TICK_S = 0.2
CHECK_S = 1.0
MARGIN_S = 5.0
"""How long beyond a lease the cause of a broken connection is waited for."""


class MachineLost(Exception):
    """A machine of the job is gone, or a process of it is frozen, so this attempt is over. `counts`: whether as a loss;
    not where it left.
    """

    def __init__(self, cause: str, *, counts: bool) -> None:
        super().__init__(cause)
        self.cause, self.counts = cause, counts


def spread_payload(claim: Claim[Payload]) -> Claim[Payload]:
    """Return the claim with its run on as many machines as its gang has. Raises InvalidInput for uneven shares."""
    payload = claim.payload
    if claim.part is None or not isinstance(payload, TrainPayload):
        return claim
    config = spread_over(payload.config, len(claim.part.hosts))
    return claim.with_payload(payload.model_copy(update={"config": config}))


class GangLead:
    """The first machine's view of the others in one attempt."""

    def __init__(self, ctx: Context, claim: Claim[Payload]) -> None:
        assert claim.part is not None
        self._ctx, self._claim, self._others = ctx, claim, claim.part.hosts[1:]
        self._checked_at = 0.0
        self._echoed_at: float | None = None
        self._echo = ""
        self._looked_at = self._patient_until = ctx.now()
        self._lost_at: dict[str, datetime] = {}
        self._listening: socket.socket | None = None
        self.rendezvous: Rendezvous | None = None

    def gather(self, exchange: FolderExchange) -> StopRequest | None:
        """Let the other machines bring what the run continues from, open the socket where they meet, and wait until all
        are ready. Return a stop request that came meanwhile.

        Raises MachineLost, JobFailed, Fenced, Interrupted.
        """
        if not self._others:
            with self._ctx.db.write() as session:
                _log_line(
                    session,
                    self._ctx,
                    self._claim,
                    f"Training on {self._claim.host} alone, with the same sequences in a step.",
                )
            return None
        if (how := exchange.send_checkpoints()) is not None:
            return how
        host = self._ctx.policy.replica_host
        try:
            family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
            self._listening = socket.create_server((host, 0), family=family, backlog=256)
        except OSError as error:
            raise JobFailed(
                f"{self._claim.host} can't listen on {host}, where the other machines of this run are to reach it:"
                f" {error.strerror or error}.",
                remedy="Set ROUNDHOUSE_REPLICA_HOST there to an address of that machine.",
            ) from error
        port = self._listening.getsockname()[1]
        with self._ctx.db.write() as session:
            renew(session, self._ctx, self._claim)
            change_part(session, self._claim, address=f"{host}:{port}")
        if (how := exchange.wait_for(lambda check: self._await_ready(exchange, check))) is not None:
            return how
        names = ", ".join([self._claim.host, *self._others])
        with self._ctx.db.write() as session:
            renew(session, self._ctx, self._claim)
            change_part(session, self._claim, stage="ready")
            _log_line(
                session,
                self._ctx,
                self._claim,
                f"Training on {1 + len(self._others)} machines: {names}. They meet at {host}:{port}.",
            )
        self.rendezvous = Rendezvous(0, host, port, self._listening.fileno())
        return None

    @property
    def has_others(self) -> bool:
        """Return whether it is not alone."""
        return bool(self._others)

    def _await_ready(self, exchange: FolderExchange, check: Callable[[], None]) -> None:
        while True:
            members = self._look()
            late = [member.host for member in members if member.number and member.stage != "ready"]
            if members and not late:
                return
            exchange.message = f"Waiting for {', '.join(late)}" if late else exchange.message
            check()
            time.sleep(TICK_S)

    def check(self) -> None:
        """Look at the other machines, once a second. Raises MachineLost, and JobFailed with the error of one."""
        now = time.monotonic()
        if not self._others or now - self._checked_at < CHECK_S:
            return
        self._checked_at = now
        self._look()
        if self._echoed_at is not None and now - self._echoed_at > self._ctx.policy.lease_s + MARGIN_S:
            raise MachineLost(self._disconnected, counts=True)

    def await_cause(self, exchange: FolderExchange, echo: JobFailure | None) -> StopRequest | None:
        """Wait until it is known why the processes here lost those of another machine, of which they know no more than
        `echo`. Return a stop request that came meanwhile; otherwise raises MachineLost, JobFailed with the other's
        error, Fenced or Interrupted.
        """
        self._echo = echo.cause if echo is not None else self._echo

        def look(check: Callable[[], None]) -> None:
            until = time.monotonic() + self._ctx.policy.lease_s + MARGIN_S
            while time.monotonic() < until:
                self._look()
                check()
                time.sleep(TICK_S)
            raise MachineLost(self._disconnected, counts=True)

        exchange.message = "A machine of this run is gone"
        return exchange.wait_for(look)

    def close(self) -> None:
        """Close the socket where the machines meet."""
        if self._listening is not None:
            self._listening.close()

    @property
    def _disconnected(self) -> str:
        why = f": {self._echo[:400].rstrip('.')}" if self._echo else ""
        return f"The machines of this run lost their connection to each other{why}."

    def _look(self) -> Sequence[MemberView]:
        """Return how the machines stand; nothing while the database is away, which is dealt with where the lease is
        renewed. Raises MachineLost, and JobFailed with the error of one.

        After a database that was away all leases have lapsed: the others then have time to renew theirs.
        """
        try:
            members = list_members(self._ctx, self._claim.job_id, attempt=self._claim.attempt)
        except OperationalError as error:
            log.warning("can't see the other machines of job %s: %s", self._claim.job_id, error.orig)
            return ()
        now, lease = self._ctx.now(), timedelta(seconds=self._ctx.policy.lease_s)
        if now - self._looked_at > lease / 3:
            self._patient_until = now + lease / 2
        self._looked_at = now
        self._raise_if_broken(members, now)
        return members

    def _raise_if_broken(self, members: Sequence[MemberView], now: datetime) -> None:
        by_host = {member.host: member for member in members}
        for host in self._others:
            member = by_host.get(host)
            if member is not None and (member.is_alive or member.stage not in ("placed", "ready")):
                self._lost_at.pop(host, None)
            elif member is None or now >= self._lost_at.setdefault(host, max(now, self._patient_until)):
                raise MachineLost(f"{host} was lost.", counts=True)
            else:
                continue
            if member.stage == "frozen":
                raise MachineLost(f"{host}: {member.error.cause}", counts=True)
            if member.stage == "left":
                raise MachineLost(f"{host} has left.", counts=False)
            if member.stage == "ended" and member.error:
                raise JobFailed(f"{host}: {member.error.cause}", remedy=member.error.remedy, field=member.error.field)
            if member.stage == "echoed":
                self._echoed_at, self._echo = self._echoed_at or time.monotonic(), self._echo or member.error.cause


def give_up(ctx: Context, claim: Claim[Payload], lost: MachineLost) -> Status:
    """Queue the job again after a loss, or fail it after the last allowed one; return its status. Raises Fenced."""
    subject = "machine and its memory" if claim.part is None else "machines and the network between them"
    error = JobFailure(cause=f"{lost.cause} This happened too often.", remedy=f"Check the {subject}, then try again.")
    then = "The run continues from its last checkpoint." if claim.kind is JobKind.TRAIN else "The job starts again."
    with ctx.db.write() as session:
        renew(session, ctx, claim)
        _log_line(session, ctx, claim, f"{lost.cause} {then}")
        outcomes.record_bad_end(session, ctx, claim)
        return requeue_lost(session, ctx, claim, error=error, counts=lost.counts)


def _log_line(session: Session, ctx: Context, claim: Claim[Payload], text: str) -> None:
    outcomes.record_events(session, ctx, claim, [LogEvent(text=text, time=time.time())])
