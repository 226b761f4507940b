"""Parts of a run: the rows behind a config's names, its device and its network, resolved once per request; and the
checks of the config against them before anything is queued: each error has its field and cure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
from sqlalchemy.orm import Session

from backend.db.tables import Dataset, DatasetVersion, Job, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.rows.conversations import as_conversation
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.estimates.optimizer_state import checkpoint_size
from backend.domain.jobs.payloads import TrainingPayload
from backend.domain.training.adapters import check_adapters
from backend.domain.training.config import RunConfig, context_problems
from backend.domain.training.execution import check_sharding
from backend.domain.training.packing import count_sequences
from backend.errors import Conflict, InvalidInput, RoundhouseError
from backend.services.architectures import get_architecture
from backend.services.checkpoints.checkpoints import CheckpointView, require_writer, resolve_checkpoint
from backend.services.checkpoints.networks import read_network_shape
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.reports import DataReportView, find_data_report
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView
from backend.services.jobs.claims import Claim
from backend.services.jobs.devices import Device, choose_device, max_devices, training_workers
from backend.services.jobs.workers import WorkerView
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer

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
    check_trackers(config)
    _check_cadence(config)
    version = resolve_version(ctx, config.dataset, ready=False)
    _check_dataset(config, version)
    architecture, architecture_id = _architecture(ctx, config)
    tokenizer = get_tokenizer(ctx, config.tokenizer) if config.tokenizer and not config.base else None
    base = _base(ctx, config)
    workers = training_workers(ctx)
    device = choose_device(config, workers)
    _check_devices(config, most=max_devices(config.device, workers))
    _check_base(config, base, device)
    _check_gpu_only(config, device)
    _check_tokenizer(architecture, tokenizer)
    _check_context(config, architecture, base)
    source = f"checkpoint:{base.id}" if base else f"tokenizer:{tokenizer.id}" if tokenizer else None
    report = find_data_report(ctx, version.id, source=source, context=config.context) if source else None
    _check_report(version, report, context=config.context)
    rows = sample_rows(ctx, version, source=source)
    check_trained_tokens(version, rows, context=config.context)
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


CADENCE = {"eval_every": "An evaluation", "checkpoint_every": "A checkpoint"}
TRACKER_NAMES = {"tensorboard": "TensorBoard", "mlflow": "MLflow", "wandb": "Weights & Biases", "trackio": "Trackio"}


def missing_trackers() -> frozenset[str]:
    """Return the trackers whose library is not installed here."""
    return frozenset(name for name in TRACKER_NAMES if find_spec(name) is None)


def check_trackers(config: RunConfig) -> None:
    """Raise InvalidInput for a tracker whose library is missing."""
    missing = [name for name in config.trackers if name in missing_trackers()]
    if missing:
        raise InvalidInput(
            f"{' and '.join(TRACKER_NAMES[name] for name in missing)} can't be written: the library is not installed.",
            remedy=(
                f"Install it (`pip install 'roundhouse[trackers]'`), or leave {' and '.join(missing)} out of"
                " `trackers`."
            ),
            field="trackers",
        )


def _check_dataset(config: RunConfig, version: VersionView) -> None:
    """Raise InvalidInput for a dataset of the wrong kind, without answers that a reward needs, or train rows."""
    kinds = config.objective.facts.datasets
    if version.kind not in kinds:
        raise InvalidInput(
            f"{config.objective} takes a dataset of kind {' or '.join(kinds)}, and “{version.dataset}” is of kind"
            f" {version.kind}.",
            remedy="Choose another dataset or another objective.",
            field="dataset",
        )
    if config.objective.samples and config.grpo.needs_answers and version.kind == "prompts":
        raise InvalidInput(
            f"The prompts of “{version.dataset}” have no answers, and one of the rewards compares completions with"
            " them.",
            remedy="Use rewards of kind regex or length, or a dataset of kind instruction or benchmark.",
            field="grpo.rewards",
        )
    if version.is_ready and version.train_rows == 0:
        raise InvalidInput(f"{version.label} has no rows to train on.", remedy="Import more rows.", field="dataset")


def _check_tokenizer(architecture: ArchitectureConfig | None, tokenizer: TokenizerView | None) -> None:
    """Raise Conflict for a tokenizer whose training failed, InvalidInput for one above the architecture's size."""
    if architecture is None or tokenizer is None:
        return
    if tokenizer.folder is None and tokenizer.error:
        cause = tokenizer.error.cause or "its training was stopped"
        raise Conflict(
            f"The tokenizer “{tokenizer.name}” was not trained: {cause}", remedy="Train it again.", field="tokenizer"
        )
    if tokenizer.vocab_size is not None and tokenizer.vocab_size > architecture.vocab_size:
        raise InvalidInput(
            f"The tokenizer “{tokenizer.name}” has {tokenizer.vocab_size:,} tokens, and the architecture's vocabulary"
            f" holds {architecture.vocab_size:,}.",
            remedy=(
                f"Give the architecture a vocab_size of {tokenizer.vocab_size:,} or more, or choose a smaller"
                " tokenizer."
            ),
            field="tokenizer",
        )


