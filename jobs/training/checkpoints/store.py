"""A run's checkpoints on disk: save, find the newest, prune, and check free space."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.estimates.optimizer_state import checkpoint_size
from backend.domain.jobs.events import CheckpointEvent, CheckpointRemovedEvent
from backend.domain.jobs.payloads import TrainingPayload, TrainPayload
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config import RunConfig
from backend.domain.training.holds import choose_removed, hold_of, mark_of_use
from backend.domain.wording import format_bytes
from backend.errors import JobFailed
from jobs.modeling.checkpoints import STATE_FOLDER, is_adapter, is_complete, save_checkpoint
from jobs.modeling.loglikelihood import longest_input
from jobs.reporter import JobSpec, Reporter
from jobs.training.distributed.process_group import whole_shape

DISK_MARGIN, DISK_SPARE_BYTES = 1.05, 16_000_000
"""Free space required beyond a checkpoint's bytes, for errors of the estimate, logs and metrics."""
DISK_CHECK_EVERY_S = 5.0


class CheckpointStore:
    """The folder `<run_folder>/checkpoints`, one `step-000100` each."""

    def __init__(
        self,
        spec: JobSpec[TrainingPayload],
        reporter: Reporter,
        *,
        folder: Path,
        keep_last: int,
        lineage: Mapping[str, object],
    ) -> None:
        self.folder = folder
        self._spec, self._reporter = spec, reporter
        self._keep_last, self._lineage = keep_last, lineage
        self._bytes = 0
        self._checked_at, self._is_full = 0.0, False

    def place(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Return the steps of complete checkpoints, ascending."""
        complete = [
            path
            for path in self.folder.glob("step-*")
            if path.is_dir() and path.name[5:].isdigit() and is_complete(path)
        ]
        return sorted(int(path.name[5:]) for path in complete)

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint with training state, if any; delete partial ones left by a crash."""
        for leftover in [*self.folder.glob(".step-*.partial"), *self.folder.glob(".step-*.replaced")]:
            shutil.rmtree(leftover, ignore_errors=True)
        steps = self.resumable()
        return self.place(steps[-1]) if steps else None

    def resumable(self) -> list[int]:
        """Return the steps of complete checkpoints with their training state, ascending."""
        return [step for step in self.steps() if (self.place(step) / STATE_FOLDER / "counters.json").is_file()]

    def save(
        self,
        step: int,
        *,
        model: torch.nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        metrics: dict[str, float],
        final: bool = False,
        best_step: int | None = None,
        weights: dict[str, torch.Tensor] | None = None,
        write_more: Callable[[Path], None] | None = None,
    ) -> str:
        """Publish a step's checkpoint, report it, and prune older ones; return its folder relative to the artifacts.

        `weights` are saved instead of the network's own, for a sharded network. Raises JobFailed if the disk is full,
        with earlier checkpoints intact.
        """
        self._make_room(step, best_step=best_step)
        place = self.place(step)
        meta = {**self._lineage, "step": step, "metrics": metrics}
        save_checkpoint(place, model=model, tokenizer=tokenizer, meta=meta, weights=weights, write_more=write_more)
        if isinstance(self._spec.payload, TrainPayload) and self._spec.payload.holds_checkpoints:
            hold_of(place).touch()
        size = self._bytes = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        relative = self._spec.relative(place)
        config: Any = model.config
        self._reporter.emit(
            CheckpointEvent(
                step=step,
                folder=relative,
                metrics=dict(metrics),
                final=final,
                bytes=size,
                adapter=is_adapter(place),
                family=config.model_type,
                parameters=sum(whole_shape(parameter).numel() for parameter in model.parameters()),
                facts={"context": longest_input(model), "vocab_size": config.vocab_size},
            )
        )
        self._prune(self._keep_last, best_step=best_step)
        return relative

    def should_stop(self) -> StopRequest | None:
        """Return a stop request if the disk may hold no more. Cheap: the disk is checked every few seconds."""
        now = time.monotonic()
        if self._bytes and now - self._checked_at >= DISK_CHECK_EVERY_S:
            self._checked_at = now
            self._is_full = self._free_bytes() < self._needed_bytes()
        return "stop_and_save" if self._is_full else None

    def raise_if_full(self, step: int) -> None:
        """Raise JobFailed if the run stopped at a step, and saved it, because the disk is nearly full."""
        if self._is_full:
            raise JobFailed(
                f"The disk has {format_bytes(self._free_bytes())} free, and a checkpoint takes"
                f" {format_bytes(self._bytes)}, so the run stopped at step {step}, which is saved.",
                remedy="Free space, then resume.",
                field="keep_last",
            )

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free

    def _needed_bytes(self) -> int:
        """Return the free bytes required before another checkpoint is written."""
        return int(self._bytes * DISK_MARGIN) + DISK_SPARE_BYTES

    def _make_room(self, step: int, *, best_step: int | None) -> None:
        """If the disk is too full for another checkpoint, prune before saving."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._free_bytes() >= self._needed_bytes() or step in self.steps():
            return
        self._prune(max(1, self._keep_last - 1), best_step=best_step, with_holds=False)
        if self._free_bytes() < self._bytes:
            raise JobFailed(
                f"The disk has {format_bytes(self._free_bytes())} free, and the checkpoint of step {step} needs"
                f" {format_bytes(self._bytes)}.",
                remedy="Free space, then resume: earlier checkpoints are intact.",
                field="keep_last",
            )

    def _prune(self, keep_last: int, *, best_step: int | None, with_holds: bool = True) -> None:
        """Delete all but the best, the last, the held checkpoints and those in use, and report each deletion. Where the
        disk is full no hold counts.
        """
        steps = self.steps()
        held = [step for step in steps if with_holds and hold_of(self.place(step)).exists()]
        used = [step for step in steps if mark_of_use(self.place(step)).exists()]
        for step in choose_removed(steps, keep_last=keep_last, best=best_step, held=held, used=used):
            relative = self._spec.relative(self.place(step))
            shutil.rmtree(self.place(step))
            hold_of(self.place(step)).unlink(missing_ok=True)
            self._reporter.emit(CheckpointRemovedEvent(step=step, folder=relative))

    def check_disk(self, *, checkpoint_bytes: int, max_steps: int, checkpoint_every: int) -> None:
        """Raise JobFailed unless the disk has room for all checkpoints kept at once."""
        planned = -(-max_steps // checkpoint_every)
        num_at_once = min(planned, self._keep_last + 1) + 1  # the best, the last ones, and the one being written
        num_new = max(1, num_at_once - len(self.steps()))
        self._bytes = checkpoint_bytes
        needed = checkpoint_bytes * num_new + self._needed_bytes() - checkpoint_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        free = self._free_bytes()
        if free < needed:
            raise JobFailed(
                f"The disk has {format_bytes(free)} free, and the run's checkpoints need {format_bytes(needed)}"
                f" ({num_new} of {format_bytes(checkpoint_bytes)}).",
                remedy="Free space, lower keep_last, or train adapters (method lora).",
                field="keep_last",
            )


def estimate_checkpoint_bytes(model: torch.nn.Module, config: RunConfig, *, adapter: bool) -> int:
    """Estimate the bytes of a checkpoint with its training state."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    stored = trained if adapter else sum(parameter.numel() for parameter in model.parameters())
    return checkpoint_size(config, stored=stored, trained=trained)
