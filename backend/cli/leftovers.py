"""End processes of an installation whose `roundhouse up` or supervisor was killed. A variable identifies them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import psutil

from backend.errors import Conflict
from backend.infra.processes import SUPERVISED_BY
from backend.settings import Settings

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
