"""Completions that the network in training writes itself, in groups of one prompt, with their rewards.

What a step draws follows from (seed, step) and the weights alone, so a resumed run writes the same completions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import peft
import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from backend.domain.training.config import RunConfig
from jobs.batches.base import StepBatches
from jobs.batches.preference import Sequences, pad
from jobs.batches.preference_rows import Answered
from jobs.batches.prompts import Question
from jobs.modeling.chat.render import turn_end
from jobs.training.losses.preference import grpo_advantages
from jobs.training.objectives.rewards import Rewards


@dataclass(frozen=True)
class RolloutBatch(Sequences):
    """Completions behind their prompts, with what they are worth: each of shape (completions,). A unit is a completion.

    `spread` is the standard deviation of the rewards in a completion's group, `lengths` are the completions' tokens.
    """

    rewards: torch.Tensor
    advantages: torch.Tensor
    spread: torch.Tensor
    lengths: torch.Tensor

    @property
    def units(self) -> int:
        """What the loss is averaged over."""
        return len(self.inputs)


class RolloutBatches(StepBatches):
    """Groups of completions of prompts, whose order follows from (seed, epoch). `policy` writes them: it is set once it is loaded."""

    items = "completions of usable prompts of the train split (the first is 1)"
    policy: Any = None

    def __init__(
        self,
        train: Sequence[Question],
        val: Sequence[Question],
        *,
        config: RunConfig,
        tokenizer: PreTrainedTokenizerBase,
        rewards: Rewards,
        pad_id: int,
        measured: int,
        autocast: torch.dtype | None = None,
    ) -> None:
        super().__init__(len(train), micro_batch=config.micro_batch, grad_accum_steps=config.grad_accum_steps, seed=config.seed)
        self._train, self._config, self._tokenizer, self._rewards, self._pad_id = train, config, tokenizer, rewards, pad_id
        self._autocast = autocast
        self._val = list(val[:measured])

    def steps_for(self, epochs: float) -> int:
        """Return how many steps see every prompt so many times, rounded up."""
        return super().steps_for(epochs * self._config.grpo.group_size)

    def names_at(self, step: int) -> list[list[int]]:
        """Return the place of each completion's prompt among those of the train split that are used (the first is 1)."""
        return [[place + 1] for place in self._places(step)]

    def _places(self, step: int) -> list[int]:
        group = self._config.grpo.group_size
        prompts = self.per_step // group
        _, places = self._order.take((step - 1) * prompts, prompts)
        return [int(place) for place in places for _ in range(group)]

    def at_step(self, step: int) -> list[RolloutBatch]:
        """Let the policy write a step's completions, and return them as micro-batches (the first step is 1)."""
        whole = self.write([self._train[place] for place in self._places(step)], seed=1_000_003 * self._config.seed + step)
        rows = range(len(whole))
        rewards = torch.tensor([each.reward for each in whole])
        advantages, spread = grpo_advantages(rewards, group_size=self._config.grpo.group_size)
        return [
            self._batch([whole[row] for row in part], rewards[list(part)], advantages[list(part)], spread[list(part)])
            for part in self.cut(rows)
        ]

    def validation(self) -> list[list[Question]]:
        """Return the first prompts of the val split, as many together as a micro-batch has completions."""
        return self.cut(self._val)

    def write(self, questions: Sequence[Question], *, seed: int) -> list[Completion]:
        """Let the policy write a completion of each question, a micro-batch at a time; the same weights and seed give the same."""
        network = self.policy.get_base_model() if isinstance(self.policy, peft.PeftModel) else self.policy
        written: list[Completion] = []
        devices = [network.device] if network.device.type == "cuda" else []
        low = torch.autocast(network.device.type, dtype=self._autocast) if self._autocast else nullcontext()
        with torch.random.fork_rng(devices=devices), _writing(network), low, torch.no_grad():
            torch.manual_seed(seed % 2**63)
            for part in self.cut(questions):
                written += self._write(network, part)
        return written

    def _write(self, network: Any, questions: Sequence[Question]) -> list[Completion]:
        grpo, longest = self._config.grpo, max(len(question.ids) for question in questions)
        missing = [longest - len(question.ids) for question in questions]
        inputs = torch.tensor([[self._pad_id] * left + question.ids for left, question in zip(missing, questions, strict=True)])
        mask = torch.tensor([[0] * left + [1] * len(question.ids) for left, question in zip(missing, questions, strict=True)])
        ends = self._ends(network)
        plain = GenerationConfig(
            do_sample=True,
            temperature=grpo.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=grpo.max_new_tokens,
            eos_token_id=sorted(ends) or None,
            pad_token_id=self._pad_id,
            use_cache=True,
        )
        network.generation_config = plain  # a checkpoint's own defaults (penalties, filters) are no part of the policy
        output = network.generate(inputs.to(network.device), attention_mask=mask.to(network.device), generation_config=plain)
        return [self._read(question, row, ends) for question, row in zip(questions, output[:, longest:].tolist(), strict=True)]

    def _ends(self, network: Any) -> set[int]:
        """Return the tokens that end a completion."""
        named = getattr(network.config, "eos_token_id", None)
        ends = [self._tokenizer.eos_token_id, turn_end(self._tokenizer), *(named if isinstance(named, list | tuple) else [named])]
        return {int(token) for token in ends if token is not None}

    def _read(self, question: Question, row: list[int], ends: set[int]) -> Completion:
        stop = next((place + 1 for place, token in enumerate(row) if token in ends), len(row))
        text = self._tokenizer.decode([token for token in row[:stop] if token not in ends], skip_special_tokens=True)
        return Completion(question, row[:stop], text, self._rewards.of(text, tokens=stop, answers=question.answers))

    def _batch(
        self, completions: Sequence[Completion], rewards: torch.Tensor, advantages: torch.Tensor, spread: torch.Tensor
    ) -> RolloutBatch:
        padded = pad([Answered([*each.question.ids, *each.ids], len(each.question.ids)) for each in completions], pad_id=self._pad_id)
        lengths = torch.tensor([len(each.ids) for each in completions])
        return RolloutBatch(
            padded.inputs, padded.targets, padded.columns, rewards=rewards, advantages=advantages, spread=spread, lengths=lengths
        )


@dataclass(frozen=True)
class Completion:
    """What the policy wrote: the tokens with the one that ended them, the text, and its reward."""

    question: Question
    ids: list[int]
    text: str
    reward: float


@contextmanager
def _writing(network: Any) -> Iterator[None]:
    """Put a network into evaluation mode for a while; its own generation settings, which are saved with it, come back."""
    training, settings = network.training, network.generation_config
    network.eval()
    try:
        yield
    finally:
        network.generation_config = settings
        network.train(training)
