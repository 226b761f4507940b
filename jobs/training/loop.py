"""The training loop: one optimizer, one pass a step, everything else hung on it.

Given the same weights, training state and seed it computes the same numbers: batches and learning rate are functions of the step, and
evaluation and samples leave the random state alone.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from backend.domain.training.config import Objective, RunConfig
from backend.domain.training.schedule import learning_rate_at
from backend.errors import JobFailed
from jobs.batches.base import Batches, StepBatches
from jobs.reporter import PROGRESS_EVERY_S, Reporter
from jobs.training.checkpoints.state import Counters, RandomState, Stateful, gather_state, save_state
from jobs.training.checkpoints.store import CheckpointStore
from jobs.training.distributed.process_group import Team, whole
from jobs.training.failures import NotFinite, is_finite, is_out_of_memory
from jobs.training.network.ema import Average, named_parts
from jobs.training.network.experts import ExpertBalance
from jobs.training.objectives.base import Lesson
from jobs.training.samples import sample_completion


@dataclass
class Gradients:
    """What the passes of a step gave, its gradients aside: losses by micro-batch, sums for metrics, and what was counted."""

    units: int
    trained: int
    waited_s: float = 0.0  # for the data
    losses: list[torch.Tensor] = field(default_factory=list)
    sums: dict[str, torch.Tensor] = field(default_factory=dict)


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
    team: Team = field(default_factory=Team)
    sample_prompts: list[tuple[str, list[int]]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    metrics: dict[str, float] = field(default_factory=dict)
    last_checkpoint: str | None = None
    balance: ExpertBalance | None = None
    average: Average | None = None
    scaler: torch.amp.GradScaler | None = None
    _measured_at: int | None = None

    def run(self) -> dict[str, Any]:
        """Train from the step after `counters.step` to `max_steps`, or until asked to stop; return the job's result."""
        config = self.config
        if self.counters.ended == config.max_steps:  # it stopped early, and an earlier attempt was lost before it could say so
            return self._result(stopped=None)
        if self.counters.ended is not None:
            self.counters = replace(self.counters, ended=None, stale=0)
        self.model.train()
        gc.collect()
        gc.freeze()  # the network's many objects need not be walked again every few steps
        started, first, last_progress = time.perf_counter(), self.counters.step, 0.0
        for step in range(self.counters.step + 1, config.max_steps + 1):
            self.reporter.metrics(step, self.update(step))
            self.counters = replace(self.counters, step=step)
            due, last = step % config.checkpoint_every == 0, step == config.max_steps
            if due or last or step % config.eval_every == 0:
                due |= self._measure(step) and config.patience > 0  # the best must be there to be kept
                last |= self._is_stale(step)
            if due or last:
                self._save(final=last)
            now = time.perf_counter()
            if now - last_progress >= PROGRESS_EVERY_S or last:
                last_progress = now
                self.reporter.progress(step, config.max_steps, rate=(step - first) / max(now - started, 1e-9))
            if last:
                break
            request = self.team.agree(self.reporter.should_stop() or self.store.should_stop())
            if request is not None:
                if request == "stop_and_save" and not due:
                    self._save(final=False)
                self.store.raise_if_full(step)
                return self._result(stopped=request)
        return self._result(stopped=None)

    def _is_stale(self, step: int) -> bool:
        """Whether val_loss has not become better for so long that the run ends here."""
        patience, counters = self.config.patience, self.counters
        if not patience or counters.stale < patience or self._measured_at != step:
            return False
        self.counters = replace(counters, ended=self.config.max_steps)
        self.reporter.log(
            f"Stopped early: val_loss was lowest at {counters.lowest_val_loss:.4f}, and the {counters.stale} measurements since were not lower."
        )
        self.reporter.event("stopped_early", step=step, measurements=counters.stale, lowest_val_loss=counters.lowest_val_loss)
        return True

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
        before = RandomState.take()
        while (done := self._passes(step)) is None:
            self._halve(step)
            before.restore()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        clip = self.config.grad_clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], clip)
        if self.device.type == "cuda" and isinstance(self.batches, StepBatches):
            self.batches.prepare(step + 1)  # before the next line, where the CPU waits for the GPU
        train_loss, grad_norm = float(self.team.total(torch.stack(done.losses).sum())), float(whole(norm))
        overflow = self.scaler is not None and math.isfinite(train_loss) and not math.isfinite(grad_norm)
        if not (math.isfinite(train_loss) and math.isfinite(grad_norm)) and not (overflow and self._may_scale_down):
            raise self._not_finite(step, done.losses, loss=train_loss, grad_norm=grad_norm, before=before)
        if self.scaler is None:
            self.optimizer.step()
        else:  # leaves the weights as they are where fp16 overflowed, and scales less from then on
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.balance is not None:
            self.balance.step()
        if self.average is not None:
            self.average.update(step)
        self.metrics["train_loss"] = train_loss
        measured = {name: float(self.team.total(value)) / done.units for name, value in done.sums.items()}
        self.metrics |= measured
        lasted = max(time.perf_counter() - started, 1e-9)
        told = {"train_loss": train_loss, "learning_rate": learning_rate, **({} if overflow else {"grad_norm": grad_norm})}
        return {**told, "tok_per_sec": done.trained / lasted, "data_wait": done.waited_s / lasted, **measured}

    @property
    def _may_scale_down(self) -> bool:
        """Whether gradients that overflow in fp16 may be those of a scale too large."""
        return self.scaler is not None and self.scaler.get_scale() > 1.0

    def _passes(self, step: int) -> Gradients | None:
        """Add up the gradients of a step; None if memory did not suffice and smaller micro-batches may help."""
        asked = time.perf_counter()
        dealt = self.batches.at_step(step)
        waited = time.perf_counter() - asked
        done = Gradients(max(sum(batch.units for batch in dealt), 1), sum(batch.trained for batch in dealt), waited)
        try:
            self._pass_through(self.team.share(dealt), done)
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) and self._can_halve):
                raise
            return None
        return done

    @property
    def _can_halve(self) -> bool:
        """Whether smaller micro-batches are possible and leave the loss what it is: kto's compares the answers of a micro-batch."""
        if self.team.count > 1 or self.config.objective is Objective.KTO:
            return False
        return isinstance(self.batches, StepBatches) and self.batches.micro_batch > 1

    def _pass_through(self, micro_batches: Sequence[Any], done: Gradients) -> None:
        """Go forward and backward through micro-batches."""
        network = self.model if self.forward is None else self.forward
        for batch in micro_batches:
            with self.team.exchanging(network, last=batch is micro_batches[-1]):
                with self._precision():
                    cost = self.lesson.cost(network, batch.to(self.device))
                loss = cost.total / done.units
                done.losses.append(loss.detach() if cost.penalty is None else loss.detach() - cost.penalty / done.units)
                loss = loss * self.team.count  # DDP and FSDP average gradients, and the sum is wanted
                loss = loss if cost.extra is None else loss + cost.extra / len(micro_batches)
                torch.autograd.backward(loss if self.scaler is None else self.scaler.scale(loss))
            for name, value in cost.sums.items():
                done.sums[name] = done.sums.get(name, 0.0) + value.detach()

    def _halve(self, step: int) -> None:
        """Cut micro-batches in half for the rest of the run, and say so. The items of a step, and its loss, stay what they were."""
        assert isinstance(self.batches, StepBatches)
        self.forget()
        was = self.batches.micro_batch
        self.batches.cut_to(-(-was // 2))
        now, passes = self.batches.micro_batch, -(-self.batches.per_step // self.batches.micro_batch)
        self.counters = replace(self.counters, micro_batch=now)
        self.reporter.log(
            f"Step {step} did not fit into memory with micro_batch {was}: it goes on with {now}, {passes} of them a step. "
            "A step sees the same data as before."
        )
        self.reporter.event("micro_batch_halved", step=step, micro_batch=now, grad_accum_steps=passes)

    def forget(self) -> None:
        """Drop what a step that is not finished has left behind."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.balance is not None:
            self.balance.forget()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _not_finite(self, step: int, losses: list[torch.Tensor], *, loss: float, grad_norm: float, before: RandomState) -> JobFailed:
        """Keep the state before a step that went wrong, and return the failure that names the micro-batch at fault."""
        self.forget()
        were_finite = is_finite([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        at_fault, held = None, ""
        if were_finite and self.team.count == 1:
            at_fault = next((index for index, each in enumerate(losses) if not math.isfinite(float(each))), None)
            at_fault = self._first_bad_gradient(step) if at_fault is None else at_fault
            if at_fault is not None and isinstance(self.batches, StepBatches):
                held = self.batches.describe(step, at_fault)
        kept = self.counters.step if were_finite and self.team.count == 1 and self.counters.step else None
        if kept and kept not in self.store.steps():
            self._save(final=False, randomness=before)
        fault = NotFinite(
            step,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            micro_batches=len(losses),
            micro_batch=None if at_fault is None else at_fault + 1,
            held=held,
            were_finite=were_finite,
            kept=kept,
        )
        self.reporter.metrics(step, {"train_loss": loss, "grad_norm": grad_norm})
        self.reporter.event("not_finite", step=step, micro_batch=fault.micro_batch, held=held, kept=kept)
        return fault.in_words(self.config, autocast=self.autocast)

    def _first_bad_gradient(self, step: int) -> int | None:
        """Go through a step's micro-batches one by one; return the first (from 0) whose gradient is not finite."""
        for index, batch in enumerate(self.batches.at_step(step)):
            self._pass_through([batch], Gradients(max(batch.units, 1), 0))
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            bad = not is_finite(gradients)
            self.forget()
            if bad:
                return index
        return None

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _averaged(self) -> AbstractContextManager[Any]:
        """Let the network hold the average of its weights, where there is one: it is what is validated, sampled and saved."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _measure(self, step: int) -> bool:
        """Measure val_loss (and val_bpb) and write samples. Returns whether val_loss is the lowest so far."""
        self.model.eval()
        with self._averaged():
            with torch.inference_mode():
                values = self.lesson.validate(self.model, self.batches.validation(), device=self.device, precision=self._precision)
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
        if not values:
            return False
        self.reporter.metrics(step, values)
        self.metrics |= values
        self._measured_at = step
        lowest, measured = self.counters.lowest_val_loss, values["val_loss"]
        better = lowest is None or measured < lowest
        self.counters = replace(
            self.counters, lowest_val_loss=measured if better else lowest, stale=0 if better else self.counters.stale + 1
        )
        return better

    @property
    def stateful(self) -> dict[str, Stateful]:
        """What has a state of its own beside network and optimizer, by the name under which it is saved."""
        return named_parts(self.average, self.scaler)

    def _save(self, *, final: bool, randomness: RandomState | None = None) -> None:
        """Publish a checkpoint with its training state, then delete what need not be kept.

        The best is chosen among checkpoints, so that it is there to be kept.
        """
        step = self.counters.step
        val_loss = self.metrics.get("val_loss") if self._measured_at == step else None
        if val_loss is not None and (self.counters.best_val_loss is None or val_loss < self.counters.best_val_loss):
            self.counters = replace(self.counters, best_step=step, best_val_loss=val_loss)
        with self._averaged():
            weights, gathered = self.team.whole_model(self.model), gather_state(self.optimizer, self.stateful)
            randoms = self.team.each(randomness or RandomState.take())
            if self.team.is_first:
                self.last_checkpoint = self.store.save(
                    step,
                    weights=weights,
                    model=self.model,
                    tokenizer=self.tokenizer,
                    metrics={name: value for name, value in self.metrics.items() if val_loss is not None or not name.startswith("val_")},
                    final=final,
                    best_step=self.counters.best_step,
                    write_more=lambda folder: save_state(folder, gathered=gathered, counters=self.counters, randomness=randoms),
                )
        self.team.wait()
