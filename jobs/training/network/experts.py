"""Load balancing for mixture-of-experts networks, without which routers collapse to a few experts.

Mixtral and Qwen3-MoE add an auxiliary loss (Fedus et al. 2021, arXiv 2101.03961, equations 4 to 6), which transformers
computes on request. DeepSeek-V3 has none: a bias on each expert's score, a buffer, rises while the expert is picked too
rarely (Wang et al. 2024, arXiv 2408.15664). transformers leaves the biases alone, so they are updated here.
"""

from __future__ import annotations

from typing import Any

import torch

BIAS_STEP = 0.001  # DeepSeek-AI 2024, arXiv 2412.19437, section 4.2


def router_loss_weight(network: Any) -> float:
    """Return the weight of the network's load-balancing loss; 0 if it has none."""
    config = network.config
    return (
        float(getattr(config, "router_aux_loss_coef", None) or 0.0) if hasattr(config, "output_router_logits") else 0.0
    )


def has_experts(model: Any) -> bool:
    """Return whether a network, or the one under adapters, is a mixture of experts."""
    return any(getattr(model.config, name, None) for name in ("num_local_experts", "num_experts", "n_routed_experts"))


class ExpertBalance:
    """Updates the score biases of a network's routers once per optimizer step; a no-op for networks without."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._picks: dict[torch.nn.Module, torch.Tensor] = {}
        for module in network.modules():
            is_trained = any(parameter.requires_grad for parameter in module.parameters())
            if isinstance(getattr(module, "e_score_correction_bias", None), torch.Tensor) and is_trained:
                module.register_forward_hook(self._count)

    def _count(self, router: torch.nn.Module, inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        if not router.training:
            return
        bias: Any = router.e_score_correction_bias
        picks = torch.bincount(output[2].detach().flatten(), minlength=bias.numel())
        self._picks[router] = picks + self._picks.get(router, torch.zeros_like(picks))

    @torch.no_grad()
    def step(self) -> None:
        """Raise the biases of experts picked less often than the mean since the last step, and lower the others."""
        for router, picks in self._picks.items():
            bias: Any = router.e_score_correction_bias
            bias += BIAS_STEP * torch.sign(picks.float().mean() - picks).to(bias)
        self._picks.clear()

    def reset(self) -> None:
        """Discard the counts since the last step, whose forward passes are not followed by an update."""
        self._picks.clear()
