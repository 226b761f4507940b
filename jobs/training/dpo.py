"""Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290) by TRL, speaking through our reporter.

TRL trains; a callback reports every step, asks whether to stop, and publishes our checkpoints. Resuming is the Trainer's own, from its
folder beside the run's checkpoints, which holds no file from outside and is emptied when the run ends.
"""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import DPOConfig, DPOTrainer

from backend.domain.schedule import learning_rate_at
from backend.errors import InvalidInput, JobFailed
from jobs.training.checkpoint_store import estimate_checkpoint_bytes
from jobs.training.dpo_data import TRUNCATION, PairIds, load_preferences
from jobs.training.loop import PROGRESS_EVERY_S
from jobs.training.networks import load_base, lora_config, make_optimizer, padding_id
from jobs.training.parts import Parts
from jobs.training.sampling import encode_sample_prompt, sample_completion

REPORTED = {
    "loss": "train_loss",
    "grad_norm": "grad_norm",
    "rewards/chosen": "rewards/chosen",
    "rewards/rejected": "rewards/rejected",
    "rewards/accuracies": "rewards/accuracies",
    "rewards/margins": "rewards/margins",
    "eval_loss": "val_loss",
    "eval_rewards/accuracies": "val_rewards/accuracies",
    "eval_rewards/margins": "val_rewards/margins",
}


def train_dpo(parts: Parts) -> dict[str, Any]:
    """Run dpo, from the Trainer's last state if there is one; return the job's result."""
    config = parts.config
    train_rows, val_rows = load_pairs(parts)
    parts.meter.begin()
    network = load_base(parts)
    place = parts.store.folder.parent / "trainer"
    parts.store.check_disk(  # twice: the Trainer keeps a copy of its own of the last one while the run lasts
        checkpoint_bytes=2 * estimate_checkpoint_bytes(network, adapter=config.method == "lora"),
        max_steps=config.max_steps,
        checkpoint_every=config.checkpoint_every,
    )
    resume_from = last_trainer_state(place)
    callback = ReportingCallback(parts, resumed_from=resume_from)
    arguments = trainer_arguments(parts, place, has_val=bool(val_rows))
    trainer = make_trainer(parts, network, arguments, callback, train_rows=train_rows, val_rows=val_rows)
    trainer.train(resume_from_checkpoint=None if resume_from is None else str(resume_from))
    if callback.stopped is None:
        shutil.rmtree(place, ignore_errors=True)
    return callback.result()


def load_pairs(parts: Parts) -> tuple[list[PairIds], list[PairIds]]:
    """Return the encoded pairs of both splits. Raises InvalidInput if there is nothing to train on."""
    datasets.disable_progress_bars()
    if parts.tokenizer.pad_token is None:
        parts.tokenizer.pad_token = parts.tokenizer.convert_ids_to_tokens(padding_id(parts.tokenizer))
    train_rows, val_rows = load_preferences(parts, "train"), load_preferences(parts, "val")
    if not train_rows:
        raise InvalidInput("The train split has no usable preference pair.", field="dataset")
    return train_rows, val_rows


