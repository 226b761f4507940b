"""Entry of an import: convert a file, a folder, a Hub dataset, an object store or another version to Parquet files."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path

from backend.domain.jobs.payloads import Derivation, ImportPayload
from backend.domain.jobs.results import ImportResult
from backend.errors import NotFound
from backend.infra.files.cloud import find_cloud_files
from backend.infra.files.remote import Remote
from backend.infra.hub.datasets import find_hub_dataset
from jobs.data.deriving import derive
from jobs.data.fetching import fetched
from jobs.data.importer import import_files
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec[ImportPayload], reporter: Reporter) -> ImportResult:
    """Import one dataset version. Raises what `import_files`, `fetched` and the sources raise."""
    payload = spec.payload
    if payload.derive is not None:
        return _derive(spec, payload.derive, reporter)
    remote = _find(payload, reporter)
    with _local_source(spec, reporter, remote) as source:
        result = import_files(
            source,
            payload,
            split=payload.split,
            cluster=payload.cluster,
            out_root=spec.path(payload.out_root),
            reporter=reporter,
        )
    if payload.tokenizer is not None and payload.shards:
        making = import_module("jobs.data.token_shards")  # imports torch, which no other import needs
        tokens = making.make_tokens_of(spec, Path(result.folder), reporter)
        result = result.model_copy(update={"tokens": tokens})
    facts = remote.listing.facts if remote else {}
    return ImportResult.model_validate({**result.dump(), "folder": spec.relative(Path(result.folder)), **facts})


def _find(payload: ImportPayload, reporter: Reporter) -> Remote | None:
    """Look up a source of the Hub or an object store; None for a local one."""
    if payload.source is not None:
        return None
    reporter.progress(0, 0, unit="byte", message="Looking up the source")
    if payload.url is not None:
        return find_cloud_files(payload.url)
    assert payload.hub is not None
    dataset = find_hub_dataset(payload.hub.id, revision=payload.hub.revision)
    chosen = dataset.choose(config=payload.hub.config, split=payload.hub.split)
    reporter.log(
        f"{chosen.listing.label}: {dataset.requested} is commit {dataset.commit}; licence:"
        f" {dataset.licence or 'not stated'}."
    )
    return chosen


def _local_source(
    spec: JobSpec[ImportPayload], reporter: Reporter, remote: Remote | None
) -> AbstractContextManager[Path]:
    """Lend the file or folder to read: a local one, or a download."""
    if remote is None:
        source = spec.path(str(spec.payload.source))
        if not source.exists():
            raise NotFound(
                f"This worker can't read {source}.",
                remedy="Put it where all workers can read it, or upload it.",
                field="source",
            )
        return nullcontext(source)
    facts = remote.listing.facts
    return fetched(
        remote,
        root=spec.path("fetched"),
        address=f"{remote.listing.label} {facts.get('commit', '')}",
        keep_free_bytes=spec.payload.keep_free_bytes,
        reporter=reporter,
    )


def _derive(spec: JobSpec[ImportPayload], derivation: Derivation, reporter: Reporter) -> ImportResult:
    result = derive(
        spec.path(derivation.folder),
        change=derivation.change,
        other=spec.path(derivation.other) if derivation.other else None,
        out_root=spec.path(spec.payload.out_root),
        reporter=reporter,
    )
    return result.model_copy(update={"folder": spec.relative(Path(result.folder))})
