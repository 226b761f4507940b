"""Group relative policy optimization, grpo: raise the likelihood of completions above their group's mean."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch

from backend.domain.data.splits import SPLITS
from backend.domain.training.config import RunConfig
from backend.domain.training.rewards import Rewards
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE
from jobs.batches.prompts import PromptExample, load_questions
from jobs.modeling.tokenizers import padding_id
from jobs.training.context import TrainingContext
from jobs.training.held_out import HeldOutIds, WorstRows
from jobs.training.losses.output_head import OutputHead
from jobs.training.losses.preference import grpo_losses
from jobs.training.network.load import load_reference
from jobs.training.objectives.base import LossOutput, ObjectiveStages, Precision, Splits, batch_sizes, token_source
from jobs.training.objectives.rollouts import RolloutBatch, RolloutBatches, RolloutCompletion


@dataclass(frozen=True)
class GrpoObjective:
    """The clipped policy gradient of GRPO with a penalty on the divergence from a reference. A unit is a completion.

    `batches` sample the completions. `reference` is the network of the divergence, the policy itself if it has
    adapters; None without a penalty.
    """

    config: RunConfig
    head: OutputHead
    batches: RolloutBatches
    reference: Any = None
    is_divisible: bool = True

    def compute_loss(self, network: torch.nn.Module, batch: RolloutBatch) -> LossOutput:
        """Return the loss summed over completions. A step's completions are sampled from its own weights, so the old
        policy is this one.
        """
        grpo = self.config.grpo
        logprobs, router_loss = self.head.logprobs(
            network, batch.inputs, batch.targets, batch.columns, temperature=grpo.temperature
        )
        losses, divergence = grpo_losses(
            logprobs,
            old=logprobs.detach(),
            reference=self._reference_logprobs(batch),
            advantages=batch.advantages,
            mask=batch.targets[:, batch.columns] != IGNORE,
            clip_range=grpo.clip_range,
            kl_weight=grpo.kl_weight,
        )
        sums = {
            "reward/mean": batch.rewards.sum(),
            "reward/std": batch.spread.sum(),
            "completion_length": batch.lengths.float().sum(),
        }
        if self.reference is not None:
            sums["kl"] = divergence.sum()
        return LossOutput(losses.sum(), aux_loss=router_loss, metric_sums=sums)

    def validate(
        self,
        network: torch.nn.Module,
        batches: Iterable[list[PromptExample]],
        *,
        device: torch.device,
        precision: Precision,
        worst: WorstRows | None = None,
    ) -> dict[str, float]:
        """Return the mean reward of one completion for each prompt of the val split; val_loss is its negative."""
        rewards, tokens = [], 0
        for number, questions in enumerate(batches):
            with precision():
                completions = self.batches.sample(questions, seed=self.config.seed + number)
            rewards += [completion.reward for completion in completions]
            if worst is not None:
                for completion in completions:
                    worst.offer(-completion.reward, partial(_held_out, completion))
            tokens += sum(len(completion.ids) for completion in completions)
        if not rewards:
            return {}
        mean = sum(rewards) / len(rewards)
        return {"val_loss": -mean, "val_reward/mean": mean, "val_completion_length": tokens / len(rewards)}

    @torch.no_grad()
    def _reference_logprobs(self, batch: RolloutBatch) -> torch.Tensor | None:
        if self.reference is None:
            return None
        is_policy = isinstance(self.reference, peft.PeftModel)
        without_adapters: AbstractContextManager[Any] = self.reference.disable_adapter() if is_policy else nullcontext()
        is_training = self.reference.training
        self.reference.eval()
        with without_adapters:
            head = self.head if is_policy else OutputHead(self.reference)
            logprobs = head.logprobs(
                self.reference, batch.inputs, batch.targets, batch.columns, temperature=self.config.grpo.temperature
            )[0]
        self.reference.train(is_training)
        return logprobs


def _held_out(completion: RolloutCompletion) -> HeldOutIds:
    return HeldOutIds(completion.question.ids, " | ".join(completion.question.answers), given=completion.text)


def load_prompts(ctx: TrainingContext) -> Splits[list[PromptExample]]:
    """Encode the prompts. Raises InvalidInput if a reward needs answers and the dataset has none."""
    config = ctx.config
    if config.grpo.needs_answers and ctx.spec.payload.dataset_kind == "prompts":
        raise InvalidInput(
            "The prompts have no answers, and one of the rewards compares completions with them.",
            remedy="Use rewards of kind regex or length, or a dataset with answers (instruction, benchmark).",
            field="grpo.rewards",
        )
    source = token_source(ctx)
    train, val = (
        load_questions(source, split, context=config.context, max_new_tokens=config.grpo.max_new_tokens)
        for split in SPLITS
    )
    return Splits(train, val)


def prepare_rollouts(ctx: TrainingContext, questions: Splits[list[PromptExample]], model: Any) -> RolloutBatches:
    """Build batches of completions that the network samples itself."""
    return RolloutBatches(
        questions.train,
        questions.val,
        policy=model,
        config=ctx.config.grpo,
        sizes=batch_sizes(ctx),
        tokenizer=ctx.tokenizer,
        rewards=Rewards(ctx.config.grpo.rewards, log=ctx.reporter.log),
        pad_id=padding_id(ctx.tokenizer),
        autocast=ctx.autocast,
    )


def build(ctx: TrainingContext, batches: RolloutBatches, model: Any) -> GrpoObjective:
    """Build the objective, with a frozen copy of the base as reference if the policy has no adapters to switch off."""
    reference = None
    if ctx.config.grpo.kl_weight:
        reference = model if isinstance(model, peft.PeftModel) else load_reference(ctx)
    return GrpoObjective(ctx.config, OutputHead(model), batches, reference)


GRPO = ObjectiveStages(load_prompts, prepare_rollouts, build)
