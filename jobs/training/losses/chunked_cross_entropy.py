"""Chunked linear cross-entropy: the loss of an output head without the logits of all tokens in memory.

A plain loss holds three copies of the logits when the backward pass begins, most of a run's memory with a large
vocabulary. Here the gradient of each chunk is computed in place of its logits in the forward pass, and what is saved
has the size of the hidden states and the head (Wijmans et al. 2024, arXiv 2411.09009; Hsu et al. 2024, arXiv
2410.10989). One in-place pass over the logits is also faster than autograd's several.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from backend.domain.estimates.loss_chunks import LOGITS_AT_ONCE_BYTES, chunk_rows
from jobs.batches.base import IGNORE

FP16_LIMIT = 2.0**15
"""Half of fp16's range."""


class Penalties(NamedTuple):
    """Terms of the loss besides the cross-entropy.

    `label_smoothing` is the share of a target spread over the vocabulary (Szegedy et al. 2016, arXiv 1512.00567,
    section 7), `z_loss` the weight of the squared log-partition (Chowdhery et al. 2022, arXiv 2204.02311, section 5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0


NO_PENALTIES = Penalties()


class TokenLosses(NamedTuple):
    """`total`: the loss with penalties, summed over tokens, differentiable. `nll`: each token's in nats, detached."""

    total: torch.Tensor
    nll: torch.Tensor


def linear_loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    cap: float | None = None,
    penalties: Penalties = NO_PENALTIES,
    at_once_bytes: int = LOGITS_AT_ONCE_BYTES,
) -> TokenLosses:
    """Compute the loss of logits `hidden @ weight.T + bias`, soft-capped at ±`cap` if given.

    Shapes: hidden (tokens, width), weight (vocabulary, width), targets (tokens,), where IGNORE adds nothing. Products
    are computed in autocast's type if it is enabled, the rest in fp32.
    """
    low = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    )
    rows = chunk_rows(len(hidden), len(weight), at_once_bytes=at_once_bytes)
    differentiate = torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (hidden, weight, bias)
    )
    settings = _Settings(cap, penalties, rows, low, differentiate)
    return TokenLosses(*_LinearLoss.apply(hidden, weight, bias, targets, settings))  # type: ignore[no-untyped-call]


def logits_loss(logits: torch.Tensor, targets: torch.Tensor, penalties: Penalties = NO_PENALTIES) -> TokenLosses:
    """Compute the same loss from logits (tokens, vocabulary), for networks whose head is more than a matrix product."""
    logits = logits.float()
    nll = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    total = nll.sum()
    if penalties.label_smoothing:
        total = F.cross_entropy(
            logits, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=penalties.label_smoothing
        )
    if penalties.z_loss:
        total = total + penalties.z_loss * (logits.logsumexp(dim=1).square() * (targets != IGNORE)).sum()
    return TokenLosses(total, nll.detach())


class _Settings(NamedTuple):
    cap: float | None
    penalties: Penalties
    rows: int
    low: torch.dtype
    differentiate: bool


class _LinearLoss(torch.autograd.Function):
    """Compute the gradients of the sum in the forward pass; scale them in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        settings: _Settings,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        cap, penalties, rows, low, differentiate = settings
        needs_grad = [differentiate and needed for needed in ctx.needs_input_grad[:3]]
        head = weight.to(low)
        by_hidden = torch.empty_like(hidden) if needs_grad[0] else None
        by_weight = torch.zeros_like(weight) if needs_grad[1] else None
        by_bias = torch.zeros_like(bias) if needs_grad[2] and bias is not None else None
        nll = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), rows):
                part = slice(at, at + rows)
                read = hidden[part].to(low)
                logits = F.linear(read, head, None if bias is None else bias.to(low)).float()
                total += _loss_and_gradient(
                    logits, targets[part], nll[part], cap=cap, penalties=penalties, differentiate=differentiate
                )
                slope = logits.to(low) if differentiate else logits
                if by_hidden is not None:
                    (
                        torch.mm(slope, head, out=by_hidden[part])
                        if low == hidden.dtype
                        else by_hidden[part].copy_(slope @ head)
                    )
                if by_weight is not None:
                    (
                        by_weight.addmm_(slope.t(), read)
                        if low == weight.dtype
                        else by_weight.add_(_over_tokens(slope, read))
                    )
                if by_bias is not None:
                    by_bias.add_(logits.sum(dim=0))
                del logits, slope  # or they would be in memory beside the next chunk's
        ctx.save_for_backward(by_hidden, by_weight, by_bias)
        ctx.mark_non_differentiable(nll)
        return total, nll

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if gradient is None else gradient.mul_(slopes[0]) for gradient in ctx.saved_tensors]
        return (*scaled, None, None)


def _over_tokens(slope: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
    """Return `slope.T @ read`; in fp16 scaled down by a power of two, as sums over many tokens may overflow."""
    if slope.dtype != torch.float16:
        return slope.t() @ read
    bound = read.abs().amax().float() * len(read)  # slopes hardly exceed 1
    scale = (bound / FP16_LIMIT).clamp_min(1.0).log2().ceil().exp2()
    return (slope.t() @ (read / scale).to(read.dtype)).float() * scale


def _loss_and_gradient(
    logits: torch.Tensor,
    targets: torch.Tensor,
    nll: torch.Tensor,
    *,
    cap: float | None,
    penalties: Penalties,
    differentiate: bool,
) -> torch.Tensor:
    """Write the tokens' cross-entropies to `nll`, replace `logits` by the loss's gradient, and return its sum."""
    smoothing, z_loss = penalties
    steepness = None
    if cap is not None:
        logits.div_(cap).tanh_()
        steepness = 1 - logits.square() if differentiate else None
        logits.mul_(cap)
    counted = (targets != IGNORE).to(logits.dtype)
    picked = targets.clamp_min(0)[:, None]
    highest = logits.amax(dim=1)
    target_logits = logits.gather(1, picked)[:, 0]
    mean_logits = logits.mean(dim=1) if smoothing else None
    mass = logits.sub_(highest[:, None]).exp_().sum(dim=1)
    partition = mass.log() + highest
    torch.mul(partition - target_logits, counted, out=nll)
    losses = nll
    if mean_logits is not None:
        losses = (1 - smoothing) * nll + smoothing * (partition - mean_logits) * counted
    if z_loss:
        losses = losses + z_loss * partition.square() * counted
    if differentiate:
        logits.mul_(((1 + 2 * z_loss * partition) / mass * counted)[:, None])
        if smoothing:
            logits.sub_((smoothing / logits.shape[1] * counted)[:, None])
        logits.scatter_add_(1, picked, ((smoothing - 1) * counted)[:, None])
        if steepness is not None:
            logits.mul_(steepness)
    return losses.sum()
