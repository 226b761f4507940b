"""Jobs that a fork server starts: what their processes are, and whom they outlive."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backend.domain.jobs.states import JobKind
from jobs.fork_server import ROOT, ForkServer, fork_server
from jobs.runner import kill_group
from tests.support.installation import is_alive, wait_until

TOLD = """
import json, os, sys
import numpy, torch
print(json.dumps({
    "argv": sys.argv[1:], "name": __name__, "environment": dict(os.environ), "parent": os.getppid(),
    "session": os.getsid(0), "draw": numpy.random.random(), "threads": torch.get_num_threads(),
    "sum": torch.ones(400_000).sum().item(),
}))
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tmp_path = tmp_path_factory.mktemp("modules")
    for name, code in {
        "told": TOLD,
        "sleeps": "import time; time.sleep(600)",
        "fails": "raise SystemExit(7)",
        "listens": "import socket, sys; port = socket.socket(fileno=int(sys.argv[2])).getsockname()[1];"
        "assert port == int(sys.argv[1])",
    }.items():
        (tmp_path / f"fork_{name}.py").write_text(code)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}


@pytest.fixture(scope="module")
def server(modules: dict[str, str]) -> Iterator[ForkServer]:
    server = ForkServer(JobKind.CLASSIFY, {**modules, "CUDA_VISIBLE_DEVICES": ""})
    server.await_imports(lambda: None)
    assert server.is_ready
    yield server
    server.close()


def test_a_forked_job_is_as_one_that_python_starts(server: ForkServer, modules: dict[str, str], tmp_path: Path) -> None:
    answers = []
    for number in range(2):
        with (tmp_path / f"output-{number}").open("wb") as output:
            child = server.start("fork_told", ["--child", "/a b/c"], {**modules, "KEY": str(number)}, output.fileno())
        assert child.wait(30) == 0 == child.poll()
        answers.append(json.loads((tmp_path / f"output-{number}").read_text()))
        assert answers[-1]["session"] == child.pid, "the job leads a session, so that it ends with all it started"
    command = [sys.executable, "-c", TOLD, "--child", "/a b/c"]
    alone = json.loads(subprocess.check_output(command, env={**modules, "KEY": "0"}))
    for name in ("argv", "name", "threads", "sum"):
        assert answers[0][name] == answers[1][name] == alone[name], name
    assert answers[0]["environment"] == {**alone["environment"]}, "no variable of the server or of another job"
    assert answers[1]["environment"]["KEY"] == "1"
    assert answers[0]["draw"] != answers[1]["draw"], "jobs draw differently"
    assert answers[0]["parent"] == server.process.pid


def test_an_end_is_reported_with_its_status(server: ForkServer, modules: dict[str, str]) -> None:
    with open(os.devnull, "wb") as output:
        assert server.start("fork_fails", [], modules, output.fileno()).wait(30) == 7
        child = server.start("fork_sleeps", ["--child", "jobs.run"], modules, output.fileno())
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)
        assert child.poll() is None
        os.killpg(child.pid, signal.SIGTERM)
        assert child.wait(30) == -signal.SIGTERM


def test_a_forked_job_shows_its_own_command_line(server: ForkServer, modules: dict[str, str]) -> None:
    with open(os.devnull, "wb") as output:
        child = server.start("fork_sleeps", ["--child", "/some/folder"], modules, output.fileno())
    wait_until(
        lambda: psutil.Process(child.pid).cmdline()[1:5] == ["-m", "fork_sleeps", "--child", "/some/folder"],
        what="the job's command line",
    )
    os.killpg(child.pid, signal.SIGKILL)
    assert child.wait(30) == -signal.SIGKILL


def test_a_job_that_is_ended_the_moment_it_is_forked_ends(server: ForkServer, modules: dict[str, str]) -> None:
    """It leads no group yet, and was waited for without end."""
    with open(os.devnull, "wb") as output:
        for _ in range(50):
            child = server.start("fork_sleeps", [], modules, output.fileno())
            kill_group(child, grace_s=0)
            assert child.returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_a_passed_descriptor_is_the_jobs_last_argument(
    server: ForkServer, modules: dict[str, str], tmp_path: Path
) -> None:
    with (tmp_path / "output").open("wb") as output, socket.create_server(("127.0.0.1", 0)) as listening:
        arguments, passed = [str(listening.getsockname()[1])], (listening.fileno(),)
        child = server.start("fork_listens", arguments, modules, output.fileno(), passed)
    assert child.wait(30) == 0, (tmp_path / "output").read_text()