def _check_cadence(config: RunConfig) -> None:
    """Raise InvalidInput for steps between evaluations or checkpoints given and never reached by the run."""
    for path, what in CADENCE.items():
        steps = getattr(config, path)
        if path in config.model_fields_set and steps > config.max_steps:
            raise InvalidInput(
                f"{what} every {steps:,} steps would never come in a run of {config.max_steps:,} steps.",
                remedy=f"Choose {path} of at most {config.max_steps:,}, or leave it out: a run"
                " ends with an evaluation and a checkpoint.",
                field=path,
            )


def _check_context(config: RunConfig, architecture: ArchitectureConfig | None, base: CheckpointView | None) -> None:
    """Raise InvalidInput for a context longer than that of the architecture or the base."""
    limit, owner = (
        (architecture.context, "architecture") if architecture else ((base.facts.context if base else None), "base")
    )
    for problem in context_problems(config.context, limit, owner=owner):
        raise InvalidInput(
            f"{problem[0].upper()}{problem[1:]}.", remedy=f"Choose a context of at most {limit:,}.", field="context"
        )


def _check_base(config: RunConfig, base: CheckpointView | None, device: Device) -> None:
    """Raise InvalidInput for adapters that the base can't have, and for qlora without a GPU."""
    if base is None:
        return
    check_adapters(config, base.family)
    if config.method == "qlora" and device.kind != "gpu":
        raise InvalidInput(
            f"qlora stores the base in {config.lora.bits} bits, which needs an NVIDIA GPU, and this run would go to"
            f" {device.name}.",
            remedy="Choose method lora, or start a worker on a machine with a GPU.",
            field="method",
        )


def _check_devices(config: RunConfig, *, most: int | None) -> None:
    """Raise InvalidInput for more devices than `most`, those of one machine, and for what the sharding can't do."""
    if config.devices.count == 1:
        return
    if most is not None and config.devices.per_node > most:
        unit = {"gpu": "GPUs", "cpu": "cores", "auto": "devices"}[config.device]
        raise InvalidInput(
            f"devices.count {config.devices.count} needs {config.devices.per_node} {unit} on one machine, and no"
            f" training worker's machine has more than {most}.",
            remedy="Take fewer devices, spread them over more devices.nodes, or start a worker on a larger machine.",
            field="devices.count",
        )
    check_sharding(config, has_deepspeed=find_spec("deepspeed") is not None)


def _check_gpu_only(config: RunConfig, device: Device) -> None:
    """Raise InvalidInput for settings that the job would refuse on a CPU, before it waits in the queue."""
    if device.kind == "gpu":
        return
    if config.precision == "fp16":
        field, why, cure = "precision", "trains on a GPU only", "Choose precision fp32 or bf16"
    elif config.attention in ("flex", "flash"):
        field, why, cure = "attention", "trains on a GPU only", "Choose attention auto"
    elif config.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
        field, why = "optimizer", "needs the library bitsandbytes, which is not installed here"
        cure = "Choose optimizer adamw, adafactor or lion, or install roundhouse[quantized]"
    else:
        return
    raise InvalidInput(
        f"{field} {getattr(config, field)} {why}, and this run would go to {device.name}.",
        remedy=f"{cure}; or start a worker on a machine with a GPU.",
        field=field,
    )


def _check_report(version: VersionView, view: DataReportView | None, *, context: int) -> None:
    """Raise InvalidInput if a data report found no row with a trained token; single ones are left out."""
    if view is None or view.report is None or not view.report.is_silent:
        return
    report = view.report
    reasons = [f" In row {silent.row:,}, {silent.reason}." for silent in report.zero_label[:1]]
    if report.refused_rows:
        reasons.append(f" The chat template of “{view.source_name}” refuses {report.refused_rows:,}: {report.refusal}")
    raise InvalidInput(
        f"None of the {report.train.rows:,} train rows of {version.label} has a trained token within a context of"
        f" {context:,} tokens." + "".join(reasons),
        remedy=(
            f"Choose {'another base' if report.refused_rows else 'a longer context'}, or another dataset. The dataset's"
            " report lists the rows."
        ),
        field="dataset",
    )


