"""Supervise a job: start its child in a process group, record its events, renew the lease, pass on stop requests, kill
the group if the lease is lost. Imports no torch.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from backend.bootstrap import get_context
from backend.domain.jobs.events import (
    CheckpointEvent,
    CheckpointRemovedEvent,
    ErrorEvent,
    Event,
    ItemEvent,
    LogEvent,
    MetricsEvent,
    ResultEvent,
    SampleEvent,
)
from backend.domain.jobs.payloads import ReplicaPayload, TrainPayload
from backend.domain.jobs.records import JobFailure, JobResult, Payload
from backend.domain.jobs.results import RESULTS, TrainResult
from backend.domain.jobs.states import JobKind, Status
from backend.domain.openai_servers import JOB_KEY
from backend.errors import InvalidInput, JobFailed, RoundhouseError
from backend.services import job_events as outcomes
from backend.services.checkpoints.files import mark_used_checkpoints
from backend.services.context import Context
from backend.services.jobs.claims import (
    Claim,
    Fenced,
    StoredPayload,
    claim_job,
    end_job,
    give_back,
    is_stopping,
    renew,
    requeue,
    stop_request,
)
from backend.services.jobs.jobs import get_job
from backend.services.serving.own_keys import key_of
from jobs.environment import api_keys_of, child_environment, with_memory_reuse
from jobs.exchange import FolderExchange, Interrupted
from jobs.fork_server import ROOT, ForkedChild, ForkServer, fork_server
from jobs.freeze_watch import FreezeWatch
from jobs.gang import GangLead, MachineLost, give_up, spread_payload
from jobs.memory_limit import MemoryWatch, job_limit_bytes
from jobs.reporter import JobSpec, Rendezvous
from jobs.tailing import OutputTail, Tail, parse_events
from jobs.tracking.run import end_tracking, start_tracking

log = logging.getLogger(__name__)

TICK_S = 0.25
MARKS_EVERY_S = 1.0
RECORD_S, RETRY_S = 600.0, 0.5
"""How long, and how often, the end of a job is tried to be recorded while the database is away."""
FULL_BYTES = 2**20
"""Free space of a disk that counts as full."""
CHILD_MODULE = "jobs.run"
Child = subprocess.Popen[bytes] | ForkedChild
LASTING = (MetricsEvent, SampleEvent, LogEvent, CheckpointEvent, CheckpointRemovedEvent, ItemEvent)
"""Events of an earlier attempt that are recorded although its parent died before reading them."""
NICED = frozenset(
    {
        JobKind.TRAIN,
        JobKind.EVALUATE,
        JobKind.GENERATE,
        JobKind.LOGLIKELIHOOD,
        JobKind.CLASSIFY,
        JobKind.TRAIN_TOKENIZER,
    }
)


@dataclass
class Ended:
    """Exit status, result and error of a child; the status of one that never started is -1."""

    code: int = -1
    result: JobResult | None = None
    error: JobFailure | None = None
    stopped_by: str | None = None
    lasted_s: float = 0.0
    is_echo: bool = False
    """Whether it ended because processes of another machine were gone."""


def execute(
    ctx: Context,
    claim: Claim[StoredPayload],
    *,
    nice: int = 0,
    stopping: threading.Event | None = None,
    save_s: float = 0.0,
) -> Status | None:
    """Run a claimed job to its end. Returns the terminal status, or None when the attempt was fenced off or put back.

    When `stopping` is set, the child is ended and the job is put back: at once, or for a run after it has saved a
    checkpoint, for which it has `save_s`. The thread that calls this must outlive the child, which the kernel kills
    with it.
    """
    folder = ctx.artifacts.job_folder(claim.job_id) / f"attempt-{claim.attempt}"
    folder.mkdir(parents=True, exist_ok=True)
    child: Child | None = None
    tracker: subprocess.Popen[bytes] | None = None
    exchange: FolderExchange | None = None
    gang: GangLead | None = None
    try:
        try:
            ready = spread_payload(outcomes.prepare_claim(ctx, claim))
        except InvalidInput as error:  # another attempt would read the same payload
            return _record_end(ctx, replace(claim, restarts_forever=False), folder, Ended(error=JobFailure.of(error)))
        exchange = FolderExchange(ctx, ready, stopping or threading.Event())
        with exchange.held():
            _record_leftovers(ctx, ready, exchange)
            if (stopped_by := exchange.bring_inputs()) is not None:
                return _record_end(ctx, ready, folder, Ended(stopped_by=stopped_by))
            server = fork_server(ready.kind, job_environment(ready))
            if claim.part is not None:
                gang = GangLead(ctx, ready)
                if (stopped_by := gang.gather(exchange)) is not None:
                    return _record_end(ctx, ready, folder, Ended(stopped_by=stopped_by))
            if server is not None and not server.is_ready:
                stopped_by = exchange.wait_for(server.await_imports)
                if stopped_by is not None:
                    return _record_end(ctx, ready, folder, Ended(stopped_by=stopped_by))
            rendezvous = gang.rendezvous if gang else None
            child = start_child(ctx, ready, folder, nice=nice, server=server, rendezvous=rendezvous)
            tracker = start_tracking(ready.payload, folder)
            watch = _Watch(ctx, ready, folder, child, stopping or threading.Event(), exchange, save_s=save_s, gang=gang)
            ended = watch.until_exit()
            if gang is not None and ended.is_echo and ended.stopped_by is None:
                ended.stopped_by = gang.await_cause(exchange, ended.error)
            exchange.send_outputs(ended.result if ended.code == 0 else None)
            return _record_end(ctx, ready, folder, ended)
    except Fenced:
        log.warning("attempt %s of job %s was fenced off", claim.attempt, claim.job_id)
        if exchange is not None:
            exchange.withdraw()
        return None
    except MachineLost as lost:
        log.warning("attempt %s of job %s ends: %s", claim.attempt, claim.job_id, lost.cause)
        _end_attempt(child, tracker, exchange)
        with contextlib.suppress(Fenced):
            return give_up(ctx, ready, lost)
        return None
    except Interrupted:  # requeue the job at once, without counting the attempt, instead of letting its lease lapse
        _end_attempt(child, tracker, exchange)
        with contextlib.suppress(Fenced), ctx.db.write() as session:
            renew(session, ctx, claim)
            outcomes.record_bad_end(session, ctx, claim)
        give_back(ctx, claim)
        return None
    except OperationalError:
        raise  # the database is unreachable: the lease lapses, and the job is claimed again
    # a job that can't be started or recorded fails with its cause; otherwise it would be retried silently
    except Exception as error:
        if not isinstance(error, JobFailed):
            log.exception("job %s failed in its supervisor", claim.job_id)
        _end_attempt(child, tracker, exchange)
        with contextlib.suppress(Fenced):
            return _record_end(ctx, claim, folder, Ended(error=explain_error(error)))
        return None
    finally:
        if gang is not None:
            gang.close()
        if child is not None:
            kill_group(child)
        if tracker is not None:
            end_tracking(tracker, folder)
            kill_group(tracker)


def _end_attempt(child: Child | None, tracker: subprocess.Popen[bytes] | None, exchange: FolderExchange | None) -> None:
    """End the processes of an attempt, and send what it has left."""
    for process in (child, tracker):
        if process is not None:
            kill_group(process)
    if exchange is not None:
        try:
            exchange.send_outputs(None)
        except OSError as error:  # a full disk, say, must not keep the end from being recorded
            log.warning("what an attempt has left can't be sent: %s", error)


def explain_error(error: Exception) -> JobFailure:
    """Return an error of a supervisor as the failure of its job."""
    if isinstance(error, RoundhouseError):
        return JobFailure.of(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        cause = "The disk was full when the job was to start."
        return JobFailure(cause=cause, remedy="Free space on that machine, then resume or start it again.")
    cause = f"The job could not be run: {type(error).__name__}: {error}"
    return JobFailure(cause=cause[:600], remedy="The worker's log has the details.")


def run_foreground(job_id: str) -> int:
    """Claim one job and run it here. Returns an exit status: 0 finished, 1 otherwise."""
    ctx = get_context()
    host = socket.gethostname()
    claim = claim_job(ctx, job_id, owner=f"{host}-cli-{os.getpid()}", host=host)
    if claim is None:
        sys.stderr.write(f"Job {job_id} is {get_job(ctx, job_id).status}; it can't be started here.\n")
        return 1
    return 0 if execute(ctx, claim) is Status.FINISHED else 1


def start_child(
    ctx: Context,
    claim: Claim[Payload],
    folder: Path,
    *,
    nice: int,
    server: ForkServer | None = None,
    rendezvous: Rendezvous | None = None,
) -> Child:
    """Start the process of an attempt, whose events, output and control are files in `folder`: forked by a server that
    answers, otherwise a new Python.
    """
    artifacts, own_folder = Path(ctx.artifacts.root), ctx.artifacts.job_folder(claim.job_id)
    spec = JobSpec(claim.job_id, claim.attempt, claim.payload, artifacts, own_folder, rendezvous)
    # a new Python asks itself to die with its parent: code between fork and exec is not safe with other threads
    limits = {"memory_bytes": job_limit_bytes(ctx.policy.job_memory_mb), "nice": nice if claim.kind in NICED else 0}
    (folder / "control").unlink(missing_ok=True)
    environment, arguments = job_environment(claim), ["--child", str(folder)]
    if (key := key_of(ctx, claim)) is not None:
        environment[JOB_KEY] = key
    passed = () if rendezvous is None or rendezvous.listening is None else (rendezvous.listening,)
    with (folder / "output.log").open("ab") as output:
        if server is not None and server.is_ready:
            spec.write(folder / "job.json", **limits)
            try:
                return server.start(CHILD_MODULE, arguments, environment, output.fileno(), passed)
            except OSError as error:
                log.warning("the fork server does not answer (%s); job %s starts without it", error, claim.job_id)
        spec.write(folder / "job.json", parent=os.getpid(), **limits)
        return subprocess.Popen(
            [sys.executable, "-m", CHILD_MODULE, *arguments, *map(str, passed)],
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            cwd=ROOT,
            pass_fds=passed,
        )


def job_environment(claim: Claim[Payload]) -> dict[str, str]:
    """Return the environment of a job's process."""
    environment = child_environment(claim.kind, api_keys=api_keys_of(claim.payload))
    environment["CUDA_VISIBLE_DEVICES"] = claim.device or ""
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment["PYTHONUNBUFFERED"] = "1"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    # libgomp's waiting threads spin for long, which costs most of a run's speed on a busy machine. This spin count
    # keeps the speed of an idle machine; see docs/benchmarks/openmp-spinning.md.
    environment.setdefault("GOMP_SPINCOUNT", "10000")
    if claim.kind in (JobKind.TRAIN, JobKind.PROBE) and not claim.device:
        environment = with_memory_reuse(environment)
    return environment


