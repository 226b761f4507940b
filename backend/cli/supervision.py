"""Run programs under supervisord until a signal arrives, and end all of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import psutil

from backend.cli.leftovers import SUPERVISOR, end_leftovers, mark_of
from backend.cli.output import fail, note
from backend.cli.processes import Program, supervisor_config
from backend.infra.processes import die_with_parent
from backend.settings import PROJECT, Settings

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
        _stop_tree(child, quiet=not asked_to_stop(0))
        end_leftovers(
            config, broker_folder=settings.home / "broker" if name == "supervisord" else None
        )  # a killed supervisor leaves its programs running
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
        "FORWARDED_ALLOW_IPS": (
            ""
        ),  # uvicorn trusts X-Forwarded-For of every local process; ROUNDHOUSE_TRUST_PROXY lists trusted proxies
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
