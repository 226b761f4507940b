"""Starting says what is wrong; stopping leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backend.cli.processes import SUPERVISOR
from backend.domain.jobs.states import Status
from backend.services.context import LOCAL
from backend.services.jobs.jobs import get_job
from backend.services.jobs.workers import list_slots
from backend.services.training.runs import launch_run, stop_run
from backend.services.training.views import get_run
from tests.support.installation import PROJECT, Installation, free_port, is_alive, wait_until
from tests.support.run_world import tiny_run
from tests.support.settings import database_of

pytestmark = pytest.mark.timeout(900)  # a whole installation starts slowly on a busy machine


def roundhouse(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {
        **os.environ,
        "ROUNDHOUSE_HOME": str(home),
        "DATABASE_URL": database_of(home),
        **environment,
    }
    command = [sys.executable, "-m", "backend.cli.main", *arguments]
    return subprocess.run(command, cwd=PROJECT, env=variables, capture_output=True, text=True, timeout=200)


def test_ctrl_c_stops_everything_the_next_start_resumes_the_run_and_seven_processes_are_left_when_it_has_ended(
    home: Path,
) -> None:
    installation = Installation(home).start()
    try:
        run = launch_run(
            installation.ctx, tiny_run("interrupted", max_steps=100_000, checkpoint_every=40), person=LOCAL
        ).id
        wait_until(lambda: get_run(installation.ctx, run).last_step > 60, timeout_s=300, what="some steps")
        processes = installation.processes()
        assert [p for p in processes if "--child" in p.cmdline()], "the run has a process"
        installation.stop(how=signal.SIGINT)
        alive = [p for p in processes if is_alive(p)]
        assert alive == []
        assert installation.processes() == []
        again = Installation(installation.home)
        installation = again.start()
        job_id = get_run(installation.ctx, run).job_id or ""
        wait_until(lambda: get_job(installation.ctx, job_id).attempt == 2, timeout_s=300, what="the second attempt")
        reached = get_run(installation.ctx, run).last_step
        wait_until(lambda: get_run(installation.ctx, run).last_step > reached, timeout_s=300, what="further steps")
        stop_run(installation.ctx, run, how="cancel", person=LOCAL)
        wait_until(
            lambda: get_run(installation.ctx, run).status is Status.CANCELLED, timeout_s=200, what="the end of the run"
        )
        wait_until(lambda: not installation.processes("--child"), what="the end of the run's process")
        assert installation.process is not None
        root = psutil.Process(installation.process.pid)
        family = [root, *root.children(recursive=True)]
        parts = (
            "main up",
            "jobs.fork_server",
            SUPERVISOR,
            "valkey-server",
            "streamlit",
            "backend.gateway.serve",
            "celery",
        )
        names = [" ".join(process.cmdline()) for process in family]
        assert [sum(part in name for name in names) for part in parts] == [1] * 7, names
        assert len(family) == 7, names
        installation.stop()
        assert not any(is_alive(process) for process in family)
    finally:
        installation.stop()


def test_a_first_account_that_is_refused_ends_the_start_with_the_reason(tmp_path: Path) -> None:
    ports = {f"ROUNDHOUSE_{name}": str(free_port()) for name in ("PORT", "GATEWAY_PORT")}
    result = roundhouse("up", "--json", home=tmp_path, ROUNDHOUSE_ADMIN_PASSWORD="short", **ports)
    assert result.returncode == 2
    assert "5 characters" in result.stderr
    assert "5 characters" in json.loads(result.stdout)["error"]
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


def test_down_saves_a_run_so_that_no_step_is_done_twice(home: Path) -> None:
    """A run that was saved at step 75 and stopped at 127 had done its 52 steps again at the next start."""
    installation = Installation(home).start()
    try:
        config = tiny_run("far from a checkpoint", max_steps=100_000, checkpoint_every=50_000)
        run = launch_run(installation.ctx, config, person=LOCAL).id
        wait_until(lambda: get_run(installation.ctx, run).last_step > 60, timeout_s=300, what="some steps")
        stopped = roundhouse("down", "--json", home=installation.home)
        assert json.loads(stopped.stdout) == {"stopped": True, "interrupted": ["Train far from a checkpoint"]}
        view = get_run(installation.ctx, run)
        assert view.status is Status.QUEUED
        folder = installation.ctx.artifacts.root / "runs" / run / "checkpoints"
        assert [path.name for path in folder.iterdir()] == [f"step-{view.last_step:06}"]
    finally:
        installation.stop()


def test_after_a_kill_of_the_start_command_the_next_start_ends_leftovers_and_a_second_one_is_refused(
    home: Path,
) -> None:
    killed = Installation(home).start()
    assert killed.process is not None
    left = killed.processes()
    again = Installation(killed.home)
    again.environment.update({name: killed.environment[name] for name in killed.environment if name.endswith("_PORT")})
    again.port, again.gateway_port = killed.port, killed.gateway_port
    try:
        supervisor = next(p for p in left if SUPERVISOR in " ".join(p.cmdline()))
        killed.process.kill()
        supervisor.kill()  # and the supervisor, which would have stopped the others in order
        killed.process.wait()
        again.start()
        assert [p for p in left if is_alive(p)] == []
        environment = {name: again.environment[name] for name in again.environment if name.startswith("ROUNDHOUSE_")}
        second = roundhouse("up", "--json", home=again.home, **{**environment, "ROUNDHOUSE_HOME": str(again.home)})
        assert second.returncode != 0
        assert "roundhouse down" in json.loads(second.stdout)["error"]
        stopped = roundhouse("down", "--json", home=again.home)
        assert json.loads(stopped.stdout) == {"stopped": True, "interrupted": []}
        assert again.processes() == []
    finally:
        killed.stop()
        again.stop()


def test_two_pretended_gpus_and_four_runs_never_put_two_on_one_and_a_killed_supervisor_leaves_no_process(
    home: Path,
) -> None:
    installation = Installation(home, ROUNDHOUSE_DEVICES="0,1").start()
    try:
        runs = [launch_run(installation.ctx, tiny_run(f"run {n}", max_steps=60), person=LOCAL).id for n in range(4)]
        seen: list[dict[str, str]] = []

        def all_done() -> bool:
            devices = {}
            for child in installation.processes("--child"):
                try:
                    if "nice" in child.name():
                        continue
                    device = child.environ().get("CUDA_VISIBLE_DEVICES", "")
                    folder = child.cmdline()[-1]
                except (psutil.Error, OSError):
                    continue
                if device:
                    devices[folder] = device
            seen.append(devices)
            return all(get_run(installation.ctx, run).status is Status.FINISHED for run in runs)

        wait_until(all_done, timeout_s=400, what="the end of four runs", every_s=0.3)
        assert any(len(devices) == 2 for devices in seen), "both GPUs were used at once"
        assert all(len(set(devices.values())) == len(devices) for devices in seen), "one job a GPU"
        assert list_slots(installation.ctx) == []
        assert installation.process is not None
        processes = installation.processes()
        next(p for p in processes if SUPERVISOR in " ".join(p.cmdline())).kill()
        assert installation.process.wait(120) == 1
        wait_until(lambda: not [p for p in processes if is_alive(p)], what="the end of all of it")
    finally:
        installation.stop()


def test_a_taken_port_is_named_with_its_cure(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = roundhouse("up", home=tmp_path, ROUNDHOUSE_PORT=str(port))
    assert result.returncode == 1
    assert f"Port {port}" in result.stderr
    assert "ROUNDHOUSE_PORT" in result.stderr
    assert "Traceback" not in result.stderr


def test_nothing_starts_beyond_loopback_without_an_account(tmp_path: Path) -> None:
    result = roundhouse("up", home=tmp_path, ROUNDHOUSE_HOST="0.0.0.0")
    assert result.returncode == 1
    assert "roundhouse user add" in result.stderr


def test_doctor_reports_a_broker_that_does_not_answer_as_json(tmp_path: Path) -> None:
    result = roundhouse("doctor", "--json", home=tmp_path, REDIS_URL="redis://127.0.0.1:1/0")
    assert result.returncode == 1
    report = json.loads(result.stdout)
    broker = next(finding for finding in report["findings"] if finding["name"] == "broker")
    assert broker["state"] == "problem"
    assert "REDIS_URL" in broker["cure"]


def test_an_account_is_made_from_a_pipe_and_a_second_one_of_its_name_is_refused(tmp_path: Path) -> None:
    made = roundhouse(
        "user", "add", "maya", "--role", "admin", "--json", home=tmp_path, ROUNDHOUSE_NEW_PASSWORD="a long password"
    )
    assert json.loads(made.stdout) == {"user": "maya", "role": "admin"}
    again = roundhouse("user", "add", "maya", home=tmp_path, ROUNDHOUSE_NEW_PASSWORD="a long password")
    assert again.returncode == 2
    assert "'maya'" in again.stderr
