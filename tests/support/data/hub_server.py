"""A small Hub on loopback: serves repositories from a folder, in the parts of the real API that the Hub's client
library asks for.

    root/models/OWNER/NAME/...            the revision `main`
    root/models/OWNER/NAME@v2/...         the branch or tag `v2`
    root/datasets/OWNER/NAME/...          the same for datasets

Repositories are created and committed to as well, large files by the plain transfer of Git LFS. Point a process at it
with `HF_ENDPOINT=server.url`. A commit's id is the SHA-1 of what the revision holds, so it changes when a file does.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

API = re.compile(
    r"/api/(models|datasets)/([^/]+(?:/[^/]+)?)(?:/(revision|tree|paths-info|refs)(?:/([^/]+)(?:/(.*))?)?)?"
)
COMMITS = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(preupload|commit)/([^/]+)")
LFS = re.compile(r"/(?:datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch")
RESOLVE = re.compile(r"/(datasets/)?([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)")
REPO = re.compile(r"[\w.-]+/[\w.-]+")
LFS_ENDINGS = (".safetensors", ".bin", ".parquet", ".arrow", ".gguf", ".zip")


@dataclass
class HubServer:
    """A running server and the knobs of its faults.

    `cuts`: file path -> how many bytes of each coming download are sent before the connection breaks, one entry a
    request. `private` ids answer 401 and `gated` ids 403 without a key; `status` answers every request with that
    status; `delay_s` waits before each answer; without `knows_ranges` a file is always sent whole. `requests` collects
    "METHOD path", `sent` how many bytes of each file went out, `keys` what was sent as authorization. `created` says of
    new repositories whether they are private, `objects` holds what was uploaded, by its SHA-256.
    """

    root: Path
    url: str = ""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    status: int | None = None
    delay_s: float = 0.0
    knows_ranges: bool = True
    requests: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    created: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def folder(self, kind: str, repo: str, revision: str) -> Path | None:
        """Return the folder of a branch, tag or commit; None where there is no such revision."""
        for name, path in self.revisions(kind, repo).items():
            if revision in (name, commit_id(path)):
                return path
        return None

    def revisions(self, kind: str, repo: str) -> dict[str, Path]:
        """Return revision -> folder of a repository; empty where there is none."""
        main = self.root / kind / repo
        if ".." in Path(repo).parts or not main.parent.is_dir():
            return {}
        revisions = {"main": main} if main.is_dir() else {}
        for path in main.parent.glob(f"{main.name}@*"):
            revisions[path.name.partition("@")[2]] = path
        return revisions


def commit_id(folder: Path) -> str:
    """Return the id of what a folder holds, 40 hexadecimal digits."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextmanager
