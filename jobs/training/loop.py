"""The training loop: one optimizer, one pass a step, everything else hung on it.

Given the same weights, training state and seed it computes the same numbers: batches and learning rate are functions of the step, and
evaluation and samples leave the random state alone.
"""

from __future__ import annotations

import gc
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.run_config import RunConfig
from backend.domain.schedule import learning_rate_at
from backend.errors import JobFailed
from jobs.reporter import Reporter
from jobs.training.batches import Batches
from jobs.training.checkpoint_store import CheckpointStore
from jobs.training.experts import ExpertBalance
from jobs.training.lessons import Lesson
from jobs.training.sampling import sample_completion
from jobs.training.state import Counters, save_state

PROGRESS_EVERY_S = 0.25


@dataclass
class TrainingLoop:
    """A run in progress. `model` is what is saved and sampled; `forward` is what is trained: the same, or its compiled form.

    `lesson` is the objective. `sample_prompts` are (prompt, its token ids).
    """

    config: RunConfig
    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    lesson: Lesson
    batches: Batches
    optimizer: torch.optim.Optimizer
    store: CheckpointStore
    reporter: Reporter
    device: torch.device
    autocast: torch.dtype | None = None
    forward: torch.nn.Module | None = None
    sample_prompts: list[tuple[str, list[int]]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    metrics: dict[str, float] = field(default_factory=dict)
    last_checkpoint: str | None = None
    balance: ExpertBalance | None = None
    _measured_at: int | None = None

    def run(self) -> dict[str, Any]:
        """Train from the step after `counters.step` to `max_steps`, or until asked to stop; return the job's result."""
        config = self.config
        self.model.train()
        gc.collect()
        gc.freeze()  # the network's many objects need not be walked again every few steps
        started, first, last_progress = time.perf_counter(), self.counters.step, 0.0
        for step in range(self.counters.step + 1, config.max_steps + 1):
            self.reporter.metrics(step, self.update(step))
            self.counters = replace(self.counters, step=step)
            due = step % config.checkpoint_every == 0 or step == config.max_steps
            if due or step % config.eval_every == 0:
                self._measure(step)
            if due:
                self._save(final=step == config.max_steps)
            now = time.perf_counter()
            if now - last_progress >= PROGRESS_EVERY_S or step == config.max_steps:
                last_progress = now
                self.reporter.progress(step, config.max_steps, rate=(step - first) / max(now - started, 1e-9))
            request = self.reporter.should_stop()
            if request is not None and step < config.max_steps:
                if request == "stop_and_save" and not due:
                    self._save(final=False)
                return self._result(stopped=request)
        return self._result(stopped=None)

    def _result(self, *, stopped: str | None) -> dict[str, Any]:
        metrics = dict(self.metrics)
        if self.counters.best_val_loss is not None and self.counters.best_step is not None:
            metrics |= {"best_val_loss": self.counters.best_val_loss, "best_step": float(self.counters.best_step)}
        return {"final_step": self.counters.step, "stopped": stopped, "metrics": metrics, "checkpoint": self.last_checkpoint}

    def update(self, step: int) -> dict[str, float]:
        """Do one optimizer update; return its metric points. The loss is weighted by token, whatever the micro-batches' sizes."""
        started = time.perf_counter()
        learning_rate = learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        micro_batches = self.batches.at_step(step)
        units = max(sum(batch.units for batch in micro_batches), 1)
        total = torch.zeros((), device=self.device)
        sums: dict[str, torch.Tensor] = {}
        for batch in micro_batches:
            with self._precision():
                cost = self.lesson.cost(self.model if self.forward is None else self.forward, batch.to(self.device))
            loss = cost.total / units
            (loss if cost.extra is None else loss + cost.extra / len(micro_batches)).backward()
            total += loss.detach()
            for name, value in cost.sums.items():
                sums[name] = sums.get(name, 0.0) + value.detach()
        clip = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], clip)
        train_loss, grad_norm = float(total), float(norm)
        if not (math.isfinite(train_loss) and math.isfinite(grad_norm)):
            raise JobFailed(
                f"The loss became {train_loss} (gradient norm {grad_norm}) at step {step}, learning rate {learning_rate:.3g}.",
                remedy="Lower the learning rate, lengthen warmup_steps, or set grad_clip to 1. The last checkpoint is intact.",
                field="learning_rate",
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.balance is not None:
            self.balance.step()
        self.metrics["train_loss"] = train_loss
        measured = {name: float(value) / units for name, value in sums.items()}
        self.metrics |= measured
        rate = sum(batch.trained for batch in micro_batches) / max(time.perf_counter() - started, 1e-9)
        return {"train_loss": train_loss, "learning_rate": learning_rate, "grad_norm": grad_norm, "tok_per_sec": rate, **measured}

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _measure(self, step: int) -> None:
        """Measure val_loss (and val_bpb) and write samples."""
        self.model.eval()
        with torch.inference_mode():
            values = self.lesson.validate(self.model, self.batches.validation(), device=self.device, precision=self._precision)
        if values:
            self.reporter.metrics(step, values)
            self.metrics |= values
            self._measured_at = step
        for index, (prompt, ids) in enumerate(self.sample_prompts):
            completion = sample_completion(
                self.model,
                self.tokenizer,
                ids,
                max_tokens=self.config.sample_tokens,
                context=self.config.context,
                seed=self.config.seed + index,
            )
            self.reporter.sample(step, prompt, completion)
        self.model.train()

    def _save(self, *, final: bool) -> None:
        """Publish a checkpoint with its training state, then delete what need not be kept.

        The best is chosen among checkpoints, so that it is there to be kept.
        """
        step = self.counters.step
        val_loss = self.metrics.get("val_loss") if self._measured_at == step else None
        if val_loss is not None and (self.counters.best_val_loss is None or val_loss < self.counters.best_val_loss):
            self.counters = Counters(step=step, best_step=step, best_val_loss=val_loss)
        self.last_checkpoint = self.store.save(
            step,
            model=self.model,
            tokenizer=self.tokenizer,
            metrics=dict(self.metrics) if val_loss is not None else {"train_loss": self.metrics["train_loss"]},
            final=final,
            write_more=lambda folder: save_state(folder, optimizer=self.optimizer, counters=self.counters),
        )
        self.store.prune(best_step=self.counters.best_step)