@pytest.mark.parametrize("how", ["killed", "closed"])
def test_a_job_outlives_its_server(modules: dict[str, str], how: str) -> None:
    """Else one process that is killed would take all replicas of an endpoint with it."""
    server = ForkServer(JobKind.LOAD_TEST, modules)
    server.await_imports(lambda: None)
    with open(os.devnull, "wb") as output:
        child = server.start("fork_sleeps", [], modules, output.fileno())
    if how == "killed":
        server.process.kill()
    else:
        server.close()
    server.process.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(1)
    assert child.poll() is None
    with pytest.raises(OSError, match=r"has ended|Broken pipe|Bad file"), open(os.devnull, "wb") as output:
        server.start("fork_sleeps", [], modules, output.fileno())
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(30) == -signal.SIGKILL == child.poll(), "nobody knows its status"
    assert child.is_lost
    server.close()


SUPERVISOR = """
import os, sys, time
from backend.domain.jobs.states import JobKind
from jobs.fork_server import ForkServer
server = ForkServer(JobKind.LOAD_TEST, os.environ)
server.await_imports(lambda: None)
with open(os.devnull, "wb") as output:
    print(server.start("fork_sleeps", [], os.environ, output.fileno()).pid, flush=True)
if "alone" in sys.argv:
    server.process.kill()
time.sleep(600)
"""


@pytest.mark.parametrize("whose", ["served", "alone"])
def test_a_job_ends_with_its_supervisor_whether_its_server_is_there_or_not(modules: dict[str, str], whose: str) -> None:
    command = [sys.executable, "-c", SUPERVISOR, whose]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=modules, cwd=ROOT) as supervisor:
        assert supervisor.stdout is not None
        job = psutil.Process(int(supervisor.stdout.readline()))
        assert is_alive(job)
        supervisor.kill()
    wait_until(lambda: not is_alive(job), what="the end of the job")


def test_the_end_of_a_job_is_noticed_while_its_server_is_frozen(
    modules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.fork_server.REPORT_S", 0.1)
    server = ForkServer(JobKind.LOAD_TEST, modules)
    server.await_imports(lambda: None)
    with open(os.devnull, "wb") as output:
        child = server.start("fork_sleeps", [], modules, output.fileno())
    server.process.send_signal(signal.SIGSTOP)
    assert child.poll() is None
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(30) == -signal.SIGKILL
    assert child.is_lost
    server.process.send_signal(signal.SIGCONT)
    server.close()


def test_a_server_that_may_open_no_more_files_refuses_a_job_and_keeps_the_others(modules: dict[str, str]) -> None:
    """It ended with all its jobs, which failed as if memory had been short."""
    server = ForkServer(JobKind.LOAD_TEST, modules)
    server.await_imports(lambda: None)
    with open(os.devnull, "wb") as output:
        first = server.start("fork_sleeps", [], modules, output.fileno())
        taken = {int(name) for name in os.listdir(f"/proc/{server.process.pid}/fd")}
        free = sorted(set(range(100)) - taken)
        for limit in free[:2]:  # no room for what is sent, or for half of it
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (limit, 4096))
            with pytest.raises(OSError, match="could not fork"):
                server.start("fork_sleeps", [], modules, output.fileno())
        assert first.poll() is None
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
        assert server.start("fork_fails", [], modules, output.fileno()).wait(30) == 7
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait(30) == -signal.SIGTERM, "its end is still reported"
    server.close()


def test_two_servers_serve_by_turns_and_a_third_environment_starts_a_python(
    modules: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind ended the server of the other, and once a job of it."""
    assert fork_server(JobKind.IMPORT_DATASET, modules) is None, "an import needs no torch"
    assert fork_server(JobKind.TRAIN, {**modules, "CUDA_VISIBLE_DEVICES": "0"}) is None, "CUDA does not survive a fork"
    monkeypatch.setattr("jobs.fork_server.FORKED", {JobKind.LOAD_TEST})  # quickly imported
    monkeypatch.setattr("jobs.fork_server._servers", {})
    environments = [{**modules, "OMP_NUM_THREADS": str(count)} for count in (1, 2, 3)]
    first, second, third = (fork_server(JobKind.LOAD_TEST, one) for one in environments)
    assert first is not None
    assert second is not None
    assert third is None
    assert fork_server(JobKind.LOAD_TEST, {**environments[0], "HF_TOKEN": "secret"}) is first
    assert "secret" not in psutil.Process(first.process.pid).environ().values()
    assert fork_server(JobKind.LOAD_TEST, environments[1]) is second
    first.process.kill()
    wait_until(lambda: not psutil.pid_exists(first.process.pid), what="an end without a zombie")
    third = fork_server(JobKind.LOAD_TEST, environments[2])
    assert third is not None, "one that has ended makes room"
    for server in (second, third):
        server.close()
