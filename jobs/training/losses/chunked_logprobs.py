"""Log-probabilities of targets under an output head, differentiable one by one, without the logits of all tokens in
memory.

Logits that fit one chunk are kept for the backward pass; larger ones are recomputed there, a chunk at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from backend.domain.estimates.loss_chunks import LOGITS_AT_ONCE_BYTES, chunk_rows
from jobs.batches.base import IGNORE


def linear_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    cap: float | None = None,
    temperature: float = 1.0,
    at_once_bytes: int = LOGITS_AT_ONCE_BYTES,
) -> torch.Tensor:
    """Compute the log-probability of each target under logits `hidden @ weight.T + bias`, soft-capped at ±`cap`, over
    `temperature`.

    Shapes: hidden (tokens, width), weight (vocabulary, width), targets (tokens,), where IGNORE gives 0. In fp32;
    products in autocast's type if it is enabled.
    """
    trained = (targets != IGNORE).nonzero()[:, 0]
    hidden, trained_targets = hidden[trained], targets[trained]
    low = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    )
    rows = chunk_rows(len(hidden), len(weight), at_once_bytes=at_once_bytes)
    settings = _Settings(cap, temperature, rows, low)
    if len(hidden) <= rows:
        logits = _logits(hidden.to(low), weight.to(low), None if bias is None else bias.to(low), settings)
        logprobs = logits.gather(1, trained_targets[:, None])[:, 0] - logits.logsumexp(dim=1)
    else:
        compute = _LinearLogprobs.apply
        logprobs = compute(hidden, weight, bias, trained_targets, settings)  # type: ignore[no-untyped-call]
    return torch.zeros(len(targets), dtype=torch.float32, device=hidden.device).index_copy(0, trained, logprobs)


def logits_logprobs(logits: torch.Tensor, targets: torch.Tensor, *, temperature: float = 1.0) -> torch.Tensor:
    """Compute the same from logits (tokens, vocabulary), for networks whose head is more than a matrix product."""
    logits = logits.float() / temperature
    logprobs = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0] - logits.logsumexp(dim=1)
    return torch.where(targets != IGNORE, logprobs, 0.0)


class _Settings(NamedTuple):
    cap: float | None
    temperature: float
    rows: int
    low: torch.dtype


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, settings: _Settings) -> torch.Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        logits = F.linear(hidden, weight, bias).float()
    if settings.cap is not None:
        logits = torch.tanh(logits / settings.cap) * settings.cap
    return logits / settings.temperature if settings.temperature != 1.0 else logits


class _LinearLogprobs(torch.autograd.Function):
    """Save the hidden states and one number per token, the log-partition; recompute the logits in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        settings: _Settings,
    ) -> torch.Tensor:
        head, shift = weight.to(settings.low), None if bias is None else bias.to(settings.low)
        logprobs, partition = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
        for at in range(0, len(hidden), settings.rows):
            part = slice(at, at + settings.rows)
            logits = _logits(hidden[part].to(settings.low), head, shift, settings)
            partition[part] = logits.logsumexp(dim=1)
            logprobs[part] = logits.gather(1, targets[part, None])[:, 0] - partition[part]
        ctx.save_for_backward(hidden, weight, bias, targets, partition)
        ctx.settings = settings
        return logprobs

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, partition = ctx.saved_tensors
        settings, slope = ctx.settings, slopes[0]
        head, shift = weight.to(settings.low), None if bias is None else bias.to(settings.low)
        by_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        by_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        by_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        with torch.autocast(hidden.device.type, enabled=False):
            for at in range(0, len(hidden), settings.rows):
                part = slice(at, at + settings.rows)
                read = hidden[part].to(settings.low)
                logits = _logits(read, head, shift, settings)
                steepness = (
                    None if settings.cap is None else 1 - (logits * settings.temperature / settings.cap).square()
                )
                change = logits.sub_(partition[part, None]).exp_().neg_()
                change.scatter_add_(1, targets[part, None], torch.ones_like(change[:, :1]))
                change.mul_(slope[part, None] / settings.temperature)
                if steepness is not None:
                    change.mul_(steepness)
                down = change.to(settings.low)
                if by_hidden is not None:
                    by_hidden[part] = (down @ head).to(hidden.dtype)
                if by_weight is not None:
                    by_weight.add_((down.t() @ read).to(weight.dtype))
                if by_bias is not None:
                    by_bias.add_(change.sum(dim=0).to(by_bias.dtype))
        return by_hidden, by_weight, by_bias, None, None
