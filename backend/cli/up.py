"""`roundhouse up`, `down`, `worker`: run an installation or a worker under a supervisor, and stop all its processes."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import psutil
import typer

from backend.cli.doctor import start_checks
from backend.cli.exit_status import FAILED
from backend.cli.output import CommandGroup, emit, fail, note
from backend.cli.processes import (
    SUPERVISOR,
    Program,
    broker_program,
    end_leftovers,
    mark_of,
    only_one,
    running_pid,
    supervisor_config,
    web_programs,
    worker_program,
)
from backend.domain.jobs.states import QUEUES, JobKind, Status
from backend.errors import InvalidInput, RoundhouseError
from backend.infra.hosts import WILDCARDS, reachable_host
from backend.infra.processes import die_with_parent
from backend.settings import PROJECT, Settings

app = CommandGroup()
READY_TIMEOUT_S = 180.0
PARTS = ("pages", "gateway", "worker")
UNIT_S = {"s": 1, "m": 60, "h": 3600}


@app.command()
def up(
    only: Annotated[
        str, typer.Option(help="Start these alone, separated by commas, as containers do; the rest runs elsewhere.")
    ] = ",".join(PARTS),
) -> None:
    """Start broker, worker, gateway and pages, print the address, and stay until Ctrl-C.

    Ports and folder are variables of the environment or lines of .env: ROUNDHOUSE_PORT is that of the pages (8501),
    ROUNDHOUSE_GATEWAY_PORT that of the gateway (8100), ROUNDHOUSE_HOME the folder of the installation. Other variables
    are listed in docs/settings.md and on the page Settings.
    """
    settings = Settings()
    parts = _read_parts(only)
    if parts != set(PARTS) and settings.redis_url is None:
        raise InvalidInput("The built-in broker serves all parts alone.", remedy="Set REDIS_URL to one that all reach.")
    if (pid := running_pid(settings)) is not None:
        fail(f"Roundhouse already runs here (process {pid}): {settings.pages_url}. Stop it with `roundhouse down`.")
    with only_one(settings):
        if end_leftovers_of_home(settings):
            note("Ended processes that an earlier `roundhouse up` had left running.")
        _run(settings, parts)


def _read_parts(text: str) -> set[str]:
    """Read the parts to start. Raises InvalidInput."""
    parts = {name.strip() for name in text.split(",")}
    if not parts <= set(PARTS):
        raise InvalidInput(f"There is no part {min(parts - set(PARTS))!r}.", remedy=f"Choose from {', '.join(PARTS)}.")
    return parts


def _run(settings: Settings, parts: set[str]) -> None:
    findings = start_checks(settings, parts)
    for finding in findings:
        if finding.state == "warning":
            note(f"{finding.detail} {finding.cure}")
    if problems := [finding for finding in findings if finding.state == "problem"]:
        fail(" ".join(f"{finding.detail} {finding.cure}" for finding in problems))
    broker = [] if settings.redis_url else [broker_program(settings)]
    preparation = subprocess.Popen(
        [sys.executable, "-m", "backend.cli.preparation", *sorted(parts)],
        cwd=PROJECT,
        env={**os.environ, "ROUNDHOUSE_HOME": str(settings.home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        supervise(
            [broker, [one for one in (*web_programs(settings), worker_program(settings)) if one.name in parts]],
            settings,
            name="supervisord",
            until_ready=lambda go_on: _wait_until_ready(settings, parts, preparation, go_on),
        )
    finally:
        preparation.kill()
        preparation.wait()


def end_leftovers_of_home(settings: Settings) -> int:
    """End processes that a killed `roundhouse up` left running. Returns how many."""
    return end_leftovers(settings.home / "run" / "supervisord.conf", broker_folder=settings.home / "broker")


def _own_url(settings: Settings, port: int | None = None) -> str:
    """Return the local URL of the pages, or of another server of this installation."""
    host = "127.0.0.1" if settings.host in WILDCARDS else reachable_host(settings.host)
    return f"http://{host}:{port or settings.port}"


def _announce(settings: Settings, parts: set[str]) -> None:
    address = settings.pages_url if "pages" in parts else f"{settings.gateway_url}/v1"
    emit(
        {"url": address, "gateway": f"{settings.gateway_url}/v1"},
        text=f"\n  Roundhouse is ready: {address}\n  (Ctrl-C stops everything)\n",
    )
    sys.stdout.flush()


def _wait_until_ready(
    settings: Settings, parts: set[str], preparation: subprocess.Popen[str], go_on: Callable[[], bool]
) -> None:
    """Announce the address once pages and gateway answer and the preparation has ended, however long that takes; what
    is late is named once. Fails if the preparation ended with an error.
    """
    addresses = {
        "pages": f"{_own_url(settings)}/healthz",
        "gateway": f"{_own_url(settings, settings.gateway_port)}/health",
    }
    waiting = {name: url for name, url in addresses.items() if name in parts}
    deadline = time.monotonic() + READY_TIMEOUT_S
    while go_on():
        if preparation.poll():
            cause = preparation.stdout.read() if preparation.stdout else ""
            fail(
                cause or "The preparation crashed; see the traceback above.",
                status=preparation.returncode,
            )
        waiting = {name: url for name, url in waiting.items() if not answers(url)}
        if not waiting and preparation.poll() == 0:
            _announce(settings, parts)
            return
        if time.monotonic() > deadline:
            deadline = math.inf
            silent = " and ".join(waiting) or "preparation"
            logs = settings.home / "logs"
            note(f"No answer from {silent} within {READY_TIMEOUT_S:.0f} s. Still waiting; {logs} may say why.")


@app.command()
def down() -> None:
    """Stop the installation that runs from this home folder."""
    settings = Settings()
    pid = running_pid(settings)
    if pid is None:
        ended = end_leftovers_of_home(settings)
        emit(
            {"stopped": bool(ended)},
            text="Ended processes that a killed `roundhouse up` had left running." if ended else "Nothing runs here.",
        )
        return
    process = psutil.Process(pid)
    running = _jobs(settings, Status.RUNNING)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S + settings.save_grace_s + 5
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not _has_ended(process):
        fail(f"Process {pid} does not stop. End it with `kill -9 {pid}`.", status=FAILED)
    interrupted = [title for job_id, title in _jobs(settings, Status.QUEUED).items() if job_id in running]
    emit(
        {"stopped": True, "interrupted": interrupted},
        text="\n- ".join(["Stopped. Under way, and continued at the next `roundhouse up`:", *interrupted])
        if interrupted
        else "Stopped.",
    )


def _jobs(settings: Settings, status: Status) -> dict[str, str]:
    """Return the titles of jobs of a status by id, replicas aside; none where the database can't be read."""
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    from backend.db.engine import Database
    from backend.db.tables import Job

    if settings.sqlite_path is not None and not settings.sqlite_path.exists():
        return {}
    database = Database(settings.database_url)
    try:
        with database.read() as session:
            query = select(Job.id, Job.title).where(Job.status == status, Job.kind != JobKind.REPLICA)
            return dict(session.execute(query.order_by(Job.created_at)).all())
    except SQLAlchemyError:
        return {}
    finally:
        database.engine.dispose()


