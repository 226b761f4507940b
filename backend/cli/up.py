"""`roundhouse up`, `down`, `worker`: start everything under one supervisor, and stop all of it, children included."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from backend.bootstrap import build_context, gateway_url, pages_url
from backend.cli.doctor import start_checks
from backend.cli.leftovers import end_leftovers, mark_of, only_one
from backend.cli.output import FAILED, JsonFlag, command, emit, fail, note
from backend.cli.processes import Program, broker_program, pid_file, running_pid, supervisor_config, web_programs, worker_program
from backend.domain.jobs.states import QUEUES
from backend.errors import RoundhouseError
from backend.infra.hosts import WILDCARDS, reachable_host
from backend.infra.processes import die_with_parent
from backend.services.people.accounts import add_user, count_users
from backend.services.starter import ensure_starter_content
from backend.settings import PROJECT, Settings

app = typer.Typer()
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 40.0


@app.command()
@command
def up(as_json: JsonFlag = False) -> None:
    """Start broker, worker, gateway and pages, print the address, and stay until Ctrl-C."""
    settings = Settings()
    if (pid := running_pid(settings)) is not None:
        fail(f"Roundhouse already runs here (process {pid}): {pages_url(settings)}. Stop it with `roundhouse down`.", as_json=as_json)
    with only_one(settings):
        if end_leftovers_of_home(settings):
            note("An earlier installation was still here without its `roundhouse up`: ended it.")
        _run(settings, as_json=as_json)


def _run(settings: Settings, *, as_json: bool) -> None:
    problems = [finding for finding in start_checks(settings) if finding.state == "problem"]
    if problems:
        fail(" ".join(f"{finding.detail} {finding.cure}" for finding in problems), as_json=as_json)
    prepare(settings)
    programs = [] if settings.redis_url else [broker_program(settings)]
    programs += [*web_programs(settings), worker_program(settings)]
    pid_path = pid_file(settings)
    pid_path.parent.mkdir(parents=True, exist_ok=True)
    pid_path.write_text(f"{os.getpid()} {psutil.Process().create_time()}")
    try:
        supervise(programs, settings, name="supervisord", on_ready=lambda: _announce(settings, as_json=as_json))
    finally:
        pid_path.unlink(missing_ok=True)


def end_leftovers_of_home(settings: Settings) -> int:
    """End what a killed `roundhouse up` left behind. Returns how many processes that were."""
    return end_leftovers(settings.home / "run" / "supervisord.conf", broker_folder=settings.home / "broker")


def prepare(settings: Settings) -> None:
    """Migrate the database, make the first account where the environment names its password, and queue the starter content."""
    first = "sqlite" in settings.database_url and not Path(settings.database_url.removeprefix("sqlite:///")).exists()
    ctx = build_context(settings)
    if first:
        note("First start: made the database.")
    if settings.admin_password is not None and count_users(ctx) == 0:
        add_user(ctx, "admin", settings.admin_password.get_secret_value(), role="admin")
    ensure_starter_content(ctx)
    ctx.db.engine.dispose()


def _own_url(settings: Settings) -> str:
    """Return where the pages answer on this machine."""
    host = "127.0.0.1" if settings.host in WILDCARDS else reachable_host(settings.host)
    return f"http://{host}:{settings.port}"


def _announce(settings: Settings, *, as_json: bool) -> None:
    address = pages_url(settings)
    emit(
        {"url": address, "gateway": f"{gateway_url(settings)}/v1"},
        as_json=as_json,
        text=f"\n  Roundhouse is ready: {address}\n  (Ctrl-C stops everything)\n",
    )
    sys.stdout.flush()


def supervise(programs: list[Program], settings: Settings, *, name: str, on_ready: Any = None) -> None:
    """Run supervisord with these programs until a signal arrives or it ends, then see that everything is gone."""
    run_folder, logs = settings.home / "run", settings.home / "logs"
    config = run_folder / f"{name}.conf"
    text = supervisor_config(programs, folder=run_folder, logs=logs).replace("supervisord.pid", f"{name}.pid")
    config.write_text(text)
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(PROJECT),
        "FORWARDED_ALLOW_IPS": "",  # uvicorn believes X-Forwarded-For of every local process; ROUNDHOUSE_TRUST_PROXY says whose to believe
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
        **mark_of(config),
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)],
        cwd=PROJECT,
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C reaches us alone, and we stop the rest in order
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    )
    stopping = False

    def stop(_signum: int, _frame: Any) -> None:
        nonlocal stopping
        stopping = True

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, stop)
    try:
        if on_ready is not None and _wait_ready(settings, child, lambda: stopping):
            on_ready()
        while not stopping and child.poll() is None:
            time.sleep(0.2)
    finally:
        _stop_tree(child, quiet=not stopping)
        end_leftovers(config, broker_folder=settings.home / "broker" if name == "supervisord" else None)  # a killed supervisor stops nobody
    if not stopping:
        fail(f"The supervisor ended. See {logs / 'supervisor.log'}.")


def _wait_ready(settings: Settings, child: subprocess.Popen[bytes], stopping: Any) -> bool:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None and not stopping():
        try:
            with urllib.request.urlopen(f"{_own_url(settings)}/healthz", timeout=2):  # noqa: S310 - our own address
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.15)
    if child.poll() is None and not stopping():
        note(f"The pages do not answer after {READY_TIMEOUT_S:.0f} s. See {settings.home / 'logs' / 'pages.log'}.")
    return False


def _stop_tree(child: subprocess.Popen[bytes], *, quiet: bool) -> None:
    if not quiet:
        note("Stopping ...")
    descendants: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = psutil.Process(child.pid).children(recursive=True)
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.kill()
    _gone, alive = psutil.wait_procs(descendants, timeout=1)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not quiet:
        note("Stopped.")


@app.command()
@command
def down(as_json: JsonFlag = False) -> None:
    """Stop the installation that runs from this home folder."""
    settings = Settings()
    pid = running_pid(settings)
    if pid is None:
        ended = end_leftovers_of_home(settings)
        emit(
            {"stopped": bool(ended)},
            as_json=as_json,
            text="Stopped what a killed `roundhouse up` had left." if ended else "Nothing runs here.",
        )
        return
    process = psutil.Process(pid)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S + 5
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not _has_ended(process):
        fail(f"Process {pid} does not stop. End it with `kill -9 {pid}`.", as_json=as_json, status=FAILED)
    emit({"stopped": True}, as_json=as_json, text="Stopped.")


def _has_ended(process: psutil.Process) -> bool:
    """Whether a process is over, also where its parent has not asked for its status yet (a container without an init)."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@app.command()
@command
def worker(
    queues: Annotated[str, typer.Option(help="Queues to serve, separated by commas.")] = ",".join(QUEUES),
    as_json: JsonFlag = False,
) -> None:
    """Serve queues on this machine. Needs DATABASE_URL, REDIS_URL and ROUNDHOUSE_HOME (the shared artifacts) of the installation."""
    settings = Settings()
    wanted = [part.strip() for part in queues.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in QUEUES]
    if unknown:
        fail(f"There is no queue {unknown[0]!r}. Choose from {', '.join(QUEUES)}.", as_json=as_json, status=2)
    if not build_context(settings).queue.is_alive():
        raise RoundhouseError(
            "The broker does not answer.", remedy="Set REDIS_URL to the installation's broker, and check that this machine reaches it."
        )
    note(f"Serving {', '.join(wanted)}. Ctrl-C stops.")
    supervise([worker_program(settings, wanted)], settings, name=f"worker-{os.getpid()}")
