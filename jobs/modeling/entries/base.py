"""The job that adds a base: copies a folder, converts a GGUF file or downloads a Hub repository to a checkpoint
folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from backend.domain.jobs.payloads import AddBasePayload
from backend.domain.jobs.results import AddBaseResult
from backend.errors import JobFailed, NotFound
from backend.infra.checkpoints.candidates import BaseFacts, describe_base
from backend.infra.files.hashes import hash_file
from jobs.modeling.base_network import check_network
from jobs.modeling.copying import base_files, copy_checkpoint
from jobs.modeling.gguf.convert import convert_gguf
from jobs.modeling.hub.bases import Fetched, fetched_base
from jobs.modeling.inspection import inspect_folder
from jobs.modeling.tokenizer_check import check_tokenizer_files, probe_tokenizer
from jobs.reporter import JobSpec, Reporter

NOT_STATED = "not stated"


def run(spec: JobSpec[AddBasePayload], reporter: Reporter) -> AddBaseResult:
    """Write the payload's base to `out`, load it once, and describe it.

    Payload: `source` (a path, absolute or among the artifacts) or `hub` (an id) with `revision` (a branch, tag or
    commit; default main); `out`; `keep_free_bytes` of the disk that stay free. Returns `inspect_folder` of it, plus
    `folder`, `licence` ("not stated" if unknown) and, from the Hub, `revision` (the commit) and `requested_revision`.
    Raises InvalidInput for what can't be a base.
    """
    payload, out = spec.payload, spec.path(spec.payload.out)
    keep = payload.keep_free_bytes
    with _source(spec, reporter, keep=keep) as source:
        if not source.path.exists():
            raise NotFound(
                f"There is no {source.path}.", remedy="Check the path on the worker's machine.", field="source"
            )
        facts = describe_base(source.path)
        if facts.kind == "folder":
            check_tokenizer_files(source.path)
        licence = facts.licence or source.licence or NOT_STATED
        meta: dict[str, object] = {"job": spec.id, "source": payload.hub or source.path.name, "licence": licence}
        pinned: dict[str, object] = {}
        if source.commit:
            pinned = {"revision": source.commit, "requested_revision": payload.revision or "main"}
        if facts.kind == "gguf":
            pinned["gguf_hash"] = hash_file(source.path)
        _write(source, facts, spec, meta={**meta, **pinned}, keep=keep, reporter=reporter)
    try:
        probe_tokenizer(out, name=payload.hub or Path(str(payload.source)).name)
        check_network(out, reporter)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return AddBaseResult(**{**dict(inspect_folder(out)), "folder": payload.out, "licence": licence, **pinned})


def _source(spec: JobSpec[AddBasePayload], reporter: Reporter, *, keep: int) -> AbstractContextManager[Fetched]:
    """Yield the base's files, which a download may delete when the block ends."""
    payload = spec.payload
    if payload.hub is not None:
        root = spec.path("fetched")
        return fetched_base(payload.hub, revision=payload.revision, root=root, keep_free_bytes=keep, reporter=reporter)
    return nullcontext(Fetched(spec.path(str(payload.source)), commit="", licence=None, is_ours=False))


def _write(
    source: Fetched,
    facts: BaseFacts,
    spec: JobSpec[AddBasePayload],
    *,
    meta: Mapping[str, object],
    keep: int,
    reporter: Reporter,
) -> None:
    """Write the base's files to the payload's `out`."""
    path, out = source.path, spec.path(spec.payload.out)
    if facts.kind == "gguf":
        reporter.log(f"Converting {path.name} to safetensors.")
        reporter.progress(0, 1, unit="file", message=f"Converting {path.name}")
        convert_gguf(path, out, meta=meta, move=source.is_ours, keep_free_bytes=keep)
        return
    name = meta["source"]
    reporter.log(f"Copying {name}.")

    def watch(done: int, total: int) -> None:
        reporter.progress(done, total, unit="byte", message=f"Copying {name}")
        if reporter.should_stop() is not None:
            raise JobFailed(
                "Adding the base was stopped on request.", remedy="No files were kept; add it again to retry."
            )

    copy_checkpoint(
        path, out, meta=meta, files=base_files(path), move=source.is_ours, keep_free_bytes=keep, watch=watch
    )
