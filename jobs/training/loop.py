"""The training loop: forward and backward passes, the update, validation, samples, checkpoints, early stopping.

It is deterministic in weights, training state and seed: batches and learning rate are functions of the step, and
validation and samples preserve the random state.
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

from backend.domain.jobs.events import MicroBatchHalvedEvent, NotFiniteEvent, StoppedEarlyEvent
from backend.domain.jobs.results import TrainResult
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config import RunConfig
from backend.domain.training.rewards import SAME_REWARDS
from backend.domain.training.schedule import learning_rate_at
from backend.domain.training.summary import TOKENS
from backend.errors import JobFailed
from jobs.batches.base import Batches, StepBatches
from jobs.modeling.devices import is_gpu, is_out_of_memory, release_gpu_cache
from jobs.reporter import PROGRESS_EVERY_S, Reporter, StopRequested
from jobs.training.checkpoints import CheckpointStore, Counters, RandomState, gather_state, save_state
from jobs.training.distributed import ProcessGroup, gather_tensor
from jobs.training.failures import NotFinite, is_finite
from jobs.training.held_out import WorstRows, write_held_out
from jobs.training.network.ema import Ema, named_states
from jobs.training.network.experts import ExpertBalance
from jobs.training.objectives.base import TrainingObjective
from jobs.training.samples import sample_completion
from jobs.training.strategy import Strategy


@dataclass
class StepTotals:
    """Totals of a step's passes: units, tokens, seconds until its data was there, losses by micro-batch, sums of
    metrics.
    """

    units: int
    trained: int
    data_s: float = 0.0
    losses: list[torch.Tensor] = field(default_factory=list)
    metric_sums: dict[str, torch.Tensor] = field(default_factory=dict)


@dataclass
class TrainingLoop:
    """A run in progress. `model` is saved and sampled, `strategy` trains it. `sample_prompts`: (prompt, token ids)."""

    config: RunConfig
    model: torch.nn.Module
    strategy: Strategy
    tokenizer: PreTrainedTokenizerBase
    objective: TrainingObjective
    batches: Batches
    store: CheckpointStore
    reporter: Reporter
    device: torch.device
    autocast: torch.dtype | None = None
    process_group: ProcessGroup = field(default_factory=ProcessGroup)
    sample_prompts: list[tuple[str, list[int]]] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    metrics: dict[str, float] = field(default_factory=dict)
    last_checkpoint: str | None = None
    expert_balance: ExpertBalance | None = None
    ema: Ema | None = None
    scaler: torch.amp.GradScaler | None = None
    _steps_without_gradient: int = 0
    _validated_at: int | None = None
    _worst: WorstRows = field(default_factory=WorstRows)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer of the trained weights."""
        return self.strategy.optimizer

    def run(self) -> TrainResult:
        """Train from the step after `counters.step` to `max_steps`, or until asked to stop; return the job's result."""
        config = self.config
        # an earlier attempt stopped early, and was lost before it reported its end
        if self.counters.ended == config.max_steps:
            return self._result(stopped=None)
        if self.counters.ended is not None:
            self.counters = replace(self.counters, ended=None, stale=0)
        self.model.train()
        gc.collect()
        gc.freeze()  # keeps the collector from walking the network's many objects every few steps
        started, first, last_progress = time.perf_counter(), self.counters.step, 0.0
        for step in range(self.counters.step + 1, config.max_steps + 1):
            try:
                values = self.update(step)
            except StopRequested:  # while the step waited for data
                return self._stop(self.reporter.should_stop())
            self.reporter.metrics(step, values)
            self.counters = replace(self.counters, step=step)
            due, last = step % config.checkpoint_every == 0, step == config.max_steps
            if due or last or step % config.eval_every == 0:
                # early stopping keeps the best, so it must be saved
                due |= self._validate(step) and config.patience > 0
                last |= self._is_stale(step)
            if due or last:
                self._save(is_final=last)
                self._write_held_out(step)
            now = time.perf_counter()
            if now - last_progress >= PROGRESS_EVERY_S or last:
                last_progress = now
                note = self.batches.progress() if isinstance(self.batches, StepBatches) else ""
                self.reporter.progress(
                    step, config.max_steps, rate=(step - first) / max(now - started, 1e-9), message=note
                )
            if last:
                break
            request = self.process_group.broadcast_request(self.reporter.should_stop() or self.store.should_stop())
            if request is not None:
                return self._stop(request)
        return self._result(stopped=None)

    def _stop(self, request: StopRequest | None) -> TrainResult:
        """End the run on request, after a checkpoint of its last step if that is asked for and missing."""
        step = self.counters.step
        if request == "stop_and_save" and step and step not in self.store.steps():
            self._save(is_final=False)
        self.store.raise_if_full(step)
        return self._result(stopped=request)

    def _is_stale(self, step: int) -> bool:
        """Return whether val_loss has not improved for `patience` measurements, which ends the run."""
        patience, counters = self.config.patience, self.counters
        if not patience or counters.stale < patience or self._validated_at != step:
            return False
        self.counters = replace(counters, ended=self.config.max_steps)
        self.reporter.log(
            f"Stopped early: val_loss has not improved on {counters.lowest_val_loss:.4f} in {counters.stale}"
            " measurements."
        )
        self.reporter.emit(
            StoppedEarlyEvent(step=step, measurements=counters.stale, lowest_val_loss=counters.lowest_val_loss)
        )
        return True

    def _result(self, *, stopped: StopRequest | None) -> TrainResult:
        if self.counters.step and self._steps_without_gradient == self.counters.step:
            samples = self.config.objective.samples
            self.reporter.log(SAME_REWARDS if samples else "The gradients were 0 in every step: nothing was learned.")
        metrics = dict(self.metrics)
        if self.counters.best_val_loss is not None and self.counters.best_step is not None:
            metrics |= {"best_val_loss": self.counters.best_val_loss, "best_step": float(self.counters.best_step)}
        return TrainResult(
            final_step=self.counters.step, stopped=stopped, metrics=metrics, checkpoint=self.last_checkpoint
        )

    def update(self, step: int) -> dict[str, float]:
        """Do one optimizer update; return its metric points. The loss is weighted by token, whatever the batches."""
        started = time.perf_counter()
        learning_rate = learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        random_before = RandomState.capture()
        while (totals := self._accumulate(step)) is None:
            self._halve_micro_batch(step)
            random_before.restore()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm = self.strategy.clip(self.config.grad_clip)
        if is_gpu(self.device) and isinstance(self.batches, StepBatches):
            self.batches.prefetch(step + 1)  # before the next line, where the CPU waits for the GPU
        train_loss = float(self.process_group.sum(torch.stack(totals.losses).sum()))
        grad_norm = float(gather_tensor(norm))
        is_overflow = self.scaler is not None and math.isfinite(train_loss) and not math.isfinite(grad_norm)
        if not (math.isfinite(train_loss) and math.isfinite(grad_norm)) and not (is_overflow and self._can_lower_scale):
            raise self._not_finite(
                step, totals.losses, loss=train_loss, grad_norm=grad_norm, random_before=random_before
            )
        self._steps_without_gradient += not grad_norm
        self.strategy.step(self.scaler)
        if self.expert_balance is not None:
            self.expert_balance.step()
        if self.ema is not None:
            self.ema.update(step)
        self.metrics["train_loss"] = train_loss
        means = {
            name: float(self.process_group.sum(value)) / totals.units for name, value in totals.metric_sums.items()
        }
        self.metrics |= means
        step_s = max(time.perf_counter() - started, 1e-9)
        values = {
            "train_loss": train_loss,
            "learning_rate": learning_rate,
            **({} if is_overflow else {"grad_norm": grad_norm}),
        }
        if self.counters.tokens is not None:
            self.counters = replace(self.counters, tokens=self.counters.tokens + totals.trained)
            values[TOKENS] = float(self.counters.tokens or 0)
        source = "generation" if self.config.objective.samples else "data_wait"
        return {**values, "tok_per_sec": totals.trained / step_s, source: totals.data_s / step_s, **means}

    @property
    def _can_lower_scale(self) -> bool:
        """Return whether gradients that overflow in fp16 may do so because of the scaler's scale."""
        return self.scaler is not None and self.scaler.get_scale() > 1.0

    def _accumulate(self, step: int) -> StepTotals | None:
        """Accumulate the gradients of a step; None if memory ran out and smaller micro-batches may help."""
        started = time.perf_counter()
        micro_batches = self.batches.at_step(step)
        totals = StepTotals(
            units=max(sum(batch.units for batch in micro_batches), 1),
            trained=sum(batch.trained for batch in micro_batches),
            data_s=time.perf_counter() - started,
        )
        try:
            self._backward(self.process_group.local_share(micro_batches), totals)
        except (RuntimeError, MemoryError) as error:
            if not (is_out_of_memory(error) and self._can_halve):
                raise
            return None
        return totals

    @property
    def _can_halve(self) -> bool:
        """Return whether smaller micro-batches are possible and leave the loss of a step as it is."""
        if self.process_group.count > 1 or not self.objective.is_divisible:
            return False
        return isinstance(self.batches, StepBatches) and self.batches.micro_batch > 1

    def _backward(self, micro_batches: Sequence[Any], totals: StepTotals) -> None:
        """Run the forward and backward passes of micro-batches, and add to the totals."""
        for batch in micro_batches:
            with self.strategy.micro_batch(is_last=batch is micro_batches[-1]):
                with self._precision():
                    output = self.objective.compute_loss(self.strategy.forward, batch.to(self.device))
                loss = output.total / totals.units
                penalty = 0.0 if output.penalty is None else output.penalty / totals.units
                totals.losses.append(loss.detach() - penalty)
                loss = loss * self.process_group.count  # strategies average gradients over ranks; the sum is needed
                loss = loss if output.aux_loss is None else loss + output.aux_loss / len(micro_batches)
                self.strategy.backward(loss if self.scaler is None else self.scaler.scale(loss))
            for name, value in output.metric_sums.items():
                totals.metric_sums[name] = totals.metric_sums.get(name, 0.0) + value.detach()

    def _halve_micro_batch(self, step: int) -> None:
        """Halve micro-batches for the rest of the run, and log it. The items of a step and its loss stay the same."""
        assert isinstance(self.batches, StepBatches)
        self.discard_gradients()
        before = self.batches.micro_batch
        self.batches.reduce_micro_batch(-(-before // 2))
        now, passes = self.batches.micro_batch, -(-self.batches.items_per_step // self.batches.micro_batch)
        self.counters = replace(self.counters, micro_batch=now)
        self.reporter.log(
            f"Step {step} ran out of memory with micro_batch {before}: continuing with {now}, {passes} per step. "
            "A step sees the same data as before."
        )
        self.reporter.emit(MicroBatchHalvedEvent(step=step, micro_batch=now, grad_accum_steps=passes))

    def discard_gradients(self) -> None:
        """Discard the accumulated gradients of an unfinished step."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.expert_balance is not None:
            self.expert_balance.reset()
        gc.collect()
        release_gpu_cache()

    def _not_finite(
        self, step: int, losses: list[torch.Tensor], *, loss: float, grad_norm: float, random_before: RandomState
    ) -> JobFailed:
        """Save the state before a step whose loss or gradient is not finite; return the failure, with its place."""
        self.discard_gradients()
        weights_were_finite = is_finite([parameter for parameter in self.model.parameters() if parameter.requires_grad])
        is_traceable = weights_were_finite and self.process_group.count == 1
        index = self._first_not_finite(step, losses) if is_traceable else None
        items = (
            self.batches.describe(step, index) if index is not None and isinstance(self.batches, StepBatches) else ""
        )
        saved_step = self.counters.step if is_traceable and self.counters.step else None
        if saved_step and saved_step not in self.store.steps():
            self._save(is_final=False, random_state=random_before)
        fault = NotFinite(
            step,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            num_micro_batches=len(losses),
            micro_batch=None if index is None else index + 1,
            items=items,
            weights_were_finite=weights_were_finite,
            saved_step=saved_step,
        )
        self.reporter.metrics(step, {"train_loss": loss, "grad_norm": grad_norm})
        self.reporter.emit(NotFiniteEvent(step=step, micro_batch=fault.micro_batch, held=items, saved_step=saved_step))
        return fault.to_failure(self.config, autocast=self.autocast)

    def _first_not_finite(self, step: int, losses: list[torch.Tensor]) -> int | None:
        """Return the index of a step's first micro-batch whose loss, or else whose own gradient, is not finite."""
        for index, loss in enumerate(losses):
            if not math.isfinite(float(loss)):
                return index
        for index, batch in enumerate(self.batches.at_step(step)):
            self._backward([batch], StepTotals(units=max(batch.units, 1), trained=0))
            has_finite_gradient = is_finite(
                [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            )
            self.discard_gradients()
            if not has_finite_gradient:
                return index
        return None

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _ema_weights(self) -> AbstractContextManager[Any]:
        """Swap the average of the weights into the network, if the run has one, to validate, sample and save it."""
        return nullcontext() if self.ema is None else self.ema.swapped_in()

    def _validate(self, step: int) -> bool:
        """Measure val_loss and the other validation metrics, and sample completions. Returns whether val_loss is the
        lowest so far.
        """
        self.model.eval()
        self._worst = WorstRows()
        with self._ema_weights(), self.strategy.without_gradients():
            values = self.objective.validate(
                self.model,
                self.batches.validation(),
                device=self.device,
                precision=self._precision,
                worst=self._worst,
            )
            for index, (prompt, ids) in enumerate(self.sample_prompts):
                with self._precision():
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
        self._validated_at = step
        lowest, val_loss = self.counters.lowest_val_loss, values["val_loss"]
        is_better = lowest is None or val_loss < lowest
        self.counters = replace(
            self.counters,
            lowest_val_loss=val_loss if is_better else lowest,
            stale=0 if is_better else self.counters.stale + 1,
        )
        return is_better

    def _write_held_out(self, step: int) -> None:
        """Write the held-out rows with the highest losses of this step's validation, and what the network gives for
        them: not on several devices, where each would have to generate as many tokens, nor by one that only scores.
        """
        if not self._worst.num_rows or self._validated_at != step or not self.process_group.is_first:
            return
        writes = self.process_group.count == 1 and self.config.objective.facts.writes
        self.model.eval()
        try:
            with self._ema_weights(), self._precision():
                write_held_out(
                    self._worst,
                    self.store.folder.parent,
                    step=step,
                    config=self.config,
                    model=self.model if writes else None,
                    tokenizer=self.tokenizer,
                    log=self.reporter.log,
                )
        except OSError as error:  # a disk that is full ends the run where it lacks a checkpoint
            self.reporter.log(f"The held-out rows were not written: {error}.")
        finally:
            self.model.train()

    def _save(self, *, is_final: bool, random_state: RandomState | None = None) -> None:
        """Publish a checkpoint with its training state, then delete old ones. The best step is chosen among
        checkpoints, so that its checkpoint exists.
        """
        step = self.counters.step
        val_loss = self.metrics.get("val_loss") if self._validated_at == step else None
        if val_loss is not None and (self.counters.best_val_loss is None or val_loss < self.counters.best_val_loss):
            self.counters = replace(self.counters, best_step=step, best_val_loss=val_loss)
        group = self.process_group
        with self._ema_weights():
            weights = self.strategy.full_weights()
            state = gather_state(self.optimizer, named_states(self.ema, self.scaler))
            randoms = group.gather(random_state or RandomState.capture())
            if group.is_first:
                self.last_checkpoint = self.store.save(
                    step,
                    weights=weights,
                    model=self.model,
                    tokenizer=self.tokenizer,
                    metrics={
                        name: value
                        for name, value in self.metrics.items()
                        if val_loss is not None or not name.startswith("val_")
                    },
                    final=is_final,
                    best_step=self.counters.best_step,
                    write_more=lambda folder: save_state(
                        folder, gathered=state, counters=self.counters, randomness=randoms
                    ),
                )
        group.barrier()