def run_hub(root: Path) -> Iterator[HubServer]:
    """Serve a folder until the block ends."""
    hub = HubServer(root)

    class Handler(_Handler):
        server_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, length = self.server_hub, int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        hub.requests.append(f"{self.command} {self.path}")
        hub.keys.add(self.headers.get("authorization") or "")
        time.sleep(hub.delay_s)
        url = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        if hub.status is not None:
            self._fail(hub.status, "")
        elif self.command != "GET" and self._writes(url.path, body):
            pass
        elif match := RESOLVE.fullmatch(url.path):
            kind = "datasets" if match[1] else "models"
            self._resolve(kind, match[2], unquote(match[3]), unquote(match[4]))
        elif match := API.fullmatch(url.path):
            kind, repo, part, revision, inside = match.groups()
            self._api(kind, repo, part, unquote(revision or "main"), unquote(inside or ""), query, body)
        else:
            self._fail(404, "RepoNotFound")

    def _writes(self, path: str, body: bytes) -> bool:
        """Answer what creates a repository or uploads to it; False if this is something else."""
        hub, commits, batch = self.server_hub, COMMITS.fullmatch(path), LFS.fullmatch(path)
        if path == "/api/validate-yaml":  # of a card, before a commit
            content = json.loads(body)["content"]
            facts = (yaml.safe_load(content.split("---\n")[1]) if content.startswith("---\n") else None) or {}
            named = [*facts.get("datasets", []), *([facts["base_model"]] if "base_model" in facts else [])]
            errors = [{"message": f'"{name}" is not a valid id'} for name in named if not REPO.fullmatch(name)]
            self._json({"errors": errors, "warnings": []})
            return True
        if path != "/api/repos/create" and not commits and not batch and not path.startswith("/upload/"):
            return False
        if not self.headers.get("authorization") and not path.startswith("/upload/"):
            self._fail(401, "")
        elif path == "/api/repos/create":
            requested = json.loads(body)
            repo = f"{requested.get('organization') or 'me'}/{requested['name']}"
            (hub.root / f"{requested.get('type') or 'model'}s" / repo).mkdir(parents=True, exist_ok=True)
            hub.created.setdefault(repo, requested.get("visibility") == "private")
            self._json({"url": f"{hub.url}/{repo}", "id": repo, "name": repo})
        elif batch:
            objects = [
                {**item, "actions": {"upload": {"href": f"{hub.url}/upload/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._send(
                200,
                {"Content-Type": "application/vnd.git-lfs+json"},
                json.dumps({"transfer": "basic", "objects": objects}).encode(),
            )
        elif commits and commits[3] == "preupload":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif commits:
            folder = hub.root / commits[1] / commits[2]
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] in ("file", "lfsFile"):
                    target = folder / value["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(
                        base64.b64decode(value["content"]) if line["key"] == "file" else hub.objects[value["oid"]]
                    )
            self._json(
                {
                    "success": True,
                    "commitOid": commit_id(folder),
                    "commitUrl": f"{hub.url}/{commits[2]}/commit/{commit_id(folder)}",
                }
            )
        else:
            hub.objects[path.removeprefix("/upload/")] = body
            self._send(200, {}, b"")
        return True

    def _allowed(self, kind: str, repo: str) -> bool:
        hub = self.server_hub
        if not hub.revisions(kind, repo) or (repo in hub.private and not self.headers.get("authorization")):
            self._fail(401, "RepoNotFound")
            return False
        if repo in hub.gated and not self.headers.get("authorization"):
            self._fail(403, "GatedRepo")
            return False
        return True

    def _api(
        self, kind: str, repo: str, part: str | None, revision: str, inside: str, query: dict[str, str], body: bytes
    ) -> None:
        hub = self.server_hub
        if not self._allowed(kind, repo):
            return
        if part == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit_id(path)}
                for name, path in hub.revisions(kind, repo).items()
            ]
            self._json({"branches": branches, "tags": [], "converts": []})
            return
        folder = hub.folder(kind, repo, revision)
        if folder is None:
            self._fail(404, "RevisionNotFound")
        elif part == "tree":
            start = folder / inside
            if not start.is_dir():
                self._fail(404, "EntryNotFound")
                return
            paths = start.rglob("*") if query.get("recursive", "").lower() in ("1", "true") else start.glob("*")
            self._json([_entry(folder, path) for path in sorted(paths)])
        elif part == "paths-info":
            paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            self._json([_entry(folder, folder / name) for name in paths if (folder / name).exists()])
        else:
            self._json(_info(kind, repo, folder))

    def _resolve(self, kind: str, repo: str, revision: str, name: str) -> None:
        if not self._allowed(kind, repo):
            return
        folder = self.server_hub.folder(kind, repo, revision)
        if folder is None:
            self._fail(404, "RevisionNotFound")
            return
        path = folder / name
        if ".." in Path(name).parts or not path.is_file():
            self._fail(404, "EntryNotFound")
            return
        data, entry = path.read_bytes(), _entry(folder, path)
        headers = {"X-Repo-Commit": commit_id(folder), "ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(len(data))}
        status, requested = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if requested and self.server_hub.knows_ranges:
            start, end = int(requested[1]), int(requested[2] or len(data) - 1)
            status, headers["Content-Range"] = 206, f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
            data = data[start : end + 1]
        cut = self._cut(name) if self.command == "GET" else None
        if self.command == "GET":
            self.server_hub.sent[name] = self.server_hub.sent.get(name, 0) + (
                len(data) if cut is None else min(cut, len(data))
            )
        self._send(status, headers, data, cut=cut)

    def _cut(self, name: str) -> int | None:
        waiting = self.server_hub.cuts.get(name)
        return waiting.pop(0) if waiting else None

    def _json(self, data: Any) -> None:
        self._send(200, {"Content-Type": "application/json"}, json.dumps(data).encode())

    def _fail(self, status: int, code: str) -> None:
        self._send(status, {"X-Error-Code": code} if code else {}, b"{}")

    def _send(self, status: int, headers: dict[str, str], data: bytes, *, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data if cut is None else data[:cut])
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    """Return what the Hub says about a file or folder of a revision."""
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {
            "type": "directory",
            "path": name,
            "size": 0,
            "oid": hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest(),
        }
    data = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": blob}
    if path.suffix in LFS_ENDINGS:
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return entry


def _info(kind: str, repo: str, folder: Path) -> dict[str, Any]:
    """Return what the Hub says about a revision."""
    siblings = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        entry = _entry(folder, path)
        sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            sibling["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}
        siblings.append(sibling)
    return {
        "_id": hashlib.sha1(repo.encode(), usedforsecurity=False).hexdigest()[:24],
        "id": repo,
        **({"modelId": repo} if kind == "models" else {}),
        "author": repo.split("/")[0],
        "sha": commit_id(folder),
        "lastModified": "2026-01-02T03:04:05.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "cardData": _card(folder / "README.md"),
        "siblings": siblings,
    }


def _card(file: Path) -> dict[str, Any]:
    parts = file.read_text().split("---", 2) if file.is_file() else []
    front = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return front if isinstance(front, dict) else {}
