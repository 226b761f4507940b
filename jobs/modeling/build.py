"""Build a network with fresh weights from an ArchitectureConfig, and read the ArchitectureConfig of a checkpoint."""

from __future__ import annotations

import math

import torch
import transformers
from transformers import GenerationConfig, PreTrainedModel

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES
from jobs.modeling.dropout import set_dropout
from jobs.modeling.family_configs import make_config

RESIDUAL_WRITERS = (
    "o_proj.weight",
    "down_proj.weight",
    "experts.down_proj",
    "attention.dense.weight",
    "dense_4h_to_h.weight",
)
EXPERT_WEIGHTS = ("experts.gate_up_proj", "experts.down_proj")
GROUPED_ROW_BYTES = 16


def build_network(
    config: ArchitectureConfig,
    *,
    seed: int,
    bos_token_id: int | None = None,
    eos_token_id: int | None = None,
    pad_token_id: int | None = None,
    dropout: float = 0.0,
) -> PreTrainedModel:
    """Build a network of the config's family with weights drawn from `seed`; the process's random state is preserved.

    Weights are normal with deviation 0.02, in fp32 on the CPU. Those that write to the residual stream are divided by
    sqrt(2 x layers), as in GPT-2 (Radford et al. 2019, section 2.3; transformers' GPT-2 does so itself), except in
    Gemma, which normalises those writes.
    """
    made = make_config(config, bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    set_dropout(made, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: PreTrainedModel = getattr(transformers, FAMILIES[config.family].network_class)(made)
    if config.family not in ("gpt2", "gemma3"):
        with torch.no_grad():
            for name, weight in network.named_parameters():
                if name.endswith(RESIDUAL_WRITERS):
                    weight.div_(math.sqrt(2 * config.num_layers))
    network.generation_config = GenerationConfig(
        bos_token_id=bos_token_id, eos_token_id=eos_token_id, pad_token_id=pad_token_id
    )
    allow_any_experts(network)
    return network


def allow_any_experts(network: PreTrainedModel) -> None:
    """Support experts of any size: torch's grouped matmul needs rows of a multiple of 16 bytes, so others run one
    expert at a time.
    """
    experts = [weight for name, weight in network.named_parameters() if name.endswith(EXPERT_WEIGHTS)]
    if any(size * weight.element_size() % GROUPED_ROW_BYTES for weight in experts for size in weight.shape[1:]):
        network.set_experts_implementation("eager")
