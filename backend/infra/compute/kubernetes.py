"""Kubernetes as a compute provider, by its Python client: a Job for each order, which a queue of Kueue admits.

A Job is the operator's own manifest, completed. It never holds a secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from backend.domain.jobs.placement import Partition, SubmissionState
from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput, Unavailable, require_library
from backend.infra.compute.base import SubmittedOrder, WorkerOrder

Manifest = dict[str, Any]
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
LABELS = {"app.kubernetes.io/managed-by": "roundhouse", "app.kubernetes.io/component": "job"}
"""Labels of the Jobs and pods that Roundhouse orders, by which it lists them."""
CONTAINER = "worker"
GPU = "nvidia.com/gpu"
KEEP_S = 3600
"""Time for which an ended Job and the output of its pod stay in the cluster."""
LEAVE_S = 20
"""Time of a worker, beyond that for saving, between the request to end and the kill."""
SECRET = re.compile(r"(?:KEY|SECRET|TOKEN|PASSWORD)$", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]+@")
EVICTION = {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}
"""A pod that is preempted or evicted is replaced, and is no failure of its Job."""


def read_job_manifest(path: Path | None) -> Manifest:
    """Read the operator's manifest. Raises InvalidInput if it is none of a Job with a container `worker`, or holds a
    secret.
    """
    remedy = "See docs/kubernetes.md for one that works."
    if path is None:
        raise InvalidInput("ROUNDHOUSE_KUBERNETES_JOB names no manifest of a Job.", remedy=remedy)
    try:
        manifest = parse_yaml(path.read_text(), what=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The manifest {path} can't be read: {error}.", remedy=remedy) from error
    kind = (manifest.get("apiVersion"), manifest.get("kind")) if isinstance(manifest, dict) else None
    try:
        names = [container["name"] for container in _pod_spec(manifest)["containers"]]
    except (KeyError, TypeError):
        names = []
    if kind != ("batch/v1", "Job") or CONTAINER not in names:
        raise InvalidInput(f"{path} is not a Job (batch/v1) with a container named {CONTAINER}.", remedy=remedy)
    for name, value in _values(manifest):
        if SECRET.search(name) or PASSWORD_IN_URL.search(value):
            raise InvalidInput(
                f"{path} holds a secret: the value of {name}.",
                remedy="Put it into a Secret, and name that with secretKeyRef or envFrom.",
            )
    return dict(manifest)


def complete_manifest(
    manifest: Manifest, order: WorkerOrder, *, namespace: str, save_s: float, idle_s: int
) -> Manifest:
    """Return a manifest with name, queue, command, GPUs and pods of an order. It begins suspended: Kueue starts it, all
    of its pods at once.
    """
    job = deepcopy(manifest)
    job["metadata"] = _labelled(job, {**LABELS, QUEUE_LABEL: order.partition})
    job["metadata"] |= {"name": order.key, "namespace": namespace}
    spec = job["spec"]
    spec |= {"suspend": True, "parallelism": order.num_machines, "completions": order.num_machines}
    if order.num_machines > 1:
        spec["completionMode"] = "Indexed"  # names of pods as hosts that differ
    for name, value in (("backoffLimit", 0), ("ttlSecondsAfterFinished", KEEP_S), ("podFailurePolicy", EVICTION)):
        spec.setdefault(name, value)
    spec["template"]["metadata"] = _labelled(spec["template"], LABELS)
    pod = _pod_spec(job)
    pod["restartPolicy"] = "Never"
    pod.setdefault("automountServiceAccountToken", False)
    pod.setdefault("terminationGracePeriodSeconds", round(save_s) + LEAVE_S)
    container = next(one for one in pod["containers"] if one["name"] == CONTAINER)
    container.setdefault("command", ["roundhouse"])
    container["args"] = ["worker", "--for", order.job_id, "--until-idle", f"{idle_s}s"]
    container["resources"] = _resources(container.get("resources") or {}, order)
    return job


def _pod_spec(job: Manifest) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


def _labelled(item: Manifest, labels: dict[str, str]) -> dict[str, Any]:
    metadata = item.get("metadata") or {}
    return {**metadata, "labels": {**(metadata.get("labels") or {}), **labels}}


def _resources(given: dict[str, Any], order: WorkerOrder) -> dict[str, Any]:
    """Return what a container asks for: the operator's limits, with the GPUs of an order, or its cores on CPUs."""
    requests, limits = ({**(given.get(name) or {})} for name in ("requests", "limits"))
    for amounts in (requests, limits):
        amounts.pop(GPU, None)
    if order.num_gpus:
        requests[GPU] = limits[GPU] = str(order.num_gpus)
    elif "cpu" not in {*requests, *limits}:
        requests["cpu"] = str(order.num_cpus)
    return {**given, "requests": requests, "limits": limits}


