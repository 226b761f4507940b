"""Runs and shards of imports on a real Slurm of two nodes: submitted, refused, waiting, stopped, preempted, on a node
that dies, under a controller that is killed or forgets. Nothing is lost and nothing runs twice.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import select

from backend.bootstrap import build_context
from backend.db.tables import Submission
from backend.domain.data.import_options import ImportOptions
from backend.domain.data.kinds import DatasetKind
from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import TERMINAL, Status
from backend.errors import InvalidInput, Unavailable
from backend.infra.compute.slurm import Slurm
from backend.services.context import LOCAL, Context
from backend.services.data.imports import import_dataset, version_of_job
from backend.services.data.sources import ImportSource
from backend.services.jobs.gangs import list_members
from backend.services.jobs.jobs import get_job, read_log, stop_job
from backend.services.jobs.placements import describe_order, describe_waiting, list_providers
from backend.services.jobs.submissions import tend_submissions
from backend.services.training.runs import launch_run, stop_run
from backend.services.training.views import get_run
from jobs.data.importer import import_files
from jobs.modeling.dataset_files import iter_rows
from jobs.reporter import SilentReporter
from jobs.tailing import parse_events
from tests.support.curves import read_curve
from tests.support.data.corpora import write_corpus
from tests.support.installation import Installation, wait_until
from tests.support.native.completeness import skip_unless_complete
from tests.support.postgres import copy_home
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings
from tests.support.slurm import Cluster, run_slurm, search_path, slurm_problem

pytestmark = pytest.mark.timeout(600)
STEPS = 200


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Slurm with two idle nodes, whose commands this process uses."""
    if problem := slurm_problem():
        skip_unless_complete(problem)
    with run_slurm(tmp_path_factory.mktemp("slurm")) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", running.environment["SLURM_CONF"])
        patch.setenv("PATH", search_path())
        yield running


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, used_home: Path, cluster: Cluster) -> Iterator[Installation]:
    """A running installation that submits to the cluster."""
    home = copy_home(used_home, tmp_path_factory.mktemp("installation") / "home")
    running = Installation(
        home,
        ROUNDHOUSE_SLURM_PARTITIONS="low,high",
        ROUNDHOUSE_LEASE_S="8",
        SLURM_CONF=os.environ["SLURM_CONF"],
        PATH=search_path(),
    ).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def _idle_nodes(cluster: Cluster) -> None:
    """Begin each test with two idle nodes."""
    cluster.restore()


@pytest.fixture
def ctx(home: Path) -> Iterator[Context]:
    """A context whose sweeps the test does itself."""
    context = build_context(make_settings(home, slurm_partitions="low"), migrate=False)
    yield context
    context.db.engine.dispose()


def slurm_of(ctx: Context) -> Slurm:
    (provider,) = ctx.providers
    assert isinstance(provider, Slurm)
    return provider


def launch(ctx: Context, name: str, partition: str = "low", **values: object) -> str:
    config = tiny_run(name, device="cpu", **{"max_steps": STEPS, "eval_every": STEPS, **values})
    wait_until(lambda: [state for state in list_providers(ctx) if state.choices], timeout_s=60, what="a provider")
    return launch_run(ctx, config, person=LOCAL, placement=f"slurm:{partition}").id


def job_of(ctx: Context, run_id: str) -> str:
    return get_run(ctx, run_id).job_id or ""


def curve(ctx: Context, run_id: str) -> dict[int, float]:
    points = read_curve(ctx, run_id, "train_loss")
    assert len(set(points.steps)) == len(points.steps), "no step twice"
    return dict(zip(points.steps, points.values, strict=True))


def steps_of(ctx: Context, run_id: str, attempt: int) -> list[int]:
    """Return the steps that an attempt has done."""
    path = ctx.artifacts.job_folder(job_of(ctx, run_id)) / f"attempt-{attempt}" / "events.jsonl"
    events = parse_events(path.read_bytes().splitlines() if path.exists() else [])
    return [event.step for event in events if isinstance(event, MetricsEvent) and "train_loss" in event.values]