def make_trainer(
    parts: Parts,
    network: PreTrainedModel,
    arguments: DPOConfig,
    callback: TrainerCallback,
    *,
    train_rows: list[PairIds],
    val_rows: list[PairIds],
) -> ScheduledDpoTrainer:
    """Put TRL's trainer together round a network; the reference is a second copy, or the base without its adapters."""
    adapters = lora_config(parts.config) if parts.config.method == "lora" else None
    trainer = ScheduledDpoTrainer(
        parts,
        model=network,
        ref_model=None if adapters is not None else load_base(parts),
        args=arguments,
        train_dataset=datasets.Dataset.from_list(train_rows),
        eval_dataset=datasets.Dataset.from_list(val_rows) if val_rows else None,
        processing_class=parts.tokenizer,
        peft_config=adapters,
        callbacks=[callback],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def last_trainer_state(place: Path) -> Path | None:
    """Return the newest complete state of the Trainer; ones torn by a crash (its own file is written last) are removed."""
    found = sorted((path for path in place.glob("checkpoint-*") if path.name[11:].isdigit()), key=lambda path: int(path.name[11:]))
    for path in reversed(found):
        if (path / "trainer_state.json").is_file():
            return path
        shutil.rmtree(path)
    return None


def trainer_arguments(parts: Parts, place: Path, *, has_val: bool, saves: bool = True) -> DPOConfig:
    """Translate a run's config for TRL: one log line a step, nothing sent anywhere."""
    config = parts.config
    return DPOConfig(
        output_dir=str(place),
        per_device_train_batch_size=config.micro_batch,
        per_device_eval_batch_size=config.micro_batch,
        gradient_accumulation_steps=config.grad_accum_steps,
        max_steps=config.max_steps,
        max_grad_norm=config.grad_clip,
        beta=config.preference.beta,
        max_length=config.context,
        truncation_mode=TRUNCATION,
        seed=config.seed,
        bf16=parts.autocast == torch.bfloat16,
        use_cpu=parts.device.type == "cpu",
        gradient_checkpointing=config.recompute,
        gradient_checkpointing_kwargs={"use_reentrant": False} if config.recompute else None,
        dataloader_pin_memory=parts.device.type == "cuda",
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if has_val else "no",
        eval_steps=config.eval_every,
        save_strategy="steps" if saves else "no",
        save_steps=config.checkpoint_every,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        push_to_hub=False,
    )


class ScheduledDpoTrainer(DPOTrainer):  # type: ignore[misc]
    """TRL's trainer with the optimizer and learning-rate curve of every other run, and no model card to fill in."""

    def __init__(self, parts: Parts, **arguments: Any) -> None:
        self._parts = parts
        self.optimizer: torch.optim.Optimizer | None
        self.lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
        super().__init__(**arguments)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Return AdamW as `networks.make_optimizer` sets it up."""
        if self.optimizer is None:
            self.optimizer = make_optimizer(model or self.model, self._parts.config)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the curve of `domain.schedule`, which knows `max_steps` itself."""
        config = self._parts.config
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.create_optimizer(), lambda done: learning_rate_at(done + 1, config) / config.learning_rate
            )
        return self.lr_scheduler

    def _prepare_dataset(self, dataset: datasets.Dataset, *_: Any) -> datasets.Dataset:
        """Take the pairs as they are: token ids already."""
        return dataset

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write nothing: lineage is in the checkpoint's own card."""