def _has_ended(process: psutil.Process) -> bool:
    """Return whether a process is over. A zombie counts: in a container without an init no process reaps it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@app.command()
def worker(
    queues: Annotated[str, typer.Option(help="Queues to serve, separated by commas.")] = ",".join(QUEUES),
    for_job: Annotated[
        str | None, typer.Option("--for", help="Serve this job alone, as workers that a cluster starts do.")
    ] = None,
    until_idle: Annotated[
        str, typer.Option(help="With --for: leave after this long without work, such as 90s or 10m.")
    ] = "10m",
) -> None:
    """Serve queues on this machine. Needs DATABASE_URL, REDIS_URL and ROUNDHOUSE_HOME (the shared artifacts) of the
    installation.
    """
    settings = Settings()
    if for_job is not None:
        _serve_job(for_job, idle_s=parse_seconds(until_idle))
    names = [part.strip() for part in queues.split(",") if part.strip()]
    unknown = [part for part in names if part not in QUEUES]
    if unknown:
        fail(f"There is no queue {unknown[0]!r}. Choose from {', '.join(QUEUES)}.", status=2)
    from backend.bootstrap import build_context

    if not build_context(settings).queue.is_alive():
        raise RoundhouseError(
            "The broker does not answer.",
            remedy="Set REDIS_URL to the installation's broker, and check that this machine reaches it.",
        )
    note(f"Serving {', '.join(names)}. Ctrl-C stops.")
    supervise([[worker_program(settings, names)]], settings, name=f"worker-{os.getpid()}")


def _serve_job(job_id: str, *, idle_s: float) -> NoReturn:
    """Become the worker of one job, which checks that there is such a job."""
    os.chdir(PROJECT)
    os.execv(sys.executable, [sys.executable, "-m", "jobs.job_worker", job_id, str(idle_s)])  # noqa: S606


def parse_seconds(text: str) -> float:
    """Read a duration such as 90s, 10m or 2h. Raises InvalidInput."""
    number, unit = text.strip()[:-1], text.strip()[-1:]
    if unit not in UNIT_S or not number.isdecimal():
        raise InvalidInput(f"{text!r} is not a duration.", remedy="Write a number and s, m or h, such as 10m.")
    return float(number) * UNIT_S[unit]


STOP_TIMEOUT_S = 40.0
POLL_S, IDLE_POLL_S = 0.05, 0.5


def supervise(
    stages: Sequence[Sequence[Program]],
    settings: Settings,
    *,
    name: str,
    until_ready: Callable[[Callable[[], bool]], None] | None = None,
) -> None:
    """Run programs until a signal arrives or the supervisor ends, then end all processes. Stages stop in reverse order.
    `until_ready` is called once the programs are started, with a function that returns whether to keep waiting for
    them.
    """
    config, logs = settings.home / "run" / f"{name}.conf", settings.home / "logs"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(
        supervisor_config(stages, folder=config.parent, logs=logs).replace("supervisord.pid", f"{name}.pid")
    )
    asked_to_stop = _watch_signals()
    child = _start_supervisor(config, settings)
    try:
        if until_ready is not None:
            until_ready(lambda: not asked_to_stop(POLL_S) and child.poll() is None)
        while not asked_to_stop(IDLE_POLL_S) and child.poll() is None:
            pass
    finally:
        _stop_tree(child, within_s=STOP_TIMEOUT_S + settings.save_grace_s, quiet=not asked_to_stop(0))
        # a killed supervisor leaves its programs running
        end_leftovers(config, broker_folder=settings.home / "broker" if name == "supervisord" else None)
    if not asked_to_stop(0):
        fail(f"The supervisor ended. See {logs / 'supervisor.log'}.")


def _watch_signals() -> Callable[[float], bool]:
    """Return a function that waits up to the given seconds for a stop signal and returns whether one has arrived."""
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, lambda *_: None)
    return lambda timeout_s: bool(select.select([ours], [], [], timeout_s)[0])


def _start_supervisor(config: Path, settings: Settings) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(PROJECT),
        "ROUNDHOUSE_HOME": str(settings.home),
        # uvicorn trusts X-Forwarded-For of every local process; ROUNDHOUSE_TRUST_PROXY lists trusted proxies
        "FORWARDED_ALLOW_IPS": "",
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
        **mark_of(config),
    }
    return subprocess.Popen(
        [sys.executable, "-m", SUPERVISOR, "-n", "-c", str(config)],
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches only this process, which stops the others in order
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    )


def answers(url: str) -> bool:
    """Return whether an HTTP server answers, with any status."""
    try:
        with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own address
            return True
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def _stop_tree(child: subprocess.Popen[bytes], *, within_s: float, quiet: bool) -> None:
    if not quiet:
        note("Stopping ...")
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(child.pid).children(recursive=True)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(within_s)
        except subprocess.TimeoutExpired:
            child.kill()
    _gone, alive = psutil.wait_procs(descendants, timeout=1)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not quiet:
        note("Stopped.")
