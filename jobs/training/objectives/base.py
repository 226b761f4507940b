"""The interface between objective and loop: how data is loaded and batched, and the loss of a micro-batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch

from backend.domain.data.token_folders import FOLDER, LOCK
from backend.domain.jobs.token_streams import stream_folder
from backend.infra.files.locks import try_lock
from backend.infra.files.parquet import count_bytes
from jobs.batches.base import BatchSizes, StepBatches
from jobs.batches.token_files import Supervisor
from jobs.batches.token_maker import MakerSpec
from jobs.batches.token_making import OWN_PROCESS_BYTES, Maker, TokenForm, TokenSource
from jobs.training.context import TrainingContext
from jobs.training.held_out import WorstRows, ids_of_item

Precision = Callable[[], AbstractContextManager[Any]]
Split = TypeVar("Split")


class Splits(NamedTuple, Generic[Split]):
    """An encoded dataset; its val split is used for validation."""

    train: Split
    val: Split


@dataclass(frozen=True)
class LossOutput:
    """The loss of a micro-batch.

    `total` is the sum over the micro-batch's units (trained tokens, or pairs), differentiable; the loop divides the
    totals of a step by the step's units, so that the loss does not depend on how a step is split into micro-batches.
    `aux_loss` (the routers' load-balancing loss) is divided by the number of micro-batches instead. `penalty` is the
    part of `total` that `train_loss` leaves out. `metric_sums` are metrics, summed over the units as well.
    `unit_losses` are those of single units, where a unit is a pair or an answer.
    """

    total: torch.Tensor
    aux_loss: torch.Tensor | None = None
    penalty: torch.Tensor | None = None
    metric_sums: dict[str, torch.Tensor] = field(default_factory=dict)
    unit_losses: torch.Tensor | None = None


class TrainingObjective(Protocol):
    """A loss and its validation. Batches have `units` and `to(device)`.

    `is_divisible`: whether a micro-batch's loss is a sum over its items, so that smaller micro-batches leave the step's
    loss as it is.
    """

    @property
    def is_divisible(self) -> bool:
        """Return whether micro-batches may be split."""

    def compute_loss(self, network: torch.nn.Module, batch: Any) -> LossOutput:
        """Compute the loss of a micro-batch on the device that holds it."""

    def validate(
        self,
        network: torch.nn.Module,
        batches: Iterable[Any],
        *,
        device: torch.device,
        precision: Precision,
        worst: WorstRows | None = None,
    ) -> dict[str, float]:
        """Return val_loss and the other validation metrics by name; empty without a val split. Offer each row to
        `worst`. By default means over the units of all batches, of the loss and of the metrics of `compute_loss`.
        """
        units, sums = 0, {"loss": 0.0}
        for batch in batches:
            with precision():
                output = self.compute_loss(network, batch.to(device))
            units += batch.units
            sums["loss"] += float(output.total)
            if worst is not None and output.unit_losses is not None:
                for index, loss in enumerate(output.unit_losses.tolist()):
                    worst.offer(loss, partial(ids_of_item, batch, index))
            for name, value in output.metric_sums.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        return {f"val_{name}": value / units for name, value in sums.items()} if units else {}


@dataclass(frozen=True)
class ObjectiveStages:
    """The stages that set up a run of an objective; each takes what the one before returned.

    `load` reads and encodes the dataset before the network is loaded; it raises InvalidInput if there is nothing to
    train on, and StopRequested if the job is asked to stop meanwhile. `prepare` builds the batches for a network.
    `build` builds the objective.
    """

    load: Callable[[TrainingContext], Any]
    prepare: Callable[[TrainingContext, Any, Any], StepBatches]
    build: Callable[[TrainingContext, Any, Any], TrainingObjective]


def batch_sizes(ctx: TrainingContext, *, micro_batch: int | None = None) -> BatchSizes:
    """Return the sizes of a run's batches.

    A forward pass takes `micro_batch` items (the config's by default), or fewer if the run once ran out of memory with
    as many.
    """
    config = ctx.config
    return BatchSizes(
        micro_batch=min(micro_batch or config.micro_batch, ctx.max_micro_batch or config.micro_batch),
        items_per_step=config.micro_batch * config.grad_accum_steps * ctx.process_group.count,
        val_items=ctx.val_items,
        seed=config.seed,
    )


def token_source(ctx: TrainingContext) -> TokenSource:
    """Return the source of a run's tokens, which are the job's own where files can't be locked."""
    root = ctx.tokens
    try:
        root.mkdir(parents=True, exist_ok=True)
        with try_lock(root / LOCK):
            pass
    except OSError as error:
        ctx.reporter.log(f"Tokens are not shared with other runs: {error}.")
        root = ctx.spec.folder / f"{FOLDER}-{ctx.process_group.machine}"
    return TokenSource(ctx.dataset, ctx.tokenizer, root, ctx.reporter, _supervisor(ctx))


def _supervisor(ctx: TrainingContext) -> Supervisor | None:
    """Return the supervisor of a run whose dataset may have been left in the store."""
    folder = ctx.spec.folder / stream_folder(ctx.spec.attempt, ctx.process_group.machine)
    if not folder.is_dir():
        return None
    group = ctx.process_group
    return Supervisor(folder, ctx.reporter, number=group.rank, can_stop=group.count == 1)


def token_maker(ctx: TrainingContext, source: TokenSource, form: TokenForm) -> Maker | None:
    """Return a process that makes tokens while the run reads them.

    None for a small split, for a probe, and where a run has to know all of them first: its steps follow from its
    epochs, or several processes wait for each other.
    """
    source.bring_missing(form)
    if not ctx.begins_early or ctx.config.max_epochs or ctx.process_group.count > 1:
        return None
    file = source.dataset / "train.parquet"
    if not file.is_file() or count_bytes(file) < OWN_PROCESS_BYTES:
        return None
    spec = MakerSpec(
        parent=os.getpid(),
        dataset=str(source.dataset),
        tokenizer=str(ctx.spec.path(ctx.spec.payload.tokenizer_folder)),
        root=str(source.root),
        form=form.name,
    )
    return spec.write(ctx.spec.folder / f"attempt-{ctx.spec.attempt}")
