"""Losses of preference objectives as functions of log-probabilities, independent of networks and data.

A log-probability is that of a whole answer given its prompt, in nats: the sum over its tokens, or their mean if its
name begins with `mean_`. Losses are one number per pair or per answer; nothing is averaged here. Each equals TRL 1.16's
on the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

DpoLoss = Literal["sigmoid", "hinge", "ipo"]


@dataclass(frozen=True)
class PreferenceLosses:
    """Losses of pairs, and the rewards that the loss implies for either answer. All of shape (pairs,)."""

    losses: torch.Tensor
    chosen_rewards: torch.Tensor
    rejected_rewards: torch.Tensor


def dpo_losses(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    *,
    reference_chosen: torch.Tensor,
    reference_rejected: torch.Tensor,
    chosen_tokens: torch.Tensor,
    rejected_tokens: torch.Tensor,
    beta: float,
    loss: DpoLoss = "sigmoid",
    label_smoothing: float = 0.0,
) -> PreferenceLosses:
    """Compute the losses of direct preference optimisation.

    sigmoid: Rafailov et al. 2023 (arXiv 2305.18290, equation 7); with `label_smoothing` Mitchell's conservative DPO,
    which assumes that share of the labels to be flipped. hinge: Zhao et al. 2023 (arXiv 2305.10425). ipo: Azar et al.
    2023 (arXiv 2310.12036, equation 17), on means over the answers' tokens as its authors compute it.
    """
    chosen_ratio, rejected_ratio = chosen - reference_chosen, rejected - reference_rejected
    if loss == "ipo":
        gap = chosen_ratio / chosen_tokens.clamp(min=1) - rejected_ratio / rejected_tokens.clamp(min=1)
        losses = (gap - 1 / (2 * beta)) ** 2
    else:
        scaled = beta * (chosen_ratio - rejected_ratio)
        losses = torch.relu(1 - scaled) if loss == "hinge" else _smoothed(scaled, label_smoothing)
    return PreferenceLosses(losses, beta * chosen_ratio.detach(), beta * rejected_ratio.detach())


def orpo_losses(mean_chosen: torch.Tensor, mean_rejected: torch.Tensor, *, weight: float) -> PreferenceLosses:
    """Compute the odds-ratio term of ORPO (Hong et al. 2024, arXiv 2403.07691, equation 7), times its weight (the
    paper's lambda).

    The caller adds the other term, the chosen answer's negative log-likelihood.
    """
    odds = (mean_chosen - mean_rejected) - (_log_one_minus_exp(mean_chosen) - _log_one_minus_exp(mean_rejected))
    return PreferenceLosses(
        -weight * F.logsigmoid(odds), weight * mean_chosen.detach(), weight * mean_rejected.detach()
    )


def simpo_losses(
    mean_chosen: torch.Tensor, mean_rejected: torch.Tensor, *, beta: float, gamma: float
) -> PreferenceLosses:
    """Compute SimPO's losses (Meng et al. 2024, arXiv 2405.14734, equation 6): no reference, a margin `gamma`."""
    scaled = beta * (mean_chosen - mean_rejected) - gamma
    return PreferenceLosses(-F.logsigmoid(scaled), beta * mean_chosen.detach(), beta * mean_rejected.detach())


def reward_losses(chosen: torch.Tensor, rejected: torch.Tensor) -> PreferenceLosses:
    """Compute Bradley-Terry losses of scores (Ouyang et al. 2022, equation 1): -log sigmoid(chosen - rejected)."""
    return PreferenceLosses(-F.logsigmoid(chosen - rejected), chosen.detach(), rejected.detach())


def kto_losses(
    logprobs: torch.Tensor,
    *,
    reference: torch.Tensor,
    desirable: torch.Tensor,
    divergence: torch.Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute KTO's losses of single answers and their rewards (Ethayarajh et al. 2024, arXiv 2402.01306, equation 8),
    each of (answers,).

    `divergence` is the estimate of KL(policy || reference), one number (see `kto_divergence`); `desirable` marks good
    answers.
    """
    ratio = logprobs - reference
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, desirable_weight, undesirable_weight)
    return weight * (1 - torch.sigmoid(sign * beta * (ratio - divergence))), beta * ratio.detach()


def kto_divergence(mismatched: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Estimate KTO's divergence from the reference, by answers paired with other rows' prompts; never below 0."""
    return (mismatched - reference).mean().clamp(min=0).detach()


def grpo_advantages(rewards: torch.Tensor, *, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute each completion's advantage over its group, and the groups' standard deviations, each of (completions,).

    (reward - mean) / (standard deviation + 1e-4) within a group (Shao et al. 2024, arXiv 2402.03300, section 4.1.2). A
    group whose rewards are all equal has advantages of 0 and adds no gradient.
    """
    groups = rewards.view(-1, group_size)
    spread = groups.std(dim=1, keepdim=True)
    return ((groups - groups.mean(dim=1, keepdim=True)) / (spread + 1e-4)).flatten(), spread.expand_as(groups).flatten()


def grpo_losses(
    logprobs: torch.Tensor,
    *,
    old: torch.Tensor,
    reference: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    clip_range: float,
    kl_weight: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute GRPO's loss of each completion and its divergence from the reference, each of (completions,).

    arXiv 2402.03300, equation 3: the clipped ratio of the policy to the one that sampled the completion, less
    `kl_weight` times the estimate exp(d) - d - 1 of the divergence, as a mean over the completion's tokens. `logprobs`,
    `old`, `reference` and `mask` are per token, (completions, tokens). Without a reference the divergence is 0.
    """
    ratio = torch.exp(logprobs - old)
    weights = advantages[:, None]
    per_token = -torch.min(ratio * weights, ratio.clamp(1 - clip_range, 1 + clip_range) * weights)
    tokens = mask.sum(dim=1).clamp(min=1)
    divergence = torch.zeros_like(advantages)
    if reference is not None:
        log_ratio = reference - logprobs
        kl = torch.exp(log_ratio) - log_ratio - 1
        per_token = per_token + kl_weight * kl
        divergence = (kl.detach() * mask).sum(dim=1) / tokens
    return (per_token * mask).sum(dim=1) / tokens, divergence


def _smoothed(scaled: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    losses = -F.logsigmoid(scaled) * (1 - label_smoothing)
    return losses - F.logsigmoid(-scaled) * label_smoothing if label_smoothing else losses


def _log_one_minus_exp(x: torch.Tensor) -> torch.Tensor:
    """Return log(1 - exp(x)) for x < 0 without cancellation at either end (Mächler 2012, "Accurately computing log(1 -
    exp(-|a|))").
    """
    x = x.clamp(max=-1e-9)  # a probability of exactly 1 would give log(0)
    near = x > -0.6931472
    return torch.where(
        near, torch.log(-torch.expm1(torch.where(near, x, -1.0))), torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    )
