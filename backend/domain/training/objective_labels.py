"""Names of the training objectives as pages and reports write them."""

from __future__ import annotations

from backend.domain.training.config import Objective

OBJECTIVE_LABELS: dict[str, str] = {
    Objective.PRETRAIN: "Pretraining",
    Objective.SFT: "Fine-tuning (SFT)",
    Objective.DPO: "Preference tuning (DPO)",
    Objective.KTO: "Preference tuning (KTO)",
    Objective.ORPO: "Preference tuning (ORPO)",
    Objective.SIMPO: "Preference tuning (SimPO)",
    Objective.REWARD: "Reward model",
    Objective.GRPO: "Reinforcement learning (GRPO)",
}