def wait_for_step(ctx: Context, run_id: str, step: int) -> None:
    wait_until(lambda: max(curve(ctx, run_id), default=0) >= step, timeout_s=120, what=f"step {step}", every_s=0.25)


def running_attempts(installation: Installation, job_id: str) -> set[str]:
    """Return the attempts of a job that have a process now."""
    commands = [process.info["cmdline"] or [] for process in installation.processes(f"{job_id}/attempt-")]
    folders = [word.rsplit("/", 1)[-1] for command in commands for word in command if f"{job_id}/attempt-" in word]
    return {folder.split("-")[1] for folder in folders}  # each machine of several has its folder


def wait_for_end(installation: Installation, run_id: str, *, timeout_s: float = 180) -> Status:
    """Return how a run ended, after watching that no two attempts of it run at the same time."""
    ctx, job_id = installation.ctx, job_of(installation.ctx, run_id)

    def ended() -> Status | None:
        attempts = running_attempts(installation, job_id)
        assert len(attempts) <= 1, f"{attempts} run at the same time"
        status = get_run(ctx, run_id).status
        return status if status in TERMINAL else None

    status: Status = wait_until(ended, timeout_s=timeout_s, what="the end of the run", every_s=0.25)
    return status


def orders(ctx: Context, run_id: str) -> list[Submission]:
    with ctx.db.read() as session:
        query = select(Submission).where(Submission.job_id == job_of(ctx, run_id)).order_by(Submission.number)
        return list(session.scalars(query))


def block(cluster: Cluster) -> str:
    """Fill both nodes, before anything else of the partition; return the id of the job that does."""
    done = cluster.run(
        "sbatch", "--parsable", "-p", "low", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "exec sleep 600"
    )
    number = done.stdout.strip()
    cluster.wait_until(lambda: cluster.queue().get(number) == "RUNNING", "the blocking job does not run")
    return number


def release(cluster: Cluster, number: str) -> None:
    cluster.run("scancel", number)
    cluster.wait_until(lambda: number not in cluster.queue(), "the blocking job does not end")


@pytest.fixture(scope="module")
def undisturbed(installation: Installation, cluster: Cluster) -> dict[int, float]:
    """The curve of a run that waited for resources, and ran on a node."""
    ctx, blocking = installation.ctx, block(cluster)
    run_id = launch(ctx, "undisturbed")
    job_id = job_of(ctx, run_id)
    sentence = wait_until(lambda: _sentence(ctx, job_id, "Resources"), timeout_s=30, what="Slurm's reason")
    (order,) = orders(ctx, run_id)
    assert sentence == f"Slurm: low, job {order.external_id}. Slurm says: Resources."
    assert get_run(ctx, run_id).line == "Waiting for Slurm: low"
    stopped = launch(ctx, "stopped while it waits")
    wait_until(lambda: [row for row in orders(ctx, stopped) if row.external_id], timeout_s=30, what="its order")
    (withdrawn,) = orders(ctx, stopped)
    stop_run(ctx, stopped, person=LOCAL)
    cluster.wait_until(lambda: withdrawn.external_id not in cluster.queue(), "stop does not cancel the job in Slurm")
    release(cluster, blocking)
    assert wait_for_end(installation, run_id) is Status.FINISHED
    assert describe_order(ctx, job_id) == f"Slurm: low, job {order.external_id}"
    assert len(orders(ctx, run_id)) == 1
    cluster.wait_until(lambda: not cluster.queue(), "the worker stays after the end of its job")
    return curve(ctx, run_id)


def _sentence(ctx: Context, job_id: str, word: str) -> str:
    waiting = describe_waiting(ctx, job_id)
    return waiting.sentence if waiting is not None and word in waiting.sentence else ""


def test_a_run_waits_with_the_reason_of_slurm_is_stopped_there_and_runs_on_a_node(
    undisturbed: dict[int, float],
) -> None:
    assert list(undisturbed) == list(range(1, STEPS + 1))


