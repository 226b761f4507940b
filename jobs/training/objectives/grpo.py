"""Group relative policy optimization, grpo: raise the likelihood of completions above their group's mean.

Completions are sampled by the network in training, in groups per prompt, with their rewards. The samples of a step
depend only on (seed, step) and the weights, so a resumed run samples the same completions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import peft
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from backend.domain.data.splits import SPLITS
from backend.domain.training.config import RunConfig
from backend.domain.training.config_sections import GrpoConfig
from backend.domain.training.rewards import Rewards
from backend.errors import InvalidInput
from jobs.batches.base import IGNORE, BatchSizes, StepBatches
from jobs.batches.preference import Answered, Sequences, pad
from jobs.batches.prompts import PromptExample, load_questions
from jobs.modeling.chat import turn_end
from jobs.modeling.devices import fork_random
from jobs.modeling.tokenizers import padding_id
from jobs.training.context import TrainingContext
from jobs.training.held_out import HeldOutIds, WorstRows
from jobs.training.losses.output_head import OutputHead
from jobs.training.losses.preference import grpo_advantages, grpo_losses
from jobs.training.network.load import load_reference
from jobs.training.objectives.base import LossOutput, ObjectiveStages, Precision, Splits, batch_sizes, token_source


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

    def compute_loss(self, network: torch.nn.Module, batch: _RolloutBatch) -> LossOutput:
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
    def _reference_logprobs(self, batch: _RolloutBatch) -> torch.Tensor | None:
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


def _held_out(completion: _RolloutCompletion) -> HeldOutIds:
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


@dataclass(frozen=True)
class _RolloutCompletion:
    """A sampled completion: its tokens, including the one that ended it, its text and its reward."""

    question: PromptExample
    ids: list[int]
    text: str
    reward: float


@dataclass(frozen=True)
class _RolloutBatch(Sequences):
    """Prompts with sampled completions. Each field below has shape (completions,); a unit is a completion.

    `spread` is the standard deviation of the rewards in a completion's group, `lengths` count the completions' tokens,
    `prompt_lengths` those of their prompts.
    """

    rewards: torch.Tensor
    advantages: torch.Tensor
    spread: torch.Tensor
    lengths: torch.Tensor
    prompt_lengths: torch.Tensor

    @property
    def trained(self) -> int:
        """Number of tokens that are read and written: prompts with their completions."""
        return int(self.lengths.sum() + self.prompt_lengths.sum())

    @property
    def units(self) -> int:
        """Number of terms that the loss is averaged over."""
        return len(self.inputs)


class RolloutBatches(StepBatches):
    """Groups of completions of prompts, sampled by `policy`. The order of the prompts follows from (seed, epoch)."""

    items = "completions of usable prompts of the train split (the first is 1)"

    def __init__(
        self,
        train: Sequence[PromptExample],
        val: Sequence[PromptExample],
        *,
        policy: Any,
        config: GrpoConfig,
        sizes: BatchSizes,
        tokenizer: PreTrainedTokenizerBase,
        rewards: Rewards,
        pad_id: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(len(train), sizes)
        self._network = policy.get_base_model() if isinstance(policy, peft.PeftModel) else policy
        self._train, self._val, self._seed = train, list(val[: sizes.val_items]), sizes.seed
        self._config, self._tokenizer, self._rewards, self._pad_id = config, tokenizer, rewards, pad_id
        self._autocast = autocast

    def steps_for(self, epochs: float) -> int:
        """Return the number of steps in which every prompt comes up `epochs` times, rounded up."""
        return super().steps_for(epochs * self._config.group_size)

    def labels_at(self, step: int) -> list[list[int]]:
        """Return the place of each completion's prompt among the usable prompts of the train split; the first is 1."""
        return [[place + 1] for place in self._prompts_at(step)]

    def _prompts_at(self, step: int) -> list[int]:
        prompts = self.items_per_step // self._config.group_size
        _, places = self._order.take((step - 1) * prompts, prompts)
        return [int(place) for place in places for _ in range(self._config.group_size)]

    def at_step(self, step: int) -> list[_RolloutBatch]:
        """Sample a step's completions; return them as micro-batches (the first step is 1)."""
        completions = self.sample(
            [self._train[place] for place in self._prompts_at(step)], seed=1_000_003 * self._seed + step
        )
        rewards = torch.tensor([completion.reward for completion in completions])
        advantages, spread = grpo_advantages(rewards, group_size=self._config.group_size)
        return [
            self._collate(
                [completions[row] for row in rows], rewards[list(rows)], advantages[list(rows)], spread[list(rows)]
            )
            for rows in self.split(range(len(completions)))
        ]

    def validation(self) -> list[list[PromptExample]]:
        """Return the first prompts of the val split, a micro-batch's number at a time."""
        return self.split(self._val)

    def sample(self, questions: Sequence[PromptExample], *, seed: int) -> list[_RolloutCompletion]:
        """Sample a completion of each question, a micro-batch at a time; alike for the same weights and seed."""
        network = self._network
        completions: list[_RolloutCompletion] = []
        autocast = torch.autocast(network.device.type, dtype=self._autocast) if self._autocast else nullcontext()
        with fork_random(network.device), _sampling_mode(network), autocast, torch.no_grad():
            torch.manual_seed(seed % 2**63)
            for part in self.split(questions):
                completions += self._generate(part)
        return completions

    def _generate(self, questions: Sequence[PromptExample]) -> list[_RolloutCompletion]:
        network, longest = self._network, max(len(question.ids) for question in questions)
        padding = [longest - len(question.ids) for question in questions]
        inputs = torch.tensor(
            [[self._pad_id] * left + question.ids for left, question in zip(padding, questions, strict=True)]
        )
        mask = torch.tensor(
            [[0] * left + [1] * len(question.ids) for left, question in zip(padding, questions, strict=True)]
        )
        end_ids = self._end_ids()
        settings = GenerationConfig(
            do_sample=True,
            temperature=self._config.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self._config.max_new_tokens,
            eos_token_id=sorted(end_ids) or None,
            pad_token_id=self._pad_id,
            use_cache=True,
        )
        # a checkpoint's own defaults (penalties, filters) are not part of the policy
        network.generation_config = settings
        output = network.generate(
            inputs.to(network.device), attention_mask=mask.to(network.device), generation_config=settings
        )
        return [
            self._decode(question, row, end_ids)
            for question, row in zip(questions, output[:, longest:].tolist(), strict=True)
        ]

    def _end_ids(self) -> set[int]:
        """Return the tokens that end a completion."""
        named = getattr(self._network.config, "eos_token_id", None)
        ends = [
            self._tokenizer.eos_token_id,
            turn_end(self._tokenizer),
            *(named if isinstance(named, list | tuple) else [named]),
        ]
        return {int(token) for token in ends if token is not None}

    def _decode(self, question: PromptExample, row: list[int], end_ids: set[int]) -> _RolloutCompletion:
        length = next((place + 1 for place, token in enumerate(row) if token in end_ids), len(row))
        text = self._tokenizer.decode(
            [token for token in row[:length] if token not in end_ids], skip_special_tokens=True
        )
        return _RolloutCompletion(
            question, row[:length], text, self._rewards.of(text, tokens=length, answers=question.answers)
        )

    def _collate(
        self,
        completions: Sequence[_RolloutCompletion],
        rewards: torch.Tensor,
        advantages: torch.Tensor,
        spread: torch.Tensor,
    ) -> _RolloutBatch:
        padded = pad(
            [Answered([*each.question.ids, *each.ids], len(each.question.ids)) for each in completions],
            pad_id=self._pad_id,
        )
        lengths = torch.tensor([len(each.ids) for each in completions])
        return _RolloutBatch(
            padded.inputs,
            padded.targets,
            padded.columns,
            rewards=rewards,
            advantages=advantages,
            spread=spread,
            lengths=lengths,
            prompt_lengths=torch.tensor([len(each.question.ids) for each in completions]),
        )


@contextmanager
def _sampling_mode(network: Any) -> Iterator[None]:
    """Put a network into evaluation mode; restore its mode and its generation settings, which are saved, at the end."""
    is_training, settings = network.training, network.generation_config
    network.eval()
    try:
        yield
    finally:
        network.generation_config = settings
        network.train(is_training)