def kill_group(child: Child, *, grace_s: float = 2.0) -> None:
    """End a child and everything it started: SIGTERM to the group, then SIGKILL."""
    if child.poll() is None:
        _signal_group(child, signal.SIGTERM)
        try:
            child.wait(grace_s)
        except subprocess.TimeoutExpired:
            log.warning("process %s ignored SIGTERM", child.pid)
    _signal_group(child, signal.SIGKILL)
    child.wait()


def _signal_group(child: Child, number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        if child.poll() is None:  # forked a moment ago, it leads no group yet
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)


def is_cut_off(ctx: Context, folder: Path, *, silent_s: float) -> bool:
    """Return whether a machine of several that has not reached the database for some time does not reach the others
    either; these then continue without it. While only the database is away, the process of its job renews the time of
    the events' file, however long a step takes.
    """
    lease_s = ctx.policy.lease_s
    if silent_s <= lease_s:
        return False
    try:
        return time.time() - (folder / "events.jsonl").stat().st_mtime > lease_s
    except FileNotFoundError:
        return True


def _record_leftovers(ctx: Context, claim: Claim[Payload], exchange: FolderExchange) -> None:
    """Record the events of the previous attempt that its supervisor did not read, so that no step is missing."""
    path = ctx.artifacts.job_folder(claim.job_id) / f"attempt-{claim.attempt - 1}" / "events.jsonl"
    tail = Tail(path, claim.events_offset)
    while lines := tail.read():
        events = [event for event in parse_events(lines) if isinstance(event, LASTING)]
        with ctx.db.write() as session:
            renew(session, ctx, claim)
            outcomes.record_events(session, ctx, claim, events)
            exchange.note(events)
    with ctx.db.write() as session:
        renew(session, ctx, claim, events_offset=0)