def test_a_preempted_run_saves_and_resumes_without_a_step_lost(
    installation: Installation, cluster: Cluster, undisturbed: dict[int, float]
) -> None:
    ctx, run_id = installation.ctx, launch(installation.ctx, "preempted", checkpoint_every=STEPS)
    wait_for_step(ctx, run_id, 40)
    job_id = job_of(ctx, run_id)
    children = installation.processes(f"{job_id}/attempt-1")
    for child in children:  # or a fast machine ends the run before Slurm has decided
        child.suspend()
    cluster.run("sbatch", "-p", "high", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "exec sleep 2")
    output = ctx.artifacts.job_folder(job_id) / "slurm-1.log"
    wait_until(lambda: "saves a checkpoint" in output.read_text(), timeout_s=60, what="Slurm's request to end")
    for child in children:
        child.resume()
    wait_until(lambda: get_job(ctx, job_of(ctx, run_id)).attempt == 2, timeout_s=120, what="the second attempt")
    assert wait_for_end(installation, run_id) is Status.FINISHED
    assert curve(ctx, run_id) == undisturbed, "fp32 on the CPU is exact"
    first, second = (steps_of(ctx, run_id, attempt) for attempt in (1, 2))
    assert first + second == list(range(1, STEPS + 1)), "no step is lost, and none done twice"
    assert first
    assert get_job(ctx, job_of(ctx, run_id)).error == JobFailure()


def test_a_run_on_a_node_that_dies_resumes_on_another(
    installation: Installation, cluster: Cluster, undisturbed: dict[int, float]
) -> None:
    ctx, run_id = installation.ctx, launch(installation.ctx, "on a dying node")
    wait_for_step(ctx, run_id, 40)
    node = str(get_job(ctx, job_of(ctx, run_id)).owner).split(".")[0]
    cluster.kill_node(node)
    try:
        assert wait_for_end(installation, run_id) is Status.FINISHED
        assert get_job(ctx, job_of(ctx, run_id)).attempt == 2
        assert curve(ctx, run_id) == undisturbed
    finally:
        cluster.start_node(node)
        cluster.wait_until(lambda: cluster.nodes() == {"n1": "idle", "n2": "idle"}, "the node does not come back")


@pytest.mark.parametrize("trial", range(int(os.environ.get("ROUNDHOUSE_SLURM_TRIALS", "1"))))
def test_a_run_that_a_killed_controller_forgot_runs_once(
    installation: Installation, cluster: Cluster, undisturbed: dict[int, float], trial: int
) -> None:
    ctx, run_id = installation.ctx, launch(installation.ctx, f"forgotten start {trial}")
    cluster.wait_until(lambda: "RUNNING" in cluster.queue().values(), "the worker does not start")
    time.sleep(trial * 0.2)
    cluster.kill("slurmctld")
    time.sleep(2)
    cluster.start_controller()
    assert wait_for_end(installation, run_id) is Status.FINISHED
    assert curve(ctx, run_id) == undisturbed
    cluster.wait_until(lambda: not cluster.queue(), "a second worker stays after the end of its job")


def test_a_waiting_run_that_slurm_forgot_is_submitted_once_more(
    installation: Installation, cluster: Cluster, undisturbed: dict[int, float]
) -> None:
    ctx, blocking = installation.ctx, block(cluster)
    run_id = launch(ctx, "forgotten in the queue")
    wait_until(lambda: [row for row in orders(ctx, run_id) if row.external_id], timeout_s=30, what="its order")
    cluster.kill("slurmctld")
    wait_until(
        lambda: any("does not answer" in state.problem for state in list_providers(ctx)),
        timeout_s=60,
        what="the problem of the provider",
    )
    with pytest.raises(Unavailable, match="Slurm can't take a job: Slurm does not answer"):
        launch_run(ctx, tiny_run("too early", device="cpu"), person=LOCAL, placement="slurm:low")
    assert len(orders(ctx, run_id)) == 1, "silence is no reason to submit again"
    shutil.rmtree(cluster.folder / "state")
    (cluster.folder / "state").mkdir()
    cluster.start_controller("-i")
    wait_until(lambda: len(orders(ctx, run_id)) == 2, timeout_s=60, what="the second order")
    if blocking in cluster.queue():
        release(cluster, blocking)
    assert wait_for_end(installation, run_id) is Status.FINISHED
    first, _ = orders(ctx, run_id)
    assert first.word == "forgotten"
    assert curve(ctx, run_id) == undisturbed


