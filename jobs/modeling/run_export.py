"""The job that exports a checkpoint as a folder for other tools."""

from __future__ import annotations

from typing import Any

from backend.errors import Conflict, InvalidInput
from jobs.modeling.checkpoints import is_adapter, read_card
from jobs.modeling.copying import copy_checkpoint
from jobs.modeling.inspection import inspect_folder
from jobs.modeling.merge import merge_adapter
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec, reporter: Reporter) -> dict[str, Any]:
    """Write the payload's `checkpoint` in `format` ("hf": as it is, without training state; "merged": an adapter folded in).

    It goes to `out` (relative to the artifacts) or `to` (absolute). Returns `inspect_folder` of it, plus `folder`. A whole network
    exports as itself in either format. Raises Conflict if the target is there already.
    """
    payload = spec.payload
    source = spec.path(payload["checkpoint"])
    target = spec.artifacts / (payload.get("to") or payload["out"])  # an absolute path stays what it is
    if payload["format"] not in ("hf", "merged"):
        raise InvalidInput(f"There is no export format {payload['format']!r}.", remedy="Choose hf or merged.", field="format")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"{target} is there already and not empty.", remedy="Name a folder that does not exist yet.", field="to")
    if target.exists():
        target.rmdir()
    if payload["format"] == "merged" and is_adapter(source):
        reporter.log("Folding the adapter into its base.")
        merge_adapter(source, target)
    else:
        meta = {key: value for key, value in read_card(source).items() if key not in ("files", "versions", "format", "base_path")}
        copy_checkpoint(source, target, meta=meta)
    return {**inspect_folder(source if is_adapter(target) else target), "folder": str(payload.get("to") or payload["out"])}