def _values(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the variables whose values stand in a manifest."""
    pod = _pod_spec(manifest)
    for container in [*pod["containers"], *(pod.get("initContainers") or [])]:
        for variable in container.get("env") or []:
            if variable.get("value"):
                yield str(variable["name"]), str(variable["value"])


TIMEOUT_S = (5.0, 25.0)
"""Seconds to connect, and between bytes of an answer."""
LAST_LINES = 40
MAX_LOG_BYTES = 16_384
PAGE = 500
LEFT_BEHIND = timedelta(seconds=60)
IN_SELECTOR = 100
"""Names in one selector: a proxy before the API server may take no longer address than 8 KB."""
JOBS = ("batch", "v1", "jobs")
KUEUE = "kueue.x-k8s.io"
JOB_UID = f"{KUEUE}/job-uid"
JOB_NAME = "batch.kubernetes.io/job-name"
INDEX = "batch.kubernetes.io/job-completion-index"
TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
"""The credentials of a process that runs in a cluster."""
SELECTOR = ",".join(f"{name}={value}" for name, value in LABELS.items())

Item = Mapping[str, Any]


class ApiRefusal(Unavailable):
    """An answer of the API server other than success. `status` is HTTP's, 0 where no answer came."""

    def __init__(self, text: str, *, status: int = 0, reason: str = "", remedy: str = "") -> None:
        super().__init__(f"Kubernetes {'refused' if status else 'does not answer'}: {text}", remedy=remedy)
        self.status = status
        self.reason = reason
        self.text = text


@dataclass(frozen=True)
class Kubernetes:
    """A namespace of a cluster with Kueue. A queue is written as `h100:8`: its name, and the GPUs of one of its nodes.
    `manifest` is the operator's Job, which each order completes. The cluster is that of `context` in the kubeconfig;
    when empty, the one that this process runs in, else the kubeconfig's current one.
    """

    queues: tuple[str, ...]
    manifest: Path | None
    namespace: str
    context: str = ""
    save_s: float = 25.0
    idle_s: int = 600
    name: ClassVar[str] = "kubernetes"

    def check(self) -> Sequence[Partition]:
        """Return the queues that are offered. Raises InvalidInput for one that the namespace does not have."""
        gpus = _read_queues(self.queues)
        read_job_manifest(self.manifest)
        known = {item["metadata"]["name"]: item for item in self._list(KUEUE, self._kueue_version(), "localqueues")}
        if unknown := [name for name in gpus if name not in known]:
            raise InvalidInput(
                f"{self.namespace} has no local queue {unknown[0]!r}, which ROUNDHOUSE_KUBERNETES_QUEUES names.",
                remedy=f"Name some of these: {', '.join(known) or 'there are none'}.",
            )
        return tuple(
            Partition(
                name=name, num_gpus=count, is_up=_conditions(known[name]).get("Active", {}).get("status") != "False"
            )
            for name, count in gpus.items()
        )

    def submit(self, order: WorkerOrder) -> str:
        """Create a Job whose name is the order's key. One that is there already is this order, sent before."""
        job = complete_manifest(
            read_job_manifest(self.manifest), order, namespace=self.namespace, save_s=self.save_s, idle_s=self.idle_s
        )
        try:
            self._ask(self._objects.create_namespaced_custom_object, *JOBS[:2], self.namespace, JOBS[2], job)
        except ApiRefusal as refusal:
            if refusal.reason == "AlreadyExists":
                return order.key
            if refusal.status in {400, 422} or "denied the request" in refusal.text:
                raise InvalidInput(
                    refusal.message, remedy="Correct the manifest that ROUNDHOUSE_KUBERNETES_JOB names."
                ) from None
            raise
        return order.key

    def status(self) -> Sequence[SubmittedOrder]:
        """Return the Jobs of the namespace that Roundhouse created, with why those wait that do."""
        jobs = self._list(*JOBS, selector=SELECTOR)
        open_jobs = [job for job in jobs if _end(job) is None]
        suspended = [job["metadata"]["uid"] for job in open_jobs if job["spec"].get("suspend")]
        workloads: dict[str, Item] = {}
        version = self._kueue_version() if suspended else ""
        for start in range(0, len(suspended), IN_SELECTOR):
            selector = f"{JOB_UID} in ({','.join(suspended[start : start + IN_SELECTOR])})"
            listed = self._list(KUEUE, version, "workloads", selector=selector)
            workloads |= {item["metadata"]["labels"][JOB_UID]: item for item in listed}
        pods = self._newest_pods() if len(suspended) < len(jobs) else {}
        return [
            _read(job, pods.get(job["metadata"]["name"], []), workloads.get(job["metadata"]["uid"])) for job in jobs
        ]

    def log(self, key: str, output: Path) -> Sequence[str]:
        """Return the last lines of a Job's newest pod, of several one that failed; none if it has not started."""
        try:
            pod = _telling(self._newest_pods(f"{SELECTOR},{JOB_NAME}={key}").get(key, []))
            if pod is None:
                return ()
            text = self._ask(
                self._core.read_namespaced_pod_log,
                pod["metadata"]["name"],
                self.namespace,
                container=CONTAINER,
                tail_lines=LAST_LINES,
                limit_bytes=MAX_LOG_BYTES,
            )
        except Unavailable:
            return ()
        return str(text).splitlines()

    def cancel(self, submission_id: str) -> None:
        """Delete a Job, which asks its worker to end. One that has ended stays, for its log; none is no error."""
        path = (*JOBS[:2], self.namespace, JOBS[2], submission_id)
        try:
            if _end(self._ask(self._objects.get_namespaced_custom_object, *path)) is None:
                self._ask(self._objects.delete_namespaced_custom_object, *path, propagation_policy="Background")
        except ApiRefusal as refusal:
            if refusal.status not in {404, 410}:
                raise

    def _newest_pods(self, selector: str = SELECTOR) -> dict[str, list[Item]]:
        """Return the newest pod of each machine of each Job, by the Job's name."""

        def page(**options: Any) -> Any:
            return self._client.sanitize_for_serialization(self._core.list_namespaced_pod(self.namespace, **options))

        pods = sorted(self._pages(page, selector), key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
        newest: dict[str, dict[str, Item]] = {}
        for pod in pods:
            labels = pod["metadata"].get("labels", {})
            newest.setdefault(labels.get(JOB_NAME, ""), {})[labels.get(INDEX, "")] = pod
        return {name: list(of_job.values()) for name, of_job in newest.items()}

    def _kueue_version(self) -> str:
        """Return the version of Kueue's API that the server prefers. Raises InvalidInput without Kueue."""
        groups = self._ask(self._kubernetes.client.ApisApi(self._client).get_api_versions).groups
        for group in groups:
            if group.name == KUEUE:
                return str((group.preferred_version or group.versions[0]).version)
        raise InvalidInput("This cluster has no Kueue.", remedy="Install it: https://kueue.sigs.k8s.io.")

    def _list(self, group: str, version: str, plural: str, *, selector: str = "") -> list[Item]:
        def page(**options: Any) -> Any:
            return self._objects.list_namespaced_custom_object(group, version, self.namespace, plural, **options)

        return self._pages(page, selector)

    def _pages(self, page: Callable[..., Any], selector: str) -> list[Item]:
        """Return the items of all pages. A list that changed so much that the server gave it up is read once more."""
        try:
            return self._read_pages(page, selector)
        except ApiRefusal as refusal:
            if refusal.status != 410:
                raise
        return self._read_pages(page, selector)

    def _read_pages(self, page: Callable[..., Any], selector: str) -> list[Item]:
        items: list[Item] = []
        options = {"limit": PAGE, **({"label_selector": selector} if selector else {})}
        while True:
            answer = self._ask(page, **options)
            items += answer["items"]
            if not (token := answer["metadata"].get("continue")):
                return items
            options["_continue"] = token

    def _ask(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the API. Raises ApiRefusal."""
        import urllib3

        try:
            return function(*arguments, **options, _request_timeout=TIMEOUT_S)
        except self._kubernetes.client.ApiException as error:
            raise _explain(error.status or 0, error.reason, error.body) from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:  # ValueError: an answer of another shape
            raise ApiRefusal(f"{type(error).__name__}: {error}"[:300]) from None

    @property
    def _kubernetes(self) -> Any:
        require_library("kubernetes", extra="kubernetes", needed_for="A run on Kubernetes")
        import kubernetes

        return kubernetes

    @cached_property
    def _client(self) -> Any:
        """A client of the API server, which renews its credentials as the kubeconfig says. It follows no redirect."""
        kubernetes = self._kubernetes
        configuration = kubernetes.client.Configuration()
        try:
            if TOKEN.exists() and not self.context:
                kubernetes.config.load_incluster_config(client_configuration=configuration)
            else:
                kubernetes.config.load_kube_config(context=self.context or None, client_configuration=configuration)
        except (kubernetes.config.ConfigException, OSError) as error:
            raise Unavailable(
                f"There is no way to a Kubernetes cluster: {str(error)[:200]}",
                remedy="Set KUBECONFIG and ROUNDHOUSE_KUBERNETES_CONTEXT, or run this worker in the cluster.",
            ) from None
        configuration.retries = False
        return kubernetes.client.ApiClient(configuration)

    @cached_property
    def _objects(self) -> Any:
        return self._kubernetes.client.CustomObjectsApi(self._client)

    @cached_property
    def _core(self) -> Any:
        return self._kubernetes.client.CoreV1Api(self._client)


def _read_queues(texts: Sequence[str]) -> dict[str, int]:
    """Read `h100:8` and `cpu`. Raises InvalidInput."""
    queues = {}
    for text in texts:
        name, _, count = text.partition(":")
        if not name or not (count or "0").isdecimal():
            raise InvalidInput(
                f"ROUNDHOUSE_KUBERNETES_QUEUES has {text!r}.", remedy="Write a queue and the GPUs of a node: h100:8,cpu"
            )
        queues[name] = int(count or 0)
    return queues


def _explain(status: int, reason: str | None, body: object) -> ApiRefusal:
    """Return an answer of the API server as an error, with the server's own text."""
    try:
        answer = json.loads(body if isinstance(body, str | bytes) else "")
        text, reason = str(answer["message"]), str(answer.get("reason") or reason)
    except (ValueError, TypeError, KeyError):
        text = f"{status} {reason}" if status else str(reason)
    remedies = {
        401: "Renew the credentials of the kubeconfig.",
        403: "docs/kubernetes.md lists the permissions that the worker's account needs.",
    }
    return ApiRefusal(" ".join(text.split())[:300], status=status, reason=reason or "", remedy=remedies.get(status, ""))


def _conditions(item: Item) -> dict[str, Item]:
    return {one["type"]: one for one in (item.get("status") or {}).get("conditions") or []}


def _is_true(conditions: Mapping[str, Item], name: str) -> bool:
    return bool(conditions.get(name, {}).get("status") == "True")


def _end(job: Item) -> str | None:
    """Return how a Job ended; None while it has not."""
    conditions = _conditions(job)
    ends = [name for name in ("Complete", "Failed") if _is_true(conditions, name)]
    return ends[0] if ends else "Deleted" if job["metadata"].get("deletionTimestamp") else None


def _telling(pods: Sequence[Item]) -> Item | None:
    """Return the pod that tells how an order stands: one that is lost, has failed or does not run yet, else any."""

    def rank(pod: Item) -> int:
        phase = pod["status"].get("phase", "Pending")
        return 0 if _is_left_behind(pod) else 1 if phase == "Failed" else 2 if phase == "Pending" else 3

    return min(pods, key=rank, default=None)


def _read(job: Item, pods: Sequence[Item], workload: Item | None) -> SubmittedOrder:
    key, pod = str(job["metadata"]["name"]), _telling(pods)
    if end := _end(job):
        reason = _conditions(job)[end].get("reason", "") if end == "Failed" else ""
        return SubmittedOrder(key, key, SubmissionState.ENDED, end, ", ".join(filter(None, (reason, _pod_end(pod)))))
    if job["spec"].get("suspend"):
        return SubmittedOrder(key, key, SubmissionState.WAITING, "Suspended", _why_suspended(workload))
    if pod and _is_left_behind(pod):
        return SubmittedOrder(key, key, SubmissionState.ENDED, "NodeLost", "its node does not answer")
    phase = str(pod["status"].get("phase", "Pending")) if pod else "Pending"
    state = SubmissionState.RUNNING if phase == "Running" else SubmissionState.WAITING
    return SubmittedOrder(key, key, state, phase, _why_pending(pod) if pod else "")


def _why_suspended(workload: Item | None) -> str:
    """Return why Kueue has not admitted a Job, in its own words."""
    if workload is None:
        return "Kueue has not seen it yet"
    conditions = _conditions(workload)
    evicted = f"{conditions['Evicted'].get('reason', '')}: " if _is_true(conditions, "Evicted") else ""
    if not _is_true(conditions, "QuotaReserved"):
        return evicted + str(conditions.get("QuotaReserved", {}).get("message", ""))
    checks = [one for one in workload["status"].get("admissionChecks") or [] if one.get("state") != "Ready"]
    if not checks:
        return "Admitted"
    return "; ".join(f"{one['name']}: {one.get('message') or one.get('state')}" for one in checks)


def _is_left_behind(pod: Item) -> bool:
    """Return whether a pod should have ended long ago: its node is dead, and the cluster replaces it only when the node
    is back or deleted.
    """
    ends_at = pod["metadata"].get("deletionTimestamp")  # includes the grace period
    return bool(ends_at) and datetime.now(UTC) - datetime.fromisoformat(str(ends_at)) > LEFT_BEHIND


def _why_pending(pod: Item) -> str:
    """Return why a pod does not run: no node for it, or no image, in the cluster's own words."""
    scheduled = _conditions(pod).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return f"{scheduled.get('reason', '')}: {scheduled.get('message', '')}"
    for container in pod["status"].get("containerStatuses") or []:
        if waiting := (container.get("state") or {}).get("waiting"):
            return ": ".join(filter(None, (waiting.get("reason"), waiting.get("message"))))
    return ""


def _pod_end(pod: Item | None) -> str:
    """Return how the container of a pod ended, such as `OOMKilled, exit status 137`."""
    for container in (pod["status"].get("containerStatuses") or []) if pod else []:
        if (ended := (container.get("state") or {}).get("terminated")) and ended.get("exitCode"):
            return f"{ended.get('reason', '')}, exit status {ended['exitCode']}"
    return ""