def test_an_order_is_made_once_by_its_key(ctx: Context, cluster: Cluster) -> None:
    tend_submissions(ctx, slurm_of(ctx))
    blocking = block(cluster)
    run_id = launch(ctx, "twice asked")
    tend_submissions(ctx, slurm_of(ctx))
    (order,) = orders(ctx, run_id)
    with ctx.db.write() as session:  # the answer of sbatch was lost
        session.get_one(Submission, (order.job_id, 1)).external_id = None
    for _ in range(2):
        tend_submissions(ctx, slurm_of(ctx))
    assert [(row.number, row.external_id) for row in orders(ctx, run_id)] == [(1, order.external_id)]
    stop_run(ctx, run_id, person=LOCAL)
    tend_submissions(ctx, slurm_of(ctx))
    assert order.external_id not in cluster.queue()
    release(cluster, blocking)


def test_a_worker_that_never_starts_fails_the_run_with_its_log(ctx: Context, cluster: Cluster) -> None:
    broken = replace(slurm_of(ctx), worker=("/opt/not/there/roundhouse", "worker"))
    tend_submissions(ctx, broken)
    run_id = launch(ctx, "without a worker")
    job_id = job_of(ctx, run_id)
    for _ in itertools.takewhile(lambda _: get_job(ctx, job_id).status is Status.QUEUED, range(100)):
        tend_submissions(ctx, broken)
        time.sleep(0.5)
    job = get_job(ctx, job_id)
    assert job.status is Status.FAILED
    assert "3 workers ended before they took this job (slurm jobs" in job.error.cause
    assert "database" in job.error.remedy
    assert any("/opt/not/there/roundhouse" in line for line in read_log(ctx, job_id)), "the log of Slurm's job"


def test_refusals_name_value_and_cure(ctx: Context, cluster: Cluster) -> None:
    with pytest.raises(InvalidInput, match="Slurm is not set up here"):
        launch_run(ctx, tiny_run("early"), person=LOCAL, placement="slurm:low")
    tend_submissions(ctx, slurm_of(ctx))
    with pytest.raises(InvalidInput, match=r"offers no partition 'gpux' here. Choose one of low"):
        launch_run(ctx, tiny_run("elsewhere"), person=LOCAL, placement="slurm:gpux")
    with pytest.raises(InvalidInput, match="'nowhere' is not a valid placement"):
        launch_run(ctx, tiny_run("nowhere"), person=LOCAL, placement="nowhere")
    spread = tiny_run("spread", devices={"count": 3, "nodes": 3})
    with pytest.raises(InvalidInput, match="Slurm: low has 2 nodes, and this run needs 3 machines"):
        launch_run(ctx, spread, person=LOCAL, placement="slurm:low")
    greedy = replace(slurm_of(ctx), options=("--mem=900G",))
    run_id = launch(ctx, "greedy")
    tend_submissions(ctx, greedy)
    job = get_job(ctx, job_of(ctx, run_id))
    assert job.status is Status.FAILED
    assert "Slurm refused (sbatch)" in job.error.cause
    assert "Memory specification can not be satisfied" in job.error.cause
    assert "ROUNDHOUSE_SLURM_OPTIONS" in job.error.remedy
    tend_submissions(ctx, replace(slurm_of(ctx), partitions=("low", "gpux")))
    (state,) = list_providers(ctx)
    assert "Slurm has no partition 'gpux'" in state.problem
    assert "low, high" in state.problem


def test_gpus_of_a_run_are_asked_of_slurm(ctx: Context, cluster: Cluster) -> None:
    tend_submissions(ctx, slurm_of(ctx))
    blocking = block(cluster)
    run_id = launch_run(ctx, tiny_run("on a GPU"), person=LOCAL, placement="slurm:low").id
    tend_submissions(ctx, slurm_of(ctx))
    (order,) = orders(ctx, run_id)
    assert "TresPerNode=gres/gpu:1" in cluster.run("scontrol", "show", "job", str(order.external_id)).stdout
    stop_run(ctx, run_id, person=LOCAL)
    tend_submissions(ctx, slurm_of(ctx))
    release(cluster, blocking)


