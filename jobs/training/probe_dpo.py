"""A dpo run tried out: TRL's trainer as a run builds it, stopped after a few steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from jobs.training.dpo import load_pairs, make_trainer, trainer_arguments
from jobs.training.dpo_data import PairIds
from jobs.training.metering import step_times
from jobs.training.networks import load_base
from jobs.training.parts import Parts

WARM_UP, FEWEST, MOST = 2, 3, 40
TIMED_S = 6.0


def probe_dpo(parts: Parts, *, progress: Callable[[float], None]) -> dict[str, Any]:
    """Measure a dpo run. The longest pairs are among those trained on, each of which is seen once in a while."""
    rows, _ = load_pairs(parts)
    parts.meter.begin()
    network = load_base(parts)
    watch = _Watch(parts, progress)
    arguments = trainer_arguments(parts, parts.spec.folder / "trainer", has_val=False, saves=False)
    arguments.train_sampling_strategy = "sequential"
    trainer = make_trainer(parts, network, arguments, watch, train_rows=_longest_first(parts, rows), val_rows=[])
    trainer.train()
    return {
        "measured_bytes": parts.meter.peak_bytes(),
        "allocated_bytes": parts.meter.allocated_bytes(),
        "tokens_per_s": watch.tokens / max(sum(watch.seconds), 1e-9),
        "longest": min(max(map(_length, rows)), parts.config.context),
        "accumulated": parts.config.grad_accum_steps,
        **step_times(watch.seconds),
    }


def _longest_first(parts: Parts, rows: list[PairIds]) -> list[PairIds]:
    """Return the rows in the order of the probe: the longest for the warm steps, then all as they come."""
    per_step = parts.config.micro_batch * parts.config.grad_accum_steps
    ordered = sorted(rows, key=_length, reverse=True)
    warm = [ordered[index % len(ordered)] for index in range(per_step)]
    return [*(WARM_UP * warm), *rows]


def _length(row: PairIds) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Times steps after the warm ones and ends the training when there are enough. `tokens` are those of the steps timed."""

    def __init__(self, parts: Parts, progress: Callable[[float], None]) -> None:
        self._parts, self._progress = parts, progress
        self.seconds: list[float] = []
        self.tokens = 0.0
        self._started = self._began = time.perf_counter()
        self._seen = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start a step's clock, and the whole's after the warm steps."""
        self._started = time.perf_counter()
        if state.global_step == WARM_UP:
            self._began = self._started

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Keep a step's time; end when the time is up."""
        now = time.perf_counter()
        if state.global_step <= WARM_UP:
            return
        self.seconds.append(now - self._started)
        spent = now - self._began
        self._progress(min(1.0, max(len(self.seconds) / MOST, spent / TIMED_S)))
        enough = len(self.seconds) >= FEWEST and (spent > TIMED_S or len(self.seconds) >= MOST)
        control.should_training_stop = enough or self._parts.reporter.should_stop() is not None

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Count tokens: TRL's own count runs on from step to step."""
        total = float((logs or {}).get("num_tokens", self._seen))
        if state.global_step > WARM_UP:
            self.tokens += total - self._seen
        self._seen = total
