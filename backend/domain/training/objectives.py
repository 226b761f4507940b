"""The training objectives: one row says all that pages, estimates and checks know of an objective."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Objective(StrEnum):
    """The objective of a run."""

    PRETRAIN = "pretrain"
    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"
    ORPO = "orpo"
    SIMPO = "simpo"
    REWARD = "reward"
    GRPO = "grpo"


Rows = Literal["text", "conversations", "pairs", "ratings", "prompts"]


@dataclass(frozen=True)
class ObjectiveFacts:
    """Facts of an objective, besides its loss.

    `name` fits a column and is, regardless of case, the value of filters; `label` says more. `rows` are what it learns
    from: pairs are a chosen and a rejected answer. `metrics` are those that its runs are compared by, the usual one
    first. `needs_answers`: it only shifts between answers that a base already gives, so that the base must chat.
    `has_reference`: its loss measures against the frozen base. `made` labels its checkpoints, `verb` begins the
    generated names of its runs, `tag` is what the model card's readers on the hub call it, if otherwise.
    """

    name: str
    label: str
    rows: Rows
    datasets: tuple[str, ...]
    metrics: tuple[str, ...]
    needs_answers: bool = False
    has_reference: bool = False
    made: str = ""
    verb: str = ""
    tag: str = ""


_LANGUAGE = ("val_loss", "train_loss", "tok_per_sec")
_PREFERENCE = ("val_loss", "val_rewards/accuracies", "val_rewards/margins", "train_loss")

OBJECTIVE_FACTS: dict[Objective, ObjectiveFacts] = {
    Objective.PRETRAIN: ObjectiveFacts(
        name="Pretrain",
        label="Pretraining",
        rows="text",
        datasets=("text",),
        metrics=("val_loss", "val_bpb", *_LANGUAGE[1:]),
        made="pretrained",
    ),
    Objective.SFT: ObjectiveFacts(
        name="SFT",
        label="Fine-tuning (SFT)",
        rows="conversations",
        datasets=("instruction", "chat"),
        metrics=_LANGUAGE,
        made="fine-tuned",
        verb="Fine-tune",
    ),
    Objective.DPO: ObjectiveFacts(
        name="DPO",
        label="Preference tuning (DPO)",
        rows="pairs",
        datasets=("preference",),
        metrics=_PREFERENCE,
        needs_answers=True,
        has_reference=True,
    ),
    Objective.KTO: ObjectiveFacts(
        name="KTO",
        label="Preference tuning (KTO)",
        rows="ratings",
        datasets=("kto", "preference"),
        metrics=("val_loss", "val_rewards/margins", "train_loss"),
        needs_answers=True,
        has_reference=True,
    ),
    # it teaches answers, too (Hong et al. 2024, arXiv 2403.07691)
    Objective.ORPO: ObjectiveFacts(
        name="ORPO",
        label="Preference tuning (ORPO)",
        rows="pairs",
        datasets=("preference",),
        metrics=_PREFERENCE,
    ),
    Objective.SIMPO: ObjectiveFacts(
        name="SimPO",
        label="Preference tuning (SimPO)",
        rows="pairs",
        datasets=("preference",),
        metrics=_PREFERENCE,
        needs_answers=True,
        tag="cpo",
    ),
    Objective.REWARD: ObjectiveFacts(
        name="Reward",
        label="Reward model",
        rows="pairs",
        datasets=("preference",),
        metrics=("val_loss", "val_accuracy", "val_margin", "train_loss"),
        made="reward model",
        verb="Reward model of",
        tag="reward-trainer",
    ),
    Objective.GRPO: ObjectiveFacts(
        name="GRPO",
        label="Reinforcement learning (GRPO)",
        rows="prompts",
        datasets=("instruction", "prompts", "benchmark"),
        metrics=("val_reward/mean", "reward/mean", "val_loss"),
        needs_answers=True,
    ),
}
PAIRWISE = frozenset(objective for objective, facts in OBJECTIVE_FACTS.items() if facts.rows == "pairs")
"""Objectives that learn from a chosen and a rejected answer."""
PREFERENCES = frozenset(objective for objective, facts in OBJECTIVE_FACTS.items() if facts.rows in ("pairs", "ratings"))
"""Objectives that learn from pairs or rated answers."""


def label_of(objective: str) -> str:
    """Return an objective's label; a name that is not known, of an imported run, stands for itself."""
    return OBJECTIVE_FACTS[Objective(objective)].label if objective in OBJECTIVE_FACTS else objective


def made_by(objective: str | None) -> str:
    """Return the label of a checkpoint that a run of this objective made."""
    if objective not in OBJECTIVE_FACTS:
        return "from a run"
    facts = OBJECTIVE_FACTS[Objective(objective)]
    return facts.made or f"{facts.name}-trained"
