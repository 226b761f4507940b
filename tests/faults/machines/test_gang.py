"""Runs over machines that share a database, a broker and a store, and no folder: placed on all or none, and ended
everywhere when one is lost.
"""

from __future__ import annotations

import io
import json
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from sqlalchemy import make_url

from backend.bootstrap import build_context
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import DatasetKind
from backend.domain.jobs.states import TERMINAL, Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.training.config import RunConfig
from backend.services.battles.assignment import VoteInput
from backend.services.battles.ballots import open_ballot, submit_vote
from backend.services.battles.raters import Voter, rater_for
from backend.services.battles.views import get_campaign
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.data.imports import add_rows_dataset, import_dataset
from backend.services.data.sources import ImportSource, save_upload
from backend.services.jobs.gangs import describe_gang, list_members
from backend.services.jobs.jobs import JobView, get_job, read_log
from backend.services.jobs.workers import list_workers
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import get_endpoint
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training.runs import launch_run, resume_run, stop_run
from backend.services.training.views import get_run
from tests.support.curves import read_curve
from tests.support.installation import free_port, is_alive, wait_until
from tests.support.job_work import do_job
from tests.support.postgres import copy_database, copy_home, drop_database
from tests.support.run_world import tiny_run
from tests.support.scenario import Scenario
from tests.support.settings import database_of, make_settings
from tests.support.stores import moto_store
from tests.support.workers.network import can_make_networks, forwarded, two_networks
from tests.support.workers.team import Team, team
from tests.support.workers.workers import process

pytestmark = pytest.mark.timeout(900)

ROWS = [{"text": f"Row {n}: the {n % 7} engines stand in the roundhouse and wait for steam. " * 8} for n in range(60)]
TWO: dict[str, Any] = {"grad_accum_steps": 2, "devices": {"count": 2, "nodes": 2}}
ONE: dict[str, Any] = {"grad_accum_steps": 4}
STEPS = 112
Curves = dict[str, dict[int, float]]
"""Values by step of metrics by name."""


@pytest.fixture
def lab(home: Path, tmp_path: Path) -> Iterator[Team]:
    """A team with a dataset and a tokenizer."""
    with team(tmp_path / "team", pages=home, database_url=database_of(home)) as started:
        yield started


def make_run(name: str, **values: Any) -> RunConfig:
    every = {"max_steps": STEPS, "eval_every": 8, "checkpoint_every": 8, "learning_rate": 1e-4}
    return tiny_run(name, **{**every, **values})


def launch(lab: Team, name: str, **values: Any) -> str:
    return launch_run(lab.ctx, make_run(name, **values), person=LOCAL).id


def job_of(lab: Team, run_id: str) -> JobView:
    return get_job(lab.ctx, str(get_run(lab.ctx, run_id).job_id))


def curve(ctx: Context, run_id: str, name: str = "train_loss") -> dict[int, float]:
    points = read_curve(ctx, run_id, name)
    return dict(zip(points.steps, points.values, strict=True))


def last_step(lab: Team, run_id: str) -> int:
    return max(curve(lab.ctx, run_id), default=0)


def end_of(lab: Team, run_id: str) -> JobView:
    wait_until(lambda: job_of(lab, run_id).status in TERMINAL, what="the end of the run")
    return job_of(lab, run_id)


def finish(lab: Team, run_id: str) -> None:
    job = end_of(lab, run_id)
    assert job.status is Status.FINISHED, (job.error, read_log(lab.ctx, job.id))


def running_on(lab: Team, *names: str) -> list[psutil.Process]:
    """Return the processes of jobs on machines."""
    homes, mine = {str(lab.folder / name) for name in names}, []
    for one in psutil.process_iter():
        try:
            modules = {"jobs.run", "jobs.training.rank"} & set(one.cmdline())
            if modules and one.environ().get("ROUNDHOUSE_HOME") in homes:
                mine.append(one)
        except psutil.Error:  # it has ended meanwhile
            continue
    return mine


def nothing_runs(lab: Team) -> None:
    wait_until(lambda: not running_on(lab, "a", "b"), timeout_s=60, what="no process")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, used_home: Path) -> Curves:
    """The curves of a run in one process that nothing happens to."""
    home = copy_home(used_home, tmp_path_factory.mktemp("alone") / "home")
    ctx = build_context(make_settings(home), migrate=False)
    run = launch_run(ctx, make_run("alone", **ONE), person=LOCAL)
    assert do_job(ctx, run.job_id).status is Status.FINISHED
    curves = {name: curve(ctx, run.id, name) for name in ("train_loss", "grad_norm", "val_loss")}
    ctx.db.engine.dispose()
    return curves


