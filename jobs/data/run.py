"""The job `import_dataset`: from a file or the Hub to a folder of Parquet files.

Payload: `source` (path below the artifacts, or None), `hub` (an id, or {"id", "config", "split"}, or None), `kind`, `mapping`, `val_fraction`,
`seed`, `out_root` (path below the artifacts). Instead of a source it may hold `derive`: {"folder", "other", "change"} (folders of versions;
a change of backend.domain.dataset_changes), for a version made from another. The result is the ImportResult with `folder` relative to the artifacts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from backend.domain.dataset_changes import parse_change
from backend.errors import InvalidInput
from jobs.data.deriving import derive
from jobs.data.importer import import_dataset
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Import one dataset version. Raises what `import_dataset` and `download_hub_dataset` raise."""
    payload = spec.payload
    if payload.get("derive"):
        return _derive(spec, reporter)
    hub = payload.get("hub")
    if bool(hub) == bool(payload.get("source")):
        raise InvalidInput("An import needs either a file or a Hub dataset, and not both.", field="source")
    fetched = _fetch(spec, reporter, hub={"id": hub} if isinstance(hub, str) else hub) if hub else None
    try:
        result = import_dataset(
            fetched or spec.path(payload["source"]),
            kind=payload.get("kind") or None,
            mapping=payload.get("mapping") or None,
            val_fraction=float(payload.get("val_fraction", 0.1)),
            seed=int(payload.get("seed", 0)),
            out_root=spec.path(payload.get("out_root", "datasets")),
            reporter=reporter,
        )
    finally:
        if fetched:
            fetched.unlink(missing_ok=True)
    return {**result.as_dict(), "folder": spec.relative(result.folder)}


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


def _fetch(spec: JobSpec, reporter: Reporter, *, hub: dict[str, Any]) -> Path:
    from jobs.data.hub import download_hub_dataset  # slow to import, and files need none of it

    spec.folder.mkdir(parents=True, exist_ok=True)
    return download_hub_dataset(
        str(hub["id"]),
        config=hub.get("config") or None,
        split=hub.get("split") or "train",
        target=spec.folder / "fetched.jsonl",
        reporter=reporter,
    )
