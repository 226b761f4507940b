"""The table of training objectives."""

from __future__ import annotations

from backend.domain.training.objectives import Objective
from jobs.training.objectives import grpo, language, preference
from jobs.training.objectives.base import ObjectiveStages

OBJECTIVES: dict[Objective, ObjectiveStages] = {
    Objective.PRETRAIN: language.PRETRAIN,
    Objective.SFT: language.SFT,
    Objective.DPO: preference.DPO,
    Objective.ORPO: preference.ORPO,
    Objective.SIMPO: preference.SIMPO,
    Objective.KTO: preference.KTO,
    Objective.REWARD: preference.REWARD,
    Objective.GRPO: grpo.GRPO,
}