def check_curves(lab: Team, run_id: str, expected: Curves) -> None:
    for name, values in expected.items():
        measured = curve(lab.ctx, run_id, name)
        assert list(measured) == list(values), f"no gap and no double step in {name}"
        assert measured == pytest.approx(values, abs=1e-4), name


def test_a_run_over_two_machines_with_s3_between_them_stops_resumes_and_equals_one_process(
    home: Path, tmp_path: Path, undisturbed: Curves
) -> None:
    with ExitStack() as stack:
        store, database = stack.enter_context(moto_store()), database_of(home)
        lab = stack.enter_context(team(tmp_path / "team", pages=home, database_url=database, store=store))
        stack.enter_context(lab.machine("a"))
        run = launch(lab, "both", **TWO)
        job_id = job_of(lab, run).id
        small = launch(lab, "small", max_steps=8)
        finish(lab, small)  # a gang that can't be placed holds nobody up
        assert "Needs 2 machines at once: only a is there." in describe_gang(lab.ctx, job_id)
        stack.enter_context(lab.machine("b"))
        wait_until(lambda: last_step(lab, run) >= 4, what="step 4")
        assert len(list_members(lab.ctx, job_id)) == 2
        stop_run(lab.ctx, run, how="stop_and_save", person=LOCAL)
        assert end_of(lab, run).status is Status.CANCELLED
        assert last_step(lab, run) < STEPS
        nothing_runs(lab)
        resume_run(lab.ctx, run, person=LOCAL)
        finish(lab, run)
        check_curves(lab, run, undisturbed)
        assert "Training on 2 machines" in "".join(read_log(lab.ctx, job_id))
        cancelled = launch(lab, "cancelled", **TWO)
        wait_until(lambda: running_on(lab, "a") and running_on(lab, "b"), what="processes on both")
        stop_run(lab.ctx, cancelled, how="cancel", person=LOCAL)
        assert end_of(lab, cancelled).status is Status.CANCELLED
        nothing_runs(lab)


def test_a_run_survives_a_frozen_process_a_frozen_worker_and_a_killed_one(lab: Team, undisturbed: Curves) -> None:
    """Each ends the attempt on both machines, and the run goes on from its last checkpoint on those that are left."""
    with ExitStack() as stack:
        workers = {name: stack.enter_context(lab.machine(name)) for name in "abc"}
        run = launch(lab, "both", **TWO)

        def lose(number: int, how: signal.Signals, *, after: int, rank: bool = False) -> str:
            """Send a signal to a machine's worker, or to its rank alone, after a step, and wait for steps after it."""
            wait_until(lambda: last_step(lab, run) >= after, what="steps")

            def processes() -> list[psutil.Process]:
                hosts = [member.host for member in list_members(lab.ctx, job_of(lab, run).id)]
                running = running_on(lab, *hosts) if len(hosts) == 2 else []
                return running if len(running) == 4 else []

            running = wait_until(processes, what="two processes on each machine")
            job = job_of(lab, run)
            hosts = [member.host for member in list_members(lab.ctx, job.id)]
            (own,) = [one for one in running_on(lab, hosts[number]) if "jobs.training.rank" in one.cmdline()]
            lost_at = time.monotonic()
            (own if rank else workers[hosts[number]]).send_signal(how)
            wait_until(lambda: not any(map(is_alive, running)), timeout_s=60, what="the end of the attempt")
            ended_s, reached = time.monotonic() - lost_at, last_step(lab, run)
            wait_until(lambda: last_step(lab, run) > reached or job_of(lab, run).status in TERMINAL, what="steps")
            again_s = time.monotonic() - lost_at
            print(f"{how.name}, rank: {rank}, {number}: ended after {ended_s:.1f} s, steps again after {again_s:.1f} s")
            assert job_of(lab, run).attempt > job.attempt  # more, where a busy machine let a lease lapse
            return hosts[number]

        wait_until(lambda: job_of(lab, run).attempt == 1, what="the first attempt")
        host = lose(1, signal.SIGSTOP, after=20, rank=True)
        assert f"{host}: Its process" in "".join(read_log(lab.ctx, job_of(lab, run).id))
        host = lose(0, signal.SIGSTOP, after=36)
        workers[host].send_signal(signal.SIGKILL)
        lose(1, signal.SIGKILL, after=52)
        finish(lab, run)
        check_curves(lab, run, undisturbed)