TWO = {"micro_batch": 2, "devices": {"count": 2, "nodes": 2}}
"""The undisturbed run's batches on two machines."""


def test_a_run_over_two_nodes_waits_trains_on_both_and_is_cancelled(
    installation: Installation, cluster: Cluster, undisturbed: dict[int, float]
) -> None:
    ctx, blocking = installation.ctx, block(cluster)
    run_id = launch(ctx, "over two nodes", **TWO)
    job_id = job_of(ctx, run_id)
    sentence = wait_until(lambda: _sentence(ctx, job_id, "Slurm says"), timeout_s=30, what="Slurm's reason")
    (order,) = orders(ctx, run_id)
    number = order.external_id or ""
    assert sentence.startswith(f"Slurm: low, job {number}. Slurm says: ")
    assert "NumNodes=2" in cluster.run("scontrol", "show", "job", number).stdout
    release(cluster, blocking)
    wait_for_step(ctx, run_id, 1)
    members = list_members(ctx, job_id)
    assert {member.host for member in members} == {f"n1.{number}", f"n2.{number}"}
    assert wait_for_end(installation, run_id) is Status.FINISHED
    assert get_job(ctx, job_id).attempt == 1
    assert len(orders(ctx, run_id)) == 1
    measured = curve(ctx, run_id)
    assert list(measured) == list(undisturbed)
    assert measured == pytest.approx(undisturbed, abs=1e-4)
    assert any("Training on 2 machines" in line for line in read_log(ctx, job_id))
    cluster.wait_until(lambda: not cluster.queue(), "workers stay after the end of their job")
    cancelled = launch(ctx, "over two nodes, cancelled", **TWO, max_steps=100_000)
    wait_for_step(ctx, cancelled, 4)
    stop_run(ctx, cancelled, person=LOCAL)
    assert wait_for_end(installation, cancelled) is Status.CANCELLED
    cluster.wait_until(lambda: not cluster.queue(), "workers stay after a cancelled job")


def test_a_run_over_two_nodes_saves_before_a_preemption_and_survives_a_node_that_dies(
    installation: Installation, cluster: Cluster
) -> None:
    ctx, endless = installation.ctx, 100_000
    run_id = launch(
        ctx, "over two unsafe nodes", **TWO, max_steps=endless, eval_every=endless, checkpoint_every=endless
    )
    job_id = job_of(ctx, run_id)
    wait_for_step(ctx, run_id, 8)
    cluster.run("sbatch", "-p", "high", "-N1", "--exclusive", "-o", "/dev/null", "--wrap", "exec sleep 1")
    wait_until(lambda: get_job(ctx, job_id).attempt == 2, timeout_s=120, what="the second attempt")
    first = steps_of(ctx, run_id, 1)
    wait_for_step(ctx, run_id, len(first) + 8)
    assert first == list(range(1, len(first) + 1))
    assert steps_of(ctx, run_id, 2)[0] == len(first) + 1, "no step is lost, and none done twice"
    node = list_members(ctx, job_id)[1].host.split(".")[0]
    cluster.kill_node(node)
    try:
        wait_until(lambda: get_job(ctx, job_id).status is Status.QUEUED, timeout_s=60, what="the end of the attempt")
    finally:
        cluster.start_node(node)
    wait_until(lambda: get_job(ctx, job_id).attempt >= 3, timeout_s=120, what="the third attempt")
    wait_until(lambda: steps_of(ctx, run_id, get_job(ctx, job_id).attempt), timeout_s=120, what="its steps")
    assert steps_of(ctx, run_id, get_job(ctx, job_id).attempt)[0] == len(first) + 1, "from the checkpoint"
    stop_run(ctx, run_id, person=LOCAL)
    assert wait_for_end(installation, run_id) is Status.CANCELLED