def check_trained_tokens(version: VersionView, sample: RowSample | None, *, context: int) -> None:
    """Raise InvalidInput if no sampled row has a trained token within a context."""
    if sample is None or sample.num_without_targets(context) < len(sample.prompt_tokens):
        return
    num_rows = f"{len(sample.prompt_tokens):,} train rows of {version.label}"
    rows = (
        f"the {num_rows}"
        if len(sample.prompt_tokens) == sample.num_rows
        else f"the {num_rows} sampled from {sample.num_rows:,}"
    )
    raise InvalidInput(
        f"None of {rows} has a trained token within its first {context:,} tokens: the shortest prompt alone has "
        f"{min(sample.prompt_tokens):,}.",
        remedy=(
            f"Choose {sample.sufficient_context:,} tokens or more, with a base whose context is that long, or a dataset"
            " with shorter prompts."
        ),
        field="context",
    )


NUM_CHUNKS, ROWS_PER_CHUNK = 16, 32
TIME_LIMIT_S = 1.5  # a page waits for it; the sample is the rows read by then
ROOM_FOR_AN_ANSWER = 64


@dataclass(frozen=True)
class RowSample:
    """Sampled train rows out of `num_rows`. `prompt_tokens` and `row_tokens`: lower bounds of each prompt and of each
    row, without the chat template.
    """

    prompt_tokens: tuple[int, ...]
    row_tokens: tuple[int, ...]
    num_rows: int

    def num_without_targets(self, context: int) -> int:
        """Return how many sampled rows have no trained token within a context: their prompt fills it."""
        return sum(tokens >= context for tokens in self.prompt_tokens)

    def share_longer(self, context: int) -> float:
        """Return the share of sampled rows that are longer than a context."""
        return sum(tokens > context for tokens in self.row_tokens) / len(self.row_tokens)

    def fewest_sequences(self, context: int) -> float:
        """Return about how many sequences all rows fill at least when they are packed, without those that
        `num_without_targets` counts.
        """
        lengths = np.array(self.row_tokens)[np.array(self.prompt_tokens) < context]
        share = self.num_rows / len(self.prompt_tokens)
        each = math.ceil(share)  # a few rows leave room that many fill
        return count_sequences(lengths, context, counts=np.full_like(lengths, each)) / each * share

    @property
    def sufficient_context(self) -> int:
        """Context in which 95 % of the sampled rows have room for an answer."""
        return sorted(self.prompt_tokens)[int(0.95 * (len(self.prompt_tokens) - 1))] + ROOM_FOR_AN_ANSWER


def sample_rows(ctx: Context, version: VersionView, *, source: str | None) -> RowSample | None:
    """Sample up to 512 train rows, spread over all; None for rows without answers, and if tokenizer or rows can't be
    read.

    A version never changes, so the sample is cached.
    """
    if source is None or version.folder is None or not version.train_rows:
        return None
    try:
        tokens = _row_tokens(ctx, version.folder, version.train_rows, source)
    except RoundhouseError:
        return None
    prompts, rows = tuple(sum(part[:end]) for part, end in tokens), tuple(sum(part) for part, _ in tokens)
    return RowSample(prompts, rows, version.train_rows) if tokens else None


@lru_cache(maxsize=64)
def _row_tokens(ctx: Context, folder: str, num_rows: int, source: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return the tokens of each message of sampled rows, and how many messages come before the first answer."""
    rows: list[tuple[list[str], int]] = []
    deadline = time.monotonic() + TIME_LIMIT_S
    for offset, limit in _chunks(num_rows):
        if time.monotonic() > deadline:
            break
        for row in read_version_rows(ctx, folder, split="train", offset=offset, limit=limit):
            conversation = as_conversation(row)
            if conversation is None:
                return ()
            roles = [message["role"] for message in conversation.messages]
            texts = [str(message.get("content") or "").strip() for message in conversation.messages]
            rows.append((texts, roles.index("assistant") if "assistant" in roles else len(roles)))
    counts = iter(count_tokens(ctx, resolve_source(ctx, source), [text for texts, _ in rows for text in texts]))
    # a token may span two texts, so each text counts one less
    return tuple((tuple(max(0, next(counts) - 1) for _ in texts), end) for texts, end in rows)


def _chunks(num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, rows) of chunks spread over a split; all of it where it is small."""
    if num_rows <= NUM_CHUNKS * ROWS_PER_CHUNK:
        yield 0, num_rows
        return
    for chunk in range(NUM_CHUNKS):
        yield chunk * (num_rows - ROWS_PER_CHUNK) // (NUM_CHUNKS - 1), ROWS_PER_CHUNK