@pytest.mark.parametrize(
    ("of_a", "of_b", "cause"),
    [
        ({}, {"ROUNDHOUSE_JOB_MEMORY_MB": "256"}, "^b: |memory|SystemError"),
        (
            {"ROUNDHOUSE_REPLICA_HOST": "192.0.2.1"},
            {"ROUNDHOUSE_REPLICA_HOST": "192.0.2.1"},
            "can't listen on 192.0.2.1",
        ),
    ],
)
def test_what_is_wrong_on_one_machine_fails_the_run_with_its_cause(
    lab: Team, of_a: dict[str, str], of_b: dict[str, str], cause: str
) -> None:
    with lab.machine("a", **of_a), lab.machine("b", **of_b):
        job = end_of(lab, launch(lab, "both", **TWO))
        assert job.status is Status.FAILED
        assert re.search(cause, job.error.cause)
        assert job.attempt == 1
        nothing_runs(lab)


@pytest.fixture
def server(tmp_path: Path, migrated_postgres: str) -> Iterator[str]:
    """A PostgreSQL database of its own that is empty but for its tables."""
    (tmp_path / "pages").mkdir()
    url = copy_database(migrated_postgres)
    yield url
    drop_database(url)


@pytest.mark.skipif(not can_make_networks(), reason="needs root and iproute2")
def test_a_machine_whose_cable_is_pulled_ends_its_processes_and_the_other_continues(
    tmp_path: Path, server: str
) -> None:
    """Silence on all connections between two machines in networks of their own, with PostgreSQL beside the near one."""
    with ExitStack() as stack:
        lab = stack.enter_context(team(tmp_path / "team", pages=tmp_path / "pages", database_url=server))
        do_job(lab.ctx, add_rows_dataset(lab.ctx, name="lines", kind="text", rows=ROWS, person=LOCAL).job_id)
        tokenizer = train_tokenizer(
            lab.ctx, name="bytes", dataset="lines", config=TokenizerConfig(kind="byte"), person=LOCAL
        )
        do_job(lab.ctx, tokenizer.job_id)
        ends = dict(zip(("near", "far"), stack.enter_context(two_networks()), strict=True))
        with lab.ctx.db.engine.connect() as connection:
            sockets = connection.exec_driver_sql("SHOW unix_socket_directories").scalar_one()
        database = f"{sockets}/.s.PGSQL.{make_url(server).port}"
        for number_of_port, file in ((5432, database), (6379, lab.broker_socket)):
            stack.enter_context(forwarded(ends["near"], number_of_port, file))
        url = make_url(server).set(host=ends["near"].address, port=5432)
        shared = {
            "DATABASE_URL": url.render_as_string(),
            "REDIS_URL": f"redis://{ends['near'].address}:6379/0",
            "ROUNDHOUSE_GANG_WAIT_S": "0",
        }

        def start(name: str) -> None:
            own = {**shared, "ROUNDHOUSE_REPLICA_HOST": ends[name].address}
            stack.enter_context(lab.machine(name, within=ends[name].within, **own))

        first, second = "far", "near"  # the one that is cut off leads
        start(second)
        before = launch(lab, "before", max_steps=100_000)
        wait_until(lambda: job_of(lab, before).status is Status.RUNNING, what="a run on one machine")
        start(first)
        run = launch(lab, "both", **TWO, max_steps=200)
        job_id = job_of(lab, run).id
        wait_until(lambda: describe_gang(lab.ctx, job_id).endswith(f"Kept for it: {first}."), what="a kept machine")
        stop_run(lab.ctx, before, how="cancel", person=LOCAL)
        wait_until(lambda: last_step(lab, run) >= 20, what="step 20")
        assert [member.host for member in list_members(lab.ctx, job_id)] == [first, second]
        of_first_attempt = running_on(lab, "far", "near")
        assert len(of_first_attempt) == 4
        cut_at = time.monotonic()
        ends["far"].pull()
        for machine in ("near", "far"):
            mine = [process for process in of_first_attempt if process in running_on(lab, machine)]
            wait_until(lambda mine=mine: not any(map(is_alive, mine)), timeout_s=60, what=f"the end on {machine}")
            print(f"first is {first}; ended on {machine} after {time.monotonic() - cut_at:.1f} s")
        reached = last_step(lab, run)
        wait_until(lambda: job_of(lab, run).attempt == 2 and last_step(lab, run) > reached)
        print(f"steps again after {time.monotonic() - cut_at:.1f} s")
        ends["far"].plug()
        finish(lab, run)
        assert job_of(lab, run).attempt == 2
        assert list(curve(lab.ctx, run)) == list(range(1, 201)), "no gap and no double step"


