"""What grpo costs: completions that did better than their group are to become likelier, those that did worse less likely."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import peft
import torch

from backend.domain.training.config import RunConfig
from jobs.batches.base import IGNORE
from jobs.batches.prompts import Question
from jobs.training.losses.output_head import OutputHead
from jobs.training.losses.preference import grpo_losses
from jobs.training.objectives.base import Cost, Precision
from jobs.training.objectives.rollouts import RolloutBatch


@dataclass(frozen=True)
class RolloutLesson:
    """grpo. A unit is a completion. `batches` write completions (`RolloutBatches`). `reference` is the network that the policy is pulled to: the policy itself where it has adapters."""

    config: RunConfig
    head: OutputHead
    batches: Any
    reference: Any = None

    def cost(self, network: torch.nn.Module, batch: RolloutBatch) -> Cost:
        """Return the loss summed over completions. A step's completions are all of its own weights, so the old policy is this one."""
        grpo = self.config.grpo
        logprobs, router_loss = self.head.logprobs(network, batch.inputs, batch.targets, batch.columns, temperature=grpo.temperature)
        losses, divergence = grpo_losses(
            logprobs,
            old=logprobs.detach(),
            reference=self._reference(batch),
            advantages=batch.advantages,
            mask=batch.targets[:, batch.columns] != IGNORE,
            clip_range=grpo.clip_range,
            kl_weight=grpo.kl_weight,
        )
        sums = {"reward/mean": batch.rewards.sum(), "reward/std": batch.spread.sum(), "completion_length": batch.lengths.float().sum()}
        if self.reference is not None:
            sums["kl"] = divergence.sum()
        return Cost(losses.sum(), extra=router_loss, sums=sums)

    def validate(
        self, network: torch.nn.Module, batches: Iterable[list[Question]], *, device: torch.device, precision: Precision
    ) -> dict[str, float]:
        """Return the mean reward of one completion of each prompt of the val split; val_loss is that with the sign turned."""
        rewards, tokens = [], 0
        for number, questions in enumerate(batches):
            with precision():
                written = self.batches.write(questions, seed=self.config.seed + number)
            rewards += [each.reward for each in written]
            tokens += sum(len(each.ids) for each in written)
        if not rewards:
            return {}
        mean = sum(rewards) / len(rewards)
        return {"val_loss": -mean, "val_reward/mean": mean, "val_completion_length": tokens / len(rewards)}

    @torch.no_grad()
    def _reference(self, batch: RolloutBatch) -> torch.Tensor | None:
        if self.reference is None:
            return None
        without_adapters = isinstance(self.reference, peft.PeftModel)
        without: AbstractContextManager[Any] = self.reference.disable_adapter() if without_adapters else nullcontext()
        training = self.reference.training
        self.reference.eval()
        with without:
            head = self.head if without_adapters else OutputHead(self.reference)
            found = head.logprobs(self.reference, batch.inputs, batch.targets, batch.columns, temperature=self.config.grpo.temperature)[0]
        self.reference.train(training)
        return found
