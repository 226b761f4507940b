"""Labels of the product's closed sets, one spelling each."""

from __future__ import annotations

MADE_BY = {
    "pretrain": "pre-trained",
    "sft": "fine-tuned",
    "dpo": "DPO-trained",
    "kto": "KTO-trained",
    "orpo": "ORPO-trained",
    "simpo": "SimPO-trained",
    "reward": "reward model",
    "grpo": "GRPO-trained",
}
"""What an objective makes of a checkpoint."""