class ReportingCallback(TrainerCallback):  # type: ignore[misc]
    """Between TRL and the reporter: metrics every step, stop requests, samples, and checkpoints in our form."""

    def __init__(self, parts: Parts, *, resumed_from: Path | None) -> None:
        self._parts, self._resumed_from = parts, resumed_from
        self.stopped: str | None = None
        self._metrics: dict[str, float] = {}
        self._best: tuple[float, int] | None = None
        self._measured_at = -1
        self._last_checkpoint: str | None = None
        self._final_step = 0
        self._started = self._step_started = self._last_progress = time.perf_counter()
        self._first_step, self._tokens_before = 0, 0.0

    def result(self) -> dict[str, Any]:
        """Return the job's result."""
        metrics = dict(self._metrics)
        if self._best is not None:
            metrics |= {"best_val_loss": self._best[0], "best_step": float(self._best[1])}
        return {"final_step": self._final_step, "stopped": self.stopped, "metrics": metrics, "checkpoint": self._last_checkpoint}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Say where a resumed run goes on; publish the checkpoint that a crash may have kept from being published."""
        self._started = self._step_started = time.perf_counter()
        self._first_step = self._final_step = state.global_step
        if self._resumed_from is None:
            if self._parts.spec.attempt > 1:  # what an earlier attempt reported before its first checkpoint is reported again
                self._parts.reporter.event("resumed", step=0, folder=None)
            return
        for entry in state.log_history:
            self._remember(entry)
        place = self._parts.store.place(state.global_step)
        if state.global_step in self._parts.store.steps():
            self._last_checkpoint = self._parts.spec.relative(place)
        else:
            self._publish(state.global_step, kwargs["model"], final=False)
        self._parts.reporter.event("resumed", step=state.global_step, folder=self._parts.spec.relative(place))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start the step's clock."""
        self._step_started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Report progress and obey a stop request; a checkpoint always comes with a val_loss."""
        step, config, now = state.global_step, self._parts.config, time.perf_counter()
        self._final_step = step
        if now - self._last_progress >= PROGRESS_EVERY_S or step == config.max_steps:
            self._last_progress = now
            self._parts.reporter.progress(step, config.max_steps, rate=(step - self._first_step) / max(now - self._started, 1e-9))
        if control.should_save and args.eval_strategy != "no":
            control.should_evaluate = True
        request = self._parts.reporter.should_stop()
        if request is not None and step < config.max_steps:
            self.stopped = request
            control.should_training_stop = True
            control.should_save = request == "stop_and_save"
            control.should_evaluate = False

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Pass a step's numbers on under our names; a loss that is not finite ends the run before it is saved."""
        logs = logs or {}
        values = {ours: float(logs[theirs]) for theirs, ours in REPORTED.items() if theirs in logs}
        step = state.global_step
        if "train_loss" in values:
            rate = learning_rate_at(step, self._parts.config)
            if not math.isfinite(values["train_loss"]) or not math.isfinite(values.get("grad_norm", 0.0)):
                raise JobFailed(
                    f"The loss became {values['train_loss']} at step {step}, learning rate {rate:.3g}.",
                    remedy="Lower the learning rate or preference.beta. The last checkpoint is intact.",
                    field="learning_rate",
                )
            tokens = float(logs.get("num_tokens", self._tokens_before))
            elapsed = max(time.perf_counter() - self._step_started, 1e-9)
            values |= {"learning_rate": rate, "tok_per_sec": (tokens - self._tokens_before) / elapsed}
            self._tokens_before = tokens
        if values:
            self._parts.reporter.metrics(step, values)
            self._remember({**values, "step": step})

    def _remember(self, values: dict[str, float]) -> None:
        known = set(REPORTED.values())
        for name, value in values.items():
            ours = REPORTED.get(name, name)
            if ours in known:
                self._metrics[ours] = float(value)
        val_loss, step = values.get("val_loss", values.get("eval_loss")), int(values.get("step", 0))
        if val_loss is not None:
            self._measured_at = step
            # the best is chosen among checkpoints, so that it is there to be kept
            due = step % self._parts.config.checkpoint_every == 0 or step == self._parts.config.max_steps
            if due and (self._best is None or val_loss < self._best[0]):
                self._best = (float(val_loss), step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Publish our checkpoint beside the Trainer's state, with samples."""
        self._write_samples(state.global_step, kwargs["model"])
        self._publish(state.global_step, kwargs["model"], final=state.global_step >= self._parts.config.max_steps)

    def _publish(self, step: int, model: torch.nn.Module, *, final: bool) -> None:
        metrics = {name: value for name, value in self._metrics.items() if not name.startswith("val_") or self._measured_at == step}
        self._last_checkpoint = self._parts.store.save(step, model=model, tokenizer=self._parts.tokenizer, metrics=metrics, final=final)
        self._parts.store.prune(best_step=None if self._best is None else self._best[1])

    def _write_samples(self, step: int, model: torch.nn.Module) -> None:
        config, training = self._parts.config, model.training
        model.eval()
        for index, prompt in enumerate(config.sample_prompts):
            ids = encode_sample_prompt(self._parts.tokenizer, prompt, chat=True)
            completion = sample_completion(
                model, self._parts.tokenizer, ids, max_tokens=config.sample_tokens, context=config.context, seed=config.seed + index
            )
            self._parts.reporter.sample(step, prompt, completion)
        model.train(training)
