"""The manifest of a Kubernetes Job for an order: the operator's own manifest, completed. It never holds a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from backend.domain.yaml_text import parse_yaml
from backend.errors import InvalidInput
from backend.infra.compute.base import WorkerOrder

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
        raise InvalidInput(f"{path} is no Job (batch/v1) with a container named {CONTAINER}.", remedy=remedy)
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
