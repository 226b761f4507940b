"""The log-probability that a network gives each target of a batch."""

from __future__ import annotations

from typing import Any

import torch

from jobs.training.batches import IGNORE
from jobs.training.experts import router_loss_weight


def token_logprobs(
    network: torch.nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    columns: torch.Tensor | None = None,
    *,
    temperature: float = 1.0,
    more: dict[str, Any] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the log-probability of every target in nats, and what the routers of experts add in training.

    `inputs` and `targets` are (rows, tokens), shifted by one already; targets of IGNORE give 0. With `columns` the head runs on those
    positions alone, and the result is (rows, columns). Logits are divided by `temperature`.
    """
    weight = router_loss_weight(network) if network.training else 0.0
    more = {**(more or {}), **({"output_router_logits": True} if weight else {})}
    if columns is not None:
        targets, more = targets[:, columns], {**more, "logits_to_keep": columns}
    output = network(input_ids=inputs, use_cache=False, **more)
    kept = targets != IGNORE
    logits = output.logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    chosen = logits.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(kept, chosen - logits.logsumexp(-1), 0.0), weight * output.aux_loss if weight else None
