"""A worker's part in a job of several machines: it joins one that waits, waits for the others, and then runs the whole
job as its first machine or, as another one, its share of the processes. Imports no torch.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

from sqlalchemy.exc import OperationalError

from backend.domain.jobs.events import ErrorEvent
from backend.domain.jobs.records import JobFailure, Payload
from backend.errors import InvalidInput, JobFailed
from backend.services.context import Context
from backend.services.job_events import prepare_claim
from backend.services.jobs.claims import Claim, Fenced, StoredPayload, change_part, renew
from backend.services.jobs.gangs import (
    GangChoice,
    Membership,
    MemberView,
    await_gang,
    join_gang,
    leave_gang,
    list_members,
)
from jobs.exchange import FolderExchange, Interrupted
from jobs.fork_server import ForkedChild, ForkServer, fork_server
from jobs.freeze_watch import FreezeWatch
from jobs.gang import spread_payload
from jobs.memory_limit import MemoryWatch, job_limit_bytes
from jobs.reporter import Rendezvous
from jobs.runner import (
    TICK_S,
    Child,
    execute,
    explain_error,
    explain_exit,
    is_cut_off,
    job_environment,
    kill_group,
    start_child,
)
from jobs.tailing import Tail, parse_events

log = logging.getLogger(__name__)

WAIT_S = 0.5
RING_S = 2.0
NOBODY_S = 20.0
"""How long a machine waits for the others, which looked free."""
REACH_S = 10.0


def work_in_gang(
    ctx: Context,
    choice: GangChoice,
    *,
    owner: str,
    host: str,
    devices: Sequence[str],
    nice: int,
    stopping: threading.Event,
    queue: str | None = None,
    waits_s: float | None = NOBODY_S,
    save_s: float = 0.0,
) -> bool:
    """Join a gang, wait for the others, and do this machine's part. Return whether it came to that.

    Workers of `queue` are woken that may complete the gang, and the others are waited for at most `waits_s`. When
    `stopping` is set, the run is saved and given back within `save_s`, if its first machine is asked to end, too.
    """
    unique = f"{owner}-{uuid4().hex[:6]}"  # a thread that ends late must not give back what a later one holds
    member = join_gang(ctx, choice, owner=unique, host=host, devices=devices)
    if member is None:
        return False
    try:
        claim = _await_claim(ctx, member, queue=queue, waits_s=waits_s, stopping=stopping)
        if claim is None:
            return False
        assert claim.part is not None
        if claim.part.number == 0:
            execute(ctx, claim, nice=nice, stopping=stopping, save_s=save_s)
        else:
            run_member(ctx, claim, nice=nice, stopping=stopping, save_s=save_s)
        return True
    finally:
        try:
            leave_gang(ctx, member)
        except OperationalError as error:  # the lease lapses
            log.warning("can't leave job %s: %s", member.job_id, error.orig)


def _await_claim(
    ctx: Context, member: Membership, *, queue: str | None, waits_s: float | None, stopping: threading.Event
) -> Claim[StoredPayload] | None:
    """Wait until the gang is complete, waking workers that may complete it; None if this one is to leave."""
    since, rung_at = time.monotonic(), 0.0
    while not stopping.is_set():
        now = time.monotonic()
        try:
            state = await_gang(ctx, member)
        except OperationalError as error:
            log.warning("database does not answer, retrying: %s", error.orig)
            state = member
        if not isinstance(state, Membership):
            return state
        if waits_s is not None and now - since > waits_s:
            return None
        if queue is not None and now - rung_at >= RING_S:
            rung_at = now
            if ctx.queue.waiting(queue) == 0:
                ctx.queue.publish(queue)
        stopping.wait(WAIT_S)
    return None


def run_member(
    ctx: Context, claim: Claim[StoredPayload], *, nice: int, stopping: threading.Event, save_s: float = 0.0
) -> None:
    """Run this machine's share of a job that another machine leads, until it or the attempt ends. It reports its end to
    the first machine alone, which records events and ends the job. When `stopping` is set, it stays for `save_s`, in
    which the first machine may save.
    """
    assert claim.part is not None
    folder = ctx.artifacts.job_folder(claim.job_id) / f"attempt-{claim.attempt}-{claim.part.number}"
    folder.mkdir(parents=True, exist_ok=True)
    child: Child | None = None
    try:
        ready = spread_payload(prepare_claim(ctx, claim))
        exchange = FolderExchange(ctx, ready, stopping)
        with exchange.held():
            server = fork_server(ready.kind, job_environment(ready))
            rendezvous = _meet(ctx, ready, exchange, server)
            if rendezvous is not None:
                child = start_child(ctx, ready, folder, nice=nice, server=server, rendezvous=rendezvous)
                stage, error = _watch(ctx, ready, folder, child, stopping, save_s=save_s)
                _end(ctx, ready, stage, error)
    except Fenced:
        log.warning("attempt %s of job %s is over", claim.attempt, claim.job_id)
    except Interrupted:
        log.warning("leaves attempt %s of job %s: the worker stops", claim.attempt, claim.job_id)
    except OperationalError:
        raise  # the database is unreachable: the lease lapses, and the first machine ends the attempt
    except Exception as error:  # told to the first machine; otherwise it would be taken for lost
        if not isinstance(error, JobFailed | InvalidInput):
            log.exception("this machine's part of job %s failed in its supervisor", claim.job_id)
        if child is not None:
            kill_group(child)
        _end(ctx, claim, "ended", explain_error(error))
    finally:
        if child is not None:
            kill_group(child)


def _meet(
    ctx: Context, claim: Claim[Payload], exchange: FolderExchange, server: ForkServer | None
) -> Rendezvous | None:
    """Bring what the run reads, wait until the first machine says where it is reached and that all are ready, and until
    the server can fork; None if the job is asked to stop meanwhile.
    """
    assert claim.part is not None

    def await_first(test: Callable[[MemberView], bool]) -> Callable[[Callable[[], None]], None]:
        def wait(check: Callable[[], None]) -> None:
            while True:
                with contextlib.suppress(OperationalError):  # asked again
                    first = _first(ctx, claim)
                    if first is not None and test(first):
                        return
                check()
                time.sleep(TICK_S)

        return wait

    if exchange.bring_inputs() is not None or exchange.wait_for(await_first(lambda first: bool(first.address))):
        return None
    first = _first(ctx, claim)
    host, _, port = ((first.address if first else None) or "").rpartition(":")
    if not port:
        raise Fenced(f"attempt {claim.attempt} of job {claim.job_id} is over")
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as error:
        raise JobFailed(
            f"can't reach {claim.part.hosts[0]} at {host}:{port}: {error.strerror or error}.",
            remedy=(
                f"Set ROUNDHOUSE_REPLICA_HOST on {claim.part.hosts[0]} to an address that the others reach, and let"
                " the machines connect to each other on all ports."
            ),
        ) from error
    if exchange.bring_inputs() is not None:  # the checkpoint that the first machine has sent meanwhile
        return None
    if server is not None and exchange.wait_for(server.await_imports) is not None:
        return None
    with ctx.db.write() as session:
        renew(session, ctx, claim)
        change_part(session, claim, stage="ready")
    if exchange.wait_for(await_first(lambda first: first.stage == "ready")) is not None:
        return None
    return Rendezvous(claim.part.number, host, int(port))


def _first(ctx: Context, claim: Claim[Payload]) -> MemberView | None:
    return next(iter(list_members(ctx, claim.job_id, attempt=claim.attempt)), None)


def _watch(
    ctx: Context, claim: Claim[Payload], folder: Path, child: Child, stopping: threading.Event, *, save_s: float
) -> tuple[str, JobFailure]:
    """Renew this machine's lease until its child has exited; return the stage and the error to report.

    Raises Fenced when the attempt is over or this machine is cut off, Interrupted.
    """
    memory, freeze = MemoryWatch(child.pid, job_limit_bytes(ctx.policy.job_memory_mb)), FreezeWatch(child.pid)
    renewed_at = time.monotonic()
    failure: JobFailure | None = None
    leaves_at: float | None = None
    while child.poll() is None:
        if stopping.is_set():
            leaves_at = leaves_at or time.monotonic() + save_s
            if time.monotonic() >= leaves_at:
                raise Interrupted
        if failure is None and (failure := memory.check()) is not None:
            kill_group(child, grace_s=0)
        if failure is None and (frozen := freeze.check()):
            kill_group(child, grace_s=0)
            return "frozen", JobFailure(cause=frozen)
        now = time.monotonic()
        if now - renewed_at >= min(1.0, ctx.policy.lease_s / 4):
            try:
                with ctx.db.write() as session:
                    renew(session, ctx, claim)
                renewed_at = now
            except OperationalError as error:
                log.warning("can't renew the lease on job %s: %s", claim.job_id, error.orig)
                if is_cut_off(ctx, folder, silent_s=time.monotonic() - renewed_at):
                    raise Fenced("this machine reaches neither the database nor the others") from error
        time.sleep(TICK_S)
    if child.returncode == 0:
        return "ended", JobFailure()
    errors, tail = list[ErrorEvent](), Tail(folder / "events.jsonl")
    while lines := tail.read():
        errors += [event for event in parse_events(lines) if isinstance(event, ErrorEvent)]
    if failure is not None:
        return "ended", failure
    if isinstance(child, ForkedChild) and child.is_lost and not errors:
        return "frozen", JobFailure(cause="Its process was killed, and so was the server that forked it.")
    if errors:
        failure = JobFailure(cause=errors[-1].cause, remedy=errors[-1].remedy, field=errors[-1].field)
        return ("echoed" if errors[-1].is_echo else "ended"), failure
    return "ended", explain_exit(child.wait(), folder)


def _end(ctx: Context, claim: Claim[StoredPayload] | Claim[Payload], stage: str, error: JobFailure) -> None:
    """Tell the first machine how this one's part ended."""
    with ctx.db.write() as session:
        change_part(session, claim, stage=stage, error=error)
