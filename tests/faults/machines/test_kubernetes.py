"""A run by Kubernetes' API to its end: launched, queued with Kueue's reason, its pod a real worker on this machine.

The API server is a double (tests/support/kubernetes_api.py), so this shows requests, keys and leases.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from backend.bootstrap import build_context
from backend.cli.doctor import check_provider
from backend.domain.jobs.states import Status
from backend.infra.processes import die_with_parent
from backend.services.context import LOCAL, Context
from backend.services.jobs.gangs import list_members
from backend.services.jobs.jobs import get_job, read_log
from backend.services.jobs.placements import describe_waiting, list_providers
from backend.services.jobs.submissions import tend_submissions
from backend.services.training.runs import launch_run, stop_run
from backend.services.training.views import get_run
from backend.settings import PROJECT
from tests.support.curves import read_curve
from tests.support.installation import wait_until
from tests.support.kubernetes_api import NAMESPACE, ClusterDouble, Item, condition, serve_cluster
from tests.support.run_world import tiny_run
from tests.support.settings import database_of, make_settings

pytestmark = pytest.mark.timeout(300)
STEPS = 60


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterDouble]:
    with serve_cluster(tmp_path) as running:
        running.add_queue("cpu")
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield running


@pytest.fixture
def ctx(home: Path, cluster: ClusterDouble) -> Iterator[Context]:
    manifest = PROJECT / "deploy" / "kubernetes" / "base" / "run-job.yaml"
    settings = make_settings(home, kubernetes_queues="cpu", kubernetes_job=manifest, kubernetes_namespace=NAMESPACE)
    context = build_context(settings, migrate=False)
    yield context
    context.db.engine.dispose()


def sweep(ctx: Context) -> None:
    (provider,) = ctx.providers
    tend_submissions(ctx, provider)


def launch(ctx: Context, name: str, **values: object) -> tuple[str, str]:
    """Launch a run on the cluster; return its id and that of its job."""
    sweep(ctx)
    config = tiny_run(name, device="cpu", max_steps=STEPS, eval_every=STEPS, **values)
    run_id = launch_run(ctx, config, person=LOCAL, placement="kubernetes:cpu").id
    sweep(ctx)
    return run_id, get_run(ctx, run_id).job_id or ""


def start_pod(ctx: Context, pod: Item) -> subprocess.Popen[bytes]:
    """Do what a node does: start the command of a pod's container, here with the home of this test."""
    pod["status"]["phase"] = "Running"
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["roundhouse"]
    home = ctx.artifacts.root.parent
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "ROUNDHOUSE_HOME": str(home),
        "DATABASE_URL": database_of(home),
        "ROUNDHOUSE_WORKER_HOST": pod["metadata"]["name"],
    }
    return subprocess.Popen(
        [sys.executable, "-m", "backend.cli.main", *container["args"]],
        env=environment,
        stdin=subprocess.DEVNULL,
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    )


def sentence(ctx: Context, job_id: str) -> str:
    waiting = describe_waiting(ctx, job_id)
    return waiting.sentence if waiting is not None else ""


def swept(ctx: Context, job_id: str) -> str:
    sweep(ctx)
    return sentence(ctx, job_id)


def test_a_run_waits_with_kueues_reason_and_trains_in_its_pod(ctx: Context, cluster: ClusterDouble) -> None:
    run_id, job_id = launch(ctx, "on kubernetes")
    (choice,) = list_providers(ctx)[0].choices
    assert (choice.placement.label, choice.detail) == ("Kubernetes: cpu", "CPUs")
    key = f"roundhouse-{job_id}-1"
    assert list(cluster.items["jobs"]) == [key]
    cluster.queue(key, condition("QuotaReserved", False, message="insufficient unused quota for cpu"))
    sweep(ctx)
    assert sentence(ctx, job_id) == (f"Kubernetes: cpu, job {key}. Kubernetes says: insufficient unused quota for cpu.")
    (provider,) = ctx.providers
    assert check_provider(provider).detail == "answers: cpu; 1 worker ordered"
    with start_pod(ctx, cluster.admit(key)) as worker:
        wait_until(lambda: get_job(ctx, job_id).status is Status.RUNNING, timeout_s=120, what="the worker")
        sweep(ctx)
        assert worker.wait(180) == 0
    cluster.end(key, "Complete")
    sweep(ctx)
    assert get_job(ctx, job_id).status is Status.FINISHED
    assert len(read_curve(ctx, run_id, "train_loss").steps) == STEPS
    assert list(cluster.items["jobs"]) == [key], "ordered once"


def test_a_run_over_two_machines_trains_in_the_two_pods_of_one_job(ctx: Context, cluster: ClusterDouble) -> None:
    run_id, job_id = launch(ctx, "in two pods", micro_batch=2, devices={"count": 2, "nodes": 2})
    key = f"roundhouse-{job_id}-1"
    cluster.admit(key)
    first, second = cluster.items["pods"].values()
    second["status"]["phase"] = "Running"
    with start_pod(ctx, first) as one:
        wait_until(lambda: "1 of its 2 workers" in swept(ctx, job_id), timeout_s=120, what="the first worker")
        assert get_job(ctx, job_id).status is Status.QUEUED, "all or none"
        with start_pod(ctx, second) as other:
            wait_until(lambda: get_job(ctx, job_id).status is Status.RUNNING, timeout_s=120, what="both workers")
            hosts = {member.host for member in list_members(ctx, job_id)}
            assert hosts == {first["metadata"]["name"], second["metadata"]["name"]}
            assert (one.wait(180), other.wait(180)) == (0, 0)
    assert get_job(ctx, job_id).status is Status.FINISHED
    assert len(read_curve(ctx, run_id, "train_loss").steps) == STEPS


def test_a_pod_that_ends_before_its_run_is_replaced_and_its_log_copied(ctx: Context, cluster: ClusterDouble) -> None:
    _, job_id = launch(ctx, "restarted")
    first, second = (f"roundhouse-{job_id}-{number}" for number in (1, 2))
    pod = cluster.admit(first)
    pod["status"]["phase"] = "Failed"
    cluster.logs[pod["metadata"]["name"]] = "The database can't be reached."
    cluster.end(first, "Failed", "BackoffLimitExceeded")
    sweep(ctx)
    assert "The database can't be reached." in read_log(ctx, job_id)
    assert list(cluster.items["jobs"]) == [first, second], "the first stays for its log"


def test_stop_deletes_the_job_in_the_cluster(ctx: Context, cluster: ClusterDouble) -> None:
    run_id, _ = launch(ctx, "stopped")
    assert len(cluster.items["jobs"]) == 1
    stop_run(ctx, run_id, person=LOCAL)
    sweep(ctx)
    assert cluster.items["jobs"] == {}
