"""The built-in broker has no port that another user of the machine could connect to."""

from __future__ import annotations

import configparser
import os
import shutil
import signal
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from backend.bootstrap import build_context
from backend.cli import up
from backend.cli.doctor import check_broker
from backend.cli.processes import broker_program, only_one, running_pid, supervisor_config, web_programs
from backend.domain.jobs.states import JobKind, Status
from backend.errors import Conflict
from backend.infra.queue import JobQueue
from backend.settings import PROJECT, Settings
from tests.support.installation import free_port, wait_until
from tests.support.jobs import add_stored_job
from tests.support.settings import make_settings


@contextmanager
def running_broker(settings: Settings) -> Iterator[psutil.Process]:
    """Run the built-in broker of a home folder."""
    process = subprocess.Popen(broker_program(settings).command, stdout=subprocess.DEVNULL)
    try:
        wait_until(settings.broker_socket.exists, what="the broker's socket file")
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    "name", ["home", "a home with 50%25 and spaces", "h" * 120], ids=["short", "odd", "too-long-for-a-socket"]
)
def test_the_broker_listens_on_a_private_socket_file_alone_and_takes_messages(tmp_path: Path, name: str) -> None:
    settings = make_settings(tmp_path / name, redis_url=None)
    with running_broker(settings) as process:
        assert process.net_connections(kind="inet") == []
        assert stat.S_IMODE(settings.broker_socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(settings.broker_socket.stat().st_mode) == 0o700
        queue = JobQueue(settings.broker_url)
        assert queue.is_alive()
        assert queue.publish("train")
        assert queue.waiting("train") == 1
        assert check_broker(settings, running=True).state == "ok"
    assert check_broker(settings, running=True).state == "problem"


def test_the_pages_server_has_two_arenas_of_memory_unless_the_environment_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def arenas() -> dict[str, str | None]:
        config = configparser.RawConfigParser()
        config.read_string(supervisor_config([web_programs(make_settings(tmp_path))], folder=tmp_path, logs=tmp_path))
        return {name: config[name].get("environment") for name in config if name.startswith(("program", "fcgi"))}

    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    assert arenas() == {
        "program:pages": "MALLOC_ARENA_MAX=2,ARROW_DEFAULT_MEMORY_POOL=system",
        "fcgi-program:gateway": None,
    }
    monkeypatch.setenv("MALLOC_ARENA_MAX", "8")
    assert arenas()["program:pages"] == "ARROW_DEFAULT_MEMORY_POOL=system"


def test_an_external_broker_is_used_unchanged(tmp_path: Path) -> None:
    assert (
        make_settings(tmp_path, redis_url="redis://:secret@broker:6379/2").broker_url == "redis://:secret@broker:6379/2"
    )


def test_a_copy_of_a_running_home_neither_runs_nor_stops_the_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, copy = make_settings(tmp_path / "original"), make_settings(tmp_path / "copy")
    holding = (
        "import time; from backend.cli.processes import only_one; from backend.settings import Settings\n"
        "with only_one(Settings()): print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import time; from backend.cli.processes import only_one; from backend.settings import Settings\n"
            + holding,
        ],
        cwd=PROJECT,
        env={**os.environ, "ROUNDHOUSE_HOME": str(original.home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Conflict), only_one(original):
            pass
        assert running_pid(original) == process.pid
        shutil.copytree(original.home / "run", copy.home / "run")
        assert running_pid(copy) is None
        monkeypatch.setattr(up, "Settings", lambda: copy)
        up.down()
        assert process.poll() is None
        monkeypatch.setattr(up, "Settings", lambda: original)
        up.down()
        assert process.wait(5) == -signal.SIGTERM
        assert running_pid(original) is None, "a file that stayed names a process that is over"
        assert capsys.readouterr().out.splitlines() == ["Nothing runs here.", "Stopped."]
    finally:
        process.kill()
        process.communicate()


def test_down_names_what_was_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said “Stopped.”, and nothing of a run of which hours were left."""
    settings = make_settings(tmp_path)
    ctx = build_context(settings)
    with ctx.db.write() as session:
        for title, kind, status in (
            ("Village stories", JobKind.TRAIN, Status.RUNNING),
            ("village, replica 1", JobKind.REPLICA, Status.RUNNING),
            ("Waiting", JobKind.TRAIN, Status.QUEUED),
        ):
            add_stored_job(session, ctx, kind, title=title).status = status
    gives_back = (
        "import signal, sqlite3, sys\n"
        "from backend.cli.processes import only_one; from backend.settings import Settings\n"
        "with only_one(Settings()):\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "    print('held', flush=True); signal.sigwait([signal.SIGTERM])\n"
        "    connection = sqlite3.connect(sys.argv[1]); connection.execute(\"UPDATE jobs SET status = 'queued'\")\n"
        "    connection.commit()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", gives_back, str(settings.sqlite_path)],
        cwd=PROJECT,
        env={**os.environ, "ROUNDHOUSE_HOME": str(settings.home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        monkeypatch.setattr(up, "Settings", lambda: settings)
        up.down()
        assert capsys.readouterr().out.splitlines() == [
            "Stopped. Under way, and continued at the next `roundhouse up`:",
            "- Village stories",
        ]
    finally:
        process.kill()
        process.communicate()
        ctx.db.engine.dispose()


def test_an_installation_that_is_late_is_announced_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = iter([False] * 6)
    monkeypatch.setattr(up, "READY_TIMEOUT_S", -1.0)
    monkeypatch.setattr(up, "answers", lambda _url: next(asked, True))
    preparation = subprocess.Popen(["true"], text=True)
    preparation.wait()
    up._wait_until_ready(make_settings(tmp_path), set(up.PARTS), preparation, lambda: True)
    said = capsys.readouterr()
    assert said.err.count("Still waiting") == 1
    assert "Roundhouse is ready" in said.out


def test_a_gateway_starts_alone_with_a_broker_of_its_own_installation(tmp_path: Path) -> None:
    settings = make_settings(tmp_path / "broker", redis_url=None)
    pages, gateway = free_port(), free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "ROUNDHOUSE_HOME": str(tmp_path / "home"),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'models.db'}",
        "ROUNDHOUSE_PORT": str(pages),
        "ROUNDHOUSE_GATEWAY_PORT": str(gateway),
    }
    command = [sys.executable, "-m", "backend.cli.main", "up", "--only", "gateway"]
    alone = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (alone.returncode, "Set REDIS_URL" in alone.stderr) == (2, True)
    with (
        running_broker(settings),
        subprocess.Popen(command, env={**environment, "REDIS_URL": settings.broker_url}) as up_,
    ):
        try:
            wait_until(lambda: up.answers(f"http://127.0.0.1:{gateway}/health"), timeout_s=60, what="the gateway")
            with urllib.request.urlopen(f"http://127.0.0.1:{gateway}/health") as answer:
                assert answer.status == 200
            names = {" ".join(process.cmdline()) for process in psutil.Process(up_.pid).children(recursive=True)}
            assert not [name for name in names if "streamlit" in name or "celery" in name]
        finally:
            up_.terminate()
