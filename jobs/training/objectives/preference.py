"""What preferences cost: dpo, orpo and simpo on pairs, kto on rated answers, reward on scores of pairs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from backend.domain.training.config import Objective, RunConfig
from jobs.batches.base import IGNORE
from jobs.batches.preference import PairBatch, RatedBatch, ScoredBatch
from jobs.training.losses.output_head import OutputHead
from jobs.training.losses.preference import Scored, dpo_losses, kto_divergence, kto_losses, orpo_losses, reward_losses, simpo_losses
from jobs.training.objectives.base import Cost, Precision


def pair_sums(scored: Scored) -> dict[str, torch.Tensor]:
    """Return the sums over pairs of what is measured of them, by their names as metrics."""
    margins = scored.chosen_rewards - scored.rejected_rewards
    return {
        "rewards/chosen": scored.chosen_rewards.sum(),
        "rewards/rejected": scored.rejected_rewards.sum(),
        "rewards/accuracies": (margins > 0).float().sum(),
        "rewards/margins": margins.sum(),
    }


def validate_by_cost(
    lesson: Any, network: torch.nn.Module, batches: Iterable[Any], *, device: torch.device, precision: Precision
) -> dict[str, float]:
    """Return val_loss and the lesson's metrics with `val_` before them: means over the units of all batches; empty without any."""
    units, sums = 0, {"loss": 0.0}
    for batch in batches:
        with precision():
            cost: Cost = lesson.cost(network, batch.to(device))
        units += batch.units
        sums["loss"] += float(cost.total)
        for name, value in cost.sums.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {f"val_{name}": value / units for name, value in sums.items()} if units else {}


@dataclass(frozen=True)
class PairLesson:
    """dpo, orpo and simpo: the chosen answer is to become likelier than the rejected one. A unit is a pair."""

    config: RunConfig
    head: OutputHead

    def cost(self, network: torch.nn.Module, batch: PairBatch) -> Cost:
        """Return the loss summed over pairs, and the rewards that it implies."""
        logprobs, router_loss = self.head.logprobs(network, batch.inputs, batch.targets, batch.columns)
        answers = batch.columns >= batch.starts[:, None]  # targets before them are 0, or a prompt's that orpo learns as well
        scored = self._score(batch, logprobs * answers)
        total, weight = scored.losses.sum(), self._chosen_weight()
        if weight:
            total = total - weight * batch.per_token * logprobs[: batch.units].sum()
        return Cost(total, extra=router_loss, sums=pair_sums(scored))

    def validate(
        self, network: torch.nn.Module, batches: Iterable[PairBatch], *, device: torch.device, precision: Precision
    ) -> dict[str, float]:
        """Return the loss and the rewards of the val split's pairs."""
        return validate_by_cost(self, network, batches, device=device, precision=precision)

    def _chosen_weight(self) -> float:
        """Return the weight of learning the chosen answer itself: part of orpo, an addition to the others."""
        return 1.0 if self.config.objective is Objective.ORPO else self.config.preference.sft_weight

    def _score(self, batch: PairBatch, logprobs: torch.Tensor) -> Scored:
        preference, pairs = self.config.preference, batch.units
        kept = (batch.targets[:, batch.columns] != IGNORE) & (batch.columns >= batch.starts[:, None])
        tokens, sums = kept.sum(dim=1), logprobs.sum(dim=1)
        if self.config.objective is Objective.DPO:
            assert batch.reference is not None
            return dpo_losses(
                sums[:pairs],
                sums[pairs:],
                reference_chosen=batch.reference[:pairs],
                reference_rejected=batch.reference[pairs:],
                chosen_tokens=tokens[:pairs],
                rejected_tokens=tokens[pairs:],
                beta=preference.beta,
                loss=preference.loss,
                label_smoothing=preference.label_smoothing,
            )
        means = sums / tokens.clamp(min=1)
        if self.config.objective is Objective.ORPO:
            return orpo_losses(means[:pairs], means[pairs:], weight=preference.beta)
        return simpo_losses(means[:pairs], means[pairs:], beta=preference.beta, gamma=preference.gamma)


@dataclass(frozen=True)
class RatedLesson:
    """kto: good answers are to become likelier than the reference thinks them, bad ones less likely. A unit is an answer."""

    config: RunConfig
    head: OutputHead

    def cost(self, network: torch.nn.Module, batch: RatedBatch) -> Cost:
        """Return the loss summed over answers, and the rewards that it implies."""
        with torch.no_grad():
            others = self.head.answer_logprobs(network, batch.mismatched)
        divergence = kto_divergence(others, batch.mismatched_reference)
        logprobs, router_loss = self.head.logprobs(network, batch.inputs, batch.targets, batch.columns)
        preference = self.config.preference
        losses, rewards = kto_losses(
            logprobs.sum(dim=1),
            reference=batch.reference,
            desirable=batch.desirable,
            divergence=divergence,
            beta=preference.beta,
            desirable_weight=preference.desirable_weight,
            undesirable_weight=preference.undesirable_weight,
        )
        sums = {"kl": divergence * batch.units}
        if batch.per_good:
            sums["rewards/chosen"] = batch.per_good * rewards[batch.desirable].sum()
        if batch.per_bad:
            sums["rewards/rejected"] = batch.per_bad * rewards[~batch.desirable].sum()
        if batch.per_good and batch.per_bad:
            sums["rewards/margins"] = sums["rewards/chosen"] - sums["rewards/rejected"]
        return Cost(losses.sum(), extra=router_loss, sums=sums)

    def validate(
        self, network: torch.nn.Module, batches: Iterable[RatedBatch], *, device: torch.device, precision: Precision
    ) -> dict[str, float]:
        """Return the loss and the rewards of the val split's answers."""
        return validate_by_cost(self, network, batches, device=device, precision=precision)


@dataclass(frozen=True)
class RewardLesson:
    """reward: the network's score of the chosen answer is to be above that of the rejected one. A unit is a pair."""

    def cost(self, network: torch.nn.Module, batch: ScoredBatch) -> Cost:
        """Return the loss summed over pairs, the share of pairs in the right order and the scores' distance."""
        scores = network(input_ids=batch.inputs, use_cache=False).logits.float().squeeze(-1)
        scored = reward_losses(scores[: batch.units], scores[batch.units :])
        margins = scored.chosen_rewards - scored.rejected_rewards
        return Cost(scored.losses.sum(), sums={"accuracy": (margins > 0).float().sum(), "margin": margins.sum()})

    def validate(
        self, network: torch.nn.Module, batches: Iterable[ScoredBatch], *, device: torch.device, precision: Precision
    ) -> dict[str, float]:
        """Return the loss, the accuracy and the margin of the val split's pairs."""
        return validate_by_cost(self, network, batches, device=device, precision=precision)
