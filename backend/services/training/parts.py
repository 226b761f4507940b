"""What a run is made of: the rows behind a config's names, and whether they fit together and fit the disk."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from backend.db.tables import Dataset, DatasetVersion, Job, Tokenizer
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.architecture_report import describe
from backend.domain.estimates.optimizer_state import checkpoint_size
from backend.domain.training.adapters import check_adapters
from backend.domain.training.config import DATASET_KINDS, Objective, RunConfig, validation_message
from backend.errors import Conflict, InvalidInput
from backend.services.architectures import get_architecture
from backend.services.checkpoints.checkpoints import CheckpointView, require_writer, resolve_checkpoint
from backend.services.context import Context
from backend.services.data.datasets import resolve_version
from backend.services.data.reports import refuse_untrainable
from backend.services.data.views import VersionView
from backend.services.jobs.devices import most_devices, place_of
from backend.services.jobs.jobs import Claim
from backend.services.tokenizers.tokenizers import TokenizerView, get_tokenizer
from backend.services.training.checks import require_trackers
from backend.services.training.row_check import refuse_silent_rows


@dataclass(frozen=True)
class RunParts:
    """A config's names, resolved. `wait_for` is the job that still makes one of them."""

    version: VersionView
    architecture: ArchitectureConfig | None
    architecture_id: str | None
    tokenizer: TokenizerView | None
    base: CheckpointView | None
    wait_for: str | None


def resolve_parts(ctx: Context, config: RunConfig) -> RunParts:
    """Find what a config names and check that it fits together.

    Raises NotFound for an unknown name, InvalidInput for parts that don't fit, Conflict for parts that are not there yet and that
    one job can't wait for.
    """
    require_trackers(config)
    version = resolve_version(ctx, config.dataset, ready=False)
    _check_kind(config, version)
    architecture, architecture_id = _architecture(ctx, config)
    tokenizer = get_tokenizer(ctx, config.tokenizer) if config.tokenizer and not config.base else None
    base = _base(ctx, config)
    refuse_devices(ctx, config)
    if base is not None:
        check_adapters(config, base.family)
        _refuse_few_bits(ctx, config)
    _refuse_without_gpu(ctx, config)
    _check_tokenizer(architecture, tokenizer)
    _check_context(config, architecture, base)
    seen_through = f"checkpoint:{base.id}" if base else f"tokenizer:{tokenizer.id}" if tokenizer else None
    refuse_untrainable(ctx, version, source=seen_through, context=config.context)
    refuse_silent_rows(ctx, version, source=seen_through, context=config.context)
    return RunParts(version, architecture, architecture_id, tokenizer, base, _job_to_wait_for(version, tokenizer))


def training_payload(run_id: str, config: RunConfig, parts: RunParts) -> dict[str, Any]:
    """Return what the training room is handed. Folders of parts that are still being made are filled in when the job starts."""
    return {
        "run_id": run_id,
        "config": config.model_dump(mode="json"),
        "architecture": parts.architecture.model_dump(mode="json") if parts.architecture else None,
        "tokenizer": parts.tokenizer.folder if parts.tokenizer else None,
        "tokenizer_id": parts.tokenizer.id if parts.tokenizer else None,
        "dataset": parts.version.folder,
        "dataset_version_id": parts.version.id,
        "dataset_kind": parts.version.kind,
        "base": parts.base.folder if parts.base else None,
        "base_id": parts.base.id if parts.base else None,
        "run_folder": f"runs/{run_id}",
        "threads": 0,
    }


def fill_payload(session: Session, ctx: Context, claim: Claim) -> dict[str, Any]:
    """Return a claim's payload with the folders of parts that were still being made at the launch."""
    payload = dict(claim.payload)
    if payload.get("dataset") is None and payload.get("dataset_version_id"):
        version = session.get(DatasetVersion, payload["dataset_version_id"])
        if version is not None:
            payload["dataset"], payload["dataset_kind"] = version.folder, session.get_one(Dataset, version.dataset_id).kind
    if payload.get("tokenizer") is None and payload.get("tokenizer_id"):
        tokenizer = session.get(Tokenizer, payload["tokenizer_id"])
        payload["tokenizer"] = tokenizer.folder if tokenizer is not None else None
    session.get_one(Job, claim.job_id).payload = payload
    return payload


