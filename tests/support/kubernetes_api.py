"""A double of a Kubernetes API server with Kueue: Jobs, pods, logs, local queues and workloads by their REST paths.

It does what the real one does with a request: checks a Job by Kubernetes' published schema, refuses a name that is
taken, selects by labels, lists in pages whose tokens expire, asks for a token of access. No controller
runs: a test says what Kueue and the nodes do.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

Item = dict[str, Any]
VERSION = "1.37"
NAMESPACE = "lab"
TOKEN = "token-of-the-worker"
TITLES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    500: "InternalError",
}


class RefusalError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass
class ClusterDouble:
    """What the server holds and does next. `refusals` are answers to coming requests, by method and resource."""

    url: str = ""
    items: dict[str, dict[str, Item]] = field(default_factory=lambda: {"jobs": {}, "pods": {}, "workloads": {}})
    logs: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    longest_address: int = 0
    refusals: dict[tuple[str, str], list[RefusalError]] = field(default_factory=dict)
    kueue: str | None = "v1beta2"
    page: int = 500
    expired_tokens: int = 0
    silent_s: float = 0.0
    lost_answers: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.items["localqueues"] = {}

    def add_queue(self, name: str, *, is_active: bool = True) -> None:
        """Add a local queue."""
        self._store(
            "localqueues", {"metadata": {"name": name}, "status": {"conditions": [condition("Active", is_active)]}}
        )

    def admit(self, name: str) -> Item:
        """Do what Kueue and the job's controller do: admit a Job, resume it, and create its pods. Return the last."""
        job = self.items["jobs"][name]
        job["spec"]["suspend"] = False
        self.items["workloads"].pop(f"job-{name}", None)
        pod: Item = {}
        for index in range(job["spec"]["completions"]):
            labels = {**job["spec"]["template"]["metadata"]["labels"], "batch.kubernetes.io/job-name": name}
            if job["spec"].get("completionMode") == "Indexed":
                labels["batch.kubernetes.io/job-completion-index"] = str(index)
            pod = self._store(
                "pods",
                {
                    "metadata": {"name": f"{name}-{index}-{uuid.uuid4().hex[:5]}", "labels": labels},
                    "spec": job["spec"]["template"]["spec"],
                    "status": {"phase": "Pending"},
                },
            )
        return pod

    def queue(self, name: str, *conditions: Item, checks: list[Item] | None = None) -> None:
        """Do what Kueue does with a Job that it does not admit yet."""
        uid = self.items["jobs"][name]["metadata"]["uid"]
        workload = {
            "metadata": {"name": f"job-{name}", "labels": {"kueue.x-k8s.io/job-uid": uid}},
            "status": {"conditions": list(conditions), "admissionChecks": checks or []},
        }
        self._store("workloads", workload)

    def end(self, name: str, kind: str, reason: str = "") -> None:
        """End a Job, as Complete or Failed."""
        self.items["jobs"][name]["status"] = {"conditions": [condition(kind, True, reason=reason)]}

    def answer(self, method: str, path: str, query: dict[str, str], body: Item | None, token: str) -> Item | str:
        """Return the answer to a request. Raises RefusalError."""
        if token != f"Bearer {TOKEN}":
            raise RefusalError(401, "Unauthorized")
        if path.rstrip("/") == "/apis":
            return self._groups()
        match = re.fullmatch(
            r"/(?:api/v1|apis/batch/v1|apis/kueue\.x-k8s\.io/(?P<kueue>\w+))/namespaces/(?P<namespace>[\w-]+)"
            r"/(?P<plural>\w+)(?:/(?P<name>[\w.-]+)(?P<log>/log)?)?",
            path,
        )
        if match is None or match["plural"] not in self.items or (match["kueue"] or self.kueue) != self.kueue:
            raise RefusalError(404, "the server could not find the requested resource")
        plural, name = match["plural"], match["name"]
        if planned := self.refusals.get((method, plural)):
            raise planned.pop(0)
        if match["namespace"] != NAMESPACE:
            raise RefusalError(404, f'namespaces "{match["namespace"]}" not found')
        if method == "POST":
            return self._create(plural, body or {})
        if name is None:
            return self._list(plural, query)
        if name not in self.items[plural]:
            raise RefusalError(404, f'{plural} "{name}" not found')
        if match["log"]:
            return self._log(name, query)
        if method == "DELETE":
            return self._delete(plural, name, {**query, **(body or {})})
        return self.items[plural][name]

    def _groups(self) -> Item:
        groups = {"batch": "v1"} | ({"kueue.x-k8s.io": self.kueue} if self.kueue else {})
        versions = {name: {"groupVersion": f"{name}/{version}", "version": version} for name, version in groups.items()}
        return {
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": [{"name": n, "versions": [v], "preferredVersion": v} for n, v in versions.items()],
        }

    def _create(self, plural: str, body: Item) -> Item:
        try:
            kubernetes_validate.validate(body, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            raise RefusalError(422, f"Job.batch is invalid: {error.message}") from None
        name = body["metadata"]["name"]
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            raise RefusalError(422, f'Job.batch "{name}" is invalid: metadata.name: Invalid value')
        if name in self.items[plural]:
            raise RefusalError(409, f'jobs.batch "{name}" already exists')
        return self._store(plural, body)

    def _store(self, plural: str, item: Item) -> Item:
        item["metadata"] |= {
            "uid": str(uuid.uuid4()),
            "namespace": NAMESPACE,
            "creationTimestamp": f"2026-11-30T10:00:{len(self.items[plural]):02}Z",
        }
        self.items[plural][item["metadata"]["name"]] = item
        return item

    def _list(self, plural: str, query: dict[str, str]) -> Item:
        items = [item for item in self.items[plural].values() if matches(item, query.get("labelSelector", ""))]
        begin = int(query.get("continue", 0))
        if begin and self.expired_tokens:
            self.expired_tokens -= 1
            raise RefusalError(410, "The provided continue parameter is too old")
        size = min(self.page, int(query.get("limit", self.page)))
        rest = {"continue": str(begin + size)} if begin + size < len(items) else {}
        return {"kind": "List", "apiVersion": "v1", "metadata": rest, "items": items[begin : begin + size]}

    def _log(self, name: str, query: dict[str, str]) -> str:
        if self.items["pods"][name]["status"]["phase"] == "Pending":
            raise RefusalError(400, f'container "{query["container"]}" in pod "{name}" is waiting to start')
        return "\n".join(self.logs.get(name, "").splitlines()[-int(query["tailLines"]) :])

    def _delete(self, plural: str, name: str, options: dict[str, str]) -> Item:
        assert options.get("propagationPolicy") == "Background", "else pods of a deleted Job stay"
        item = self.items[plural].pop(name)
        for pod in [pod for pod in self.items["pods"] if pod.startswith(f"{name}-")]:
            del self.items["pods"][pod]
        return item


def condition(kind: str, is_true: bool, *, reason: str = "", message: str = "") -> Item:
    """Return a condition of an object's status."""
    return {"type": kind, "status": str(is_true), "reason": reason, "message": message}


def matches(item: Item, selector: str) -> bool:
    """Return whether an item has the labels of a selector such as `a=b,c in (d,e)`."""
    labels = item["metadata"].get("labels") or {}
    for name, values, value in re.findall(r"([\w./-]+)(?: in \(([^)]*)\)|=([^,]*))", selector):
        if labels.get(name) not in (values.split(",") if values else [value]):
            return False
    return True


@contextlib.contextmanager
def serve_cluster(folder: Path) -> Iterator[ClusterDouble]:
    """Run the server in threads while the block lasts, and write a kubeconfig that names it into a folder."""
    cluster = ClusterDouble()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            address = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(address.query).items()}
            with cluster.lock:
                cluster.requests.append(f"{self.command} {address.path}")
                cluster.longest_address = max(cluster.longest_address, len(self.path))
                status, answer = self._answer(address.path, query, json.loads(body) if body else None)
            time.sleep(cluster.silent_s)
            if self.command == "POST" and cluster.lost_answers:
                cluster.lost_answers -= 1
                self.close_connection = True
                return
            data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _answer(self, path: str, query: dict[str, str], body: Item | None) -> tuple[int, Item | str]:
            token = self.headers.get("Authorization", "")
            try:
                return 200, cluster.answer(self.command, path, query, body, token)
            except RefusalError as error:
                answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": error.status}
                return error.status, {**answer, "message": str(error), "reason": TITLES[error.status]}

        do_GET = do_POST = do_DELETE = _respond

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    cluster.url = f"http://127.0.0.1:{server.server_address[1]}"
    write_kubeconfig(folder / "kubeconfig", cluster.url)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()


def write_kubeconfig(path: Path, url: str, *, token: str = TOKEN) -> None:
    """Write a kubeconfig with a context `here` for a server."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "worker", "user": {"token": token}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "worker"}}],
        "current-context": "here",
    }
    path.write_text(yaml.safe_dump(config))
