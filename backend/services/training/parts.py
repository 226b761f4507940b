"""Parts of a run: the rows behind a config's names, its device and its network, resolved once per request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from backend.db.tables import Dataset, DatasetVersion, Job, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.estimates.optimizer_state import checkpoint_size
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.training.config import RunConfig
from backend.errors import Conflict
from backend.services.architectures import get_architecture
from backend.services.checkpoints.checkpoints import CheckpointView, require_writer, resolve_checkpoint
from backend.services.checkpoints.networks import read_network_shape
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.reports import DataReportView, find_data_report
from backend.services.data.views import VersionView
from backend.services.jobs.claims import Claim
from backend.services.jobs.devices import Device, choose_device, max_devices, training_workers
from backend.services.jobs.workers import WorkerView
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer
from backend.services.training import checks
from backend.services.training.checks import RowSample, sample_rows

T = TypeVar("T", bound=TrainingPayload)


@dataclass(frozen=True)
class RunParts:
    """A config's names, resolved.

    `wait_for` is the job that still makes one of them. `shape` is the architecture of the new network or the base, None
    for a base of an unknown family. `report` is a data report for the same tokenizer and context, `rows` a sample of
    the train rows. `device` is where the run would go, `workers` are the living training workers.
    """

    version: VersionView
    architecture: ArchitectureConfig | None
    architecture_id: str | None
    tokenizer: TokenizerView | None
    base: CheckpointView | None
    wait_for: str | None
    shape: ArchitectureConfig | None
    device: Device
    workers: tuple[WorkerView, ...]
    report: DataReportView | None
    rows: RowSample | None

    @property
    def unused_rows(self) -> int:
        """Rows of the embedding that no token of the tokenizer uses; 0 if unknown."""
        size = self.tokenizer.vocab_size if self.tokenizer else None
        return max(0, self.architecture.vocab_size - size) if self.architecture and size else 0


def resolve_parts(ctx: Context, config: RunConfig) -> RunParts:
    """Resolve a config's names and check that the parts fit together. Raises NotFound for an unknown name, InvalidInput
    for parts that don't fit, Conflict for unfinished parts of more than one job.
    """
    checks.check_trackers(config)
    checks.check_cadence(config)
    version = resolve_version(ctx, config.dataset, ready=False)
    checks.check_dataset(config, version)
    architecture, architecture_id = _architecture(ctx, config)
    tokenizer = get_tokenizer(ctx, config.tokenizer) if config.tokenizer and not config.base else None
    base = _base(ctx, config)
    workers = training_workers(ctx)
    device = choose_device(config, workers)
    checks.check_devices(config, most=max_devices(config.device, workers))
    checks.check_base(config, base, device)
    checks.check_gpu_only(config, device)
    checks.check_tokenizer(architecture, tokenizer)
    checks.check_context(config, architecture, base)
    source = f"checkpoint:{base.id}" if base else f"tokenizer:{tokenizer.id}" if tokenizer else None
    report = find_data_report(ctx, version.id, source=source, context=config.context) if source else None
    checks.check_report(version, report, context=config.context)
    rows = sample_rows(ctx, version, source=source)
    checks.check_trained_tokens(version, rows, context=config.context)
    return RunParts(
        version=version,
        architecture=architecture,
        architecture_id=architecture_id,
        tokenizer=tokenizer,
        base=base,
        wait_for=_job_to_wait_for(version, tokenizer),
        shape=architecture or (read_network_shape(ctx, base.folder) if base is not None and base.folder else None),
        device=device,
        workers=workers,
        report=report,
        rows=rows,
    )


def training_payload(of: type[T], config: RunConfig, parts: RunParts, *, folder_id: str, **own: Any) -> T:
    """Return the payload of a training job of class `of`, whose own fields are `own`, with its files in
    `runs/<folder_id>`.

    Folders of parts that are unfinished are None, and filled in when the job starts.
    """
    return of(
        config=config,
        architecture=parts.architecture,
        tokenizer=parts.tokenizer.folder if parts.tokenizer else None,
        tokenizer_id=parts.tokenizer.id if parts.tokenizer else None,
        dataset=parts.version.folder,
        dataset_version_id=parts.version.id,
        dataset_kind=parts.version.kind,
        base=parts.base.folder if parts.base else None,
        base_id=parts.base.id if parts.base else None,
        run_folder=f"runs/{folder_id}",
        **own,
    )


def fill_payload(session: Session, claim: Claim[TrainingPayload]) -> TrainingPayload:
    """Return a claim's payload with the folders of parts that were unfinished at the launch."""
    payload = claim.payload
    if payload.dataset is None and payload.dataset_version_id:
        version = session.get(DatasetVersion, payload.dataset_version_id)
        if version is not None:
            kind = session.get_one(Dataset, version.dataset_id).kind
            payload = payload.model_copy(update={"dataset": version.folder, "dataset_kind": kind})
    if payload.tokenizer is None and payload.tokenizer_id:
        tokenizer = session.get(Tokenizer, payload.tokenizer_id)
        payload = payload.model_copy(update={"tokenizer": tokenizer.folder if tokenizer is not None else None})
    session.get_one(Job, claim.job_id).payload = payload.dump()
    return payload