def test_two_machines_without_a_shared_folder_go_from_data_to_an_answer(tmp_path: Path, server: str) -> None:
    """Import, tokenizer, a run over both, an evaluation, a vote on its checkpoint and another run's, a replica on each
    machine, and a chat through the gateway.
    """
    with ExitStack() as stack:
        lab = stack.enter_context(team(tmp_path / "team", pages=tmp_path / "pages", database_url=server))
        ctx = lab.ctx
        stack.enter_context(lab.machine("a", queues="train,cpu,serve", ROUNDHOUSE_REPLICA_SLOTS="1"))
        stack.enter_context(lab.machine("b", queues="train,eval,serve", ROUNDHOUSE_REPLICA_SLOTS="1"))
        port = free_port()
        gateway = [sys.executable, "-m", "backend.gateway.serve", "127.0.0.1", str(port)]
        stack.enter_context(process(gateway, env={**lab.environment, "ROUNDHOUSE_HOME": str(tmp_path / "pages")}))
        questions = [{"prompt": f"What stands on track {number}?"} for number in range(10)]
        imports = [import_rows(lab, "tales", "text", ROWS), import_rows(lab, "questions", "prompts", questions)]
        for job_id in imports:
            end_well(lab, job_id)
        config = TokenizerConfig(kind="byte")
        end_well(lab, train_tokenizer(ctx, name="tale-bytes", dataset="tales", config=config, person=LOCAL).job_id)
        run = launch(lab, "tales", **TWO, dataset="tales", tokenizer="tale-bytes")
        finish(lab, run)
        assert job_of(lab, run).attempt == 1
        other = launch(lab, "other", seed=2, max_steps=16, dataset="tales", tokenizer="tale-bytes")
        finish(lab, other)
        newest, second = (
            max((one for one in list_checkpoints(ctx) if one.run_id == each), key=lambda one: one.step or 0)
            for each in (run, other)
        )
        values = {"name": "Tracks", "dataset": "questions", "num_prompts": 10, "max_tokens": 16, "write": False}
        campaign = Scenario(ctx).campaign(newest.id, second.id, **values)
        evaluation = Scenario(ctx).evaluation(newest.id, "tales", split="val")
        end_well(lab, evaluation.job_id)
        voter = Voter(campaign.id, rater_for(ctx, LOCAL))
        battle = wait_until(lambda: open_ballot(ctx, voter).battles, what="answers to judge")[0]
        submit_vote(ctx, voter, VoteInput(battle=battle.battle_id, label="A", duration_ms=900))
        assert get_campaign(ctx, campaign.id).num_votes == 1
        deploy(ctx, checkpoint_id=newest.id, name="tales", num_replicas=2, person=LOCAL)

        def statuses() -> list[str]:
            return [one.status for one in get_endpoint(ctx, "tales").replicas]

        wait_until(lambda: statuses() == ["ready"] * 2, what="ready replicas")
        assert {one.host for one in list_workers(ctx) if "serve" in one.queues and one.jobs} == {"a", "b"}
        body = {"model": "tales", "messages": [{"role": "user", "content": "Row 1"}], "max_tokens": 8}
        answer = httpx2.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] > 0
        on_a, on_b = ({path.name for path in (lab.folder / name / "artifacts" / "datasets").iterdir()} for name in "ab")
        assert on_b
        assert on_b < on_a, "the questions are only on the machine that imported them"


def import_rows(lab: Team, name: str, kind: DatasetKind, rows: list[dict[str, str]]) -> str | None:
    """Upload rows on the machine of the pages, and return the job that imports them."""
    lines = "\n".join(json.dumps(row) for row in rows)
    upload = save_upload(lab.ctx, io.BytesIO(lines.encode()), name=f"{name}.jsonl", person=LOCAL)
    options = ImportOptions(kind=kind, val_fraction=0.2)
    return import_dataset(lab.ctx, name=name, source=ImportSource(upload=upload), options=options, person=LOCAL).job_id


def end_well(lab: Team, job_id: str | None) -> None:
    """Wait for a job to finish."""
    wait_until(lambda: get_job(lab.ctx, str(job_id)).status in TERMINAL, what="the end of a job")
    job = get_job(lab.ctx, str(job_id))
    assert job.status is Status.FINISHED, job.error