class _Watch:
    """Supervises one child."""

    def __init__(
        self,
        ctx: Context,
        claim: Claim[Payload],
        folder: Path,
        child: Child,
        stopping: threading.Event,
        exchange: FolderExchange,
        *,
        save_s: float,
        gang: GangLead | None = None,
    ) -> None:
        self.gang, self.is_echo = gang, False
        self.save_s = save_s if claim.kind is JobKind.TRAIN else 0.0
        self.save_until: float | None = None
        self.has_stepped = False
        self.ctx, self.claim, self.folder, self.child, self.stopping = ctx, claim, folder, child, stopping
        self.exchange = exchange
        self.events = Tail(folder / "events.jsonl")
        self.output = OutputTail(folder / "output.log")
        self.result: JobResult | None = None
        self.error: JobFailure | None = None
        self.stopped_by: str | None = None
        self.last_renewal = time.monotonic() if gang is not None else 0.0
        self.last_marks = 0.0
        self.memory = MemoryWatch(child.pid, job_limit_bytes(ctx.policy.job_memory_mb))
        payload = claim.payload
        has_ranks = isinstance(payload, TrainPayload) and payload.config.devices.count > 1
        self.freeze = FreezeWatch(child.pid) if has_ranks else None

    def until_exit(self) -> Ended:
        """Record events and renew the lease until the child has exited and its last line is read.

        Raises Fenced, Interrupted when the worker stops, and MachineLost if the child died of no fault of its own.
        """
        started = time.monotonic()
        while True:
            exited = self.child.poll() is not None
            if self.stopping.is_set() and not exited and not self._may_save():
                raise Interrupted
            if not self._ship() and exited:
                if self._has_saved():
                    raise Interrupted
                break
            if self.gang is not None and self.gang.has_others and not exited:
                if is_cut_off(self.ctx, self.folder, silent_s=time.monotonic() - self.last_renewal):
                    raise Fenced("this machine reaches neither the database nor the others")
                self.gang.check()
            if self.freeze is not None and not exited and (frozen := self.freeze.check()):
                raise MachineLost(f"{self.claim.host}: {frozen}", counts=True)
            self._pass_on_stop()
            self._mark_used_checkpoints()
            if not exited and (error := self.memory.check()) is not None:
                log.warning("job %s is ended: %s", self.claim.job_id, error.cause)
                kill_group(self.child, grace_s=0)
                self.error = error
            elif not exited:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.child.wait(TICK_S)
        lasted_s = time.monotonic() - started
        code = self.child.wait()
        if isinstance(self.child, ForkedChild) and self.child.is_lost:
            if self.result is not None:
                code = 0  # it had done everything
            elif not (self.error or self.stopped_by or self.claim.restarts_forever):
                raise MachineLost("The job's process was killed, and so was the server that forked it.", counts=True)
        return Ended(code, self.result, self.error, self.stopped_by, lasted_s, self.is_echo)

    def _may_save(self) -> bool:
        """Ask the child once to save and end because the worker stops; return whether it still has time for that. A run
        without a step has nothing to save.
        """
        if self.save_until is None:
            save_s = self.save_s if self.has_stepped else 0.0
            self.save_until = time.monotonic() + save_s
            if save_s and self.stopped_by is None:
                log.warning("job %s saves a checkpoint before it is given back", self.claim.job_id)
                (self.folder / "control").write_text("stop_and_save")
        return time.monotonic() < self.save_until

    def _has_saved(self) -> bool:
        """Return whether the child ended because the worker stops, and its job has more to do."""
        is_cut = isinstance(self.result, TrainResult) and self.result.stopped is not None
        return self.save_until is not None and self.stopped_by is None and is_cut

    def _ship(self) -> bool:
        """Record new events; return whether there were any. A busy or unreachable database is retried while the lease
        lasts.
        """
        before = (self.events.offset, self.output.offset)
        events: list[Event] = [*parse_events(self.events.read())]
        for line in self.output.read():
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                events.append(LogEvent(text=text, time=time.time()))
        now, has_read = time.monotonic(), before != (self.events.offset, self.output.offset)
        if not events and now - self.last_renewal < self.ctx.policy.lease_s / 4:
            return has_read
        try:
            with self.ctx.db.write() as session:
                renew(session, self.ctx, self.claim, events_offset=self.events.offset)
                progress = outcomes.record_events(session, self.ctx, self.claim, events)
                if progress:
                    renew(session, self.ctx, self.claim, progress=progress)
                self.exchange.note(events)
        except OperationalError as error:
            log.warning("database write failed, retrying: %s", error.orig)
            self.events.offset, self.output.offset = before
            time.sleep(TICK_S)
            return True
        for event in events:
            if isinstance(event, MetricsEvent):
                self.has_stepped = True
            elif isinstance(event, ResultEvent):
                times = {"cpu_s": event.cpu_s, "reporter_cpu_s": event.reporter_cpu_s}
                self.result = RESULTS[self.claim.kind].model_validate({**event.result, **times})
            elif isinstance(event, ErrorEvent):
                self.error = JobFailure(cause=event.cause, remedy=event.remedy, field=event.field)
                self.is_echo = event.is_echo
        self.last_renewal = now
        return has_read

    def _mark_used_checkpoints(self) -> None:
        """Tell a run, every second, which of its checkpoints are in use, so that it keeps their files."""
        if self.claim.kind is not JobKind.TRAIN or time.monotonic() - self.last_marks < MARKS_EVERY_S:
            return
        self.last_marks = time.monotonic()
        with contextlib.suppress(OperationalError):
            mark_used_checkpoints(self.ctx, self.claim.job_id)

    def _pass_on_stop(self) -> None:
        try:
            how, asked_at = stop_request(self.ctx, self.claim)
        except OperationalError:
            return
        if how is None or asked_at is None:
            return
        if how != self.stopped_by:
            self.stopped_by = how
            (self.folder / "control").write_text(how)
        waited = (self.ctx.now() - asked_at).total_seconds()
        grace = self.ctx.policy.cancel_grace_s * (4 if how == "stop_and_save" else 1)
        if how == "drain" and isinstance(self.claim.payload, ReplicaPayload):
            grace += self.claim.payload.answer_limit_s
        if waited > grace and self.child.poll() is None:
            log.warning("job %s did not stop within %.0f s; ending its processes", self.claim.job_id, grace)
            kill_group(self.child)