def kill_task(folder: Path) -> bool:
    """Kill the process of a task that reads a shard of an import; return whether there is one."""
    for process in psutil.process_iter(["cmdline"]):
        command = " ".join(process.info["cmdline"] or [])
        if "launch_pickled_pipeline" in command and str(folder) in command and "srun" not in command:
            process.kill()
            return True
    return False


def test_a_corpus_in_shards_on_slurm_has_the_rows_of_one_process(
    installation: Installation, cluster: Cluster, tmp_path: Path
) -> None:
    ctx, corpus = installation.ctx, write_corpus(tmp_path / "corpus")
    options = ImportOptions(
        kind=DatasetKind.TEXT, languages=("en",), min_characters=20, drop_near_duplicates=True, max_rejected=1
    )
    alone = import_files(corpus, options, out_root=tmp_path / "alone", reporter=SilentReporter())
    wait_until(lambda: [state for state in list_providers(ctx) if state.choices], what="a provider")
    blocking = block(cluster)
    in_slurm = options.model_copy(update={"shards": 5, "workers": 4, "executor": "slurm:low"})
    source = ImportSource(path=corpus)
    job_id = import_dataset(ctx, name="corpus", source=source, options=in_slurm, person=LOCAL).job_id or ""

    def message() -> str:
        progress = get_job(ctx, job_id).progress
        return progress.message if progress else ""

    wait_until(lambda: re.match(r"Slurm: \d pending \(", message()), what="waiting tasks")
    release(cluster, blocking)
    (folder,) = (ctx.artifacts.path("datasets")).glob(".importing-*")
    wait_until(lambda: "running" in message(), what="a running task")
    wait_until(lambda: kill_task(folder), what="the process of a task")
    wait_until(lambda: get_job(ctx, job_id).status in TERMINAL, what="the end of the import")
    version = version_of_job(ctx, job_id)
    assert version.is_ready, (version.error, read_log(ctx, job_id))
    assert any("submitted again" in line for line in read_log(ctx, job_id))
    assert (version.content_hash, version.rows) == (alone.content_hash, alone.rows)
    for split in ("train", "val"):
        there = iter_rows(ctx.artifacts.path(version.folder or ""), split=split)  # type: ignore[arg-type]
        assert list(there) == list(iter_rows(Path(alone.folder), split=split))  # type: ignore[arg-type]
    cluster.wait_until(lambda: not cluster.queue(), "tasks stay after the end of the import")


def test_the_shards_of_an_import_whose_process_was_killed_are_withdrawn_from_slurm(
    installation: Installation, cluster: Cluster, tmp_path: Path
) -> None:
    ctx, corpus = installation.ctx, write_corpus(tmp_path / "corpus", files=3, rows=10)
    blocking = block(cluster)
    options = ImportOptions(kind=DatasetKind.TEXT, max_rejected=1, shards=3, workers=2, executor="slurm:low")
    source = ImportSource(path=corpus)
    job_id = import_dataset(ctx, name="killed", source=source, options=options, person=LOCAL).job_id or ""
    wait_until(lambda: len(cluster.queue()) > 1, what="the waiting shards")
    for process in installation.processes(f"{job_id}/attempt-"):
        process.kill()
    wait_until(lambda: get_job(ctx, job_id).status in TERMINAL, what="the end of the import")
    assert get_job(ctx, job_id).status is Status.FAILED
    wait_until(lambda: set(cluster.queue()) == {blocking}, what="an empty queue")
    release(cluster, blocking)


def test_a_stopped_import_withdraws_its_shards_from_slurm(
    installation: Installation, cluster: Cluster, tmp_path: Path
) -> None:
    ctx, corpus = installation.ctx, write_corpus(tmp_path / "corpus", files=3, rows=10)
    blocking = block(cluster)
    options = ImportOptions(kind=DatasetKind.TEXT, max_rejected=1, shards=3, executor="slurm:low")
    version = import_dataset(ctx, name="stopped", source=ImportSource(path=corpus), options=options, person=LOCAL)
    wait_until(lambda: len(cluster.queue()) > 1, what="the waiting shards")
    stop_job(ctx, version.job_id or "", person=LOCAL)
    wait_until(lambda: set(cluster.queue()) == {blocking}, what="an empty queue")
    release(cluster, blocking)
