"""Check a run's config against its resolved parts before anything is queued: each error has its field and cure."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.rows.conversations import as_conversation
from backend.domain.training.adapters import check_adapters
from backend.domain.training.config import RunConfig, context_problems
from backend.domain.training.execution import check_sharding
from backend.domain.training.packing import count_sequences
from backend.errors import Conflict, InvalidInput, RoundhouseError
from backend.services.checkpoints.checkpoints import CheckpointView
from backend.services.context import Context
from backend.services.data.reports import DataReportView
from backend.services.data.row_pages import read_version_rows
from backend.services.data.views import VersionView
from backend.services.jobs.devices import Device
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens
from backend.services.tokenizers.tokenizers import TokenizerView

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


def check_dataset(config: RunConfig, version: VersionView) -> None:
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


def check_tokenizer(architecture: ArchitectureConfig | None, tokenizer: TokenizerView | None) -> None:
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


def check_cadence(config: RunConfig) -> None:
    """Raise InvalidInput for steps between evaluations or checkpoints given and never reached by the run."""
    for path, what in CADENCE.items():
        steps = getattr(config, path)
        if path in config.model_fields_set and steps > config.max_steps:
            raise InvalidInput(
                f"{what} every {steps:,} steps would never come in a run of {config.max_steps:,} steps.",
                remedy=f"Choose {path} of at most {config.max_steps:,}, or leave it out: a run ends with both.",
                field=path,
            )


def check_context(config: RunConfig, architecture: ArchitectureConfig | None, base: CheckpointView | None) -> None:
    """Raise InvalidInput for a context longer than that of the architecture or the base."""
    limit, owner = (
        (architecture.context, "architecture") if architecture else ((base.facts.context if base else None), "base")
    )
    for problem in context_problems(config.context, limit, owner=owner):
        raise InvalidInput(
            f"{problem[0].upper()}{problem[1:]}.", remedy=f"Choose a context of at most {limit:,}.", field="context"
        )


def check_base(config: RunConfig, base: CheckpointView | None, device: Device) -> None:
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


def check_devices(config: RunConfig, *, most: int | None) -> None:
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


def check_gpu_only(config: RunConfig, device: Device) -> None:
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


def check_report(version: VersionView, view: DataReportView | None, *, context: int) -> None:
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