def _record_end(ctx: Context, claim: Claim[Any], folder: Path, ended: Ended) -> Status | None:
    stopped = ended.stopped_by
    gives_up_at = time.monotonic() + RECORD_S
    while time.monotonic() < gives_up_at:  # the database may be away, and the child's work must not be lost
        try:
            with ctx.db.write() as session:
                if ended.code == 0 and ended.result is not None and (stopped or not claim.restarts_forever):
                    result = outcomes.record_finish(session, ctx, claim, ended.result)
                    status = Status.CANCELLED if stopped else Status.FINISHED
                    end_job(session, ctx, claim, status, result=result)
                elif stopped or is_stopping(session, claim):
                    outcomes.record_bad_end(session, ctx, claim)
                    end_job(session, ctx, claim, Status.CANCELLED, error=JobFailure(cause="Stopped on request."))
                    status = Status.CANCELLED
                else:
                    error = ended.error or explain_exit(ended.code, folder, restarts=claim.restarts_forever)
                    outcomes.record_bad_end(session, ctx, claim)
                    if claim.restarts_forever:
                        requeue(session, ctx, claim, error=error, lasted_s=ended.lasted_s)
                        return None
                    end_job(session, ctx, claim, Status.FAILED, error=error)
                    status = Status.FAILED
            return status
        except OperationalError as error:
            log.warning("can't record the end of job %s yet: %s", claim.job_id, error.orig)
            time.sleep(RETRY_S)
    return None


def explain_exit(code: int, folder: Path, *, restarts: bool = False) -> JobFailure:
    """Explain a child's death by its exit status and the end of its output; `restarts` if it is started again."""
    path = folder / "output.log"
    tail = path.read_bytes()[-2000:].decode("utf-8", "replace") if path.exists() else ""
    if code == -signal.SIGKILL:
        cause = "The process was killed (SIGKILL), most often because the machine ran out of memory."
        remedy = "Free memory on the machine, or choose a smaller micro-batch or context for a model; then try again."
        if restarts:
            remedy = "It starts again by itself. If it is killed once more, free memory or shorten its context."
    elif code < 0:
        cause = f"The process died of signal {signal.Signals(-code).name}."
        remedy = "See the end of the log; try again."
    elif shutil.disk_usage(folder).free < FULL_BYTES:  # it could not write why
        cause = "The disk of the artifacts is full."
        remedy = (
            "Delete checkpoints or datasets you no longer need, or move ROUNDHOUSE_HOME to a larger disk; try again."
        )
    else:
        cause, remedy = f"The process ended with status {code} without a result.", "See the end of the log."
    return JobFailure(cause=cause, remedy=remedy, exit=code, tail=tail)
