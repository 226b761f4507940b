"""The job `import_dataset`: from a file, a folder, the Hub or an object store to a folder of Parquet files.

Payload: one of `source` (a path below the artifacts, or an absolute one of a file or folder that every worker sees), `hub` ({"id", "config",
"split", "revision"}, all but the first may be None), `url` (s3:// or gs://), `derive` ({"folder", "other", "change"}: folders of versions and a
change of backend.domain.data.versions.changes, for a version made from another). Then `kind`, `mapping`, `val_fraction`, `seed`, `keep_good`,
`encoding`, `keep_free_bytes`, `out_root` (path below the artifacts). The result is the ImportResult with `folder` relative to the artifacts,
and for `hub` what was resolved (`commit`, `revision`, `licence`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from backend.domain.data.versions.changes import parse_change
from backend.errors import InvalidInput, NotFound
from backend.infra.files.cloud import find_cloud_files
from backend.infra.files.remote import Remote
from backend.infra.hub.datasets import find_hub_dataset
from jobs.data.deriving import derive
from jobs.data.fetching import fetched
from jobs.data.importer import import_dataset
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Import one dataset version. Raises what `import_dataset`, `fetched` and the sources raise."""
    payload = spec.payload
    if payload.get("derive"):
        return _derive(spec, reporter)
    if sum(bool(payload.get(name)) for name in ("source", "hub", "url")) != 1:
        raise InvalidInput("An import needs one source: a file, a Hub dataset or an address.", field="source")
    remote = _find(payload, reporter)
    with _at_hand(spec, reporter, remote) as source:
        result = import_dataset(
            source,
            kind=payload.get("kind") or None,
            mapping=payload.get("mapping") or None,
            val_fraction=float(payload.get("val_fraction", 0.1)),
            seed=int(payload.get("seed", 0)),
            keep_good=bool(payload.get("keep_good", True)),
            encoding=payload.get("encoding") or None,
            out_root=spec.path(payload.get("out_root", "datasets")),
            reporter=reporter,
        )
    return {**result.as_dict(), "folder": spec.relative(result.folder), **(remote.listing.facts if remote else {})}


def _find(payload: dict[str, Any], reporter: Reporter) -> Remote | None:
    """Look up a source that lies elsewhere."""
    if payload.get("source"):
        return None
    reporter.progress(0, 0, unit="byte", message="Looking up the source")
    if url := payload.get("url"):
        return find_cloud_files(str(url))
    hub = payload["hub"]
    asked = {"id": hub} if isinstance(hub, str) else hub
    found = find_hub_dataset(str(asked["id"]), revision=asked.get("revision") or None)
    chosen = found.choose(config=asked.get("config") or None, split=asked.get("split") or None)
    reporter.log(f"{chosen.listing.label}: {found.asked} is commit {found.commit}; licence: {found.licence or 'not stated'}.")
    return chosen


def _at_hand(spec: JobSpec, reporter: Reporter, remote: Remote | None) -> AbstractContextManager[Path]:
    """Lend the file or folder to read: the one named, or what is fetched for the purpose."""
    if remote is None:
        source = spec.path(spec.payload["source"])
        if not source.exists():
            raise NotFound(
                f"This worker sees no file {source}.", remedy="Put it where all workers see it (DATA_PATH), or upload it.", field="source"
            )
        return nullcontext(source)
    facts = remote.listing.facts
    return fetched(
        remote,
        root=spec.path("fetched"),
        address=f"{remote.listing.label} {facts.get('commit', '')}",
        keep_free_bytes=int(spec.payload.get("keep_free_bytes") or 0),
        reporter=reporter,
    )


def _derive(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Make a version from another; see the payload above."""
    asked = spec.payload["derive"]
    result = derive(
        spec.path(asked["folder"]),
        change=parse_change(asked["change"]),
        other=spec.path(asked["other"]) if asked.get("other") else None,
        out_root=spec.path(spec.payload.get("out_root", "datasets")),
        reporter=reporter,
    )
    return {**result, "folder": spec.relative(Path(result["folder"]))}