def checkpoint_bytes(config: RunConfig, parts: RunParts) -> tuple[int, int]:
    """Return (bytes of one checkpoint with its training state, how many of them lie on the disk at once)."""
    stored, trained = _parameters(config, parts)
    planned = -(-config.max_steps // config.checkpoint_every)
    return checkpoint_size(config, stored=stored, trained=trained), min(planned, config.keep_last + 1) + 1


def require_disk(ctx: Context, config: RunConfig, parts: RunParts) -> None:
    """Raise Unavailable unless the checkpoints that the run keeps at once fit the disk."""
    one, kept = checkpoint_bytes(config, parts)
    ctx.artifacts.require_free(one * kept, keep=ctx.policy.keep_free_bytes, purpose=f"Keeping {kept} checkpoints of this run")


def _parameters(config: RunConfig, parts: RunParts) -> tuple[int, int]:
    """Return (numbers stored, numbers trained) of a checkpoint."""
    if parts.architecture is not None:
        report = describe(parts.architecture)
        return report.parameters, report.trainable_parameters
    whole = (parts.base.parameters if parts.base else None) or 0
    if config.method != "full":
        adapters = min(whole, whole // 20 + 1)  # a rank that trains more than a twentieth is unusual; the room checks exactly
        return adapters, adapters
    return whole, whole


def refuse_devices(ctx: Context, config: RunConfig) -> None:
    """Raise InvalidInput for more devices than a machine has, and for ways to share a run among them that are not carried out."""
    if config.devices.count == 1:
        return
    most = most_devices(ctx, config.device)
    if most is not None and config.devices.per_node > most:
        what = "GPUs" if config.device == "gpu" else "cores" if config.device == "cpu" else "devices"
        raise InvalidInput(
            f"devices.count {config.devices.count} asks for {config.devices.per_node} {what} of one machine, and none that trains has "
            f"more than {most}.",
            remedy="Take fewer devices, spread them over more devices.nodes, or start a worker on a larger machine.",
            field="devices.count",
        )
    if config.devices.sharding in ("zero2", "zero3"):
        raise InvalidInput(
            f"{config.devices.sharding} is DeepSpeed's, which needs NVIDIA GPUs and is not driven from here.",
            remedy="Choose sharding fsdp, which shares the same among devices; `roundhouse run cluster` writes DeepSpeed's config for other tools.",
            field="devices.sharding",
        )
    if config.devices.sharding == "fsdp" and config.optimizer in ("muon", "adamw_8bit", "adafactor"):
        raise InvalidInput(
            f"{config.optimizer} needs whole matrices, and fsdp cuts them into parts.",
            remedy="Choose sharding ddp, or optimizer adamw.",
            field="optimizer",
        )


def _refuse_few_bits(ctx: Context, config: RunConfig) -> None:
    """Raise InvalidInput for a base of few bits on a device that has no kernels for it."""
    if config.method == "qlora" and (place := place_of(ctx, config)).kind != "gpu":
        raise InvalidInput(
            f"qlora stores the base in {config.lora.bits} bits, which needs an NVIDIA GPU, and this run would go to {place.name}.",
            remedy="Choose method lora, or start a worker on a machine with a GPU.",
            field="method",
        )


def _refuse_without_gpu(ctx: Context, config: RunConfig) -> None:
    """Raise InvalidInput for what the room would refuse on a CPU, after the run has waited for its turn."""
    asked = {
        "precision": config.precision == "fp16",
        "attention": config.attention in ("flex", "flash"),
        "optimizer": config.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None,
    }
    field = next((name for name, needs in asked.items() if needs), None)
    if field is None or (place := place_of(ctx, config)).kind == "gpu":
        return
    why = "needs the library bitsandbytes, which is not installed here" if field == "optimizer" else "trains on a GPU only"
    cure = {
        "precision": "Choose precision fp32, or bf16",
        "attention": "Choose attention auto, which takes the fastest that there is",
        "optimizer": "Choose optimizer adamw, adafactor or lion, or install roundhouse[quantized]",
    }
    raise InvalidInput(
        f"{field} {getattr(config, field)} {why}, and this run would go to {place.name}.",
        remedy=f"{cure[field]}; or start a worker on a machine with a GPU.",
        field=field,
    )


def _check_kind(config: RunConfig, version: VersionView) -> None:
    fitting = DATASET_KINDS[config.objective]
    if version.kind not in fitting:
        raise InvalidInput(
            f"{config.objective} learns from a dataset of kind {' or '.join(fitting)}, and “{version.dataset}” is of kind {version.kind}.",
            remedy="Choose another dataset or another objective.",
            field="dataset",
        )
    if config.objective is Objective.GRPO and config.grpo.needs_answers and version.kind == "prompts":
        raise InvalidInput(
            f"The prompts of “{version.dataset}” have no answers, and a reward of grpo.rewards compares completions with them.",
            remedy="Use rewards of kind regex or length, or a dataset of kind instruction or benchmark.",
            field="grpo.rewards",
        )
    if version.is_ready and version.train_rows == 0:
        raise InvalidInput(f"{version.label} has no rows to train on.", remedy="Import more rows.", field="dataset")


def _architecture(ctx: Context, config: RunConfig) -> tuple[ArchitectureConfig | None, str | None]:
    if config.objective is not Objective.PRETRAIN or config.base or config.architecture is None:
        return None, None
    if isinstance(config.architecture, ArchitectureConfig):
        return config.architecture, None
    stored = get_architecture(ctx, config.architecture)
    return stored.config, stored.id


def _base(ctx: Context, config: RunConfig) -> CheckpointView | None:
    """Return the base that a config names; a reward model is one for reward runs alone."""
    base = resolve_checkpoint(ctx, config.base) if config.base else None
    if base is not None and config.objective is not Objective.REWARD:
        with ctx.db.read() as session:
            require_writer(session, base.id, field="base")
    return base


def _check_tokenizer(architecture: ArchitectureConfig | None, tokenizer: TokenizerView | None) -> None:
    if architecture is None or tokenizer is None:
        return
    if tokenizer.folder is None and tokenizer.error:
        cause = tokenizer.error.get("cause") or "its training was stopped"
        raise Conflict(f"The tokenizer “{tokenizer.name}” is not there: {cause}", remedy="Train it again.", field="tokenizer")
    if tokenizer.vocab_size is not None and tokenizer.vocab_size > architecture.vocab_size:
        raise InvalidInput(
            f"The tokenizer “{tokenizer.name}” has {tokenizer.vocab_size:,} tokens, and the architecture's vocabulary holds "
            f"{architecture.vocab_size:,}.",
            remedy=f"Give the architecture a vocab_size of {tokenizer.vocab_size:,} or more, or choose a smaller tokenizer.",
            field="tokenizer",
        )


def _check_context(config: RunConfig, architecture: ArchitectureConfig | None, base: CheckpointView | None) -> None:
    limit, what = (
        (architecture.context, "the architecture") if architecture else ((base.facts.get("context") if base else None), "the base")
    )
    if limit and config.context > int(limit):
        raise InvalidInput(
            f"A context of {config.context:,} tokens is longer than {what} can read, which is {int(limit):,}.",
            remedy=f"Choose a context of at most {int(limit):,}.",
            field="context",
        )


def _job_to_wait_for(version: VersionView, tokenizer: TokenizerView | None) -> str | None:
    """Return the one job that makes what is missing. A tokenizer waits for its own dataset, so its job covers both."""
    wait_for_data = None if version.is_ready else version.job_id
    if tokenizer is None or tokenizer.is_ready:
        return wait_for_data
    if wait_for_data is not None and tokenizer.dataset_version_id != version.id:
        raise Conflict(
            f"{version.label} is still being imported, and the tokenizer “{tokenizer.name}” is made of other data.",
            remedy="Launch the run when one of the two is done.",
            field="dataset",
        )
    return tokenizer.job_id


def parse_config(values: dict[str, Any]) -> RunConfig:
    """Return a config from a form's values. Raises InvalidInput naming field, value and bound."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidInput(f"This run can't be launched: {validation_message(error)}.") from error
