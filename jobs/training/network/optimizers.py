"""The optimizers of the config's field `optimizer`, each from an established library.

All take one learning rate and one weight decay from the config; matrices decay, norms and biases don't. adamw:
Loshchilov and Hutter 2019 (arXiv 1711.05101), torch's, fused. muon: Jordan et al. 2024, torch's, for the matrices
inside the blocks, with updates scaled to AdamW's RMS so that AdamW's learning rates hold (Liu et al. 2025, arXiv
2502.16982, section 2.2); AdamW for embeddings, head, norms and everything else. lion: Chen et al. 2023 (arXiv
2302.06675), lion-pytorch's. adafactor: Shazeer and Stern 2018 (arXiv 1804.04235), transformers', with the schedule's
learning rate instead of relative steps. adamw_8bit: Dettmers et al. 2022 (arXiv 2110.02861), bitsandbytes', with 32-bit
moments for embeddings, as in the paper and transformers' Trainer.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from lion_pytorch import Lion
from transformers import Adafactor

from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput

MUON_MOMENTUM = 0.95


def check_optimizer(config: RunConfig) -> None:
    """Raise InvalidInput if this worker lacks the optimizer's library. Call it before anything is loaded."""
    if config.optimizer == "adamw_8bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise InvalidInput(
            "optimizer adamw_8bit needs the library bitsandbytes, which this worker does not have.",
            remedy=(
                "Choose optimizer adamw (adafactor and lion also need less memory), or install roundhouse[quantized] on"
                " the worker."
            ),
            field="optimizer",
        )


def make_optimizer(model: torch.nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """Build the optimizer of all trained parameters."""
    check_optimizer(config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    betas = (config.beta1, config.beta2)
    if config.optimizer == "muon":
        hidden = hidden_matrices(model)
        others = [parameter for parameter in trained if not any(parameter is matrix for matrix in hidden)]
        adamw = (
            torch.optim.AdamW(_groups(others, config), lr=config.learning_rate, betas=betas, fused=True)
            if others
            else None
        )
        if not hidden:
            assert adamw is not None
            return adamw
        muon = torch.optim.Muon(
            hidden,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            momentum=MUON_MOMENTUM,
            adjust_lr_fn="match_rms_adamw",
        )
        return CombinedOptimizer([muon] if adamw is None else [muon, adamw])
    groups, learning_rate = _groups(trained, config), config.learning_rate
    if config.optimizer == "lion":
        lion: torch.optim.Optimizer = Lion(groups, lr=learning_rate, betas=betas)
        return lion
    if config.optimizer == "adafactor":
        adafactor: torch.optim.Optimizer = Adafactor(
            groups, lr=learning_rate, scale_parameter=False, relative_step=False, warmup_init=False
        )
        return adafactor
    if config.optimizer == "adamw_8bit":
        return _adamw_8bit(model, groups, config)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)


def hidden_matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the trained matrices inside the blocks, which Muon updates; experts stacked in 3-d are not among them."""
    network: Any = model
    outside: list[Any] = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    if hasattr(model, "get_output_embeddings") and network.get_output_embeddings() is not None:
        outside.append(network.get_output_embeddings())
    outside += [
        module
        for name, module in model.named_modules()
        if "score" in name.split(".") and isinstance(module, torch.nn.Linear)
    ]
    excluded = {id(module.weight) for module in outside}
    return [each for each in model.parameters() if each.requires_grad and each.dim() == 2 and id(each) not in excluded]


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers, each with parameters of its own, as one that shares their groups and state."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self._share()

    def _share(self) -> None:
        first = 0
        for optimizer in self._optimizers:
            count = len(optimizer.param_groups)
            optimizer.param_groups = self.param_groups[first : first + count]
            optimizer.state = self.state
            first += count

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update with each optimizer."""
        for optimizer in self._optimizers:
            optimizer.step(closure)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of all optimizers."""
        super().load_state_dict(state_dict)
        self._share()


def _groups(parameters: list[torch.nn.Parameter], config: RunConfig) -> list[dict[str, Any]]:
    groups = [
        {
            "params": [parameter for parameter in parameters if parameter.dim() >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _adamw_8bit(model: torch.nn.Module, groups: list[dict[str, object]], config: RunConfig) -> torch.optim.Optimizer:
    import bitsandbytes  # an extra, and slow to import

    manager = bitsandbytes.optim.GlobalOptimManager.get_instance()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            manager.register_module_override(module, "weight", {"optim_bits": 32})
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2)
    )
    return optimizer