def checkpoint_bytes(config: RunConfig, parts: RunParts) -> tuple[int, int]:
    """Return (bytes of one checkpoint with its training state, number kept on disk at once)."""
    stored, trained = _parameters(config, parts)
    planned = -(-config.max_steps // config.checkpoint_every)
    return checkpoint_size(config, stored=stored, trained=trained), min(planned, config.keep_last + 1) + 1


def require_disk(ctx: Context, config: RunConfig, parts: RunParts) -> None:
    """Raise Unavailable unless the checkpoints kept at once fit the disk."""
    size, count = checkpoint_bytes(config, parts)
    ctx.artifacts.require_free(
        size * count, keep=ctx.policy.keep_free_bytes, purpose=f"Keeping {count} checkpoints of this run"
    )


def _parameters(config: RunConfig, parts: RunParts) -> tuple[int, int]:
    """Return (weights stored, weights trained) of a checkpoint."""
    if parts.architecture is not None:
        report = describe_architecture(parts.architecture)
        return report.parameters, report.trainable_parameters
    base_parameters = (parts.base.parameters if parts.base else None) or 0
    if config.method != "full":
        # adapters rarely exceed a twentieth; the job checks exactly
        adapters = min(base_parameters, base_parameters // 20 + 1)
        return adapters, adapters
    return base_parameters, base_parameters


def _architecture(ctx: Context, config: RunConfig) -> tuple[ArchitectureConfig | None, str | None]:
    if not config.objective.pretrains or config.base or config.architecture is None:
        return None, None
    if isinstance(config.architecture, ArchitectureConfig):
        return config.architecture, None
    stored = get_architecture(ctx, config.architecture)
    return stored.config, stored.id


def _base(ctx: Context, config: RunConfig) -> CheckpointView | None:
    """Return the base that a config names. Raises InvalidInput for a reward model, unless the objective is reward."""
    base = resolve_checkpoint(ctx, config.base) if config.base else None
    if base is not None and config.objective.facts.writes:
        with ctx.db.read() as session:
            require_writer(session, base.id, field="base")
    return base


def _job_to_wait_for(version: VersionView, tokenizer: TokenizerView | None) -> str | None:
    """Return the job that makes the unfinished parts. A tokenizer's job waits for its own dataset, covering both."""
    wait_for_data = None if version.is_ready else version.job_id
    if tokenizer is None or tokenizer.is_ready:
        return wait_for_data
    if wait_for_data is not None and tokenizer.dataset_version_id != version.id:
        raise Conflict(
            f"{version.label} is still being imported, and the tokenizer “{tokenizer.name}” is being trained on another"
            " dataset.",
            remedy="Launch the run when one of the two has finished.",
            field="dataset",
        )
    return tokenizer.job_id
