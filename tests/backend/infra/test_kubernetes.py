"""The Kubernetes provider over HTTP: the real client against a double of the API server, whose Jobs are checked by the
published schema. tests/faults/machines/test_kubernetes.py runs a worker by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from backend.domain.jobs.placement import SubmissionState
from backend.errors import InvalidInput, RoundhouseError, Unavailable
from backend.infra.compute import kubernetes as provider_module
from backend.infra.compute.base import SubmittedOrder, WorkerOrder
from backend.infra.compute.kubernetes import Kubernetes
from backend.settings import PROJECT
from tests.support.kubernetes_api import (
    NAMESPACE,
    ClusterDouble,
    RefusalError,
    condition,
    serve_cluster,
    write_kubeconfig,
)

KEY = "roundhouse-0123456789ab-1"
MANIFEST = PROJECT / "deploy" / "kubernetes" / "base" / "run-job.yaml"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClusterDouble]:
    with serve_cluster(tmp_path) as running:
        running.add_queue("h100")
        running.add_queue("cpu")
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        yield running


@pytest.fixture
def provider(cluster: ClusterDouble) -> Kubernetes:
    return Kubernetes(queues=("h100:8", "cpu"), manifest=MANIFEST, namespace=NAMESPACE)


def order(
    key: str = KEY, *, queue: str = "h100", num_gpus: int = 2, num_cpus: int = 1, num_machines: int = 1
) -> WorkerOrder:
    return WorkerOrder(key, key.split("-")[1], queue, num_gpus, num_cpus, Path("unused"), num_machines)


def state(provider: Kubernetes) -> SubmittedOrder:
    (submission,) = provider.status()
    return submission


def test_queues_are_offered_with_their_gpus_unless_kueue_holds_them(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    cluster.add_queue("cpu", is_active=False)
    assert [(one.name, one.num_gpus, one.is_up) for one in provider.check()] == [("h100", 8, True), ("cpu", 0, False)]
    with pytest.raises(InvalidInput, match="no local queue 'old'") as raised:
        replace(provider, queues=("old",)).check()
    assert "h100, cpu" in raised.value.remedy
    with pytest.raises(InvalidInput, match="'h100:many'"):
        replace(provider, queues=("h100:many",)).check()
    cluster.kueue = None
    with pytest.raises(InvalidInput, match="no Kueue"):
        provider.check()


def test_an_order_becomes_a_suspended_job_of_the_queue_that_the_schema_accepts(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    assert provider.submit(order()) == KEY
    job = cluster.items["jobs"][KEY]
    assert (job["spec"]["suspend"], job["spec"]["completions"], job["spec"]["backoffLimit"]) == (True, 1, 0)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "h100"
    pod = job["spec"]["template"]["spec"]
    assert (pod["restartPolicy"], pod["automountServiceAccountToken"]) == ("Never", False)
    assert pod["terminationGracePeriodSeconds"] == 45, "longer than a worker saves"
    (container,) = pod["containers"]
    words = [*container["command"], *container["args"]]
    assert words == ["roundhouse", "worker", "--for", "0123456789ab", "--until-idle", "600s"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in yaml.safe_dump(yaml.safe_load(MANIFEST.read_text())), "added, not there before"


def test_an_order_of_several_machines_is_one_job_with_as_many_pods_and_stands_as_the_worst_of_them(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    provider.submit(order(num_machines=3))
    spec = cluster.items["jobs"][KEY]["spec"]
    assert (spec["completions"], spec["parallelism"], spec["completionMode"]) == (3, 3, "Indexed")
    assert spec["backoffLimit"] == 0, "a pod that fails ends the others"
    cluster.admit(KEY)
    first, second, third = cluster.items["pods"].values()
    first["status"] = third["status"] = {"phase": "Running"}
    text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    second["status"]["conditions"] = [condition("PodScheduled", False, reason="Unschedulable", message=text)]
    assert state(provider) == SubmittedOrder(KEY, KEY, SubmissionState.WAITING, "Pending", f"Unschedulable: {text}")
    second["status"] = {"phase": "Running"}
    assert state(provider).state is SubmissionState.RUNNING
    ended = container("terminated", {"exitCode": 1, "reason": "Error"})
    second["status"] = {"phase": "Failed", "containerStatuses": [ended]}
    cluster.logs |= {first["metadata"]["name"]: "fine", second["metadata"]["name"]: "no database"}
    assert list(provider.log(KEY, Path("unused"))) == ["no database"]
    cluster.end(KEY, "Failed", "BackoffLimitExceeded")
    assert state(provider).reason == "BackoffLimitExceeded, Error, exit status 1"


def test_an_order_for_cpus_asks_for_none_of_the_gpus(provider: Kubernetes, cluster: ClusterDouble) -> None:
    provider.submit(order(queue="cpu", num_gpus=0, num_cpus=4))
    (container,) = cluster.items["jobs"][KEY]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["requests"]["cpu"] == "4"
    assert "nvidia.com/gpu" not in container["resources"]["limits"]


def test_an_order_is_made_once_however_often_it_is_sent(provider: Kubernetes, cluster: ClusterDouble) -> None:
    """Also where the answer was lost: the order is in the list, under its key."""
    cluster.lost_answers = 1
    with pytest.raises(Unavailable, match="does not answer"):
        provider.submit(order())
    assert [one.key for one in provider.status()] == [KEY]
    assert provider.submit(order()) == KEY
    assert len(cluster.items["jobs"]) == 1


def test_a_job_waits_with_the_clusters_own_reason(provider: Kubernetes, cluster: ClusterDouble) -> None:
    provider.submit(order())
    assert state(provider).reason == "Kueue has not seen it yet"
    quota = (
        "couldn't assign flavors to pod set main: insufficient unused quota for nvidia.com/gpu in flavor h100, 1 more"
    )
    cluster.queue(KEY, condition("QuotaReserved", False, reason="Pending", message=quota))
    assert state(provider) == SubmittedOrder(KEY, KEY, SubmissionState.WAITING, "Suspended", quota)
    preempted = condition("Evicted", True, reason="Preempted", message="Preempted to accommodate a workload")
    cluster.queue(KEY, preempted, condition("QuotaReserved", False, message=quota))
    assert state(provider).reason == f"Preempted: {quota}"
    checks = [{"name": "capacity", "state": "Pending", "message": "nodes are being made"}]
    cluster.queue(KEY, condition("QuotaReserved", True), checks=checks)
    assert state(provider).reason == "capacity: nodes are being made"
    pod = cluster.admit(KEY)
    text = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    pod["status"]["conditions"] = [condition("PodScheduled", False, reason="Unschedulable", message=text)]
    assert state(provider) == SubmittedOrder(KEY, KEY, SubmissionState.WAITING, "Pending", f"Unschedulable: {text}")
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    pod["status"] = {"phase": "Pending", "containerStatuses": [container("waiting", waiting)]}
    assert state(provider).reason == "ImagePullBackOff: Back-off pulling image"
    pod["status"] = {"phase": "Running"}
    assert state(provider) == SubmittedOrder(KEY, KEY, SubmissionState.RUNNING, "Running", "")


def container(kind: str, details: dict[str, object]) -> dict[str, object]:
    return {
        "name": "worker",
        "image": "roundhouse",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {kind: details},
    }


def test_an_ended_job_says_how_and_keeps_its_log(provider: Kubernetes, cluster: ClusterDouble) -> None:
    provider.submit(order())
    pod = cluster.admit(KEY)
    assert provider.log(KEY, Path("unused")) == (), "the container has not started"
    ended = container("terminated", {"exitCode": 137, "reason": "OOMKilled"})
    pod["status"] = {"phase": "Failed", "containerStatuses": [ended]}
    cluster.logs[pod["metadata"]["name"]] = "\n".join(f"line {number}" for number in range(100))
    cluster.end(KEY, "Failed", "BackoffLimitExceeded")
    reason = "BackoffLimitExceeded, OOMKilled, exit status 137"
    assert state(provider) == SubmittedOrder(KEY, KEY, SubmissionState.ENDED, "Failed", reason)
    provider.cancel(KEY)
    assert list(provider.log(KEY, Path("unused"))) == [f"line {number}" for number in range(60, 100)]
    assert provider.log("roundhouse-0123456789ab-2", Path("unused")) == ()


def test_cancel_deletes_what_has_not_ended_and_forgives_what_is_gone(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    provider.submit(order())
    cluster.admit(KEY)
    provider.cancel(KEY)
    assert (cluster.items["jobs"], cluster.items["pods"]) == ({}, {})
    provider.cancel(KEY)
    provider.submit(order())
    for status in (404, 410):
        cluster.refusals["DELETE", "jobs"] = [RefusalError(status, "gone")]
        provider.cancel(KEY)
    cluster.refusals["DELETE", "jobs"] = [RefusalError(403, 'cannot delete resource "jobs"')]
    with pytest.raises(Unavailable, match="cannot delete"):
        provider.cancel(KEY)


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (403, 'jobs.batch is forbidden: User "worker" cannot create resource "jobs"', Unavailable),
        (403, "jobs.batch is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1", Unavailable),
        (403, 'admission webhook "policy" denied the request: no image from there', InvalidInput),
        (400, "Job in version v1 cannot be handled as a Job", InvalidInput),
        (422, "Job.batch is invalid: spec.template.spec.containers[0].image: Required value", InvalidInput),
        (404, 'namespaces "lab" not found', Unavailable),
        (500, "etcdserver: leader changed", Unavailable),
    ],
)
def test_a_refusal_is_final_only_if_it_is_of_the_order(
    provider: Kubernetes, cluster: ClusterDouble, status: int, text: str, expected: type[RoundhouseError]
) -> None:
    cluster.refusals["POST", "jobs"] = [RefusalError(status, text)]
    with pytest.raises(expected) as raised:
        provider.submit(order())
    assert type(raised.value) is expected or expected is Unavailable
    assert text in raised.value.message


def test_a_list_of_many_pages_is_complete_and_read_again_when_its_token_expires(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    keys = [f"roundhouse-0123456789ab-{number}" for number in range(1, 8)]
    for key in keys:
        provider.submit(order(key))
    cluster.page, cluster.expired_tokens = 3, 1
    assert [one.key for one in provider.status()] == keys
    cluster.expired_tokens = 2
    with pytest.raises(Unavailable, match="too old"):
        provider.status()


def test_why_many_jobs_wait_is_asked_by_addresses_that_a_proxy_takes(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    provider.submit(order())
    (first,) = cluster.items["jobs"].values()
    keys = [f"roundhouse-0123456789ab-{number}" for number in range(1, 251)]
    for key in keys:
        cluster.items["jobs"][key] = {**first, "metadata": {**first["metadata"], "name": key, "uid": str(uuid4())}}
        cluster.queue(key, condition("QuotaReserved", False, message=f"quota for {key}"))
    assert [one.reason for one in provider.status()] == [f"quota for {key}" for key in keys]
    assert cluster.longest_address < 8192


def test_a_pod_that_outlives_its_end_is_on_a_dead_node_and_its_order_has_ended(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    provider.submit(order())
    pod = cluster.admit(KEY)
    pod["status"] = {"phase": "Running"}
    now = datetime.now(UTC)
    pod["metadata"]["deletionTimestamp"] = (now + timedelta(seconds=45)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert state(provider).state is SubmissionState.RUNNING, "it has time to save"
    pod["metadata"]["deletionTimestamp"] = (now - timedelta(seconds=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert state(provider) == SubmittedOrder(KEY, KEY, SubmissionState.ENDED, "NodeLost", "its node does not answer")
    provider.cancel(KEY)
    assert cluster.items["jobs"] == {}


def test_jobs_of_others_are_not_listed(provider: Kubernetes, cluster: ClusterDouble) -> None:
    provider.submit(order())
    cluster.items["jobs"]["other"] = {"metadata": {"name": "other", "uid": "1", "labels": {}}, "spec": {}}
    assert [one.key for one in provider.status()] == [KEY]


def test_a_server_that_is_silent_closed_or_wants_other_credentials_is_unavailable(
    provider: Kubernetes, cluster: ClusterDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "TIMEOUT_S", (0.5, 0.2))
    cluster.silent_s = 1.0
    with pytest.raises(Unavailable, match="ReadTimeout"):
        provider.status()
    cluster.silent_s = 0.0
    write_kubeconfig(tmp_path / "kubeconfig", cluster.url, token="old")
    with pytest.raises(Unavailable, match="Unauthorized") as raised:
        replace(provider).check()
    assert "Renew the credentials" in str(raised.value)
    write_kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1")
    with pytest.raises(Unavailable, match="does not answer"):
        replace(provider).check()
    (tmp_path / "kubeconfig").unlink()
    with pytest.raises(Unavailable, match="no way to a Kubernetes cluster"):
        replace(provider).check()


def test_without_the_client_the_command_that_installs_it_is_named(
    provider: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.errors.find_spec", lambda _: None)
    with pytest.raises(Unavailable, match=r"pip install 'roundhouse\[kubernetes\]'"):
        provider.check()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"env": [{"name": "DATABASE_URL", "value": "postgresql+psycopg://lab:stone4@db/lab"}]}, "holds a secret"),
        ({"env": [{"name": "ROUNDHOUSE_ARTIFACTS_SECRET", "value": "stone4"}]}, "holds a secret"),
        ({"env": [{"name": "wandb_api_key", "value": "stone4"}]}, "holds a secret"),
        ({"name": "main"}, "not a Job .batch/v1. with a container named worker"),
    ],
)
def test_a_manifest_that_holds_a_secret_or_no_worker_is_refused(
    provider: Kubernetes, tmp_path: Path, change: dict[str, object], expected: str
) -> None:
    manifest = yaml.safe_load(MANIFEST.read_text())
    manifest["spec"]["template"]["spec"]["containers"][0] |= change
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(InvalidInput, match=expected) as raised:
        replace(provider, manifest=tmp_path / "job.yaml").check()
    assert "stone4" not in str(raised.value)


def test_the_role_allows_each_request_of_an_order_and_nothing_else(
    provider: Kubernetes, cluster: ClusterDouble
) -> None:
    provider.check()
    for key in (KEY, "roundhouse-0123456789ab-2"):
        provider.submit(order(key))
    cluster.admit(KEY)["status"]["phase"] = "Running"
    provider.status()
    provider.log(KEY, Path("unused"))
    provider.cancel(KEY)
    role = next(
        item
        for item in yaml.safe_load_all((PROJECT / "deploy" / "kubernetes" / "base" / "access.yaml").read_text())
        if item["kind"] == "Role"
    )
    allowed = {(verb, resource) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]}
    assert {request for line in cluster.requests if (request := verb_of(line)) is not None} == allowed


def verb_of(line: str) -> tuple[str, str] | None:
    """Return verb and resource of a request as a Role names them; None for discovery, which all accounts may."""
    method, path = line.split()
    _, _, rest = path.partition("/namespaces/")
    if not rest:
        return None
    resource, *name = rest.split("/")[1:]
    verb = {"POST": "create", "DELETE": "delete"}.get(method, "get" if name else "list")
    return verb, f"{resource}/log" if name[1:] == ["log"] else resource
